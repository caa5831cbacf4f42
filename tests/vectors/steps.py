"""What a round trip is made of: datagrams arrive, time passes, packets leave.

A scenario is a dialogue with one appliance that starts empty, and whose endpoints are created by
their first packet. Whoever plays it (the Python path, a namespace, the eBPF path) does step by
step what it says and compares what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gwlbtun.reasons import DropReason
from tests.vectors.geneve import COOKIE, ENDPOINT, NODE, Node, gwlb, gwlb_header


@dataclass(frozen=True, slots=True)
class Arrive:
    """An accepted datagram comes in from a node; ``inner`` enters ``gwi`` of its endpoint."""

    datagram: bytes
    inner: bytes
    endpoint: int = ENDPOINT
    node: Node = NODE


@dataclass(frozen=True, slots=True)
class Return:
    """The outer side a packet has to leave with."""

    header: bytes
    node: Node = NODE

    def packet(self, inner: bytes) -> bytes:
        """All that the sender writes in front of the UDP length, and the Geneve datagram."""
        return self.node.return_outer + self.header + inner


class Waits(Enum):
    """The packet is kept until its first fragment leaves."""

    FOR_FIRST_FRAGMENT = 1


WAITS: Final = Waits.FOR_FIRST_FRAGMENT


@dataclass(frozen=True, slots=True)
class Leave:
    """The stack gives ``packet`` to ``gwo``. ``released`` are packets sent after it, because it
    was the first fragment that they waited for; they leave with the same outer side.
    """

    packet: bytes
    verdict: Return | DropReason | Waits
    endpoint: int = ENDPOINT
    released: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """Seconds pass, and aging has its turn. ``late`` waiting fragments are given up."""

    seconds: int
    late: int = 0


Step = Arrive | Leave | Later


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named, sourced list of steps."""

    name: str
    source: str
    steps: tuple[Step, ...]


def arrive(
    inner: bytes, cookie: int = COOKIE, endpoint: int = ENDPOINT, node: Node = NODE
) -> Arrive:
    """A datagram of the usual shape."""
    return Arrive(gwlb(inner, cookie, endpoint), inner, endpoint, node)


def leave(
    packet: bytes,
    cookie: int = COOKIE,
    endpoint: int = ENDPOINT,
    node: Node = NODE,
    released: tuple[bytes, ...] = (),
) -> Leave:
    """A packet that returns inside a header of the usual shape."""
    verdict = Return(gwlb_header(packet, cookie, endpoint), node)
    return Leave(packet, verdict, endpoint, released)


def missing(packet: bytes, endpoint: int = ENDPOINT) -> Leave:
    """A packet that nobody on the other side would know."""
    return Leave(packet, DropReason.MISSING_FLOW_ENTRY, endpoint)
