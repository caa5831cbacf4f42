"""The simulator's pump: batches from TUN devices to appliances and back.

    client, server TUN ─→ Gateway.forward ─→ raw socket, whole outer packets
    UDP 6081, 60000, 60001 ─→ Gateway.judge ─→ server, client TUN

All descriptors hang in one epoll, whose own descriptor the event loop watches. One call moves at
most one batch per descriptor, about two milliseconds of work, then the loop has its turn.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections import Counter
from typing import Final

from gwlbtun.host.mmsg import BATCH, ReceiveBatch, SendBatch, parse_meta
from gwlbtun.lab.flows import Endpoint
from gwlbtun.lab.gwlb import GENEVE_BYTES, Gateway
from gwlbtun.lab.plan import DEVICE_MTU_BYTES, UPLINK_MTU_BYTES
from gwlbtun.lab.rules import Drop
from gwlbtun.lab.targets import SOURCE_PORTS, Path
from gwlbtun.wire.geneve import UDP_PORT
from gwlbtun.wire.outer import OUTER_BYTES

_SO_RCVBUFFORCE: Final = 33
_SO_SNDBUFFORCE: Final = 32
_BUFFER_BYTES: Final = 16 << 20
_SOCKADDR_BYTES: Final = 16
_UDP_LENGTH_OFFSET: Final = _SOCKADDR_BYTES + 24
_UDP_HEADER_BYTES: Final = 8
_HEAD_BYTES: Final = OUTER_BYTES + GENEVE_BYTES
_UDP_LENGTH: Final = struct.Struct("!H")
_STRAY_BYTES: Final = 2048
_MAX_METAS: Final = 65536


class Pump:
    """Owns the sockets; the TUN descriptors are its endpoints'. Sockets belong to the network
    namespace that it is made in.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.io_errors: Counter[str] = Counter()
        self._udp = _udp_socket(UDP_PORT)
        self._strays = {sock.fileno(): sock for sock in map(_udp_socket, SOURCE_PORTS)}
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
        self._received = ReceiveBatch(self._udp, UPLINK_MTU_BYTES)
        self._to_send = SendBatch(self._raw, _HEAD_BYTES, DEVICE_MTU_BYTES)
        self._endpoints: dict[int, Endpoint] = {}
        self._paths = {
            (path.target.address, path.port, path.node): path
            for target in gateway.targets
            for path in target.paths
        }
        self._path_by_meta: dict[bytes, Path | None] = {}
        self._epoll = select.epoll()
        for endpoint in gateway.endpoints:
            for fd in (endpoint.client_fd, endpoint.server_fd):
                self._endpoints[fd] = endpoint
                self._epoll.register(fd, select.EPOLLIN)
        for fd in (self._udp.fileno(), *self._strays):
            self._epoll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when any descriptor is: the event loop calls ``turn`` then."""
        return self._epoll.fileno()

    def turn(self) -> None:
        """Move what is ready, one batch per descriptor."""
        now = time.monotonic()
        for fd, _ in self._epoll.poll(0):
            endpoint = self._endpoints.get(fd)
            if endpoint is not None:
                self._from_device(fd, endpoint, now)
            elif fd == self._udp.fileno():
                self._from_appliances(now)
            else:
                with contextlib.suppress(BlockingIOError):  # a wrong checksum
                    self._strays[fd].recv(_STRAY_BYTES)
                    self.gateway.note_stray()

    def close(self) -> None:
        """Give all sockets back."""
        self._epoll.close()
        for sock in (self._udp, self._raw, *self._strays.values()):
            sock.close()

    def _from_device(self, fd: int, endpoint: Endpoint, now: float) -> None:
        batch = self._to_send
        forward, readv, pack_length = self.gateway.forward, os.readv, _UDP_LENGTH.pack_into
        for _ in range(BATCH):
            i = batch.count
            try:
                length = readv(fd, batch.body_vectors[i])
            except BlockingIOError:
                break
            except OSError as error:  # the device is down
                self.io_errors[f"read: {error.strerror}"] += 1
                break
            leg = forward(endpoint, batch.body_buffer, batch.body_offsets[i], length, now)
            if isinstance(leg, Drop):
                continue
            head, start = leg.head, batch.head_offsets[i]
            batch.heads[start : start + len(head)] = head
            udp_bytes = length + GENEVE_BYTES + _UDP_HEADER_BYTES
            pack_length(batch.heads, start + _UDP_LENGTH_OFFSET, udp_bytes)
            batch.add(_HEAD_BYTES, length)
        for _, code in batch.flush():
            self.io_errors[f"send: {os.strerror(code)}"] += 1

    def _from_appliances(self, now: float) -> None:
        batch = self._received
        count = batch.receive()
        judge, write, path_by_meta = self.gateway.judge, os.write, self._path_by_meta
        for i in range(count):
            meta, length = batch.meta(i), batch.lengths[i]
            if meta not in path_by_meta:
                self._learn_path(meta)
            leg = judge(batch.buffer, batch.offsets[i], length, path_by_meta[meta], now)
            if leg is not None:
                try:
                    write(leg.sink_fd, batch.views[i][GENEVE_BYTES:length])
                except OSError as error:
                    self.io_errors[f"deliver: {error.strerror}"] += 1

    def _learn_path(self, meta: bytes) -> None:
        if len(self._path_by_meta) >= _MAX_METAS:
            self._path_by_meta.clear()
        self._path_by_meta[meta] = self._paths.get(parse_meta(meta))


def _udp_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sock.setblocking(False)
    sock.bind(("0.0.0.0", port))
    return sock
