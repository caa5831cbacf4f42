"""ICMP (RFC 792) and ICMPv6 (RFC 4443) messages with right checksums: queries, and errors that
quote what they are about.
"""

from __future__ import annotations

import struct
from typing import Final

from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    ICMP,
    ICMPV6,
    ROUTER_4,
    ROUTER_6,
    Ends,
    checksum,
    ip,
    pseudo_header,
)

ERRORS_4: Final = {
    "net-unreachable": (3, 0, 0),
    "port-unreachable": (3, 3, 0),
    "fragmentation-needed": (3, 4, 1400),
    "source-quench": (4, 0, 0),
    "redirect": (5, 1, 0x0A000902),
    "time-exceeded": (11, 0, 0),
    "reassembly-time-exceeded": (11, 1, 0),
    "parameter-problem": (12, 0, 20 << 24),
}
"""Name: type, code, second word."""
ERRORS_6: Final = {
    "no-route": (1, 0, 0),
    "port-unreachable": (1, 4, 0),
    "packet-too-big": (2, 0, 1280),
    "hop-limit-exceeded": (3, 0, 0),
    "reassembly-time-exceeded": (3, 1, 0),
    "parameter-problem": (4, 1, 6),
}


def icmp(ends: Ends, type_: int, code: int, word: int, body: bytes = b"") -> bytes:
    """An ICMP or ICMPv6 packet; ``word`` is the second 32-bit word of the message."""
    protocol = ICMPV6 if ends.is_ipv6 else ICMP
    rest = struct.pack("!I", word) + body
    counted = pseudo_header(ends, protocol, 4 + len(rest)) if ends.is_ipv6 else b""
    check = checksum(counted + bytes((type_, code, 0, 0)) + rest)
    return ip(ends, protocol, struct.pack("!BBH", type_, code, check) + rest)


def echo(ends: Ends, identifier: int, sequence: int = 1, data: bytes = b"ping" * 14) -> bytes:
    """An echo request."""
    return icmp(ends, 128 if ends.is_ipv6 else 8, 0, identifier << 16 | sequence, data)


def echo_reply(ends: Ends, identifier: int, sequence: int = 1, data: bytes = b"ping" * 14) -> bytes:
    return icmp(ends, 129 if ends.is_ipv6 else 0, 0, identifier << 16 | sequence, data)


def icmp_error(
    about: bytes, kind: str = "", router: bytes = b"", *, quote_bytes: int | None = None
) -> bytes:
    """What a router on the way answers to the sender of the packet ``about``.

    It quotes the IPv4 header and 8 more bytes (RFC 792), or as much of an IPv6 packet as 1280
    bytes allow (RFC 4443), unless ``quote_bytes`` says otherwise.
    """
    if about[0] >> 4 == 6:
        type_, code, word = ERRORS_6[kind or "port-unreachable"]
        ends = Ends(router or ROUTER_6, about[8:24])
        length = 1232
    else:
        type_, code, word = ERRORS_4[kind or "port-unreachable"]
        ends = Ends(router or ROUTER_4, about[12:16])
        length = 4 * (about[0] & 0xF) + 8
    return icmp(ends, type_, code, word, about[: length if quote_bytes is None else quote_bytes])


def unreadable_error(ends: Ends) -> bytes:
    """An error whose quote is no IP packet."""
    return icmp(ends, 1 if ends.is_ipv6 else 3, 0, 0, b"\x99" * 28)


ERROR_KINDS: Final = [(CLIENT_4, kind) for kind in ERRORS_4] + [
    (CLIENT_6, kind) for kind in ERRORS_6
]
"""Every kind of error, with the ends of the flow that it may be about."""
