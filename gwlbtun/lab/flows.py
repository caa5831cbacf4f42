"""The GWLB's flow table: one entry per flow with a target, and a leg with a cookie per direction.

TCP and UDP flows are 5-tuples, all others addresses and protocol (docs.aws.amazon.com, Gateway Load
Balancers). Whether AWS gives both directions one cookie is not documented; the lab gives each its
own, which is the harder case for an appliance.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from gwlbtun.lab.targets import Path
from gwlbtun.wire.gwlb import AWS, endpoint_id_to_hex
from gwlbtun.wire.inet import ICMP, ICMPV6, InnerFlow, Table, reverse_key

TRAIN_IDLE_S: Final = 30
"""The longest that a host waits for the rest of a datagram (Linux: ipfrag_time)."""
MAX_TRAINS: Final = 65536
_MAX_FORMER_PATHS: Final = 4
_UDP_REST: Final = bytes(4)
"""UDP length, filled in per packet, and no checksum: unlike GWLB, which computes one; here it would
cost more than all the rest."""


class Traffic:
    """What went to one side of one endpoint."""

    __slots__ = ("bytes", "packets")

    def __init__(self) -> None:
        self.packets = self.bytes = 0


class Leg:
    """One direction of a flow. ``head`` is all that goes in front of its packets, with a
    sockaddr_in first and the UDP length still open; ``sink_fd`` is where they end.
    """

    __slots__ = ("back", "cookie", "flow", "head", "is_sent", "key", "sink_fd", "syn", "traffic")

    back: Leg

    def __init__(self, flow: Flow, key: bytes, cookie: bytes) -> None:
        self.flow = flow
        self.key = key
        self.cookie = cookie
        self.head = b""
        self.is_sent = False
        """Whether the appliance has been shown this direction's cookie."""
        self.syn: int | None = None
        """Sequence number of the SYN that opened the connection."""
        to_client = flow.endpoint.is_client(key)
        self.sink_fd = flow.endpoint.client_fd if to_client else flow.endpoint.server_fd
        self.traffic = flow.endpoint.to_client if to_client else flow.endpoint.to_server


class Flow:
    """One entry: both legs, the path to the target, when it was used last."""

    __slots__ = (
        "endpoint",
        "former_paths",
        "idle_s",
        "is_closed",
        "legs",
        "path",
        "seen",
        "sticky_key",
        "table",
    )

    def __init__(
        self, endpoint: Endpoint, table: Table, sticky_key: bytes, idle_s: float, now: float
    ) -> None:
        self.endpoint = endpoint
        self.table = table
        self.sticky_key = sticky_key
        self.idle_s = idle_s
        self.seen = now
        self.is_closed = False
        self.path: Path | None = None
        self.former_paths: list[Path] = []
        """Packets may still be on their way back from where the flow was before."""
        self.legs: tuple[Leg, ...] = ()

    def route(self, path: Path) -> None:
        """Send the flow along a path from now on."""
        if self.path is not None:
            self.former_paths = [*self.former_paths[1 - _MAX_FORMER_PATHS :], self.path]
        self.path = path
        for leg in self.legs:
            geneve = self.endpoint.geneve_head(is_ipv6=len(leg.key) > 16)
            leg.head = path.head + _UDP_REST + geneve + leg.cookie


class Endpoint:
    """One GWLB endpoint: two TUN devices, and flows that no other endpoint shares."""

    def __init__(
        self,
        endpoint_id: int,
        client_networks: Sequence[IPv4Network | IPv6Network],
        client_fd: int = -1,
        server_fd: int = -1,
    ) -> None:
        self.id = endpoint_id
        self.hex_id = endpoint_id_to_hex(endpoint_id)
        self.client_networks = client_networks
        self.client_fd = client_fd
        self.server_fd = server_fd
        self.legs: tuple[dict[bytes, Leg], ...] = ({}, {}, {})
        """By wire.inet.Table, then by flow key."""
        self.tcp, self.udp, _ = self.legs
        self.cookies: dict[bytes, Leg] = {}
        self.trains: dict[bytes, tuple[Leg, float]] = {}
        """Fragment key to the leg of the first fragment, longest idle first."""
        self.to_client, self.to_server = Traffic(), Traffic()
        self._heads = [
            AWS.build_header(endpoint_id, 0, is_ipv6=is_ipv6)[:-4] for is_ipv6 in (False, True)
        ]

    def geneve_head(self, *, is_ipv6: bool) -> bytes:
        """The Geneve header without the cookie at its end."""
        return self._heads[is_ipv6]

    def is_client(self, key: bytes) -> bool:
        """Whether a flow key's destination is on the client's side."""
        size = address_bytes(key)
        destination = ip_address(key[size : 2 * size])
        return any(destination in network for network in self.client_networks)

    def locate(self, inner: InnerFlow) -> Leg | None:
        """The leg that a packet belongs to. An ICMP error travels against the packet it quotes."""
        if not inner.key:
            return self._leg_of_train(inner.fragment)
        if inner.quote is not None:
            quoted = self.locate(inner.quote)
            if quoted is not None:
                return quoted.back
        return self.legs[inner.table].get(flow_key(inner))

    def remember_train(self, fragment: bytes, leg: Leg, now: float) -> None:
        """Fragments without ports follow this leg."""
        self.trains.pop(fragment, None)
        self.trains[fragment] = leg, now
        if len(self.trains) > MAX_TRAINS:
            del self.trains[next(iter(self.trains))]

    def _leg_of_train(self, fragment: bytes) -> Leg | None:
        """The leg of a first fragment seen before, unless its flow is gone."""
        leg, _ = self.trains.get(fragment, (None, 0))
        return None if leg is None or leg.flow.is_closed else leg

    def expire_trains(self, now: float) -> None:
        """Forget fragment trains that have long arrived or never will."""
        while self.trains:
            fragment = next(iter(self.trains))
            if self.trains[fragment][1] >= now - TRAIN_IDLE_S:
                return
            del self.trains[fragment]


