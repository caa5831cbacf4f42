"""Round trips of ICMP errors: made by the appliance's stack, or passing through."""

from __future__ import annotations

from typing import Final

from tests.vectors.geneve import COOKIE, OTHER_COOKIE
from tests.vectors.icmp import ERROR_KINDS, echo, icmp_error, unreadable_error
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    ROUTER_4,
    ROUTER_6,
    Ends,
    esp,
    fragments,
    tcp,
    udp,
)
from tests.vectors.steps import Scenario, Step, arrive, leave, missing

_RULE: Final = "RFC 792, RFC 4443: an error belongs to the flow of the packet it quotes"


def _of_kind(ends: Ends, kind: str) -> Scenario:
    """The stack complains to the client, then to the server, about a flow of one cookie; then
    an error of another router passes through, with a cookie of its own.
    """
    request, answer = tcp(ends, b"request"), tcp(ends.reverse, b"answer")
    router = ends.dst[:-1] + b"\xfe"
    passing = icmp_error(request, kind, router)
    version = "6" if ends.is_ipv6 else "4"
    steps = (
        arrive(request, COOKIE),
        leave(icmp_error(request, kind), COOKIE),
        leave(icmp_error(answer, kind), COOKIE),
        arrive(passing, OTHER_COOKIE),
        leave(passing, OTHER_COOKIE),
        leave(icmp_error(request, kind), COOKIE),
    )
    return Scenario(f"ipv{version}-{kind}", _RULE, steps)


def _of(ends: Ends) -> list[Scenario]:
    back = ends.reverse
    request, answer = tcp(ends, b"request"), tcp(back, b"answer")
    first, later = fragments(udp(ends, bytes(2000)), 1480)
    second_flow = tcp(ends.with_ports(40001, 443), b"second")
    router = ROUTER_6 if ends.is_ipv6 else ROUTER_4
    stories: dict[str, tuple[str, list[Step]]] = {
        "error-follows-the-direction-it-travels": (
            "AWS: exact direction first; an error about a request travels like its answer",
            [
                arrive(request, COOKIE),
                arrive(answer, OTHER_COOKIE),
                leave(icmp_error(request), OTHER_COOKIE),
                leave(icmp_error(answer), COOKIE),
            ],
        ),
        "two-errors-of-one-router-about-two-flows": (
            "AWS: each cookie belongs to one flow",
            [
                arrive(icmp_error(request, router=router), COOKIE),
                arrive(icmp_error(second_flow, router=router), OTHER_COOKIE),
                leave(icmp_error(request, router=router), COOKIE),
                leave(icmp_error(second_flow, router=router), OTHER_COOKIE),
            ],
        ),
        "error-about-each-protocol": (
            _RULE,
            [
                arrive(udp(ends), 1),
                arrive(echo(ends, 7), 2),
                arrive(echo(ends, 8), 3),
                arrive(esp(ends), 4),
                leave(icmp_error(udp(ends)), 1),
                leave(icmp_error(udp(back)), 1),
                leave(icmp_error(echo(ends, 7)), 2),
                leave(icmp_error(echo(ends, 8)), 3),
                leave(icmp_error(esp(ends)), 4),
                missing(icmp_error(echo(ends, 9))),
                missing(icmp_error(tcp(ends))),
            ],
        ),
        "error-about-fragments": (
            "RFC 791, RFC 8200: a later fragment is known by its fragment id",
            [
                arrive(first, COOKIE),
                arrive(later, COOKIE),
                leave(icmp_error(first, "reassembly-time-exceeded"), COOKIE),
                leave(icmp_error(later), COOKIE),
                missing(icmp_error(fragments(udp(ends, bytes(2000)), 1480, ident=5)[1])),
            ],
        ),
        "error-about-a-fragment-passes-through": (
            _RULE,
            [arrive(icmp_error(later), OTHER_COOKIE), leave(icmp_error(later), OTHER_COOKIE)],
        ),
        "error-about-a-first-fragment-whose-ports-nobody-saw": (
            _RULE,
            [arrive(later, COOKIE), leave(icmp_error(first), COOKIE)],
        ),
        "unreadable-quote": (
            "AWS: an error that came in with a cookie can go out with it",
            [
                missing(unreadable_error(ends)),
                arrive(unreadable_error(ends), COOKIE),
                leave(unreadable_error(ends), COOKIE),
                leave(unreadable_error(back), COOKIE),
            ],
        ),
        "quote-cut-inside-the-ports": (
            "RFC 792: 8 bytes of the quoted payload are promised; less is unreadable",
            [
                arrive(request, COOKIE),
                missing(icmp_error(request, quote_bytes=43 if ends.is_ipv6 else 23)),
                leave(icmp_error(request, quote_bytes=44 if ends.is_ipv6 else 24), COOKIE),
            ],
        ),
    }
    version = "6" if ends.is_ipv6 else "4"
    # The endpoint of a scenario exists from its first arrival on.
    return [
        Scenario(f"ipv{version}-{name}", source, (arrive(_opener(ends)), *steps))
        for name, (source, steps) in stories.items()
    ]


def _opener(ends: Ends) -> bytes:
    """A packet of a flow that no story is about; it makes the endpoint known."""
    return udp(ends.with_ports(9, 9))


ICMP_SCENARIOS: Final = [
    *(_of_kind(ends, kind) for ends, kind in ERROR_KINDS),
    *_of(CLIENT_4),
    *_of(CLIENT_6),
]
