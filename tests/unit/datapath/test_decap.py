from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.datapath.decap import _MAX_LAYOUTS, UnknownEndpoint
from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.reasons import DropReason
from gwlbtun.wire.inet import parse_inner
from tests.unit.datapath.player import Appliance, outside
from tests.vectors import DECAP_VECTORS, Vector
from tests.vectors.geneve import (
    COOKIE,
    ENDPOINT,
    NODE,
    OTHER_COOKIE,
    OTHER_ENDPOINT,
    OTHER_NODE,
    geneve,
    gwlb,
    gwlb_options,
)
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, ip, tcp, udp

each_vector = pytest.mark.parametrize("vector", DECAP_VECTORS, ids=lambda v: v.name)
each_way = pytest.mark.parametrize("is_careful", [False, True], ids=["fast", "careful"])
each_version = pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])

ACCEPTED = [vector for vector in DECAP_VECTORS if vector.inner]


def learned(endpoint: Endpoint) -> dict[tuple[str, bytes], bytes]:
    """Everything an endpoint knows: table and key to what its packets return inside."""
    tables = {"tcp": endpoint.tcp, "udp": endpoint.udp, "other": endpoint.other}
    return {
        (name, key): outside(flow)
        for name, table in {**tables, "fragments": endpoint.fragments}.items()
        for key, flow in table.flows.items()
    }


@each_way
@each_vector
def test_datagram_when_judged_gets_its_vectors_verdict(vector: Vector, is_careful: bool) -> None:
    """Each vector names its own source; whatever surrounds it in the buffer says nothing. The
    second time the header's layout is known, so that the fast path judges what it can.
    """
    appliance = Appliance(profile=vector.profile, is_careful=is_careful)
    endpoint = appliance.open(ENDPOINT)
    assert not isinstance(appliance.judge(gwlb(tcp(CLIENT_6))), UnknownEndpoint)
    for _ in range(2):
        verdict = appliance.judge(vector.datagram)
        if isinstance(vector.verdict, DropReason):
            assert verdict is vector.verdict
        else:
            assert verdict is endpoint
            assert endpoint.id == vector.verdict
            assert vector.datagram[appliance.decap.inner_offset :] == vector.inner


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda v: v.name)
def test_accepted_packet_when_it_returns_has_its_own_header(vector: Vector) -> None:
    """AWS: the same Geneve header comes back with all options, around whatever came in."""
    appliance = Appliance(profile=vector.profile)
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(vector.datagram)
    flow = appliance.send(vector.inner, endpoint)
    if len(vector.inner) > 8500:
        assert flow is DropReason.INNER_OVERSIZE
    else:
        assert not isinstance(flow, DropReason)
        assert flow is not None
        assert outside(flow) == NODE.return_outer + vector.header


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda v: v.name)
def test_accepted_packet_when_cut_at_any_byte_is_refused(vector: Vector) -> None:
    """RFC 8926, RFC 791, RFC 8200: nothing is read past the end of the datagram, though the
    buffer goes on.
    """
    appliance = Appliance(profile=vector.profile)
    appliance.open(ENDPOINT)
    appliance.judge(vector.datagram)
    end = len(vector.datagram) - (5 if vector.name.endswith("padding-behind") else 0)
    step = 1 if end < 400 else 97
    for length in [*range(0, end, step), end - 1]:
        is_inside_header = length < len(vector.header)
        assert appliance.judge(vector.datagram[:length]) is (
            DropReason.GENEVE_TRUNCATED if is_inside_header else DropReason.INNER_TRUNCATED
        )


@each_way
@each_version
def test_flow_when_first_seen_is_learned_under_its_key(ends: Ends, is_careful: bool) -> None:
    """AWS: cookie, node and options of a flow are those of its newest packet."""
    appliance = Appliance(is_careful=is_careful)
    endpoint = appliance.open(ENDPOINT)
    for data in (tcp(ends), udp(ends)):
        appliance.judge(gwlb(data))
        appliance.judge(gwlb(data, OTHER_COOKIE), OTHER_NODE)
    key = ends.src + ends.dst + ends.ports
    expected = OTHER_NODE.return_outer + gwlb(tcp(ends), OTHER_COOKIE)[:40]
    assert learned(endpoint) == {("tcp", key): expected, ("udp", key): expected}


@each_way
def test_flow_when_only_refreshed_keeps_its_entry(is_careful: bool) -> None:
    """AWS: every inbound packet refreshes the flow; an unchanged one only its age."""
    appliance = Appliance(is_careful=is_careful)
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(gwlb(tcp(CLIENT_4)))
    (flow,) = endpoint.tcp.flows.values()
    appliance.now += 5
    appliance.judge(gwlb(tcp(CLIENT_4)))
    assert list(endpoint.tcp.flows.values()) == [flow]
    assert flow.seen == appliance.now


def test_flows_of_one_endpoint_when_headers_differ_in_the_cookie_only_share_the_head() -> None:
    """A million flows of an endpoint keep one copy of the 36 bytes before the cookie."""
    appliance = Appliance()
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(gwlb(tcp(CLIENT_4), COOKIE))
    appliance.judge(gwlb(tcp(CLIENT_4.reverse), OTHER_COOKIE))
    one, two = endpoint.tcp.flows.values()
    assert one.head is two.head
    assert (one.cookie, two.cookie) == (COOKIE.to_bytes(4, "big"), OTHER_COOKIE.to_bytes(4, "big"))


