"""What the running kernel's verifier says about each program: how far it looked, or why not."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from typing import Final

from gwlbtun.host.offload import OBJECT_FILE

PROGRAMS: Final = ("decap", "encap", "hairpin")
HAIRPIN_SINCE: Final = (5, 18)
"""Older kernels lack its helpers, and the daemon leaves it out unless --xdp is given."""


def _verify(library: ctypes.CDLL, wanted: str) -> str | None:
    """Load one program alone; the instructions looked at, or None. libbpf prints the reason."""
    opened = ctypes.c_void_p(library.bpf_object__open_file(str(OBJECT_FILE).encode(), None))
    for name in PROGRAMS:
        program = ctypes.c_void_p(library.bpf_object__find_program_by_name(opened, name.encode()))
        library.bpf_program__set_autoload(program, name == wanted)
    if library.bpf_object__load(opened):
        return None
    program = ctypes.c_void_p(library.bpf_object__find_program_by_name(opened, wanted.encode()))
    info = Path(f"/proc/self/fdinfo/{library.bpf_program__fd(program)}").read_text()
    library.bpf_object__close(opened)
    fields = dict(line.split(":", 1) for line in info.splitlines())
    return fields.get("verified_insns", "an unknown number of").strip()


def main() -> int:
    """Exit status 1 when a program is refused that this kernel must take."""
    library = ctypes.CDLL("libbpf.so.1")
    for function in (library.bpf_object__open_file, library.bpf_object__find_program_by_name):
        function.restype = ctypes.c_void_p
    major, minor = map(int, platform.release().split(".")[:2])
    has_hairpin = (major, minor) >= HAIRPIN_SINCE
    status = 0
    for name in PROGRAMS:
        looked_at = _verify(library, name)
        said = "REFUSED" if looked_at is None else f"accepted, {looked_at} instructions verified"
        sys.stdout.write(f"{name}: {said}\n")
        sys.stdout.flush()
        if looked_at is None and (name != "hairpin" or has_hairpin):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
