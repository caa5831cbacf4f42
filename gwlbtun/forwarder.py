"""The pump of the user-space path: every packet passes through ``turn``.

    UDP 6081 ─ recvmmsg ─→ Decap ─ write ─→ gwi        gwo, gwi ─ readv ─→ Encap ─ sendmmsg ─→ GWLB

The event loop watches one descriptor, an epoll of all sockets and devices, and calls ``turn``,
which works through whatever is ready in batches and returns after a bounded time: packets cannot
starve the control plane, and a turn follows as long as there are packets.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from gwlbtun.datapath.counters import Drops
from gwlbtun.datapath.decap import Decap, UnknownEndpoint
from gwlbtun.datapath.encap import Encap
from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.datapath.flows import Flow
from gwlbtun.datapath.peers import Peer, PeerTable
from gwlbtun.host.mmsg import SOCKADDR_BYTES, ReceiveBatch, SendBatch, parse_ifindex, parse_meta
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import BASE_BYTES, MAX_OPTION_BYTES
from gwlbtun.wire.outer import OUTER_BYTES

SLOT_BYTES: Final = 9216
"""Holds the largest datagram of an EC2 uplink (MTU 9001)."""
_MAX_HEAD_BYTES: Final = OUTER_BYTES + BASE_BYTES + MAX_OPTION_BYTES
_TURN_S: Final = 0.002
_UDP_HEADER_BYTES: Final = 8
_SOCKADDR: Final = struct.Struct("=H2x4s8x")
_USUAL_HEAD: Final = struct.Struct("!16s24sHH36s4s")
_USUAL_GENEVE_BYTES: Final = 40
_USUAL_HEAD_BYTES: Final = OUTER_BYTES + _USUAL_GENEVE_BYTES
_ANY_HEAD: Final = struct.Struct("!16s24sHH")

Trace = Callable[[str, Endpoint, memoryview], None]


class Events(Protocol):
    """What the pump cannot decide by itself."""

    def on_peer(self, peer: Peer, ifindex: int) -> None:
        """A peer that may send, on the interface that its first packet came in on."""

    def on_unknown(self, endpoint_id: int, datagram: bytes, peer: Peer) -> None:
        """A valid packet of an endpoint that does not exist."""

    def on_waiting(self, endpoint: Endpoint) -> None:
        """A fragment waits for its first one, which may leave by the kernel path."""

    def on_broken(self, endpoint: Endpoint, cause: OSError) -> None:
        """An interface of the endpoint is gone."""


class Forwarder:
    """Moves packets between the sockets and the endpoints' devices."""

    def __init__(
        self,
        receiver: socket.socket,
        sender: socket.socket,
        decap: Decap,
        peers: PeerTable,
        events: Events,
    ) -> None:
        self.drops = Drops()
        self.trace: Trace | None = None
        self._decap = decap
        self._encap = Encap()
        self._peers = peers
        self._events = events
        self._receive = ReceiveBatch(receiver, SLOT_BYTES)
        self._send = SendBatch(sender, _MAX_HEAD_BYTES, SLOT_BYTES)
        self._senders: list[tuple[Endpoint, int] | None] = [None] * self._send.capacity
        self._sockaddrs: dict[bytes, bytes] = {}
        self._receiver_fd = receiver.fileno()
        self._endpoints: dict[int, Endpoint] = {}
        self._device_indices: dict[int, int] = {}
        """Interfaces that inner packets come out of: no GWLB speaks to us from there."""
        self._epoll = select.epoll()
        self._epoll.register(self._receiver_fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when there is something to do."""
        return self._epoll.fileno()

    def attach(self, endpoint: Endpoint) -> None:
        """Take an endpoint whose devices are open."""
        for name, fd in ((endpoint.gwi, endpoint.gwi_fd), (endpoint.gwo, endpoint.gwo_fd)):
            self._endpoints[fd] = endpoint
            self._epoll.register(fd, select.EPOLLIN)
            with suppress(OSError):  # deleted already: no packet will come from it
                self._device_indices[socket.if_nametoindex(name)] = fd
        self._decap.endpoints[endpoint.id] = endpoint

    def detach(self, endpoint: Endpoint) -> None:
        """Let an endpoint go, before its devices are closed."""
        for fd in (endpoint.gwi_fd, endpoint.gwo_fd):
            if self._endpoints.pop(fd, None) is not None:
                self._epoll.unregister(fd)
        gone = (endpoint.gwi_fd, endpoint.gwo_fd)
        self._device_indices = {i: fd for i, fd in self._device_indices.items() if fd not in gone}
        if self._decap.endpoints.get(endpoint.id) is endpoint:
            self._decap.forget(endpoint)

    def close(self) -> None:
        """Stop. Sockets and devices belong to whoever opened them."""
        self._epoll.close()

    def turn(self) -> None:
        """Work through what is ready, for about two milliseconds at most."""
        clock = time.monotonic
        start = clock()
        while True:
            ready = self._epoll.poll(0)
            if not ready:
                return
            now = int(clock())
            for fd, _ in ready:
                if fd == self._receiver_fd:
                    self._drain_receiver(now)
                else:
                    endpoint = self._endpoints.get(fd)
                    if endpoint is not None:
                        self._drain_device(fd, endpoint, now)
            self._flush()
            if clock() - start > _TURN_S:
                return

    def deliver(self, datagram: bytes, peer: Peer) -> None:
        """Take a datagram that had to wait for its endpoint."""
        self._take(datagram, 0, len(datagram), peer, int(time.monotonic()))
        self._flush()

    def _drain_receiver(self, now: int) -> None:
        batch = self._receive
        known = self._peers.known
        for i in range(batch.receive()):
            meta = batch.meta(i)
            peer = known.get(meta) or self._admit(meta)
            if peer.__class__ is DropReason:
                self.drops.by_reason[peer] += 1
            elif batch.is_truncated(i):
                self.drops.count(DropReason.DATAGRAM_TRUNCATED)
            else:
                self._take(batch.buffer, batch.offsets[i], batch.lengths[i], peer, now)  # type: ignore[arg-type]

    def _admit(self, meta: bytes) -> Peer | DropReason:
        """Judge a peer that is seen for the first time."""
        ifindex = parse_ifindex(meta)
        if ifindex in self._device_indices:
            return DropReason.SOURCE_INSIDE_TUNNEL
        peer = self._peers.admit(meta, *parse_meta(meta))
        if isinstance(peer, Peer):
            self._events.on_peer(peer, ifindex)
        return peer

    def _take(
        self, buffer: bytes | bytearray, offset: int, length: int, peer: Peer, now: int
    ) -> None:
        """Decapsulate one datagram and write the inner packet into gwi."""
        verdict = self._decap(buffer, offset, length, peer, now)
        if isinstance(verdict, Endpoint):
            inner_offset = self._decap.inner_offset
            packet = memoryview(buffer)[offset + inner_offset : offset + length]
            if self.trace is not None:
                self.trace("in", verdict, packet)
            if verdict.is_hairpin:
                verdict.packets_in += 1
                verdict.bytes_in += len(packet)
                self._reflect(packet, verdict, now)
                return
            try:
                os.write(verdict.gwi_fd, packet)
            except OSError as error:
                self._drop(DropReason.TUN_WRITE_FAILED, verdict)
                self._check_device(verdict, error)
            else:
                verdict.packets_in += 1
                verdict.bytes_in += length - inner_offset
        elif isinstance(verdict, UnknownEndpoint):
            datagram = bytes(memoryview(buffer)[offset : offset + length])
            self._events.on_unknown(verdict.id, datagram, peer)
        else:
            self.drops.by_reason[verdict] += 1

    def _reflect(self, packet: memoryview, endpoint: Endpoint, now: int) -> None:
        """Return a packet of an endpoint that wants no inspection."""
        batch = self._send
        body = batch.bodies[batch.count]
        body[: len(packet)] = packet
        offset = batch.body_offsets[batch.count]
        verdict = self._encap(batch.body_buffer, offset, len(packet), endpoint, now)
        if isinstance(verdict, Flow):
            self._enqueue(verdict, len(packet), endpoint)
        elif verdict is not None:
            self._drop(verdict, endpoint)

    def _drain_device(self, fd: int, endpoint: Endpoint, now: int) -> None:
        """Encapsulate what the stack has given to one device, at most one batch of it."""
        batch = self._send
        encap = self._encap
        vectors, offsets, buffer = batch.body_vectors, batch.body_offsets, batch.body_buffer
        for _ in range(batch.capacity):
            i = batch.count
            try:
                length = os.readv(fd, vectors[i])
            except BlockingIOError:
                return
            except OSError as error:
                self._check_device(endpoint, error)
                return
            verdict = encap(buffer, offsets[i], length, endpoint, now)
            if isinstance(verdict, Flow):
                if self.trace is not None:
                    self.trace("out", endpoint, batch.bodies[i][:length])
                self._enqueue(verdict, length, endpoint)
                if encap.released:
                    self._send_released(endpoint)
            elif verdict is None:
                self._events.on_waiting(endpoint)
            else:
                self._drop(verdict, endpoint)

    def retry_waiting(self, endpoint: Endpoint) -> None:
        """Look again for the flow of fragments that wait for their first one."""
        self._encap.retry(endpoint, int(time.monotonic()))
        self._send_released(endpoint)
        self._flush()

    def _enqueue(self, flow: Flow, length: int, endpoint: Endpoint) -> None:
        """Put the outer header before body ``batch.count``."""
        batch = self._send
        i = batch.count
        peer = flow.peer
        sockaddr = self._sockaddrs.get(peer.source) or self._sockaddr(peer.source)
        if flow.cookie:
            _USUAL_HEAD.pack_into(
                batch.heads,
                batch.head_offsets[i],
                sockaddr,
                peer.outer,
                length + (_UDP_HEADER_BYTES + _USUAL_GENEVE_BYTES),
                0,
                flow.head,
                flow.cookie,
            )
            head_bytes = _USUAL_HEAD_BYTES
        else:
            geneve = flow.head
            head_bytes = OUTER_BYTES + len(geneve)
            offset = batch.head_offsets[i]
            udp_bytes = _UDP_HEADER_BYTES + len(geneve) + length
            _ANY_HEAD.pack_into(batch.heads, offset, sockaddr, peer.outer, udp_bytes, 0)
            offset += SOCKADDR_BYTES + OUTER_BYTES
            batch.heads[offset : offset + len(geneve)] = geneve
        self._senders[i] = (endpoint, length)
        endpoint.packets_out += 1
        endpoint.bytes_out += length
        if batch.add(head_bytes, length):
            self._flush()

    def _sockaddr(self, address: bytes) -> bytes:
        if len(self._sockaddrs) >= 65536:
            self._sockaddrs.clear()
        sockaddr = self._sockaddrs[address] = _SOCKADDR.pack(socket.AF_INET, address)
        return sockaddr

    def _send_released(self, endpoint: Endpoint) -> None:
        """Send the fragments that waited for the first one just sent."""
        released = self._encap.released
        for packet, flow in released:
            self._send.bodies[self._send.count][: len(packet)] = packet
            self._enqueue(flow, len(packet), endpoint)
        released.clear()

    def _flush(self) -> None:
        if not self._send.count:
            return
        for i, code in self._send.flush():
            sender = self._senders[i]
            if sender is not None:
                endpoint, length = sender
                endpoint.packets_out -= 1
                endpoint.bytes_out -= length
                is_size = code == errno.EMSGSIZE
                reason = DropReason.OUTER_OVERSIZE if is_size else DropReason.SEND_FAILED
                self._drop(reason, endpoint)

    def _drop(self, reason: DropReason, endpoint: Endpoint) -> None:
        self.drops.by_reason[reason] += 1
        endpoint.drops.by_reason[reason] += 1

    def _check_device(self, endpoint: Endpoint, error: OSError) -> None:
        """EBADFD: the device was deleted under us. EIO: it is down. Others blame the packet."""
        if error.errno == errno.EBADFD:
            self._events.on_broken(endpoint, error)
