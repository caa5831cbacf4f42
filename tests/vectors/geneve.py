"""Geneve datagrams as gateway load balancers send them (RFC 8926, section 3.4; AWS: options of
class 0x0108), the nodes they come from, and whole outer packets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from tests.vectors.inet import UDP, Ends, checksum, udp_datagram

PORT: Final = 6081
AWS_CLASS: Final = 0x0108
TENCENT_CLASS: Final = 0x0167
IPV4: Final = 0x0800
IPV6: Final = 0x86DD

ENDPOINT: Final = 0x0A1B2C3D4E5F6071
OTHER_ENDPOINT: Final = 0x0FFFEEEEDDDDCCCC
COOKIE: Final = 0xC0FFEE01
OTHER_COOKIE: Final = 0xBADCAB1E


def option(opt_class: int, type_: int, data: bytes = b"", *, words: int | None = None) -> bytes:
    """One option. ``words`` lies about the length; its three highest bits are the reserved ones."""
    return struct.pack("!HBB", opt_class, type_, len(data) // 4 if words is None else words) + data


def geneve(
    options: bytes,
    inner: bytes,
    *,
    protocol: int | None = None,
    version: int = 0,
    words: int | None = None,
    flags: int = 0,
    vni_reserved: int = 0,
) -> bytes:
    """A header and what follows it. ``protocol`` and ``words`` (the option area's length) may
    lie; left out they are right.
    """
    if protocol is None:
        protocol = IPV6 if inner[:1] >= b"\x60" else IPV4
    first = version << 6 | (len(options) // 4 if words is None else words)
    return struct.pack("!BBHI", first, flags, protocol, vni_reserved) + options + inner


def gwlb_options(
    cookie: int = COOKIE,
    endpoint: int = ENDPOINT,
    *,
    attachment: int = 0,
    opt_class: int = AWS_CLASS,
) -> list[bytes]:
    """Endpoint id, attachment id, flow cookie, in the order of the captures."""
    return [
        option(opt_class, 1, endpoint.to_bytes(8, "big")),
        option(opt_class, 2, attachment.to_bytes(8, "big")),
        option(opt_class, 3, cookie.to_bytes(4, "big")),
    ]


def gwlb(
    inner: bytes,
    cookie: int = COOKIE,
    endpoint: int = ENDPOINT,
    *,
    before: Iterable[bytes] = (),
    after: Iterable[bytes] = (),
) -> bytes:
    """A datagram as AWS sends it, with options of others ``before`` and ``after``."""
    options = [*before, *gwlb_options(cookie, endpoint), *after]
    return geneve(b"".join(options), inner)


def gwlb_header(inner: bytes, cookie: int = COOKIE, endpoint: int = ENDPOINT) -> bytes:
    """Only the header of such a datagram."""
    return gwlb(inner, cookie, endpoint)[: -len(inner)]


UNKNOWN_OPTION: Final = option(0x0109, 0x2A, b"unknown!")
EMPTY_OPTION: Final = option(0xFFFF, 0x7F)
FULL_AREA: Final = [option(0x0132, 9, bytes(range(124))), option(0x0132, 10, b"\xee" * 88)]
"""With the three usual options (32 bytes) exactly the 252 bytes that Geneve allows."""


@dataclass(frozen=True, slots=True)
class Node:
    """A GWLB node as its outer headers show it, and the appliance's address it sends to."""

    source: bytes
    port: int
    destination: bytes

    @property
    def return_outer(self) -> bytes:
        """Outer IPv4 header and UDP ports of what returns to it, before the kernel fills in total
        length, identification and checksum. AWS: addresses swapped, ports not.
        """
        addresses = self.destination + self.source
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, UDP, 0)
        return header + addresses + struct.pack("!HH", self.port, PORT)

    def packet(self, datagram: bytes) -> bytes:
        """The whole outer IPv4 packet as captures show it: TOS 0, TTL 255, id 0, DF clear."""
        ends = Ends(self.source, self.destination, self.port, PORT)
        upper = udp_datagram(ends, datagram)
        fields = (0x45, 0, 20 + len(upper), 0, 0, 255, UDP)
        zero = struct.pack("!BBHHHBBH4s4s", *fields, 0, ends.src, ends.dst)
        return struct.pack("!BBHHHBBH4s4s", *fields, checksum(zero), ends.src, ends.dst) + upper


NODE: Final = Node(ip_address("10.0.9.4").packed, 60000, ip_address("10.0.9.100").packed)
OTHER_NODE: Final = Node(ip_address("10.0.9.5").packed, 60001, ip_address("10.0.9.100").packed)
