"""A thin ctypes binding of the distribution's own libbpf, as far as it is needed.

libbpf reads the object file, relocates maps, applies constants and loads the programs; nothing of
that is done here. Attaching is host.attach's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gwlbtun.errors import KernelError

_HASH_TYPES: Final = (1, 9)
"""BPF_MAP_TYPE_HASH and BPF_MAP_TYPE_LRU_HASH."""
_BATCH: Final = 16384


class TestRun(ctypes.Structure):
    """struct bpf_test_run_opts; ``size`` tells libbpf how much of it we know."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def load_library() -> ctypes.CDLL:
    """The system's libbpf. Raises KernelError where there is none."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        _declare(library)
        return library
    raise KernelError("libbpf.so is not installed: install the package libbpf (libbpf1 on Debian)")


def _declare(library: ctypes.CDLL) -> None:
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("bpf_object__open_file", pointer, [text, pointer]),
        ("bpf_object__load", integer, [pointer]),
        ("bpf_object__close", None, [pointer]),
        ("bpf_object__next_map", pointer, [pointer, pointer]),
        ("bpf_object__find_program_by_name", pointer, [pointer, text]),
        ("bpf_program__fd", integer, [pointer]),
        ("bpf_program__set_autoload", integer, [pointer, ctypes.c_bool]),
        ("bpf_map__name", text, [pointer]),
        ("bpf_map__fd", integer, [pointer]),
        ("bpf_map__key_size", ctypes.c_uint32, [pointer]),
        ("bpf_map__value_size", ctypes.c_uint32, [pointer]),
        ("bpf_map__set_max_entries", integer, [pointer, ctypes.c_uint32]),
        ("bpf_map__set_pin_path", integer, [pointer, text]),
        ("bpf_map__set_initial_value", integer, [pointer, pointer, ctypes.c_size_t]),
        ("bpf_map_lookup_elem", integer, [integer, pointer, pointer]),
        ("bpf_map_update_elem", integer, [integer, pointer, pointer, ctypes.c_uint64]),
        ("bpf_map_delete_elem", integer, [integer, pointer]),
        ("bpf_map_lookup_batch", integer, [integer, *[pointer] * 5, pointer]),
        ("bpf_map_update_batch", integer, [integer, pointer, pointer, pointer, pointer]),
        ("bpf_map_delete_batch", integer, [integer, pointer, pointer, pointer]),
        ("bpf_tc_hook_create", integer, [pointer]),
        ("bpf_tc_attach", integer, [pointer, pointer]),
        ("bpf_tc_detach", integer, [pointer, pointer]),
        ("bpf_obj_pin", integer, [integer, text]),
        ("bpf_obj_get", integer, [text]),
        ("bpf_prog_test_run_opts", integer, [integer, pointer]),
        ("libbpf_set_print", pointer, [pointer]),
        ("libbpf_num_possible_cpus", integer, []),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # its errors come back as codes


def check(code: int, what: str) -> int:
    """What libbpf returns: a negative errno (1.0 and later) or -1 with errno set (before)."""
    if code >= 0:
        return code
    number = -code if code < -1 else ctypes.get_errno() or -code
    raise KernelError(f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")


def _fdinfo(fd: int) -> dict[str, int]:
    """A map's numbers as /proc tells them: map_type, key_size, value_size, memlock."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value) for name, value in pairs if value.strip().isdigit()}


