from __future__ import annotations

from gwlbtun.datapath.endpoints import Endpoint, FlowLimits
from gwlbtun.datapath.flows import FlowTable
from gwlbtun.datapath.peers import Peer
from gwlbtun.wire.inet import Table
from tests.vectors.geneve import ENDPOINT, NODE, OTHER_ENDPOINT

PEER = Peer(NODE.source, NODE.port, NODE.destination)
LARGEST_ID = 2**64 - 1


def put(table: FlowTable, *keys: bytes, now: int = 0) -> None:
    for key in keys:
        table.put(key, PEER, b"", b"", now)


def test_endpoint_when_made_has_its_names_and_nothing_else() -> None:
    """Reference: interfaces are gwi- and gwo- with the id in base 60; ids have 17 hex digits."""
    endpoint = Endpoint(LARGEST_ID, FlowLimits.of(10, 350), 0)
    assert (endpoint.gwi, endpoint.gwo) == ("gwi-uur953OEv0f", "gwo-uur953OEv0f")
    assert endpoint.hex_id == "0ffffffffffffffff"
    assert (endpoint.gwi_fd, endpoint.gwo_fd) == (-1, -1)
    assert endpoint.flow_count == 0
    assert not any(endpoint.drops.by_reason)
    counts = (endpoint.packets_in, endpoint.bytes_in, endpoint.packets_out, endpoint.bytes_out)
    assert counts == (0, 0, 0, 0)


def test_tables_when_asked_by_kind_are_in_the_order_of_the_wire() -> None:
    """AWS: TCP idles for 350 s unless set otherwise, everything else for 120 s."""
    endpoint = Endpoint(ENDPOINT, FlowLimits.of(10, 400), 0)
    assert endpoint.tables[Table.TCP] is endpoint.tcp
    assert endpoint.tables[Table.UDP] is endpoint.udp
    assert endpoint.tables[Table.OTHER] is endpoint.other
    assert [table.idle_s for table in endpoint.tables] == [400, 120, 120]
    assert Endpoint(ENDPOINT, FlowLimits.of(10, 400, 60), 0).udp.idle_s == 60


def test_flows_when_counted_leave_fragments_out() -> None:
    """A fragment key is a second way to a flow, not a flow; its room is separate."""
    limits = FlowLimits.of(10, 350)
    endpoint = Endpoint(ENDPOINT, limits, 0)
    put(endpoint.tcp, b"a", b"b")
    put(endpoint.udp, b"a")
    put(endpoint.other, b"a")
    put(endpoint.fragments, b"f", b"g", b"h")
    assert endpoint.flow_count == 4
    assert (limits.flows.count, limits.fragments.count) == (4, 3)


def test_endpoint_when_closed_gives_its_room_back() -> None:
    """All endpoints share the limits; a closed one takes no part any more."""
    limits = FlowLimits.of(3, 350)
    gone, stays = Endpoint(ENDPOINT, limits, 0), Endpoint(OTHER_ENDPOINT, limits, 0)
    put(gone.tcp, b"a", b"b")
    put(gone.fragments, b"f")
    put(stays.tcp, b"a")
    gone.close()
    assert (limits.flows.count, limits.fragments.count) == (1, 0)
    put(stays.udp, b"b", b"c", b"d")
    assert limits.flows.count == 3
    assert limits.flows.evicted == 1
    assert list(stays.tcp.flows) == []


def test_expiry_when_budgeted_is_shared_by_all_tables() -> None:
    """AWS: 120 s for all but TCP; Linux: 30 s for fragments. Looks are bounded for all together."""
    endpoint = Endpoint(ENDPOINT, FlowLimits.of(100, 350), 0)
    for table in (*endpoint.tables, endpoint.fragments):
        put(table, b"a", b"b")
    tables = (*endpoint.tables, endpoint.fragments)
    for now, max_looks, left, sizes in (
        (30, 10, 10, [2, 2, 2, 2]),
        (31, 10, 8, [2, 2, 2, 0]),
        (121, 3, 0, [2, 0, 1, 0]),
        (121, 3, 2, [2, 0, 0, 0]),
        (351, 3, 1, [0, 0, 0, 0]),
    ):
        assert endpoint.expire(now, max_looks) == left
        assert [len(table.flows) for table in tables] == sizes


def test_flow_limit_when_reached_takes_from_the_longest_idle_endpoint() -> None:
    """A busy endpoint takes room from an idle one, and a table of one kind from another."""
    limits = FlowLimits.of(3, 350)
    idle, busy = Endpoint(ENDPOINT, limits, 0), Endpoint(OTHER_ENDPOINT, limits, 0)
    put(idle.udp, b"a", now=0)
    put(busy.tcp, b"a", now=1)
    put(idle.other, b"a", now=2)
    put(busy.tcp, b"b", b"c", now=3)
    assert (idle.flow_count, busy.flow_count) == (1, 2)
    assert list(busy.tcp.flows) == [b"b", b"c"]
