from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.datapath.flows import Flow
from gwlbtun.reasons import DropReason
from tests.unit.datapath.player import Appliance, outside
from tests.unit.datapath.test_decap import usual_shapes
from tests.vectors import DECAP_VECTORS, SCENARIOS, Scenario, Vector
from tests.vectors.decap_inner import BAD_INNER_PACKETS
from tests.vectors.geneve import ENDPOINT, NODE, gwlb, gwlb_header
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, fragments, tcp, udp

PLAIN = [v for v in DECAP_VECTORS if v.inner and len(v.inner) <= 8500 and v.profile == "aws"]


@pytest.mark.parametrize("is_careful", [False, True], ids=["fast", "careful"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_scenario_when_played_gives_what_it_says(scenario: Scenario, is_careful: bool) -> None:
    """Each scenario names its own source. Both ways through the data path give the same."""
    Appliance(is_careful=is_careful).play(scenario)


@pytest.mark.parametrize(
    ("reason", "packet"),
    [pytest.param(reason, packet, id=name) for reason, name, _, packet in BAD_INNER_PACKETS]
    + [
        pytest.param(DropReason.INNER_VERSION, bytes((v << 4,)) * 60, id=f"v{v}")
        for v in (0, 5, 15)
    ],
)
def test_packet_of_the_stack_when_malformed_is_dropped_for_it(
    reason: DropReason, packet: bytes
) -> None:
    """RFC 791, RFC 8200: what is no packet has no flow, in this direction too."""
    appliance = Appliance()
    assert appliance.send(packet, appliance.open(ENDPOINT)) is reason


@pytest.mark.parametrize("vector", PLAIN, ids=lambda v: v.name)
def test_packet_of_the_stack_when_cut_at_any_byte_is_refused(vector: Vector) -> None:
    """RFC 791, RFC 8200: nothing is read past the end of the packet, though the buffer goes on."""
    appliance = Appliance()
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(vector.datagram)
    end = len(vector.inner) - (5 if vector.name.endswith("padding-behind") else 0)
    for length in [*range(0, end, 1 if end < 400 else 97), end - 1]:
        assert appliance.send(vector.inner[:length], endpoint) is DropReason.INNER_TRUNCATED


@pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
def test_flow_when_the_stack_answers_stays_young(ends: Ends) -> None:
    """AWS: packets of either direction keep a flow from idling."""
    for packet in (tcp(ends.reverse), fragments(tcp(ends.reverse, bytes(60)), 40)[0]):
        appliance = Appliance()
        endpoint = appliance.open(ENDPOINT)
        appliance.judge(gwlb(tcp(ends)))
        appliance.now += 7
        flow = appliance.send(packet, endpoint)
        assert isinstance(flow, Flow)
        assert flow.seen == appliance.now


def test_fragment_when_its_flow_was_evicted_still_finds_what_it_came_with() -> None:
    """AWS: a first fragment came in with a cookie, so it may leave with it, whoever forgot the
    ported flow since.
    """
    appliance = Appliance(max_flows=1)
    endpoint = appliance.open(ENDPOINT)
    first, last = fragments(udp(CLIENT_4, bytes(2000)), 1480)
    appliance.judge(gwlb(first))
    appliance.judge(gwlb(tcp(CLIENT_4)))
    assert list(endpoint.udp.flows) == []
    for packet in (first, last):
        flow = appliance.send(packet, endpoint)
        assert isinstance(flow, Flow)
        assert outside(flow) == NODE.return_outer + gwlb_header(packet)


@given(
    came=st.lists(usual_shapes(), max_size=3),
    leaves=st.lists(usual_shapes(), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=300)
def test_fast_and_careful_way_when_given_the_same_agree(
    came: list[bytes], leaves: list[bytes]
) -> None:
    """One behaviour: the fast path is the careful one, only sooner."""
    outcomes = []
    for is_careful in (False, True):
        appliance = Appliance(is_careful=is_careful)
        endpoint = appliance.open(ENDPOINT)
        for cookie, inner in enumerate([tcp(CLIENT_4), udp(CLIENT_6), *came]):
            appliance.judge(gwlb(inner, cookie))
        verdicts = []
        for packet in [*leaves, *came]:
            verdict = appliance.send(packet, endpoint)
            verdicts.append(outside(verdict) if isinstance(verdict, Flow) else verdict)
        outcomes.append(verdicts)
    assert outcomes[0] == outcomes[1]


@given(
    packet=st.binary(max_size=120),
    vector=st.sampled_from(PLAIN),
    places=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=3),
)
@settings(deadline=None, max_examples=300)
def test_packet_when_it_is_arbitrary_bytes_gets_a_verdict(
    packet: bytes, vector: Vector, places: list[tuple[int, int]]
) -> None:
    """A malformed packet is ordinary input: the data path never raises."""
    appliance = Appliance()
    endpoint = appliance.open(ENDPOINT)
    appliance.judge(vector.datagram)
    mutated = bytearray(vector.inner)
    for place, value in places:
        mutated[place % len(mutated)] = value
    for candidate in (packet, bytes(mutated)):
        verdict = appliance.send(candidate, endpoint)
        assert verdict is None or isinstance(verdict, Flow | DropReason)
