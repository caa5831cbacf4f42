"""The sockets towards the GWLB: UDP 6081 to receive, a raw socket to send.

Packets return with the UDP source port that GWLB used, a different one for each of its flows'
hashes, so the appliance writes the outer headers itself (raw(7), IP_HDRINCL): the kernel adds
length, identification and checksum, and chooses the route.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Final

from gwlbtun.errors import KernelError
from gwlbtun.wire.geneve import UDP_PORT

SEND_BUFFER_BYTES: Final = 4 << 20
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


def open_receiver(receive_buffer_bytes: int, address: str = "0.0.0.0") -> socket.socket:
    """Bind UDP 6081. Raises KernelError, above all when another process has the port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind((address, UDP_PORT))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            message = (
                f"UDP port {UDP_PORT} belongs to another process: stop it first"
                f" (ss -ulpn 'sport = :{UDP_PORT}' names it)"
            )
        else:
            message = f"cannot bind UDP {address}:{UDP_PORT}: {error.strerror}"
        raise KernelError(message) from error
    _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer_bytes)
    return sock


def open_sender() -> socket.socket:
    """A send-only raw IPv4 socket; needs CAP_NET_RAW."""
    try:
        sock = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
        )
    except PermissionError as error:
        message = "cannot open a raw socket: CAP_NET_RAW is missing (run as root or grant it)"
        raise KernelError(message) from error
    _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return sock


def buffer_bytes(sock: socket.socket) -> int:
    """The receive buffer that the kernel granted, as the caller counts it."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it


def _set_buffer(sock: socket.socket, force: int, plain: int, size_bytes: int) -> None:
    """Beyond net.core.[rw]mem_max with CAP_NET_ADMIN, up to it without."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size_bytes)
    except PermissionError:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, plain, size_bytes)
