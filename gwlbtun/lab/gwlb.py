"""The Gateway Load Balancer's decisions: pure, with the time passed in.

    client or server ─→ forward: flow, target, cookie ─→ appliance
        other side ←─ judge: the rules of AWS ←─────────────┘

``judge`` counts a broken rule under the metric by which AWS would; the rules are in rules.py. As in
datapath/decap.py the usual packet is one unpack and a few lookups; the rest goes the careful way.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from gwlbtun.errors import MalformedPacket
from gwlbtun.lab.flows import Endpoint, Flow, FlowTable, Leg, flow_key, sticky_key
from gwlbtun.lab.rules import Drop, Violation, judge_flow, parse_returned, read_header
from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.lab.targets import Path, Target, TargetState, choose_path
from gwlbtun.lab.tcp import opening_sequence
from gwlbtun.wire.gwlb import INNER_MTU_BYTES
from gwlbtun.wire.inet import TCP, UDP, InnerFlow, Table, parse_inner

GENEVE_BYTES: Final = 40
_MAX_FLOWS: Final = 1 << 20
_MAX_LOOKS: Final = 2000
_RECENT: Final = 20
_INNER_IPV4: Final = struct.Struct("!BxHxxHxB2x12s")
_INNER_IPV6: Final = struct.Struct("!IHBx36s")
_GENEVE_IPV4: Final = struct.Struct("!36s4sBxHxxHxB2x12s")
_GENEVE_IPV6: Final = struct.Struct("!40xIHBx36s")
_ANY_FRAGMENT: Final = 0x3FFF
_SYN: Final = 0x02
_SYN_ACK: Final = 0x12


class Gateway:
    """One GWLB with its endpoints, targets, flows and counters."""

    def __init__(
        self, endpoints: Sequence[Endpoint], targets: Sequence[Target], settings: GwlbSettings
    ) -> None:
        self.endpoints = endpoints
        self.targets = targets
        self.settings = settings
        self.flows = FlowTable(_MAX_FLOWS)
        self.counts: Counter[Violation | Drop] = Counter()
        self.new_flows = 0
        self.recent: deque[str] = deque(maxlen=_RECENT)
        """The last violations in words, for whoever looks for their cause."""
        self._by_id = {endpoint.id: endpoint for endpoint in endpoints}
        self._layouts = {
            endpoint.geneve_head(is_ipv6=is_ipv6): (endpoint, is_ipv6)
            for endpoint in endpoints
            for is_ipv6 in (False, True)
        }
        self._rebalanced_for: list[TargetState] = []

    # From a client or server.

    def forward(
        self, endpoint: Endpoint, buffer: bytearray | bytes, offset: int, length: int, now: float
    ) -> Leg | Drop:
        """Say along which leg the packet at ``offset`` goes to its appliance."""
        if 40 <= length <= INNER_MTU_BYTES:
            first, total, fragment, protocol, key = _INNER_IPV4.unpack_from(buffer, offset)
            flags_at = offset + 33
            is_usual = first == 0x45 and total == length and not fragment & _ANY_FRAGMENT
            if first >> 4 == 6 and length >= 60:
                _, total, protocol, key = _INNER_IPV6.unpack_from(buffer, offset)
                is_usual = total == length - 40
                flags_at = offset + 53
            leg = None
            if is_usual and protocol == TCP:
                if buffer[flags_at] & _SYN_ACK != _SYN:
                    leg = endpoint.tcp.get(key)
            elif is_usual and protocol == UDP:
                leg = endpoint.udp.get(key)
            if leg is not None:
                leg.flow.seen = now
                leg.is_sent = True
                return leg
        packet = bytes(memoryview(buffer)[offset : offset + length])
        verdict = self._forward_carefully(endpoint, packet, now)
        if isinstance(verdict, Drop):
            self.counts[verdict] += 1
        return verdict

    def _forward_carefully(self, endpoint: Endpoint, packet: bytes, now: float) -> Leg | Drop:
        if len(packet) > INNER_MTU_BYTES:
            return Drop.OVERSIZE
        try:
            inner = parse_inner(packet)
        except MalformedPacket:
            return Drop.MALFORMED
        leg, syn = endpoint.locate(inner), None
        if leg is None and not inner.key:
            return Drop.NO_FIRST_FRAGMENT
        if inner.table is Table.TCP and inner.key:
            syn = opening_sequence(packet)
            if leg is not None and None not in (syn, leg.syn) and syn != leg.syn:
                self.flows.close(leg.flow)  # the 5-tuple is used again: a new cookie
                leg = None
            if leg is None and syn is None:
                return Drop.NO_CONNECTION
        if leg is None:
            opened = self._open(endpoint, inner, now)
            if isinstance(opened, Drop):
                return opened
            leg = opened
        if syn is not None:
            leg.syn = syn
        if inner.fragment:
            endpoint.remember_train(inner.fragment, leg, now)
        leg.flow.seen = now
        leg.is_sent = True
        return leg

    def _open(self, endpoint: Endpoint, inner: InnerFlow, now: float) -> Leg | Drop:
        if self.flows.count >= self.flows.max_flows:
            return Drop.TABLE_FULL
        settings, key = self.settings, flow_key(inner)
        sticky = sticky_key(endpoint, inner.table, key, settings.stickiness)
        path = self.flows.path_of(sticky)
        if path is None or not path.target.is_registered or path.target.is_lost:
            path = choose_path(self.targets, sticky)
        if path is None:
            return Drop.NO_TARGET
        idle_s = settings.tcp_idle_s if inner.table is Table.TCP else settings.other_idle_s
        self.new_flows += 1
        flow = Flow(endpoint, inner.table, sticky, idle_s, now)
        return self.flows.open(flow, key, path)

    # From an appliance.

    def judge(
        self, buffer: bytearray | bytes, offset: int, length: int, path: Path | None, now: float
    ) -> Leg | None:
        """Where the packet inside a returned datagram goes; None when it broke a rule, counted.

        ``path`` is the one whose addresses and ports the datagram has swapped, None without such.
        """
        if 64 <= length <= GENEVE_BYTES + INNER_MTU_BYTES:
            head, cookie, first, total, fragment, protocol, key = _GENEVE_IPV4.unpack_from(
                buffer, offset
            )
            endpoint, is_ipv6 = self._layouts.get(head, (None, False))
            if endpoint is not None:
                is_usual = first == 0x45 and not fragment & _ANY_FRAGMENT
                total += GENEVE_BYTES
                if is_ipv6 and length >= 84:
                    first, total, protocol, key = _GENEVE_IPV6.unpack_from(buffer, offset)
                    is_usual = first >> 28 == 6
                    total += 2 * GENEVE_BYTES
                if is_usual and total == length and (protocol == TCP or protocol == UDP):
                    leg = (endpoint.tcp if protocol == TCP else endpoint.udp).get(key)
                    if leg is not None and leg.cookie == cookie and leg.flow.path is path:
                        leg.flow.seen = now
                        leg.traffic.packets += 1
                        leg.traffic.bytes += length - GENEVE_BYTES
                        return leg
        datagram = bytes(memoryview(buffer)[offset : offset + length])
        verdict = self._judge_carefully(datagram, path, now)
        if isinstance(verdict, Leg):
            verdict.flow.seen = now
            verdict.traffic.packets += 1
            verdict.traffic.bytes += length - GENEVE_BYTES
            return verdict
        self.counts[verdict] += 1
        if isinstance(verdict, Violation):
            self.recent.append(f"{verdict}: {datagram[: GENEVE_BYTES + 64].hex()}")
        return None

    def note_stray(self) -> None:
        """A datagram came to a port that is not 6081: the ports were swapped, or made up."""
        self.counts[Violation.INVALID_GENEVE_TUNNEL] += 1

    def _judge_carefully(
        self, datagram: bytes, path: Path | None, now: float
    ) -> Leg | Violation | Drop:
        """Rules 1 and 2, which the headers alone can break."""
        if path is None:
            return Violation.INVALID_GENEVE_TUNNEL
        header = read_header(datagram)
        if isinstance(header, Violation):
            return header
        endpoint = self._by_id.get(header.endpoint_id)
        if endpoint is None:
            return Violation.INVALID_ENDPOINT_ID
        geneve, packet = datagram[: header.length_bytes], datagram[header.length_bytes :]
        if geneve[:-4] != endpoint.geneve_head(is_ipv6=header.is_ipv6):
            return Violation.INVALID_GENEVE_TUNNEL
        inner = parse_returned(packet, is_ipv6=header.is_ipv6)
        if isinstance(inner, Drop):
            return inner
        verdict = judge_flow(endpoint, inner, packet, geneve[-4:], path)
        if inner.fragment and isinstance(verdict, Leg):
            endpoint.remember_train(inner.fragment, verdict, now)
        return verdict

    # Time and targets.

    def tick(self, now: float) -> None:
        """Let flows, fragments and deregistration delays end, and rebalance; call it several
        times a second.
        """
        self.flows.expire(now, _MAX_LOOKS)
        for endpoint in self.endpoints:
            endpoint.expire_trains(now)
        for target in self.targets:
            target.tick(now)
        states = [target.state for target in self.targets]
        if self.settings.rebalance and states != self._rebalanced_for:
            self._rebalance()
            self._rebalanced_for = states

    def _rebalance(self) -> None:
        """Move flows away from lost targets; those that find no better one stay."""
        for flow in self.flows:
            if flow.path is not None and flow.path.target.is_lost:
                path = choose_path(self.targets, flow.sticky_key)
                if path is not None and path is not flow.path:
                    flow.route(path)
