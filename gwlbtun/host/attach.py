"""Attaching tc programs to interfaces: tcx links where the kernel has them, else clsact filters.

tcx is newer than the libbpf of Debian 12, so BPF_LINK_CREATE and BPF_LINK_UPDATE go to bpf(2)
directly; filters go through libbpf.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import Final

from gwlbtun.errors import KernelError
from gwlbtun.host.libbpf import check, load_library

_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE: Final = 28
_BPF_LINK_UPDATE: Final = 29
_LINK_CREATE: Final = struct.Struct("=IIIIIIQ")
"""Program, interface, attach type, flags; relative to (fd, pad), expected revision."""
_LINK_UPDATE: Final = struct.Struct("=IIII")
_BPF_TC_INGRESS: Final = 1
_BPF_TC_EGRESS: Final = 2
_BPF_TC_F_REPLACE: Final = 1
_PRIORITY: Final = 49152
"""Of our clsact filters: behind all that users put there."""
_BPF_XDP: Final = 37
_XDP_FLAGS_DRV_MODE: Final = 4
_TCX_INGRESS: Final = 46
_TCX_EGRESS: Final = 47
_Attach = tuple[int, int]
"""Attach type and flags."""

_libc = ctypes.CDLL(None, use_errno=True)


class _TcHook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _TcOptions(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("program", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class TcFilter:
    """A program as a clsact filter, for kernels without tcx. It stays until it is removed; what is
    pinned is the program, so that the next process knows where filters are.
    """

    def __init__(
        self, program: int, ifindex: int, *, is_egress: bool, pin: Path | None = None
    ) -> None:
        self._pin = pin
        self._ifindex = ifindex
        self._is_egress = is_egress
        library = load_library()
        hook = _tc_hook(ifindex, is_egress=is_egress)
        options = _TcOptions(
            size=ctypes.sizeof(_TcOptions),
            program=program,
            handle=1,
            priority=_PRIORITY,
            flags=_BPF_TC_F_REPLACE,
        )
        code = library.bpf_tc_hook_create(ctypes.byref(hook))
        if code not in (0, -errno.EEXIST):
            check(code, f"cannot add clsact to interface {ifindex}")
        code = library.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
        check(code, f"cannot attach to interface {ifindex}")
        if pin is not None:
            pin.unlink(missing_ok=True)  # it would keep an earlier program and its maps
            code = library.bpf_obj_pin(program, str(pin).encode())
            check(code, f"cannot pin {pin}")

    def leave(self) -> None:
        """A filter stays by itself."""

    def close(self) -> None:
        """Remove it; the clsact queue stays, others may use it."""
        self.remove(self._ifindex, is_egress=self._is_egress)
        if self._pin is not None:
            self._pin.unlink(missing_ok=True)

    @staticmethod
    def remove(ifindex: int, *, is_egress: bool) -> None:
        """Remove our filter of an interface, if there is one."""
        hook = _tc_hook(ifindex, is_egress=is_egress)
        options = _TcOptions(size=ctypes.sizeof(_TcOptions), handle=1, priority=_PRIORITY)
        load_library().bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options))


def _tc_hook(ifindex: int, *, is_egress: bool) -> _TcHook:
    point = _BPF_TC_EGRESS if is_egress else _BPF_TC_INGRESS
    return _TcHook(ctypes.sizeof(_TcHook), ifindex, point, 0)


class _Link:
    """A program as a BPF link: it detaches with its last descriptor and its pin.

    A link that is pinned already gets the program between two packets.
    """

    def __init__(
        self,
        program: int,
        ifindex: int,
        attach: _Attach,
        pin: Path | None,
        *,
        is_adopted: bool = False,
    ) -> None:
        """``is_adopted`` takes over a link that is pinned, and makes none where it is dead."""
        self._pin = pin
        if pin is not None and pin.exists():
            self._fd = get_pinned(pin)
            try:
                update_link(self._fd, program)
            except KernelError:  # a link of an interface that was deleted, its index used again
                os.close(self._fd)
                if is_adopted:
                    raise
                pin.unlink()
            else:
                return
        attributes = _LINK_CREATE.pack(program, ifindex, *attach, 0, 0, 0)
        self._fd = _bpf(_BPF_LINK_CREATE, attributes, f"cannot attach to interface {ifindex}")
        if pin is not None:
            code = load_library().bpf_obj_pin(self._fd, str(pin).encode())
            check(code, f"cannot pin {pin}")

    def leave(self) -> None:
        """Let the pin hold the link."""
        os.close(self._fd)

    def close(self) -> None:
        """Detach."""
        if self._pin is not None:
            self._pin.unlink(missing_ok=True)
        os.close(self._fd)


class TcxLink(_Link):
    """A tc program in front of an interface's queue (6.6)."""

    def __init__(
        self,
        program: int,
        ifindex: int,
        *,
        is_egress: bool,
        pin: Path | None = None,
        is_adopted: bool = False,
    ) -> None:
        attach = (_TCX_EGRESS if is_egress else _TCX_INGRESS, 0)
        super().__init__(program, ifindex, attach, pin, is_adopted=is_adopted)


class XdpLink(_Link):
    """An XDP program in the driver; refused where the driver has no native XDP at this MTU."""

    def __init__(self, program: int, ifindex: int, pin: Path | None = None) -> None:
        super().__init__(program, ifindex, (_BPF_XDP, _XDP_FLAGS_DRV_MODE), pin)


def get_pinned(path: Path) -> int:
    """The descriptor of something pinned."""
    return check(load_library().bpf_obj_get(str(path).encode()), f"cannot open {path}")


def update_link(link: int, program: int) -> None:
    """Replace a link's program between two packets."""
    _bpf(_BPF_LINK_UPDATE, _LINK_UPDATE.pack(link, program, 0, 0), "cannot replace a BPF program")


def _bpf(command: int, attributes: bytes, what: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        raise KernelError(f"{what}: {platform.machine()} is neither x86_64 nor aarch64")
    return check(_libc.syscall(number, command, buffer, len(attributes)), what)
