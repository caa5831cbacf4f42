"""Reading an inner packet that the kernel has written, its lengths and checksums checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.vectors.inet import ICMP, ICMPV6, TCP, UDP, Ends, checksum, pseudo_header


@dataclass(frozen=True, slots=True)
class Inner:
    """An IPv4 or IPv6 packet without options or extension headers; later fragments too."""

    packet: bytes
    version: int
    ttl: int
    protocol: int
    src: bytes
    dst: bytes
    payload: bytes

    @property
    def icmp(self) -> tuple[int, int]:
        """Type and code."""
        assert self.protocol in (ICMP, ICMPV6)
        return self.payload[0], self.payload[1]


def parse(packet: bytes) -> Inner:
    """Take a packet apart; its length and its checksums have to be right."""
    if packet[0] >> 4 == 6:
        length, protocol, ttl = struct.unpack_from("!HBB", packet, 4)
        inner = Inner(packet, 6, ttl, protocol, packet[8:24], packet[24:40], packet[40:])
        assert length == len(inner.payload)
        is_fragment = False
    else:
        total, _, fragment, ttl, protocol = struct.unpack_from("!HHHBB", packet, 2)
        assert packet[0] == 0x45
        assert total == len(packet)
        assert checksum(packet[:20]) == 0
        inner = Inner(packet, 4, ttl, protocol, packet[12:16], packet[16:20], packet[20:])
        is_fragment = bool(fragment & 0x3FFF)
    if not is_fragment:
        _check_upper(inner)
    return inner


def _check_upper(inner: Inner) -> None:
    counted = pseudo_header(Ends(inner.src, inner.dst), inner.protocol, len(inner.payload))
    if inner.protocol == ICMP:
        assert checksum(inner.payload) == 0
    elif inner.protocol in (TCP, UDP, ICMPV6):
        assert checksum(counted + inner.payload) == 0
