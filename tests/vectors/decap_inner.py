"""Inner packets of every kind, well-formed and not, that a Geneve header is put around."""

from __future__ import annotations

from typing import Final

from gwlbtun.reasons import DropReason
from tests.vectors.icmp import ERROR_KINDS, echo, echo_reply, icmp, icmp_error, unreadable_error
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    DESTINATION,
    ESP,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    PADN,
    RECORD_ROUTE,
    ROUTING,
    SPENT_ROUTE,
    TCP,
    UDP,
    Ends,
    esp,
    fragment_body,
    fragments,
    gre,
    ip,
    sctp,
    tcp,
    tcp_segment,
    udp,
    udp_datagram,
    udp_of_size,
)

BOTH: Final = {"4": CLIENT_4, "6": CLIENT_6}
_TCP_6: Final = tcp_segment(CLIENT_6, b"x")
_EVERY_EXTENSION: Final = [
    (HOP_BY_HOP, PADN),
    (DESTINATION, b"\x01\x0c" + bytes(12)),
    (ROUTING, SPENT_ROUTE),
    (FRAGMENT, fragment_body(0, 77, is_more=False)),
    (DESTINATION, PADN),
]
_FRAGMENT_RULE: Final = "AWS: GWLB does not fragment, but carries fragments (RFC 791, RFC 8200)"
_ERROR_RULE: Final = "RFC 792 and RFC 4443: an error belongs to the packet it quotes"


def _transport(name: str, ends: Ends) -> list[tuple[str, str, bytes]]:
    pieces = fragments(udp(ends, b"f" * 3001), 1480)
    tiny = fragments(udp(ends, b"t" * 17), 24)
    exact = fragments(tcp(ends, b"q" * 44), 32)
    return [
        (f"ipv{name}-tcp", "RFC 9293", tcp(ends, b"hello")),
        (f"ipv{name}-tcp-without-data", "RFC 9293", tcp(ends)),
        (f"ipv{name}-udp", "RFC 768", udp(ends, b"hello")),
        (f"ipv{name}-udp-without-data", "RFC 768", udp(ends)),
        (f"ipv{name}-ports-only", "RFC 792: 8 bytes are enough of a TCP header for ports",
         ip(ends, TCP, tcp_segment(ends)[:4])),
        (f"ipv{name}-padding-behind", "RFC 791, RFC 8200: the packet ends where its length says",
         udp(ends, b"pad") + b"\x99" * 5),
        (f"ipv{name}-8500", "AWS: the largest packet that GWLB carries", udp_of_size(ends, 8500)),
        (f"ipv{name}-8933", "AWS: larger ones were seen arriving; 9001 - 68 is taken",
         udp_of_size(ends, 8933)),
        (f"ipv{name}-esp", "RFC 4303", esp(ends)),
        (f"ipv{name}-gre", "RFC 2784", gre(ends)),
        (f"ipv{name}-sctp", "RFC 9260", sctp(ends)),
        (f"ipv{name}-unknown-protocol", "RFC 3692: protocol 253 is for experiments",
         ip(ends, 253, b"")),
        (f"ipv{name}-echo", "RFC 792, RFC 4443", echo(ends, 7)),
        (f"ipv{name}-echo-reply", "RFC 792, RFC 4443", echo_reply(ends, 7)),
        (f"ipv{name}-other-icmp", "RFC 4861 and RFC 1256: no query, no error",
         icmp(ends, 135 if ends.is_ipv6 else 9, 0, 0, bytes(16))),
        (f"ipv{name}-first-fragment", _FRAGMENT_RULE, pieces[0]),
        (f"ipv{name}-middle-fragment", _FRAGMENT_RULE, pieces[1]),
        (f"ipv{name}-last-fragment", _FRAGMENT_RULE, pieces[2]),
        (f"ipv{name}-tiny-last-fragment", "RFC 791: a last fragment may be one byte", tiny[-1]),
        (f"ipv{name}-first-tcp-fragment", _FRAGMENT_RULE, exact[0]),
        (f"ipv{name}-unreadable-error", _ERROR_RULE, unreadable_error(ends)),
        (f"ipv{name}-error-without-quote", _ERROR_RULE, icmp_error(tcp(ends), quote_bytes=0)),
    ]  # fmt: skip


def _errors() -> list[tuple[str, str, bytes]]:
    packets = []
    for ends, kind in ERROR_KINDS:
        name = f"ipv6-{kind}" if ends.is_ipv6 else f"ipv4-{kind}"
        packets.append((name, _ERROR_RULE, icmp_error(tcp(ends, b"lost"), kind)))
    for version, ends in BOTH.items():
        abouts = {
            "udp": udp(ends, b"lost"),
            "echo": echo(ends, 9),
            "esp": esp(ends),
            "first-fragment": fragments(udp(ends, bytes(3000)), 1480)[0],
            "later-fragment": fragments(udp(ends, bytes(3000)), 1480)[1],
            "error": icmp_error(tcp(ends)),
        }
        packets += [
            (f"ipv{version}-error-about-{name}", _ERROR_RULE, icmp_error(about))
            for name, about in abouts.items()
        ]
    packets.append(
        ("ipv4-error-about-ipv6", _ERROR_RULE, icmp(CLIENT_4, 3, 0, 0, tcp(CLIENT_6, b"x")))
    )
    return packets


