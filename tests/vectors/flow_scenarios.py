"""Round trips of whole packets: which cookie, which node, which endpoint an answer leaves with."""

from __future__ import annotations

from typing import Final

from gwlbtun.reasons import DropReason
from tests.vectors.decap import HEADER_VECTORS
from tests.vectors.geneve import COOKIE, OTHER_COOKIE, OTHER_ENDPOINT, OTHER_NODE
from tests.vectors.icmp import echo, echo_reply
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    RECORD_ROUTE,
    TCP,
    Ends,
    esp,
    gre,
    ip,
    sctp,
    tcp,
    tcp_segment,
    udp,
    udp_of_size,
)
from tests.vectors.steps import Arrive, Later, Leave, Return, Scenario, Step, arrive, leave, missing


def _of(ends: Ends) -> list[Scenario]:
    back = ends.reverse
    request, answer = tcp(ends, b"request"), tcp(back, b"answer")
    stories: dict[str, tuple[str, list[Step]]] = {
        "tcp-passes-through": (
            "AWS: the 5-tuple is unchanged, the Geneve header comes back as it was",
            [arrive(request), leave(request)],
        ),
        "tcp-is-answered": (
            "AWS, two-arm: answers go back inside the original flow's header",
            [arrive(request), leave(answer), leave(answer)],
        ),
        "udp-passes-and-is-answered": (
            "AWS: cookie and flow must match",
            [arrive(udp(ends)), leave(udp(ends, b"more")), leave(udp(back))],
        ),
        "both-directions-with-their-own-cookies": (
            "AWS: not documented; the exact direction comes first, then the reverse",
            [
                arrive(request, COOKIE),
                leave(answer, COOKIE),
                arrive(answer, OTHER_COOKIE),
                leave(answer, OTHER_COOKIE),
                leave(request, COOKIE),
            ],
        ),
        "reused-5-tuple": (
            "AWS: a reused 5-tuple gets a new cookie; a cached old one makes GWLB drop",
            [
                arrive(request, COOKIE),
                leave(answer, COOKIE),
                arrive(request, OTHER_COOKIE),
                leave(answer, OTHER_COOKIE),
                leave(request, OTHER_COOKIE),
            ],
        ),
        "flow-moves-to-another-node": (
            "AWS: every inbound packet refreshes the flow's entry",
            [
                arrive(request),
                leave(answer),
                arrive(request, node=OTHER_NODE),
                leave(answer, node=OTHER_NODE),
                arrive(request),
                leave(answer),
            ],
        ),
        "two-endpoints-with-the-same-addresses": (
            "AWS: VPCs of two endpoints may have the same addresses",
            [
                arrive(request, COOKIE),
                arrive(request, OTHER_COOKIE, OTHER_ENDPOINT),
                leave(answer, COOKIE),
                leave(answer, OTHER_COOKIE, OTHER_ENDPOINT),
                arrive(udp(ends), COOKIE),
                missing(udp(back), OTHER_ENDPOINT),
            ],
        ),
        "never-seen": (
            "AWS: a packet that never came in from GWLB cannot be sent out through it",
            [
                arrive(request),
                missing(tcp(ends.with_ports(40001, 443))),
                missing(tcp(ends.with_ports(443, 40000))),
                missing(udp(ends)),
                missing(esp(ends)),
                missing(echo(ends, 1)),
            ],
        ),
        "tcp-and-udp-of-the-same-ports": (
            "AWS: the protocol is part of the 5-tuple",
            [
                arrive(tcp(ends), COOKIE),
                arrive(udp(ends), OTHER_COOKIE),
                leave(tcp(back), COOKIE),
                leave(udp(back), OTHER_COOKIE),
            ],
        ),
        "two-echo-flows-between-the-same-hosts": (
            "RFC 792, RFC 4443: the identifier tells echo flows apart",
            [
                arrive(echo(ends, 1), COOKIE),
                arrive(echo(ends, 2), OTHER_COOKIE),
                leave(echo(ends, 1), COOKIE),
                leave(echo(ends, 2, sequence=9), OTHER_COOKIE),
                leave(echo_reply(back, 1), COOKIE),
                leave(echo_reply(back, 2), OTHER_COOKIE),
                missing(echo_reply(back, 3)),
            ],
        ),
        "esp-gre-and-sctp": (
            "AWS: addresses and protocol make the flow of what has no TCP or UDP ports",
            [
                arrive(esp(ends), 1),
                arrive(gre(ends), 2),
                arrive(sctp(ends), 3),
                leave(esp(ends), 1),
                leave(esp(back, spi=0x2002), 1),
                leave(gre(back), 2),
                leave(sctp(back, tag=0x1111), 3),
                leave(sctp(ends.with_ports(1, 2)), 3),
            ],
        ),
        "8500-and-no-more": (
            "AWS: packets larger than 8500 bytes are dropped",
            [
                arrive(udp(ends)),
                leave(udp_of_size(ends, 8500)),
                Leave(udp_of_size(ends, 8501), DropReason.INNER_OVERSIZE),
            ],
        ),
        "larger-than-8500-comes-in": (
            "AWS: larger packets were seen arriving; their flow is learned all the same",
            [arrive(udp_of_size(ends, 8933)), leave(udp(back))],
        ),
        "idle-times": (
            "AWS: idle timeout 350 s for TCP, 120 s for everything else",
            [
                arrive(tcp(ends)),
                arrive(udp(ends)),
                arrive(echo(ends, 1)),
                Later(120),
                leave(udp(back)),
                Later(120),
                leave(udp(back)),
                missing(echo_reply(back, 1)),
                Later(110),
                leave(tcp(back)),
                Later(121),
                missing(udp(back)),
                Later(230),
                missing(tcp(back)),
            ],
        ),
    }
    version = "6" if ends.is_ipv6 else "4"
    return [
        Scenario(f"ipv{version}-{name}", source, tuple(steps))
        for name, (source, steps) in stories.items()
    ]


def _echoed_headers() -> list[Scenario]:
    """Each accepted Geneve header comes back byte for byte, whichever direction leaves."""
    answer = tcp(CLIENT_4.reverse, b"answer")
    return [
        Scenario(
            f"header-{vector.name}",
            "RFC 8926, 3.5; AWS: the same Geneve header with all options comes back",
            (
                Arrive(vector.datagram, vector.inner),
                Leave(vector.inner, Return(vector.header)),
                Leave(answer, Return(vector.header)),
            ),
        )
        for vector in HEADER_VECTORS
        if vector.profile == "aws"
    ]


_WITH_OPTIONS: Final = ip(
    CLIENT_4.reverse, TCP, tcp_segment(CLIENT_4.reverse), options=RECORD_ROUTE
)

FLOW_SCENARIOS: Final = [
    *_of(CLIENT_4),
    *_of(CLIENT_6),
    *_echoed_headers(),
    Scenario(
        "ipv4-options-in-one-direction",
        "RFC 791: options change where the ports are, not what they say",
        (arrive(tcp(CLIENT_4)), leave(_WITH_OPTIONS)),
    ),
]
