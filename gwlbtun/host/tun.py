"""TUN devices: layer 3, no packet information header, non-blocking.

The packet's last step into the IP stack (write) and its first step out of it (read). A device
lives exactly as long as its descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Final

from gwlbtun.errors import KernelError

_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNGETIFF: Final = 0x800454D2
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFREQ: Final = struct.Struct("16sH22x")
_MAX_NAME_BYTES: Final = 15


def open_tun(name: str) -> int:
    """Create the device and return its descriptor (close-on-exec, non-blocking).

    Raises KernelError when the kernel refuses, for instance when another process holds the name.
    """
    raw = name.encode()
    if not raw or len(raw) > _MAX_NAME_BYTES:
        message = f"{name!r} is no interface name of 1 to {_MAX_NAME_BYTES} bytes"
        raise ValueError(message)
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        is_absent = error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
        hint = "; is the tun module loaded?" if is_absent else ""
        message = f"cannot open /dev/net/tun: {error.strerror}{hint}"
        raise KernelError(message) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(raw, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        message = f"cannot create TUN device {name}: {error.strerror}"
        raise KernelError(message) from error
    return fd


def is_down(name: str) -> bool:
    """Whether an interface of this namespace is down; of one that is elsewhere nobody can tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError:
            return False
    return not _IFREQ.unpack(answer)[1] & _IFF_UP


def has_device(fd: int) -> bool:
    """Whether the device still exists, under whatever name and in whatever network namespace."""
    try:
        fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size))
    except OSError:
        return False
    return True


def set_persistent(fd: int, *, is_persistent: bool) -> None:
    """Let the device outlive its descriptors, or not."""
    fcntl.ioctl(fd, _TUNSETPERSIST, int(is_persistent))
