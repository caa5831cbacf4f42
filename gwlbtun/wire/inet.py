"""Which flow an IP packet belongs to: IPv4 (RFC 791), IPv6 (RFC 8200), ICMP (RFC 792, RFC 4443).

A flow key is a byte string, so that a table lookup is one hash; the addresses come first and the
two directions of a flow have mirrored keys:

    TCP, UDP              source, destination, source port, destination port
    echo and its like     source, destination, identifier, protocol
    ESP, GRE, SCTP, …     source, destination, 0, protocol
    ICMP errors           source, destination, protocol, kind of quote, key of the quoted packet

Later fragments have no ports: they carry a fragment key (addresses, fragment id, protocol) instead,
and first fragments carry both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58

_IPV4: Final = struct.Struct("!BxHHHxB2x4s4s")
"""Version and header length, total length, id, flags and offset, protocol, addresses."""
_IPV6: Final = struct.Struct("!IHBx16s16s")
"""Version, class and label, payload length, next header, hop limit, addresses."""
_IPV6_FRAGMENT: Final = struct.Struct("!BxH4s")
"""Next header, offset and flags, identification."""
_MORE_FRAGMENTS: Final = 0x2000
_OFFSET_MASK: Final = 0x1FFF

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_EXTENSIONS: Final = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION})
_MAX_EXTENSIONS: Final = 32
"""More extension headers than any real packet has; bounds the walk over a hostile one."""

_ICMP_ERRORS: Final = frozenset({3, 4, 5, 11, 12})
_ICMP_QUERIES: Final = frozenset({0, 8, 13, 14, 15, 16, 17, 18})
_ICMPV6_ERRORS: Final = frozenset({1, 2, 3, 4})
_ICMPV6_QUERIES: Final = frozenset({128, 129})
_ICMP_BYTES: Final = 8
_PORT_BYTES: Final = 4
_NO_IDENTIFIER: Final = b"\0\0"
_QUOTED_FRAGMENT: Final = 3


class Table(IntEnum):
    """The flow table that a key belongs to; with TCP and UDP the protocol is not in the key."""

    TCP = 0
    UDP = 1
    OTHER = 2


@dataclass(frozen=True, slots=True)
class InnerFlow:
    """How to find a packet's flow. ``key`` is empty for later fragments, ``fragment`` for whole
    packets; ``quote`` is what an ICMP error is about.
    """

    is_ipv6: bool
    table: Table
    key: bytes
    fragment: bytes = b""
    quote: InnerFlow | None = None

    @property
    def reverse(self) -> bytes:
        """The key of the opposite direction; an ICMP error and a later fragment have none."""
        if self.quote is not None or not self.key:
            return b""
        return reverse_key(self.table, self.key)


def reverse_key(table: Table, key: bytes) -> bytes:
    """Mirror the key of a packet that is no ICMP error."""
    size = 16 if len(key) > 16 else 4
    source, destination, rest = key[:size], key[size : 2 * size], key[2 * size :]
    if table is not Table.OTHER:
        rest = rest[2:] + rest[:2]
    return destination + source + rest


def parse_inner(packet: bytes | memoryview, *, is_quoted: bool = False) -> InnerFlow:
    """Find the flow of the IP packet at the start of ``packet``.

    ``is_quoted`` allows the end to be cut off, as in an ICMP error. Raises MalformedPacket with
    INNER_TRUNCATED, INNER_VERSION or INNER_HEADER.
    """
    if not len(packet):
        raise MalformedPacket(DropReason.INNER_TRUNCATED)
    version = packet[0] >> 4
    if version == 4:
        return _parse_ipv4(packet, is_quoted)
    if version == 6:
        return _parse_ipv6(packet, is_quoted)
    raise MalformedPacket(DropReason.INNER_VERSION)


def _parse_ipv4(packet: bytes | memoryview, is_quoted: bool) -> InnerFlow:
    if len(packet) < _IPV4.size:
        raise MalformedPacket(DropReason.INNER_TRUNCATED)
    first, total, ident, flags, protocol, source, destination = _IPV4.unpack_from(packet)
    header_bytes = 4 * (first & 0xF)
    if header_bytes < _IPV4.size or total < header_bytes:
        raise MalformedPacket(DropReason.INNER_HEADER)
    if len(packet) < (header_bytes if is_quoted else total):
        raise MalformedPacket(DropReason.INNER_TRUNCATED)
    addresses = source + destination
    fragment = b""
    if flags & (_MORE_FRAGMENTS | _OFFSET_MASK):
        fragment = addresses + ident.to_bytes(2, "big") + bytes((protocol,))
        if flags & _OFFSET_MASK:
            return InnerFlow(False, _table(protocol), b"", fragment)
    return _parse_upper(packet[header_bytes:total], protocol, addresses, fragment, is_quoted)


def _parse_ipv6(packet: bytes | memoryview, is_quoted: bool) -> InnerFlow:
    if len(packet) < _IPV6.size:
        raise MalformedPacket(DropReason.INNER_TRUNCATED)
    _, payload_bytes, protocol, source, destination = _IPV6.unpack_from(packet)
    end = _IPV6.size + payload_bytes
    if len(packet) < end:
        if not is_quoted:
            raise MalformedPacket(DropReason.INNER_TRUNCATED)
        end = len(packet)
    addresses = source + destination
    fragment = b""
    offset = _IPV6.size
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            return _parse_upper(packet[offset:end], protocol, addresses, fragment, is_quoted)
        if end < offset + 8:
            raise MalformedPacket(DropReason.INNER_TRUNCATED)
        if protocol == _FRAGMENT:
            protocol, flags, ident = _IPV6_FRAGMENT.unpack_from(packet, offset)
            offset += 8
            if flags & 0xFFF9:  # offset or more-fragments: an atomic fragment (RFC 6946) is whole
                fragment = addresses + ident
            if flags & 0xFFF8:
                return InnerFlow(True, _table(protocol), b"", fragment)
        else:
            protocol, length_units = packet[offset], packet[offset + 1]
            offset += 8 + 8 * length_units
            if end < offset:
                raise MalformedPacket(DropReason.INNER_TRUNCATED)
    raise MalformedPacket(DropReason.INNER_HEADER)


def _table(protocol: int) -> Table:
    return Table.TCP if protocol == TCP else Table.UDP if protocol == UDP else Table.OTHER


def _parse_upper(
    upper: bytes | memoryview, protocol: int, addresses: bytes, fragment: bytes, is_quoted: bool
) -> InnerFlow:
    """The flow of a packet whose upper-layer header starts at ``upper``."""
    is_ipv6 = len(addresses) > 8
    table = _table(protocol)
    if table is not Table.OTHER:
        if len(upper) < _PORT_BYTES:
            raise MalformedPacket(DropReason.INNER_TRUNCATED)
        return InnerFlow(is_ipv6, table, addresses + bytes(upper[:_PORT_BYTES]), fragment)
    identifier = _NO_IDENTIFIER
    if protocol == (ICMPV6 if is_ipv6 else ICMP):
        if len(upper) < _ICMP_BYTES:
            raise MalformedPacket(DropReason.INNER_TRUNCATED)
        if upper[0] in (_ICMPV6_ERRORS if is_ipv6 else _ICMP_ERRORS) and not is_quoted:
            return _parse_error(upper[_ICMP_BYTES:], protocol, addresses, fragment)
        if upper[0] in (_ICMPV6_QUERIES if is_ipv6 else _ICMP_QUERIES):
            identifier = bytes(upper[4:6])
    return InnerFlow(is_ipv6, table, addresses + identifier + bytes((protocol,)), fragment)


def _parse_error(
    quoted: bytes | memoryview, protocol: int, addresses: bytes, fragment: bytes
) -> InnerFlow:
    """An ICMP error is known by the packet it quotes; without a readable one, by its addresses."""
    is_ipv6 = len(addresses) > 8
    try:
        quote = parse_inner(quoted, is_quoted=True)
    except MalformedPacket:
        quote = None
    if quote is None or quote.is_ipv6 != is_ipv6:
        key = addresses + _NO_IDENTIFIER + bytes((protocol,))
        return InnerFlow(is_ipv6, Table.OTHER, key, fragment)
    kind = quote.table if quote.key else _QUOTED_FRAGMENT
    key = addresses + bytes((protocol, kind)) + (quote.key or quote.fragment)
    return InnerFlow(is_ipv6, Table.OTHER, key, fragment, quote)
