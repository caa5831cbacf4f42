"""The GWLB's side: packets at a given rate, and a check of each one that returns.

Flow n of the bench has the cookie n, an inner source address and port made from n, and must come
back with exactly that cookie around exactly that packet. Plain forwarding sends the same inner
packets without a tunnel.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

from bench.topology import APPLIANCE_ADDRESS, GWLB_ADDRESS
from gwlbtun.host.mmsg import ReceiveBatch, SendBatch
from gwlbtun.host.udp import open_receiver, open_sender
from gwlbtun.wire.gwlb import AWS
from gwlbtun.wire.outer import build_outer

ENDPOINT_ID: Final = 0x0123456789ABCDEF
MAX_FLOWS: Final = 128 * 65536
_INNER_DESTINATION: Final = bytes((10, 77, 200, 1))
_INNER_PORT: Final = 6081
"""The collector's own port, so that plainly forwarded packets reach it as well."""
_GWLB_PORT: Final = 60000
_TUNNEL_HEAD: Final = struct.Struct("!16s24sHH36s4s")
_PLAIN_HEAD: Final = struct.Struct("!16s20sHHHH")
_INNER_HEAD: Final = struct.Struct("!20sHHHH")
_RETURNED: Final = struct.Struct("!36sI20sHH")
_SOCKADDR: Final = struct.Struct("=H2x4s8x")
_BUFFER_BYTES: Final = 64 << 20
_SETTLE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of traffic. ``flows`` is how many take turns; 0 makes every packet a new flow."""

    packet_bytes: int
    flows: int
    is_tunnel: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run at one rate gave."""

    offered_pps: float
    sent: int
    returned: int
    wrong: int
    seconds: float

    @property
    def loss(self) -> float:
        """The share of packets that did not come back."""
        return 1 - self.returned / self.sent if self.sent else 1.0

    @property
    def returned_pps(self) -> float:
        """Packets that came back per second of sending."""
        return self.returned / self.seconds


class Traffic:
    """Sender and collector of one load, in the GWLB's namespace."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._receiver = open_receiver(_BUFFER_BYTES)
        self._sender = open_sender()
        self._received = ReceiveBatch(self._receiver, 9216)
        self._batch = SendBatch(self._sender, 68, 9216)
        self._next = 0
        appliance, gwlb = (socket.inet_aton(a) for a in (APPLIANCE_ADDRESS, GWLB_ADDRESS))
        self._sockaddr = _SOCKADDR.pack(socket.AF_INET, appliance)
        self._outer = build_outer(gwlb, appliance, _GWLB_PORT)
        self._head = AWS.build_header(ENDPOINT_ID, 0, is_ipv6=False)[:36]
        self._inner = [_inner_header(i, load.packet_bytes) for i in range(128)]

    def close(self) -> None:
        """Close both sockets."""
        self._receiver.close()
        self._sender.close()

    def run(self, rate_pps: float, seconds: float, *, packets: int | None = None) -> Outcome:
        """Offer packets at a rate for a time, or until a number has been sent."""
        self._drain()
        sent = returned = wrong = 0
        start = time.perf_counter()
        end = start + seconds
        while True:
            now = time.perf_counter()
            if now >= end or (packets is not None and sent >= packets):
                break
            due = int((now - start) * rate_pps) - sent
            if due > 0:
                sent += self._send(min(due, 32))
            good, bad = self._collect()
            returned, wrong = returned + good, wrong + bad
        elapsed = time.perf_counter() - start
        quiet_from = time.perf_counter()
        while time.perf_counter() - quiet_from < _SETTLE_S:
            good, bad = self._collect()
            if good or bad:
                quiet_from = time.perf_counter()
            returned, wrong = returned + good, wrong + bad
        return Outcome(rate_pps, sent, returned, wrong, elapsed)

    def _send(self, count: int) -> int:
        batch, load = self._batch, self._load
        inner_bytes = load.packet_bytes
        for i in range(count):
            flow = self._next
            self._next = (flow + 1) % (load.flows or MAX_FLOWS)
            header = self._inner[flow >> 16]
            port = flow & 0xFFFF
            if load.is_tunnel:
                _TUNNEL_HEAD.pack_into(
                    *(batch.heads, batch.head_offsets[i], self._sockaddr, self._outer),
                    *(48 + inner_bytes, 0, self._head, flow.to_bytes(4, "big")),
                )
                _INNER_HEAD.pack_into(
                    *(batch.body_buffer, batch.body_offsets[i], header),
                    *(port, _INNER_PORT, inner_bytes - 20, 0),
                )
                batch.add(68, inner_bytes)
            else:
                _PLAIN_HEAD.pack_into(
                    *(batch.heads, batch.head_offsets[i], self._sockaddr, header),
                    *(port or 1, _INNER_PORT, inner_bytes - 20, 0),
                )
                batch.add(28, inner_bytes - 28)
        return count - len(batch.flush())

    def _collect(self) -> tuple[int, int]:
        """How many packets came back as they should, and how many did not."""
        batch = self._received
        count = batch.receive()
        if not self._load.is_tunnel:
            return count, 0
        good = 0
        for i in range(count):
            head, cookie, header, port, _ = _RETURNED.unpack_from(batch.buffer, batch.offsets[i])
            expected = self._inner[cookie >> 16 & 127]
            good += (
                head == self._head
                and port == cookie & 0xFFFF
                and header[12:] == expected[12:]
                and batch.lengths[i] == 40 + self._load.packet_bytes
            )
        return good, count - good

    def _drain(self) -> None:
        while self._received.receive():
            pass


def _inner_header(i: int, packet_bytes: int) -> bytes:
    """An IPv4 header of a UDP packet from 10.77.<i>.1."""
    source = bytes((10, 77, i, 1))
    fields = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, packet_bytes, 0, 0, 64, 17, 0, source, _INNER_DESTINATION
    )
    words = sum(struct.unpack("!10H", fields))
    words = (words & 0xFFFF) + (words >> 16)
    words = (words & 0xFFFF) + (words >> 16)
    return fields[:10] + struct.pack("!H", ~words & 0xFFFF) + fields[12:]
