"""Targets: which appliances there are, in what state, and which one takes a new flow.

    initial ─→ healthy ⇄ unhealthy        deregister: any ─→ draining ─(delay)─→ unused

New flows go to healthy targets; without one, to any registered target as a last resort; a
deregistered target gets none from that moment. Existing flows stay with their target, or are
hashed anew where ``rebalance`` is on: at once when it becomes unhealthy, after the deregistration
delay when it is deregistered (docs.aws.amazon.com, Gateway Load Balancers, "Edit target group
attributes").
"""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.wire.geneve import UDP_PORT
from gwlbtun.wire.outer import build_outer

SOURCE_PORTS: Final = (60000, 60001)
"""UDP source ports seen in captures of packets from GWLB."""
_TTL: Final = 255
"""Also from captures."""
_TTL_OFFSET: Final = 8
_SOCKADDR: Final = struct.Struct("=H2s4s8x")


class TargetState(StrEnum):
    """The words of AWS's target health."""

    INITIAL = "initial"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    UNUSED = "unused"


class Path:
    """One way to a target: GWLB node, UDP source port, target. A flow keeps the one it was given.

    ``head`` is what comes before the UDP length: 16 bytes of sockaddr_in for the kernel, the outer
    IPv4 header, the UDP ports.
    """

    __slots__ = ("head", "node", "port", "target")

    def __init__(self, target: Target, node: bytes, port: int) -> None:
        self.target = target
        self.node = node
        self.port = port
        outer = bytearray(build_outer(node, target.address, port))
        outer[_TTL_OFFSET] = _TTL
        name = _SOCKADDR.pack(socket.AF_INET, UDP_PORT.to_bytes(2, "big"), target.address)
        self.head = name + bytes(outer)


class Target:
    """One appliance. Addresses are 4 bytes in network order."""

    def __init__(self, number: int, address: bytes, nodes: Sequence[bytes]) -> None:
        self.number = number
        self.address = address
        self.state = TargetState.INITIAL
        self.drained_at = 0.0
        """When the deregistration delay ends."""
        self.paths = [Path(self, node, port) for node in nodes for port in SOURCE_PORTS]
        self._streak = 0

    @property
    def is_registered(self) -> bool:
        """Whether it may get new flows, health permitting."""
        return self.state not in (TargetState.DRAINING, TargetState.UNUSED)

    def note_check(self, is_ok: bool, settings: GwlbSettings) -> None:
        """Take the result of a health check; thresholds count results in a row."""
        self._streak = max(self._streak, 0) + 1 if is_ok else min(self._streak, 0) - 1
        if not self.is_registered:
            return
        if self._streak >= settings.healthy_threshold:
            self.state = TargetState.HEALTHY
        elif self._streak <= -settings.unhealthy_threshold:
            self.state = TargetState.UNHEALTHY

    def register(self) -> None:
        """Come back, to be checked first."""
        if not self.is_registered:
            self.state = TargetState.INITIAL
            self._streak = 0

    def deregister(self, now: float, delay_s: float) -> None:
        """Take no new flows from now on."""
        if self.is_registered:
            self.state = TargetState.DRAINING
            self.drained_at = now + delay_s

    def tick(self, now: float) -> None:
        """Let a deregistration delay end."""
        if self.state is TargetState.DRAINING and now >= self.drained_at:
            self.state = TargetState.UNUSED

    @property
    def is_lost(self) -> bool:
        """Whether existing flows leave it where rebalancing is on."""
        return self.state in (TargetState.UNHEALTHY, TargetState.UNUSED)


def choose_path(targets: Sequence[Target], sticky_key: bytes) -> Path | None:
    """The path of a new flow; None when no target is registered.

    Rendezvous hashing: a target that comes or goes moves no flow but its own.
    """
    registered = [target for target in targets if target.is_registered]
    healthy = [target for target in registered if target.state is TargetState.HEALTHY]
    candidates = healthy or registered
    if not candidates:
        return None
    score, target = max(
        ((_hash(sticky_key, target), target) for target in candidates), key=lambda pair: pair[0]
    )
    return target.paths[score % len(target.paths)]


def _hash(sticky_key: bytes, target: Target) -> int:
    digest = hashlib.blake2b(sticky_key + target.address, digest_size=8).digest()
    return int.from_bytes(digest, "big")
