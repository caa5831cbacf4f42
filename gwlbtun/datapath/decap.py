"""From the GWLB: judge a Geneve datagram, learn its flow, say which endpoint takes the packet.

Nearly every datagram has the same shape: a 40-byte Geneve header that ends with the flow cookie,
then IPv4 or IPv6 without options, then TCP or UDP. For it the whole header up to the cookie is one
lookup, made once per endpoint by the careful way below, and the flow key lies in one piece:

     0 ············ 36 ····· 40 ········· 52 ················· 64
     Geneve, endpoint │ cookie │ IPv4: 12 B │ addresses, ports │
                              40 ··· 48 ···················· 84
                               │ IPv6 │ addresses, ports       │
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.datapath.flows import Flow
from gwlbtun.datapath.peers import Peer
from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import parse_geneve
from gwlbtun.wire.gwlb import ProviderProfile, read_gwlb
from gwlbtun.wire.inet import TCP, UDP, InnerFlow, parse_inner

_USUAL_HEADER_BYTES: Final = 40
_USUAL_IPV4: Final = struct.Struct("!36s4sBxHxxHxB2x12s")
_USUAL_IPV6: Final = struct.Struct("!40xIHBx36s")
_IPV6_HEADER_BYTES: Final = 40
_ANY_FRAGMENT: Final = 0x3FFF
_MAX_LAYOUTS: Final = 4096


@dataclass(frozen=True, slots=True)
class UnknownEndpoint:
    """A valid packet of an endpoint that does not exist yet."""

    id: int


class _Layout:
    """What a header up to its cookie means."""

    __slots__ = ("endpoint", "head", "is_ipv6")

    def __init__(self, endpoint: Endpoint, head: bytes, is_ipv6: bool) -> None:
        self.endpoint = endpoint
        self.head = head
        self.is_ipv6 = is_ipv6


class Decap:
    """The verdict on datagrams. ``endpoints`` is shared with whoever opens and closes them."""

    def __init__(self, profile: ProviderProfile) -> None:
        self.endpoints: dict[int, Endpoint] = {}
        self.inner_offset = _USUAL_HEADER_BYTES
        """Where the inner packet of the last accepted datagram starts."""
        self._profile = profile
        self._layouts: dict[bytes, _Layout] = {}

    def __call__(
        self, buffer: bytes | bytearray, offset: int, length: int, peer: Peer, now: int
    ) -> Endpoint | UnknownEndpoint | DropReason:
        """Judge the ``length`` bytes of UDP payload at ``offset``."""
        if length >= 64:
            head, cookie, first, total, fragment, protocol, key = _USUAL_IPV4.unpack_from(
                buffer, offset
            )
            layout = self._layouts.get(head)
            if layout is not None and layout.endpoint.kernel is None:
                endpoint = layout.endpoint
                if layout.is_ipv6:
                    if length < 84:
                        return self._judge(buffer, offset, length, peer, now)
                    first, total, protocol, key = _USUAL_IPV6.unpack_from(buffer, offset)
                    is_usual = first >> 28 == 6 and 4 <= total <= length - 80
                else:
                    is_usual = (
                        first == 0x45
                        and not fragment & _ANY_FRAGMENT
                        and 24 <= total <= length - _USUAL_HEADER_BYTES
                    )
                if is_usual and (protocol == TCP or protocol == UDP):
                    table = endpoint.tcp if protocol == TCP else endpoint.udp
                    flow = table.flows.get(key)
                    if flow is None:
                        table.learn(key, Flow(peer, layout.head, cookie, now))
                    else:
                        flow.seen = now
                        if (
                            flow.cookie != cookie
                            or flow.peer is not peer
                            or flow.head is not layout.head
                        ):
                            flow.peer, flow.head, flow.cookie = peer, layout.head, cookie
                    self.inner_offset = _USUAL_HEADER_BYTES
                    return endpoint
        return self._judge(buffer, offset, length, peer, now)

    def forget(self, endpoint: Endpoint) -> None:
        """Take an endpoint out; its next packet is one of an unknown endpoint."""
        del self.endpoints[endpoint.id]
        self._layouts.clear()

    def _judge(
        self, buffer: bytes | bytearray, offset: int, length: int, peer: Peer, now: int
    ) -> Endpoint | UnknownEndpoint | DropReason:
        """The careful way, for every shape of packet."""
        datagram = bytes(memoryview(buffer)[offset : offset + length])
        try:
            header = read_gwlb(parse_geneve(datagram), self._profile)
            inner = parse_inner(datagram[header.length_bytes :])
        except MalformedPacket as malformed:
            return malformed.reason
        if inner.is_ipv6 != header.is_ipv6:
            return DropReason.INNER_VERSION
        endpoint = self.endpoints.get(header.endpoint_id)
        if endpoint is None:
            return UnknownEndpoint(header.endpoint_id)
        head, cookie = datagram[: header.length_bytes], b""
        if header.has_cookie_last and header.length_bytes == _USUAL_HEADER_BYTES:
            layout = self._layout(head[:-4], endpoint, header.is_ipv6)
            head, cookie = layout.head, head[-4:]
        _learn(endpoint, inner, Flow(peer, head, cookie, now))
        if endpoint.kernel is not None:
            endpoint.kernel.take_over(inner, now)
        self.inner_offset = header.length_bytes
        return endpoint

    def _layout(self, head: bytes, endpoint: Endpoint, is_ipv6: bool) -> _Layout:
        layout = self._layouts.get(head)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[head] = _Layout(endpoint, head, is_ipv6)
        return layout


def _learn(endpoint: Endpoint, inner: InnerFlow, seen: Flow) -> None:
    """Remember what the packet carried under its flow's key, its fragment key, or both."""
    if inner.key:
        table = endpoint.tables[inner.table]
        table.put(inner.key, seen.peer, seen.head, seen.cookie, seen.seen)
    if inner.fragment:
        endpoint.fragments.put(inner.fragment, seen.peer, seen.head, seen.cookie, seen.seen)
