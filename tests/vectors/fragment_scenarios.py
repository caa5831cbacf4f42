"""Round trips of fragments: only the first has ports, and any order is allowed (RFC 791)."""

from __future__ import annotations

from typing import Final

from gwlbtun.reasons import DropReason
from tests.vectors.geneve import COOKIE, OTHER_COOKIE
from tests.vectors.icmp import echo, icmp_error
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, fragments, tcp, udp
from tests.vectors.steps import WAITS, Later, Leave, Scenario, Step, arrive, leave, missing


def _waits(packet: bytes) -> Leave:
    return Leave(packet, WAITS)


def _of(ends: Ends) -> list[Scenario]:
    back = ends.reverse
    first, middle, last = fragments(udp(ends, b"f" * 3001), 1480)
    tiny_first, tiny_last = fragments(udp(back, b"t" * 17), 24)
    back_first, back_middle, back_last = fragments(udp(back, b"b" * 3001), 1480)
    next_first, next_last = fragments(udp(back.with_ports(443, 40001), b"n" * 1500), 1480)
    tcp_first, tcp_last = fragments(tcp(back, b"s" * 1470), 1480)
    ping_first, ping_last = fragments(echo(ends, 7, data=bytes(2000)), 1480)
    error_first, error_last = fragments(icmp_error(udp(ends, bytes(1400)), quote_bytes=1300), 1000)
    stories: dict[str, tuple[str, list[Step]]] = {
        "fragments-pass-through": (
            "AWS: GWLB carries fragments; later ones have the flow's cookie",
            [
                *(arrive(piece) for piece in (first, middle, last)),
                *(leave(piece) for piece in (first, middle, last)),
            ],
        ),
        "fragments-pass-through-in-reverse-order": (
            "RFC 791: no order is promised",
            [
                *(arrive(piece) for piece in (last, middle, first)),
                *(leave(piece) for piece in (last, middle, first)),
            ],
        ),
        "fragments-keep-the-cookie-they-came-with": (
            "AWS: the Geneve header comes back as it was",
            [
                arrive(udp(ends), COOKIE),
                arrive(last, OTHER_COOKIE),
                leave(last, OTHER_COOKIE),
                leave(udp(back), COOKIE),
            ],
        ),
        "flow-first-seen-as-a-fragment": (
            "AWS: a flow may begin with any packet; its ports are learned from the first fragment",
            [arrive(last), arrive(first), leave(udp(back)), leave(last)],
        ),
        "answer-in-fragments": (
            "AWS, two-arm: answers go back inside the original flow's header",
            [
                arrive(udp(ends)),
                *(leave(piece) for piece in (back_first, back_middle, back_last)),
            ],
        ),
        "answer-in-fragments-out-of-order": (
            "RFC 791: no order is promised; only the first fragment has ports",
            [
                arrive(udp(ends)),
                _waits(back_last),
                _waits(back_middle),
                leave(back_first, released=(back_last, back_middle)),
                leave(back_last),
            ],
        ),
        "answer-with-a-tiny-last-fragment": (
            "RFC 791: payload is never read as ports, one byte cannot be",
            [
                arrive(udp(ends)),
                _waits(tiny_last),
                leave(tiny_first, released=(tiny_last,)),
                leave(tiny_last),
            ],
        ),
        "tcp-answer-in-fragments": (
            "RFC 791: the protocol is part of an IPv4 fragment's key",
            [arrive(tcp(ends)), leave(tcp_first), leave(tcp_last)],
        ),
        "fragment-id-reused-by-another-flow": (
            "RFC 791: 65536 ids between two hosts come round within the time an entry lives",
            [
                arrive(udp(ends), COOKIE),
                arrive(udp(ends.with_ports(40001, 443)), OTHER_COOKIE),
                leave(back_first, COOKIE),
                leave(back_last, COOKIE),
                leave(next_first, OTHER_COOKIE),
                leave(next_last, OTHER_COOKIE),
            ],
        ),
        "first-fragment-of-an-unknown-flow": (
            "AWS: a packet that never came in from GWLB cannot be sent out through it",
            [arrive(tcp(ends)), missing(back_first), _waits(back_last), Later(3, late=1)],
        ),
        "first-fragment-too-late": (
            "a waiting fragment is given up after two seconds",
            [
                arrive(udp(ends)),
                _waits(back_last),
                Later(2),
                _waits(back_middle),
                Later(1, late=2),
                leave(back_first),
                leave(back_last),
            ],
        ),
        "fragment-entry-expires": (
            "Linux, ipfrag_time: nobody waits longer than 30 s for a fragment",
            [
                arrive(udp(ends)),
                leave(back_first),
                Later(30),
                leave(back_middle),
                Later(31),
                _waits(back_last),
            ],
        ),
        "too-many-fragments-wait": (
            "262144 bytes of an endpoint's fragments wait at most: 177 of 1480 bytes and payload",
            [
                arrive(udp(ends)),
                *(_waits(back_middle) for _ in range(256 * 1024 // len(back_middle))),
                Leave(back_middle, DropReason.FRAGMENT_UNMATCHED),
            ],
        ),
        "echo-in-fragments": (
            "RFC 792, RFC 4443: a first fragment has the identifier",
            [arrive(ping_first), arrive(ping_last), leave(ping_first), leave(ping_last)],
        ),
        "error-in-fragments": (
            "RFC 792, RFC 4443: a first fragment has the quote",
            [arrive(udp(ends)), leave(error_first), leave(error_last)],
        ),
    }
    version = "6" if ends.is_ipv6 else "4"
    return [
        Scenario(f"ipv{version}-{name}", source, tuple(steps))
        for name, (source, steps) in stories.items()
    ]


FRAGMENT_SCENARIOS: Final = [*_of(CLIENT_4), *_of(CLIENT_6)]