INNER_PACKETS: Final = [
    *_transport("4", CLIENT_4),
    *_transport("6", CLIENT_6),
    *_errors(),
    (
        "ipv4-options",
        "RFC 791: ports follow the real header length",
        ip(CLIENT_4, UDP, udp_datagram(CLIENT_4, b"opt"), options=RECORD_ROUTE),
    ),
    (
        "ipv4-options-40",
        "RFC 791: the longest header has 60 bytes",
        ip(CLIENT_4, TCP, tcp_segment(CLIENT_4), options=b"\x01" * 40),
    ),
    (
        "ipv4-reserved-flag",
        "RFC 3514 aside, the reserved flag says nothing about fragments",
        ip(CLIENT_4, TCP, tcp_segment(CLIENT_4, b"evil"), fragment=0x8000),
    ),
    (
        "ipv6-every-extension",
        "RFC 8200, 4.1: extension headers are walked to the upper layer",
        ip(CLIENT_6, TCP, _TCP_6, extensions=_EVERY_EXTENSION),
    ),
    (
        "ipv6-hop-by-hop",
        "RFC 8200, 4.3",
        ip(CLIENT_6, UDP, udp_datagram(CLIENT_6), extensions=[(HOP_BY_HOP, PADN)]),
    ),
    (
        "ipv6-longest-extension",
        "RFC 8200, 4.2: an extension header has at most 2048 bytes",
        ip(CLIENT_6, TCP, _TCP_6, extensions=[(DESTINATION, bytes(2046))]),
    ),
    (
        "ipv6-atomic-fragment",
        "RFC 6946: offset 0 and no more to come is a whole packet",
        ip(
            CLIENT_6, TCP, _TCP_6, extensions=[(FRAGMENT, fragment_body(0, 1, is_more=False))]
        ),
    ),
    (
        "ipv6-first-fragment-behind-routing",
        "RFC 8200, 4.5: the fragment header follows the routing header",
        ip(
            CLIENT_6,
            TCP,
            _TCP_6,
            extensions=[(ROUTING, SPENT_ROUTE), (FRAGMENT, fragment_body(0, 5, is_more=True))],
        ),
    ),
    ("ipv6-no-next-header", "RFC 8200, 4.7", ip(CLIENT_6, 59, b"")),
    ("ipv6-icmp-of-ipv4", "RFC 4443: protocol 1 means nothing in IPv6", ip(CLIENT_6, ICMP, b"")),
    ("ipv4-icmp-of-ipv6", "RFC 792: protocol 58 means nothing in IPv4", ip(CLIENT_4, ICMPV6, b"")),
]  # fmt: skip

_TRUNCATED, _HEADER = DropReason.INNER_TRUNCATED, DropReason.INNER_HEADER
_PLAIN_4: Final = tcp(CLIENT_4, b"hello")
_PLAIN_6: Final = tcp(CLIENT_6, b"hello")
_JUMBOGRAM: Final = _PLAIN_6[:4] + b"\0\0" + _PLAIN_6[6:]
_LONG_ROUTE: Final = ip(CLIENT_6, ROUTING, b"\x06\xff" + bytes(60))


def _ipv4_lengths(first: int, total: int) -> bytes:
    return bytes((first, 0)) + total.to_bytes(2, "big") + _PLAIN_4[4:]


BAD_INNER_PACKETS: Final = [
    (_TRUNCATED, "nothing", "RFC 791", b""),
    (_TRUNCATED, "ipv4-header", "RFC 791", _PLAIN_4[:19]),
    (_TRUNCATED, "ipv4-payload", "RFC 791: total length", _PLAIN_4[:-1]),
    (_TRUNCATED, "ipv4-total-65535", "RFC 791: total length", _ipv4_lengths(0x45, 65535)),
    (_TRUNCATED, "ipv4-ports", "RFC 9293", ip(CLIENT_4, TCP, b"\1\2\3")),
    (_TRUNCATED, "ipv4-options", "RFC 791: total length", _ipv4_lengths(0x4F, 61)),
    (_TRUNCATED, "ipv4-icmp", "RFC 792: 8 bytes", ip(CLIENT_4, ICMP, bytes(7))),
    (_HEADER, "ipv4-ihl-0", "RFC 791: IHL is 5 or more", _ipv4_lengths(0x40, 45)),
    (_HEADER, "ipv4-ihl-4", "RFC 791: IHL is 5 or more", _ipv4_lengths(0x44, 45)),
    (_HEADER, "ipv4-total-0", "RFC 791: total length counts the header", _ipv4_lengths(0x45, 0)),
    (_HEADER, "ipv4-total-19", "RFC 791: total length counts the header", _ipv4_lengths(0x45, 19)),
    (_HEADER, "ipv4-total-inside-options", "RFC 791", _ipv4_lengths(0x46, 23)),
    (_TRUNCATED, "ipv6-header", "RFC 8200, 3", _PLAIN_6[:39]),
    (_TRUNCATED, "ipv6-payload", "RFC 8200, 3: payload length", _PLAIN_6[:-1]),
    (_TRUNCATED, "ipv6-ports", "RFC 768", ip(CLIENT_6, UDP, b"\1\2\3")),
    (_TRUNCATED, "ipv6-icmp", "RFC 4443, 2.1", ip(CLIENT_6, ICMPV6, bytes(7))),
    (_TRUNCATED, "ipv6-jumbogram", "RFC 2675: payload length 0", _JUMBOGRAM),
    (_TRUNCATED, "ipv6-extension-start", "RFC 8200, 4", ip(CLIENT_6, HOP_BY_HOP, bytes(7))),
    (_TRUNCATED, "ipv6-fragment-header", "RFC 8200, 4.5", ip(CLIENT_6, FRAGMENT, bytes(7))),
    (_TRUNCATED, "ipv6-extension-past-end", "RFC 8200, 4.2", _LONG_ROUTE),
    (
        _HEADER,
        "ipv6-endless-extensions",
        "RFC 8200, 4.1: each kind at most once or twice; a walk needs an end",
        ip(CLIENT_6, ESP, bytes(8), extensions=[(DESTINATION, PADN)] * 33),
    ),
]  # fmt: skip
"""Reason, name, source, packet."""