@each_way
def test_datagram_when_its_endpoint_is_unknown_names_it(is_careful: bool) -> None:
    """AWS: an endpoint is learned from its first packet; nothing is learned before it exists."""
    appliance = Appliance(is_careful=is_careful)
    other = appliance.open(OTHER_ENDPOINT)
    assert appliance.judge(gwlb(tcp(CLIENT_4))) == UnknownEndpoint(ENDPOINT)
    assert learned(other) == {}


def test_endpoint_when_forgotten_is_unknown_again() -> None:
    """A closed endpoint takes no packet, whatever the fast path has learned of its headers."""
    appliance = Appliance()
    gone, stays = appliance.open(ENDPOINT), appliance.open(OTHER_ENDPOINT)
    for _ in range(2):
        assert appliance.judge(gwlb(tcp(CLIENT_4))) is gone
    appliance.decap.forget(gone)
    assert appliance.judge(gwlb(tcp(CLIENT_4))) == UnknownEndpoint(ENDPOINT)
    assert appliance.judge(gwlb(tcp(CLIENT_4), 1, OTHER_ENDPOINT)) is stays
    opened = appliance.open(ENDPOINT)
    assert appliance.judge(gwlb(tcp(CLIENT_4))) is opened


def test_layouts_when_a_sender_varies_headers_without_end_stay_bounded() -> None:
    """Every table is bounded, also that of the headers which the fast path knows."""
    appliance = Appliance()
    endpoint = appliance.open(ENDPOINT)
    for attachment in range(_MAX_LAYOUTS + 2):
        datagram = geneve(b"".join(gwlb_options(attachment=attachment)), tcp(CLIENT_4))
        assert appliance.judge(datagram) is endpoint
        assert len(appliance.decap._layouts) <= _MAX_LAYOUTS
    assert list(learned(endpoint).values()) == [NODE.return_outer + datagram[:40]]


@st.composite
def usual_shapes(draw: st.DrawFn) -> bytes:
    """Inner packets close to the fast path's shape, often broken in one place."""
    ends = draw(st.sampled_from([CLIENT_4, CLIENT_6, CLIENT_4.reverse, CLIENT_6.reverse]))
    protocol = draw(st.sampled_from([6, 17, 6, 17, 1, 58, 44, 50]))
    packet = bytearray(ip(ends, protocol, draw(st.binary(max_size=40))))
    if draw(st.booleans()):
        packet[draw(st.integers(0, min(47, len(packet) - 1)))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, len(packet)))] if draw(st.booleans()) else packet)


@given(inners=st.lists(usual_shapes(), min_size=1, max_size=4), cookie=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=300)
def test_fast_and_careful_way_when_given_the_same_agree(inners: list[bytes], cookie: int) -> None:
    """One behaviour: the fast path is the careful one, only sooner."""
    outcomes = []
    for is_careful in (False, True):
        appliance = Appliance(is_careful=is_careful)
        endpoint = appliance.open(ENDPOINT)
        for ends in (CLIENT_4, CLIENT_6):
            appliance.judge(gwlb(tcp(ends), 1))
        verdicts = []
        for inner in inners:
            for protocol in (0x0800, 0x86DD):
                datagram = geneve(b"".join(gwlb_options(cookie)), inner, protocol=protocol)
                verdict = appliance.judge(datagram)
                verdicts.append(verdict if isinstance(verdict, DropReason) else ENDPOINT)
        outcomes.append((verdicts, learned(endpoint)))
    assert outcomes[0] == outcomes[1]


@given(
    vector=st.sampled_from(ACCEPTED),
    places=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), max_size=4),
    garbage=st.binary(max_size=64),
    front=st.integers(0, 64),
)
@settings(deadline=None, max_examples=400)
def test_garbage_around_a_datagram_when_it_changes_changes_nothing(
    vector: Vector, places: list[tuple[int, int]], garbage: bytes, front: int
) -> None:
    """A receive buffer is reused: what lies around the datagram is no part of it."""
    datagram = bytearray(vector.datagram)
    for place, value in places:
        datagram[place % len(datagram)] = value
    outcomes = []
    for before, after in ((b"", b""), (bytes(front), garbage + bytes(8500))):
        appliance = Appliance(profile=vector.profile)
        endpoint = appliance.open(ENDPOINT)
        appliance.judge(gwlb(tcp(CLIENT_4)))
        buffer = before + datagram + after
        verdict = appliance.decap(buffer, len(before), len(datagram), appliance.peer(), 1000)
        outcomes.append((verdict if isinstance(verdict, DropReason) else 0, learned(endpoint)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda v: v.name)
def test_fragment_when_accepted_is_learned_under_the_keys_it_has(vector: Vector) -> None:
    """RFC 791, RFC 8200: a first fragment has both keys, a later one only the fragment's."""
    appliance = Appliance(profile=vector.profile)
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(vector.datagram)
    flow = parse_inner(vector.inner)
    tables = [name for name, _ in learned(endpoint)]
    assert tables == [
        *([("tcp", "udp", "other")[flow.table]] if flow.key else []),
        *(["fragments"] if flow.fragment else []),
    ]
