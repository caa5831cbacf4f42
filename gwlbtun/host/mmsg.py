"""Datagrams in batches: recvmmsg(2) and sendmmsg(2), which Python's socket module lacks.

One system call moves up to a whole batch. All memory is allocated once; per packet there is only
what the packet itself needs. Layouts are those of 64-bit Linux, the same on x86-64 and arm64:

    struct mmsghdr, 64 bytes
     0 msg_name *      8 msg_namelen, pad     16 msg_iov *    24 msg_iovlen
    32 msg_control *  40 msg_controllen       48 msg_flags    52 pad    56 msg_len    60 pad

    struct iovec, 16 bytes:  0 iov_base *    8 iov_len
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Final

BATCH: Final = 64
SOCKADDR_BYTES: Final = 16
"""struct sockaddr_in."""

_MMSGHDR: Final = struct.Struct("=QIxxxxQQQQIxxxxIxxxx")
_IOVEC: Final = struct.Struct("=QQ")
_CONTROL_BYTES: Final = 32
"""CMSG_SPACE(struct in_pktinfo)."""
_META_BYTES: Final = SOCKADDR_BYTES + _CONTROL_BYTES
_MSG_DONTWAIT: Final = 0x40
_MSG_TRUNC: Final = 0x20
_IP_PKTINFO: Final = 8
_NAME_PORT_ADDRESS: Final = struct.Struct("!2xH4s8x")
_CMSG_PKTINFO: Final = struct.Struct("=QII I4s4s4x")

_libc = ctypes.CDLL(None, use_errno=True)


def _address(buffer: bytearray) -> int:
    """Where a bytearray's bytes lie. It must not be resized afterwards; nothing here does."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class ReceiveBatch:
    """Receives datagrams of an IPv4 UDP socket that has IP_PKTINFO on.

    After ``receive`` has returned n, for each i below n: ``views[i][:lengths[i]]`` is the payload,
    ``offsets[i]`` its place in ``buffer``, and ``meta(i)`` the sender and receiver as raw bytes,
    made for use as a cache key and read by ``parse_meta``.
    """

    def __init__(self, sock: socket.socket, slot_bytes: int, batch: int = BATCH) -> None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._fd = sock.fileno()
        self._batch = batch
        self.slot_bytes = slot_bytes
        # Slots are 192 bytes longer than a page multiple would suggest, so that the same header
        # byte of 64 packets does not fall into one cache set.
        stride = slot_bytes + 192
        self.buffer = bytearray(batch * stride)
        self.offsets = [i * stride for i in range(batch)]
        whole = memoryview(self.buffer)
        self.views = [whole[offset : offset + slot_bytes] for offset in self.offsets]
        self.lengths: list[int] = []
        self._metas = bytearray(batch * _META_BYTES)
        iovecs = bytearray(batch * _IOVEC.size)
        headers = bytearray(batch * _MMSGHDR.size)
        for i, offset in enumerate(self.offsets):
            _IOVEC.pack_into(iovecs, i * _IOVEC.size, _address(self.buffer) + offset, slot_bytes)
            name = _address(self._metas) + i * _META_BYTES
            _MMSGHDR.pack_into(
                headers,
                i * _MMSGHDR.size,
                name,
                SOCKADDR_BYTES,
                _address(iovecs) + i * _IOVEC.size,
                1,
                name + SOCKADDR_BYTES,
                _CONTROL_BYTES,
                0,
                0,
            )
        self._fresh_headers = bytes(headers)
        self._headers = headers
        self._iovecs = iovecs
        words = memoryview(headers).cast("I")
        self._flag_words, self._length_words = words[12::16], words[14::16]
        self._pointer = ctypes.c_void_p(_address(headers))

    def receive(self) -> int:
        """Fill the slots without waiting; 0 when there is nothing. Raises OSError."""
        self._headers[:] = self._fresh_headers  # the kernel overwrites lengths and flags
        count: int = _libc.recvmmsg(self._fd, self._pointer, self._batch, _MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        self.lengths = self._length_words[:count].tolist()
        return count

    def is_truncated(self, i: int) -> bool:
        """Whether the datagram was longer than its slot."""
        return bool(self._flag_words[i] & _MSG_TRUNC)

    def meta(self, i: int) -> bytes:
        """Sender and receiver of datagram i, raw."""
        start = i * _META_BYTES
        return bytes(self._metas[start : start + _META_BYTES])


def parse_meta(meta: bytes) -> tuple[bytes, int, bytes]:
    """Sender's address (4 bytes, network order), its UDP port, and the address it wrote to."""
    port, source = _NAME_PORT_ADDRESS.unpack_from(meta)
    _, _, _, _, _, destination = _CMSG_PKTINFO.unpack_from(meta, SOCKADDR_BYTES)
    return source, port, destination


def parse_ifindex(meta: bytes) -> int:
    """The index of the interface on which the datagram came in."""
    ifindex: int = _CMSG_PKTINFO.unpack_from(meta, SOCKADDR_BYTES)[3]
    return ifindex


class SendBatch:
    """Collects packets for one sendmmsg: each is a header and a body that lie side by side.

    The caller writes packet i = ``count`` into ``heads`` at ``head_offsets[i]`` (first the 16
    bytes of the destination's sockaddr_in, then the header) and into ``bodies[i]``, then calls
    ``add``. Bodies can be filled by ``os.readv(fd, body_vectors[i])``.
    """

    def __init__(
        self, sock: socket.socket, head_bytes: int, body_bytes: int, batch: int = BATCH
    ) -> None:
        self._fd = sock.fileno()
        self.capacity = batch
        self.count = 0
        head_stride = SOCKADDR_BYTES + head_bytes
        body_stride = body_bytes + 192
        self.heads = bytearray(batch * head_stride)
        self.head_offsets = [i * head_stride for i in range(batch)]
        self.body_buffer = bytearray(batch * body_stride)
        self.body_offsets = [i * body_stride for i in range(batch)]
        whole = memoryview(self.body_buffer)
        self.bodies = [whole[offset : offset + body_bytes] for offset in self.body_offsets]
        self.body_vectors = [[body] for body in self.bodies]
        self._iovecs = bytearray(batch * 2 * _IOVEC.size)
        self._headers = bytearray(batch * _MMSGHDR.size)
        for i in range(batch):
            name = _address(self.heads) + self.head_offsets[i]
            iovec = i * 2 * _IOVEC.size
            _IOVEC.pack_into(self._iovecs, iovec, name + SOCKADDR_BYTES, 0)
            _IOVEC.pack_into(
                self._iovecs,
                iovec + _IOVEC.size,
                _address(self.body_buffer) + self.body_offsets[i],
                0,
            )
            _MMSGHDR.pack_into(
                self._headers,
                i * _MMSGHDR.size,
                name,
                SOCKADDR_BYTES,
                _address(self._iovecs) + iovec,
                2,
                0,
                0,
                0,
                0,
            )
        self._lengths = memoryview(self._iovecs).cast("Q")
        self._base = _address(self._headers)

    def add(self, head_bytes: int, body_bytes: int) -> bool:
        """Take packet ``count``; the caller flushes when this returns True (the batch is full)."""
        i = self.count * 4
        self._lengths[i + 1] = head_bytes
        self._lengths[i + 3] = body_bytes
        self.count += 1
        return self.count == self.capacity

    def flush(self) -> list[tuple[int, int]]:
        """Send everything; (index, errno) for each packet that the kernel refused.

        One refused packet does not stop those behind it. A full socket buffer (EAGAIN, ENOBUFS)
        refuses the packet too: waiting would stop the path for all others.
        """
        refused: list[tuple[int, int]] = []
        done, total = 0, self.count
        self.count = 0
        while done < total:
            sent: int = _libc.sendmmsg(
                self._fd,
                ctypes.c_void_p(self._base + done * _MMSGHDR.size),
                total - done,
                _MSG_DONTWAIT,
            )
            if sent > 0:
                done += sent
                continue
            code = ctypes.get_errno()
            if code != errno.EINTR:
                refused.append((done, code))
                done += 1
        return refused
