"""Inner packets with right checksums: IPv4 (RFC 791), IPv6 (RFC 8200), TCP, UDP, SCTP, GRE, ESP.

Written apart from ``gwlbtun.wire`` on purpose: a builder that shares its code with the parser
under test shares its mistakes too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
GRE: Final = 47
ESP: Final = 50
ICMPV6: Final = 58
SCTP: Final = 132
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60

DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000

PADN: Final = b"\x01\x04\0\0\0\0"
"""The body of a hop-by-hop or destination options header that says nothing (RFC 8200, 4.2)."""
SPENT_ROUTE: Final = b"\x04\0\0\0\0\0"
"""The body of a segment routing header (RFC 8754) with no segments left and no list."""
RECORD_ROUTE: Final = b"\x07\x07\x04\0\0\0\0\0"
"""An IPv4 option: record route, one free slot (RFC 791, section 3.1), and one end of options."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Who talks to whom: addresses of one IP version in network order, and ports."""

    src: bytes
    dst: bytes
    src_port: int = 40000
    dst_port: int = 443

    @classmethod
    def of(cls, src: str, dst: str, src_port: int = 40000, dst_port: int = 443) -> Ends:
        """Ends from addresses as people write them."""
        return cls(ip_address(src).packed, ip_address(dst).packed, src_port, dst_port)

    @property
    def reverse(self) -> Ends:
        """The answers' direction."""
        return Ends(self.dst, self.src, self.dst_port, self.src_port)

    @property
    def is_ipv6(self) -> bool:
        """Whether the addresses are of IPv6."""
        return len(self.src) == 16

    @property
    def ports(self) -> bytes:
        """The first four bytes of TCP, UDP and SCTP."""
        return struct.pack("!HH", self.src_port, self.dst_port)

    def with_ports(self, src_port: int, dst_port: int) -> Ends:
        """The same hosts with other ports."""
        return replace(self, src_port=src_port, dst_port=dst_port)


CLIENT_4: Final = Ends.of("10.0.1.10", "10.0.2.20")
CLIENT_6: Final = Ends.of("2001:db8:1::10", "2001:db8:2::20")
ROUTER_4: Final = ip_address("10.0.9.1").packed
ROUTER_6: Final = ip_address("2001:db8:9::1").packed


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))


def pseudo_header(ends: Ends, protocol: int, length: int) -> bytes:
    """What the checksums of TCP, UDP and ICMPv6 count besides their own bytes."""
    layout = "!16s16sI3xB" if ends.is_ipv6 else "!4s4sxBH"
    numbers = (length, protocol) if ends.is_ipv6 else (protocol, length)
    return struct.pack(layout, ends.src, ends.dst, *numbers)


def ip(
    ends: Ends,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    extensions: Iterable[tuple[int, bytes]] = (),
    ident: int = 0x1234,
    fragment: int = 0,
) -> bytes:
    """A packet of the version of ``ends``. ``options`` and ``fragment`` (flags and offset) are
    for IPv4, ``extensions`` (type, body after the first two bytes) for IPv6.
    """
    if ends.is_ipv6:
        return _ipv6(ends, protocol, payload, list(extensions))
    first = 0x45 + len(options) // 4
    total = 20 + len(options) + len(payload)
    layout = "!BBHHHBBH4s4s"
    fields = (first, 0, total, ident, fragment, 64, protocol)
    header = struct.pack(layout, *fields, 0, ends.src, ends.dst) + options
    right = struct.pack(layout, *fields, checksum(header), ends.src, ends.dst)
    return right + options + payload


def _ipv6(ends: Ends, protocol: int, payload: bytes, extensions: list[tuple[int, bytes]]) -> bytes:
    for type_, body in reversed(extensions):
        length_units = 0 if type_ == FRAGMENT else (len(body) + 2) // 8 - 1
        payload = bytes((protocol, length_units)) + body + payload
        protocol = type_
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, ends.src, ends.dst) + (
        payload
    )


def fragment_body(offset_bytes: int, ident: int, *, is_more: bool) -> bytes:
    """What follows the first two bytes of an IPv6 fragment header (RFC 8200, section 4.5)."""
    return struct.pack("!HI", offset_bytes | is_more, ident)


def tcp_segment(ends: Ends, data: bytes = b"") -> bytes:
    """PSH+ACK with a header of 20 bytes."""

    def build(check: int) -> bytes:
        return ends.ports + struct.pack("!IIHHHH", 1000, 2000, 0x5018, 8192, check, 0) + data

    zero = build(0)
    return build(checksum(pseudo_header(ends, TCP, len(zero)) + zero))


def udp_datagram(ends: Ends, data: bytes = b"") -> bytes:
    """A computed checksum of 0 is sent as 0xffff (RFC 768)."""
    head = ends.ports + struct.pack("!H", 8 + len(data))
    check = checksum(pseudo_header(ends, UDP, 8 + len(data)) + head + b"\0\0" + data)
    return head + (check or 0xFFFF).to_bytes(2, "big") + data


def tcp(ends: Ends, data: bytes = b"") -> bytes:
    return ip(ends, TCP, tcp_segment(ends, data), fragment=DONT_FRAGMENT)


def udp(ends: Ends, data: bytes = b"") -> bytes:
    return ip(ends, UDP, udp_datagram(ends, data))


def udp_of_size(ends: Ends, size_bytes: int) -> bytes:
    """A UDP packet of exactly this length, IP header included."""
    return udp(ends, bytes(size_bytes - (48 if ends.is_ipv6 else 28)))


def esp(ends: Ends, spi: int = 0x1001) -> bytes:
    """RFC 4303: SPI, sequence number, ciphertext; the SPIs of the two directions differ."""
    return ip(ends, ESP, struct.pack("!II", spi, 1) + b"\xc5" * 32)


def gre(ends: Ends) -> bytes:
    """RFC 2784: no checksum, payload IPv4."""
    return ip(ends, GRE, struct.pack("!HH", 0, 0x0800) + b"\xaa" * 28)


def sctp(ends: Ends, tag: int = 0x5C7F) -> bytes:
    """RFC 9260: ports, verification tag, checksum, one SHUTDOWN ACK chunk."""
    return ip(ends, SCTP, ends.ports + struct.pack("!II", tag, 0) + b"\x08\0\0\x04")


def fragments(packet: bytes, size_bytes: int, ident: int = 0x7777) -> list[bytes]:
    """Cut a packet without options or extensions; ``size_bytes`` of payload each, in eights."""
    is_ipv6 = packet[0] >> 4 == 6
    header_bytes = 40 if is_ipv6 else 20
    payload, protocol = packet[header_bytes:], packet[6 if is_ipv6 else 9]
    ends = Ends(packet[8:24], packet[24:40]) if is_ipv6 else Ends(packet[12:16], packet[16:20])
    pieces = []
    for offset in range(0, len(payload), size_bytes):
        piece, is_more = payload[offset : offset + size_bytes], offset + size_bytes < len(payload)
        if is_ipv6:
            extension = (FRAGMENT, fragment_body(offset, ident, is_more=is_more))
            pieces.append(ip(ends, protocol, piece, extensions=[extension]))
        else:
            flags = is_more * MORE_FRAGMENTS | offset // 8
            pieces.append(ip(ends, protocol, piece, ident=ident, fragment=flags))
    return pieces
