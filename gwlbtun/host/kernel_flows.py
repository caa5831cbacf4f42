"""One endpoint's flows in the kernel's maps, as the user-space path asks for them."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from gwlbtun.bpf import abi
from gwlbtun.errors import KernelError
from gwlbtun.host.libbpf import BpfMap
from gwlbtun.host.offload import Offload
from gwlbtun.wire.inet import TCP, UDP, InnerFlow, Table

_PROTOCOLS: Final = {Table.TCP: TCP, Table.UDP: UDP}


class KernelFlows:
    """Look-ups by wire.inet's keys: the same facts, packed as abi.h wants them."""

    def __init__(self, offload: Offload, tag: int) -> None:
        self._offload = offload
        self._tag = tag

    def take_over(self, inner: InnerFlow, now: int) -> None:
        """Send this flow's packets up to user space (datapath.kernel)."""
        value = abi.build_user_space_flow(now)
        with suppress(KernelError):  # no memory for one more entry: packets come first
            for table, key in self._own_places(inner):
                table.put(key, value)

    def find(self, inner: InnerFlow) -> abi.KernelFlow | None:
        """What the encap program would use for this packet, if user space does not hold it."""
        for table, key in self._places(inner):
            value = table.get(key)
            if value is not None:
                flow = abi.parse_flow(value)
                return None if flow.is_in_user_space else flow
        return None

    def _own_places(self, inner: InnerFlow) -> list[tuple[BpfMap, bytes]]:
        """Where the packet itself is filed when it comes in."""
        places = []
        if inner.quote is not None:
            places.append(self._error(inner, inner.quote))
        elif inner.key:
            places.append(self._flow(inner, inner.key))
        if inner.fragment:
            places.append(self._fragment(inner))
        return places

    def _places(self, inner: InnerFlow) -> list[tuple[BpfMap, bytes]]:
        """Where to look for a packet that goes out, in this order."""
        places = []
        if inner.quote is not None:
            places.append(self._error(inner, inner.quote))
            if inner.quote.key:
                places.append(self._flow(inner.quote, inner.quote.reverse))
                places.append(self._flow(inner.quote, inner.quote.key))
            if inner.quote.fragment:
                places.append(self._fragment(inner.quote))
        elif inner.key:
            places.append(self._flow(inner, inner.key))
            places.append(self._flow(inner, inner.reverse))
        if inner.fragment:
            places.append(self._fragment(inner))
        return places

    def _flow(self, inner: InnerFlow, key: bytes) -> tuple[BpfMap, bytes]:
        offload = self._offload
        table = offload.flows6 if inner.is_ipv6 else offload.flows4
        return table, self._flow_key(inner, key)

    def _flow_key(self, inner: InnerFlow, key: bytes) -> bytes:
        size = 32 if inner.is_ipv6 else 8
        addresses, rest = key[:size], key[size:]
        protocol = _PROTOCOLS.get(inner.table)
        if protocol is None:  # an identifier and the protocol
            ports, protocol = rest[:2] * 2, rest[2]
        else:
            ports = rest
        layout = abi.FLOW_KEY6 if inner.is_ipv6 else abi.FLOW_KEY4
        return layout.pack(addresses, ports, self._tag, protocol, abi.KEY_FLOW)

    def _fragment(self, inner: InnerFlow) -> tuple[BpfMap, bytes]:
        offload = self._offload
        table = offload.fragments6 if inner.is_ipv6 else offload.fragments4
        return table, self._fragment_key(inner)

    def _fragment_key(self, inner: InnerFlow) -> bytes:
        if inner.is_ipv6:
            addresses, ident, protocol = inner.fragment[:32], inner.fragment[32:], 0
        else:
            addresses, ident = inner.fragment[:8], inner.fragment[8:10] + b"\0\0"
            protocol = inner.fragment[10]
        layout = abi.FLOW_KEY6 if inner.is_ipv6 else abi.FLOW_KEY4
        return layout.pack(addresses, ident, self._tag, protocol, abi.KEY_FRAGMENT)

    def _error(self, inner: InnerFlow, quote: InnerFlow) -> tuple[BpfMap, bytes]:
        quoted = self._flow_key(quote, quote.key) if quote.key else self._fragment_key(quote)
        if inner.is_ipv6:
            return self._offload.errors6, abi.ERROR_KEY6.pack(inner.key[:32], quoted)
        return self._offload.errors4, abi.ERROR_KEY4.pack(inner.key[:8], quoted)