class FlowTable:
    """All flows of all endpoints, and the one place where they begin and end."""

    def __init__(self, max_flows: int) -> None:
        self.max_flows = max_flows
        self.count = 0
        self._sticky: dict[bytes, dict[Flow, None]] = {}
        """The live flows of each sticky key, oldest first."""
        self._due: list[tuple[float, int, Flow]] = []
        self._serial = 0

    def open(self, flow: Flow, key: bytes, path: Path) -> Leg:
        """Enter a flow; ``key`` is that of its first packet, whose leg is returned."""
        reverse = reverse_key(flow.table, key)
        flow.legs = tuple(
            Leg(flow, leg_key, self._new_cookie(flow.endpoint)) for leg_key in (key, reverse)
        )
        flow.legs[0].back, flow.legs[1].back = flow.legs[1], flow.legs[0]
        for leg in flow.legs:
            flow.endpoint.legs[flow.table][leg.key] = leg
            flow.endpoint.cookies[leg.cookie] = leg
        flow.route(path)
        self._sticky.setdefault(flow.sticky_key, {})[flow] = None
        self._wait(flow)
        self.count += 1
        return flow.legs[0]

    def close(self, flow: Flow) -> None:
        """Take a flow out; its cookies are worth nothing from now on."""
        flow.is_closed = True
        for leg in flow.legs:
            flow.endpoint.legs[flow.table].pop(leg.key, None)
            flow.endpoint.cookies.pop(leg.cookie, None)
        sharers = self._sticky[flow.sticky_key]
        del sharers[flow]
        if not sharers:
            del self._sticky[flow.sticky_key]
        self.count -= 1

    def path_of(self, sticky_key: bytes) -> Path | None:
        """Where live flows of this sticky key go."""
        sharers = self._sticky.get(sticky_key)
        return next(reversed(sharers)).path if sharers else None

    def expire(self, now: float, max_looks: int) -> None:
        """Close idle flows. Each is looked at once per idle time, however many packets it had."""
        while self._due and self._due[0][0] <= now and max_looks:
            max_looks -= 1
            flow = heapq.heappop(self._due)[2]
            if flow.is_closed:
                continue
            if flow.seen + flow.idle_s <= now:
                self.close(flow)
            else:
                self._wait(flow)

    def __iter__(self) -> Iterator[Flow]:
        return (flow for sharers in self._sticky.values() for flow in sharers)

    def _wait(self, flow: Flow) -> None:
        self._serial += 1
        heapq.heappush(self._due, (flow.seen + flow.idle_s, self._serial, flow))

    @staticmethod
    def _new_cookie(endpoint: Endpoint) -> bytes:
        while True:
            cookie = secrets.token_bytes(4)
            if cookie not in endpoint.cookies:
                return cookie


def address_bytes(key: bytes) -> int:
    """The length of one address in a flow key."""
    return 16 if len(key) > 16 else 4


def flow_key(inner: InnerFlow) -> bytes:
    """GWLB's key of a whole packet or first fragment: identifiers and quotes do not count."""
    if inner.table is not Table.OTHER:
        return inner.key
    error = ICMPV6 if inner.is_ipv6 else ICMP
    protocol = inner.key[-1] if inner.quote is None else error
    return inner.key[: 32 if inner.is_ipv6 else 8] + bytes((0, 0, protocol))


def sticky_key(endpoint: Endpoint, table: Table, key: bytes, stickiness: int) -> bytes:
    """What chooses the target; the same for both directions."""
    size = address_bytes(key)
    first, second = sorted((key[:size], key[size : 2 * size]))
    addresses = endpoint.id.to_bytes(8, "big") + first + second
    if stickiness == 2:
        return addresses
    if stickiness == 3 or table is Table.OTHER:
        return addresses + bytes((table, key[-1] if table is Table.OTHER else 0))
    return addresses + bytes((table,)) + min(key, reverse_key(table, key))
