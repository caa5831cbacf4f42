"""A gateway with a clock in the test's hand: packets in, legs and datagrams out."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

from gwlbtun.lab.flows import Endpoint, Leg
from gwlbtun.lab.gwlb import Gateway
from gwlbtun.lab.plan import CLIENT_ADDRESSES, CLIENT_NETWORKS, SERVER_ADDRESSES
from gwlbtun.lab.rules import Drop, Violation
from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.lab.targets import Path, Target
from tests.vectors.inet import DONT_FRAGMENT, TCP, Ends, ip

OUT_4: Final = Ends.of(CLIENT_ADDRESSES[0], SERVER_ADDRESSES[0])
OUT_6: Final = Ends.of(CLIENT_ADDRESSES[1], SERVER_ADDRESSES[1])
CLIENT_FD, SERVER_FD = 101, 102
_HEAD_BYTES: Final = 16 + 28
"""What a leg's head has before the Geneve header: sockaddr_in, IPv4, UDP."""


def tcp_with_flags(ends: Ends, flags: int, sequence: int = 1000) -> bytes:
    """A bare TCP header; the GWLB computes no checksum of it."""
    header = struct.pack("!IIHHHH", sequence, 0, 0x5000 | flags, 8192, 0, 0)
    return ip(ends, TCP, ends.ports + header, fragment=DONT_FRAGMENT)


def syn(ends: Ends, sequence: int = 1000) -> bytes:
    return tcp_with_flags(ends, 0x02, sequence)


def reset(ends: Ends) -> bytes:
    return tcp_with_flags(ends, 0x14)


def make_targets(count: int, *, are_healthy: bool = True) -> list[Target]:
    """Targets with two nodes each, as the lab has them."""
    targets = []
    for number in range(1, count + 1):
        nodes = [IPv4Address(f"10.99.{number}.{node}").packed for node in (1, 2)]
        target = Target(number, IPv4Address(f"10.99.{number}.10").packed, nodes)
        targets.append(target)
        if are_healthy:
            make_healthy(target)
    return targets


def make_healthy(target: Target) -> None:
    for _ in range(2):
        target.note_check(True, GwlbSettings())


def make_unhealthy(target: Target) -> None:
    for _ in range(2):
        target.note_check(False, GwlbSettings())


class Dialogue:
    """One gateway with two endpoints of equal inner addresses."""

    def __init__(self, targets: int = 1, **settings: object) -> None:
        self.now = 1000.0
        self.endpoints = [
            Endpoint(number, CLIENT_NETWORKS, CLIENT_FD, SERVER_FD) for number in (0xA1, 0xA2)
        ]
        self.targets = make_targets(targets)
        self.gateway = Gateway(self.endpoints, self.targets, GwlbSettings().changed(settings))

    def offer(self, packet: bytes, endpoint: int = 0) -> Leg | Drop:
        """A client or a server sends a packet."""
        return self.gateway.forward(self.endpoints[endpoint], packet, 0, len(packet), self.now)

    def send(self, packet: bytes, endpoint: int = 0) -> Leg:
        """A packet that has to reach the appliance."""
        leg = self.offer(packet, endpoint)
        assert isinstance(leg, Leg), leg
        return leg

    def give_back(self, leg: Leg, packet: bytes) -> Leg | None:
        """The appliance returns a packet inside the leg's tunnel."""
        return self.judge(wrap(leg, packet), leg.flow.path)

    def judge(self, datagram: bytes, path: Path | None) -> Leg | None:
        """The appliance returns any datagram."""
        return self.gateway.judge(datagram, 0, len(datagram), path, self.now)

    def pass_through(self, packet: bytes, endpoint: int = 0) -> Leg:
        """A packet goes to the appliance, comes back, and arrives."""
        leg = self.send(packet, endpoint)
        assert self.give_back(leg, packet) is leg
        return leg

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.gateway.tick(self.now)

    @property
    def counted(self) -> dict[Violation | Drop, int]:
        """Every counter that is not zero."""
        return {kind: count for kind, count in self.gateway.counts.items() if count}


def wrap(leg: Leg, packet: bytes) -> bytes:
    """The UDP payload that a packet of this leg travels in."""
    return leg.head[_HEAD_BYTES:] + packet
