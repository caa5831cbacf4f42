"""Plays vectors on the user-space path: an appliance without sockets, interfaces or a clock."""

from __future__ import annotations

from typing import Final

from gwlbtun.datapath.decap import Decap, UnknownEndpoint
from gwlbtun.datapath.encap import Encap
from gwlbtun.datapath.endpoints import Endpoint, FlowLimits
from gwlbtun.datapath.flows import Flow
from gwlbtun.datapath.peers import Peer, PeerTable
from gwlbtun.reasons import DropReason
from gwlbtun.wire.gwlb import INNER_MTU_BYTES, PROFILES
from tests.vectors import WAITS, Arrive, Later, Leave, Return, Scenario, Step
from tests.vectors.geneve import NODE, Node

DIRT: Final = bytes(range(1, 256)) * 40
"""What a reused receive buffer holds around a packet."""


def dirty(packet: bytes, front: int = 33) -> tuple[bytes, int, int]:
    """A packet inside a larger buffer: buffer, offset, length."""
    return DIRT[:front] + packet + DIRT, front, len(packet)


def outside(flow: Flow) -> bytes:
    """What is put in front of a packet of this flow: outer header and Geneve header."""
    return flow.peer.outer + flow.head + flow.cookie


class Appliance:
    """Decap, encap and the endpoints between them. ``is_careful`` leaves the fast path out."""

    def __init__(
        self, *, profile: str = "aws", max_flows: int = 1000, is_careful: bool = False
    ) -> None:
        self.now = 1000
        self.limits = FlowLimits.of(max_flows, tcp_idle_s=350)
        self.peers = PeerTable()
        self.decap = Decap(PROFILES[profile])
        self.encap = Encap()
        self._is_careful = is_careful

    def peer(self, node: Node = NODE) -> Peer:
        """The peer of a node; the same object each time."""
        key = node.source + node.port.to_bytes(2, "big") + node.destination
        peer = self.peers.known.get(key)
        if peer is None:
            peer = self.peers.admit(key, node.source, node.port, node.destination)
        assert isinstance(peer, Peer)
        return peer

    def open(self, endpoint_id: int) -> Endpoint:
        """Create an endpoint's tables, as the control side does for an unknown endpoint."""
        endpoint = self.decap.endpoints[endpoint_id] = Endpoint(endpoint_id, self.limits, self.now)
        return endpoint

    def judge(self, datagram: bytes, node: Node = NODE) -> Endpoint | UnknownEndpoint | DropReason:
        """The verdict on a datagram inside a dirty buffer."""
        way = self.decap._judge if self._is_careful else self.decap
        return way(*dirty(datagram), self.peer(node), self.now)

    def send(self, packet: bytes, endpoint: Endpoint) -> Flow | DropReason | None:
        """The verdict on a packet from the stack, inside a dirty buffer."""
        if self._is_careful and len(packet) <= INNER_MTU_BYTES:
            return self.encap._judge(packet, endpoint, self.now)
        return self.encap(*dirty(packet), endpoint, self.now)

    def play(self, scenario: Scenario) -> None:
        """Do every step, and compare what comes out whole."""
        for number, step in enumerate(scenario.steps, 1):
            place = f"{scenario.name}, step {number}"
            assert self._step(step) == _expected(step), place

    def _step(self, step: Step) -> object:
        match step:
            case Arrive():
                return self._arrive(step)
            case Leave():
                return self._leave(step)
            case Later():
                self.now += step.seconds
                endpoints = self.decap.endpoints.values()
                for endpoint in endpoints:
                    assert endpoint.expire(self.now, 10_000)
                return sum(endpoint.waiting.expire(self.now) for endpoint in endpoints)

    def _arrive(self, step: Arrive) -> object:
        verdict = self.judge(step.datagram, step.node)
        if isinstance(verdict, UnknownEndpoint):
            self.open(verdict.id)
            verdict = self.judge(step.datagram, step.node)
        assert isinstance(verdict, Endpoint)
        return verdict.id, step.datagram[self.decap.inner_offset :]

    def _leave(self, step: Leave) -> object:
        endpoint = self.decap.endpoints.get(step.endpoint) or self.open(step.endpoint)
        verdict = self.send(step.packet, endpoint)
        sent = [outside(flow) + packet for packet, flow in self.encap.released]
        self.encap.released.clear()
        if isinstance(verdict, Flow):
            return outside(verdict) + step.packet, sent
        return verdict, sent


def _expected(step: Step) -> object:
    match step:
        case Arrive():
            return step.endpoint, step.inner
        case Leave(verdict=Return() as returned):
            released = [returned.packet(packet) for packet in step.released]
            return returned.packet(step.packet), released
        case Leave():
            return None if step.verdict is WAITS else step.verdict, []
        case Later():
            return step.late