class BpfMap:
    """A map by its descriptor. Keys and values are packed bytes."""

    def __init__(self, library: ctypes.CDLL, fd: int, key_bytes: int, value_bytes: int) -> None:
        self.fd = fd
        self.key_bytes = key_bytes
        self.value_bytes = value_bytes
        self._library = library

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        value = ctypes.create_string_buffer(self.value_bytes)
        if self._library.bpf_map_lookup_elem(self.fd, key, value):
            return None
        return value.raw

    def get_per_cpu(self, key: bytes) -> list[bytes]:
        """The value on each CPU, of a per-CPU map."""
        stride = (self.value_bytes + 7) & ~7
        cpus = self._library.libbpf_num_possible_cpus()
        values = ctypes.create_string_buffer(stride * cpus)
        check(self._library.bpf_map_lookup_elem(self.fd, key, values), "cannot read a BPF map")
        return [values.raw[i * stride : i * stride + self.value_bytes] for i in range(cpus)]

    def put_per_cpu(self, key: bytes, value: bytes) -> None:
        """Write the same value for every CPU, of a per-CPU map."""
        padded = value.ljust((self.value_bytes + 7) & ~7, b"\0")
        values = padded * self._library.libbpf_num_possible_cpus()
        check(self._library.bpf_map_update_elem(self.fd, key, values, 0), "cannot write a BPF map")

    def put(self, key: bytes, value: bytes) -> None:
        """Add or replace. Raises KernelError, above all when a map that is no LRU is full."""
        check(self._library.bpf_map_update_elem(self.fd, key, value, 0), "cannot write a BPF map")

    def delete(self, key: bytes) -> bool:
        """Remove; False when it was not there."""
        return not self._library.bpf_map_delete_elem(self.fd, key)

    def memory_bytes(self) -> int:
        """What the map takes in the kernel."""
        return _fdinfo(self.fd)["memlock"]

    def copy_from(self, fd: int) -> None:
        """Take over what another map of the same layout holds, as far as there is room."""
        info = _fdinfo(fd)
        if (info["key_size"], info["value_size"]) != (self.key_bytes, self.value_bytes):
            return
        if info["map_type"] not in _HASH_TYPES:
            return
        for keys, values in BpfMap(self._library, fd, self.key_bytes, self.value_bytes).batches():
            count = ctypes.c_uint32(len(keys) // self.key_bytes)
            if count.value:
                self._library.bpf_map_update_batch(self.fd, keys, values, ctypes.byref(count), None)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries as packed (keys, values), some thousand at a time (BPF_MAP_LOOKUP_BATCH)."""
        keys = ctypes.create_string_buffer(_BATCH * self.key_bytes)
        values = ctypes.create_string_buffer(_BATCH * self.value_bytes)
        position = ctypes.create_string_buffer(max(4, self.key_bytes))
        count = ctypes.c_uint32()
        first = True
        while True:
            count.value = _BATCH
            code = self._library.bpf_map_lookup_batch(
                self.fd,
                None if first else position,
                position,
                keys,
                values,
                ctypes.byref(count),
                None,
            )
            first = False
            is_last = code < 0 and errno.ENOENT in (-code, ctypes.get_errno())
            if not is_last:
                check(code, "cannot read a BPF map")
            yield (
                keys.raw[: count.value * self.key_bytes],
                values.raw[: count.value * self.value_bytes],
            )
            if is_last:
                return

    def delete_batch(self, keys: bytes) -> int:
        """Remove many; how many were there. Keys that are gone already are passed over."""
        done, total = 0, len(keys) // self.key_bytes
        removed = 0
        while done < total:
            count = ctypes.c_uint32(total - done)
            self._library.bpf_map_delete_batch(
                self.fd, keys[done * self.key_bytes :], ctypes.byref(count), None
            )
            removed += count.value
            done += count.value
            if done < total:
                done += 1  # the one that was not there
        return removed


class BpfObject:
    """An object file, opened, adjusted and loaded; closing it ends what nothing else holds."""

    def __init__(self, path: Path) -> None:
        self._library = load_library()
        self._object = self._library.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise KernelError(f"cannot open {path}: {os.strerror(ctypes.get_errno())}")
        self._maps = dict(self._walk_maps())

    def close(self) -> None:
        """Close all descriptors of programs and maps."""
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None

    def set_max_entries(self, name: str, entries: int) -> None:
        """Size a map, before loading."""
        check(
            self._library.bpf_map__set_max_entries(self._maps[name], entries),
            f"cannot give the BPF map {name} {entries} entries",
        )

    def set_pin_paths(self, directory: Path) -> None:
        """Use the maps that are pinned there, or pin new ones there, when loading."""
        for name, pointer in self._maps.items():
            if not name.endswith(".rodata"):
                code = self._library.bpf_map__set_pin_path(pointer, str(directory / name).encode())
                check(code, f"cannot pin the BPF map {name}")

    def set_constants(self, value: bytes) -> None:
        """The .rodata section, before loading."""
        (pointer,) = (p for n, p in self._maps.items() if n.endswith(".rodata"))
        code = self._library.bpf_map__set_initial_value(pointer, value, len(value))
        check(code, "cannot set the BPF programs' constants")

    def load(self) -> None:
        """Create the maps and let the verifier look at the programs."""
        check(self._library.bpf_object__load(self._object), "the kernel refuses the BPF programs")

    def leave_out(self, name: str) -> None:
        """Do not load a program, of which this kernel may not know all helpers."""
        code = self._library.bpf_program__set_autoload(self._program(name), False)
        check(code, f"cannot leave out program {name}")

    def program(self, name: str) -> int:
        """A program's descriptor, after loading."""
        code = self._library.bpf_program__fd(self._program(name))
        return check(code, f"program {name} is not loaded")

    def _program(self, name: str) -> int:
        pointer: int = self._library.bpf_object__find_program_by_name(self._object, name.encode())
        if not pointer:
            raise KernelError(f"the object file has no program {name}")
        return pointer

    def map(self, name: str) -> BpfMap:
        """A map, after loading."""
        pointer = self._maps[name]
        fd = check(self._library.bpf_map__fd(pointer), f"map {name} is not loaded")
        library = self._library
        sizes = library.bpf_map__key_size(pointer), library.bpf_map__value_size(pointer)
        return BpfMap(library, fd, *sizes)

    def all_maps(self) -> list[BpfMap]:
        """All maps, after loading."""
        return [self.map(name) for name in self._maps]

    def run(self, program: int, packet: bytes, context: bytes) -> tuple[int, bytes]:
        """Run a tc program on a frame (BPF_PROG_TEST_RUN); its verdict and the frame afterwards.

        ``context`` is a struct __sk_buff whose ifindex the program sees.
        """
        output = ctypes.create_string_buffer(len(packet) + 512)
        options = TestRun(
            size=ctypes.sizeof(TestRun),
            data_in=packet,
            data_size_in=len(packet),
            data_out=ctypes.addressof(output),
            data_size_out=len(output),
            ctx_in=context,
            ctx_size_in=len(context),
        )
        code = self._library.bpf_prog_test_run_opts(program, ctypes.byref(options))
        check(code, "cannot run a BPF program on a packet")
        return options.retval, output.raw[: options.data_size_out]

    def _walk_maps(self) -> Iterator[tuple[str, Any]]:
        pointer = self._library.bpf_object__next_map(self._object, None)
        while pointer:
            yield self._library.bpf_map__name(pointer).decode(), pointer
            pointer = self._library.bpf_object__next_map(self._object, pointer)
