"""Builds the kernel path: gwlbtun/bpf/gwlbtun.bpf.c becomes gwlbtun.bpf.o inside the wheel.

BPF byte code is the same for x86-64 and arm64, so one wheel serves both. clang and the headers of
libbpf are needed here, at build time, and nowhere else.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v2")


class BpfBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles before a wheel is packed, and before an editable install."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the object file into the wheel."""
        folder = Path(self.root) / "gwlbtun" / "bpf"
        target = folder / "gwlbtun.bpf.o"
        compiler = shutil.which("clang")
        if compiler is None:
            raise RuntimeError("clang is needed to build gwlbtun: apt-get install clang libbpf-dev")
        headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"  # asm/types.h on Debian
        subprocess.run(
            [compiler, *_FLAGS, f"-I{headers}", "-c", folder / "gwlbtun.bpf.c", "-o", target],
            check=True,
        )
        build_data["artifacts"].append("gwlbtun/bpf/gwlbtun.bpf.o")
