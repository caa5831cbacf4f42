"""Endpoints: each has its own interfaces, flows and counters, so that equal inner addresses of two
endpoints never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gwlbtun.datapath.counters import Drops
from gwlbtun.datapath.flows import FlowBudget, FlowTable
from gwlbtun.datapath.fragments import WaitingFragments
from gwlbtun.datapath.kernel import KernelFlows
from gwlbtun.wire.gwlb import endpoint_id_to_hex, endpoint_interfaces

OTHER_IDLE_S: Final = 120
"""GWLB's fixed idle timeout of everything but TCP."""
_FRAGMENT_IDLE_S: Final = 30
"""The longest that Linux waits for the rest of a datagram (ipfrag_time)."""
_MAX_FRAGMENTS: Final = 65536


@dataclass(slots=True)
class FlowLimits:
    """What all endpoints share: idle times and room for flows and fragments."""

    tcp_idle_s: int
    other_idle_s: int
    flows: FlowBudget
    fragments: FlowBudget

    @classmethod
    def of(cls, max_flows: int, tcp_idle_s: int, other_idle_s: int = OTHER_IDLE_S) -> FlowLimits:
        """Limits for a number of flows; fragments have room of their own."""
        return cls(tcp_idle_s, other_idle_s, FlowBudget(max_flows), FlowBudget(_MAX_FRAGMENTS))


class Endpoint:
    """One GWLB endpoint. ``gwi_fd`` and ``gwo_fd`` belong to whoever opened the interfaces; the
    data path carries them to the forwarder and never uses them.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "drops",
        "fragments",
        "gwi",
        "gwi_fd",
        "gwo",
        "gwo_fd",
        "hex_id",
        "id",
        "is_hairpin",
        "kernel",
        "limits",
        "other",
        "packets_in",
        "packets_out",
        "tables",
        "tcp",
        "udp",
        "waiting",
    )

    def __init__(self, endpoint_id: int, limits: FlowLimits, now: int) -> None:
        self.id = endpoint_id
        self.hex_id = endpoint_id_to_hex(endpoint_id)
        self.gwi, self.gwo = endpoint_interfaces(endpoint_id)
        self.gwi_fd = self.gwo_fd = -1
        self.limits = limits
        self.is_hairpin = False
        """Its packets are returned at once, without inspection."""
        self.kernel: KernelFlows | None = None
        """The kernel path's flows of this endpoint, where the kernel path serves it."""
        self.tcp = FlowTable(limits.tcp_idle_s, limits.flows, now)
        self.udp = FlowTable(limits.other_idle_s, limits.flows, now)
        self.other = FlowTable(limits.other_idle_s, limits.flows, now)
        self.tables = (self.tcp, self.udp, self.other)
        """Indexed by wire.inet.Table."""
        self.fragments = FlowTable(_FRAGMENT_IDLE_S, limits.fragments, now)
        self.waiting = WaitingFragments()
        self.drops = Drops()
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0

    @property
    def flow_count(self) -> int:
        """How many directions of flows are known; fragments are not flows."""
        return sum(len(table.flows) for table in self.tables)

    def close(self) -> None:
        """Give the room of all flows back."""
        for table in self.tables:
            self.limits.flows.remove(table)
        self.limits.fragments.remove(self.fragments)

    def expire(self, now: int, max_looks: int) -> int:
        """Age flows and fragments; returns how many of ``max_looks`` are left over."""
        for table in (*self.tables, self.fragments):
            max_looks = table.expire(now, max_looks)
        return max_looks
