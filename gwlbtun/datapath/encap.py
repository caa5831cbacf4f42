"""To the GWLB: find the flow whose outer headers and cookie a packet from the stack returns with.

The exact direction is asked first, then the reverse: AWS does not say whether both directions of a
flow carry one cookie. An ICMP error is found by itself when it came in as such, else by the packet
it quotes. A packet without a flow never came in from the GWLB, and cannot go out through it.
"""

from __future__ import annotations

import struct
from typing import Final

from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.datapath.flows import Flow
from gwlbtun.datapath.kernel import KernelFlows
from gwlbtun.datapath.peers import Peer
from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import build_base
from gwlbtun.wire.gwlb import INNER_MTU_BYTES
from gwlbtun.wire.inet import TCP, UDP, InnerFlow, parse_inner

_USUAL_IPV4: Final = struct.Struct("!BxHxxHxB2x12s")
_USUAL_IPV6: Final = struct.Struct("!IHBx36s")
_ANY_FRAGMENT: Final = 0x3FFF


class Encap:
    """The verdict on packets that the stack gives to ``gwo`` or ``gwi``."""

    def __init__(self) -> None:
        self.released: list[tuple[bytes, Flow]] = []
        """Fragments whose first fragment has now come; the caller sends and removes them."""

    def __call__(
        self, buffer: bytes | bytearray, offset: int, length: int, endpoint: Endpoint, now: int
    ) -> Flow | DropReason | None:
        """Judge the packet at ``offset``; None means that it was kept to wait for its first
        fragment.
        """
        if length > INNER_MTU_BYTES:
            return DropReason.INNER_OVERSIZE
        if length >= 24 and endpoint.kernel is None:
            first, total, fragment, protocol, key = _USUAL_IPV4.unpack_from(buffer, offset)
            if first == 0x45:
                is_usual = not fragment & _ANY_FRAGMENT and 24 <= total <= length
                size = 4
            elif first >> 4 == 6 and length >= 44:
                _, total, protocol, key = _USUAL_IPV6.unpack_from(buffer, offset)
                is_usual = 4 <= total <= length - 40
                size = 16
            else:
                is_usual = False
            if is_usual and (protocol == TCP or protocol == UDP):
                flows = endpoint.tcp.flows if protocol == TCP else endpoint.udp.flows
                flow = flows.get(key)
                if flow is None:
                    flow = flows.get(key[size : 2 * size] + key[:size] + key[-2:] + key[-4:-2])
                    if flow is None:
                        return DropReason.MISSING_FLOW_ENTRY
                flow.seen = now
                return flow
        return self._judge(bytes(memoryview(buffer)[offset : offset + length]), endpoint, now)

    def retry(self, endpoint: Endpoint, now: int) -> None:
        """Release fragments whose first one has left by the kernel path meanwhile."""
        if endpoint.kernel is None:
            return
        for key, packet in endpoint.waiting.firsts():
            flow = _ask_kernel(endpoint.kernel, parse_inner(packet), now)
            if flow is not None:
                self.released += [(each, flow) for each in endpoint.waiting.release(key)]

    def _judge(self, packet: bytes, endpoint: Endpoint, now: int) -> Flow | DropReason | None:
        """The careful way, for every shape of packet."""
        try:
            inner = parse_inner(packet)
        except MalformedPacket as malformed:
            return malformed.reason
        flow = None if endpoint.kernel is None else _ask_kernel(endpoint.kernel, inner, now)
        if flow is None and inner.key:
            flow = _find(endpoint, inner)
        if inner.fragment:
            if flow is not None:  # always: a fragment id comes back before its entry is too old
                self._learn_fragment(endpoint, inner.fragment, flow, now)
            else:
                flow = endpoint.fragments.flows.get(inner.fragment)
            if flow is None and not inner.key:
                if endpoint.waiting.keep(inner.fragment, packet, now):
                    return None
                return DropReason.FRAGMENT_UNMATCHED
        if flow is None:
            return DropReason.MISSING_FLOW_ENTRY
        flow.seen = now
        return flow

    def _learn_fragment(self, endpoint: Endpoint, key: bytes, flow: Flow, now: int) -> None:
        """A first fragment on its way out tells the flow of all that follow or wait."""
        endpoint.fragments.put(key, flow.peer, flow.head, flow.cookie, now)
        self.released += [(packet, flow) for packet in endpoint.waiting.release(key)]


def _ask_kernel(kernel: KernelFlows, inner: InnerFlow, now: int) -> Flow | None:
    entry = kernel.find(inner)
    if entry is None:
        return None
    header = build_base(inner.is_ipv6, len(entry.options)) + entry.options
    peer = Peer(entry.gwlb, entry.port, entry.appliance)
    return Flow(peer, header[:-4], header[-4:], now)


def _find(endpoint: Endpoint, inner: InnerFlow) -> Flow | None:
    flows = endpoint.tables[inner.table].flows
    flow = flows.get(inner.key) or flows.get(inner.reverse)
    if flow is None and inner.quote is not None:
        flow = _find_quoted(endpoint, inner.quote)
    return flow


def _find_quoted(endpoint: Endpoint, quote: InnerFlow) -> Flow | None:
    """An error travels against the packet that it quotes: that direction is the exact one."""
    flows = endpoint.tables[quote.table].flows
    flow = flows.get(quote.reverse) or flows.get(quote.key)
    if flow is None and quote.fragment:
        flow = endpoint.fragments.flows.get(quote.fragment)
    return flow
