"""What an appliance gives back: AWS's rules, each by its metric (CloudWatch, AWS/GatewayELB)."""

from __future__ import annotations

import pytest

from gwlbtun.lab.rules import Drop, Violation
from gwlbtun.wire.gwlb import AWS, TENCENT
from tests.unit.lab.dialogue import OUT_4, OUT_6, Dialogue, reset, syn, tcp_with_flags, wrap
from tests.vectors.icmp import icmp_error
from tests.vectors.inet import Ends, fragments, tcp, udp, udp_of_size

BOTH = pytest.mark.parametrize("ends", [OUT_4, OUT_6], ids=["ipv4", "ipv6"])


@BOTH
def test_packet_when_returned_as_it_came_is_delivered_and_counted(ends: Ends) -> None:
    """The whole conversation of a good appliance leaves no violation."""
    talk = Dialogue()
    for packet in (syn(ends), tcp_with_flags(ends.reverse, 0x12), tcp(ends), tcp(ends.reverse)):
        talk.pass_through(packet)
    sides = talk.endpoints[0].to_server, talk.endpoints[0].to_client
    assert [side.packets for side in sides] == [2, 2]
    assert sides[0].bytes == len(syn(ends)) + len(tcp(ends))
    assert not talk.counted


def test_datagram_when_outer_headers_are_not_swapped_is_an_invalid_tunnel() -> None:
    """InvalidGeneveTunnel: outer addresses and ports fit none of the GWLB's paths."""
    talk = Dialogue()
    assert talk.judge(wrap(talk.send(udp(OUT_4)), udp(OUT_4)), None) is None
    assert talk.counted == {Violation.INVALID_GENEVE_TUNNEL: 1}


def test_datagram_when_it_takes_another_path_is_an_invalid_tunnel() -> None:
    """InvalidGeneveTunnel: the node and the UDP source port are those of the flow."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    for path in talk.targets[0].paths:
        if path is not leg.flow.path:
            assert talk.judge(wrap(leg, udp(OUT_4)), path) is None
    assert talk.counted == {Violation.INVALID_GENEVE_TUNNEL: 3}


def test_datagram_when_its_port_is_not_6081_is_an_invalid_tunnel() -> None:
    """InvalidGeneveTunnel: destination port 6081; ports are not swapped."""
    talk = Dialogue()
    talk.gateway.note_stray()
    assert talk.counted == {Violation.INVALID_GENEVE_TUNNEL: 1}


@pytest.mark.parametrize("length", [0, 7, 39])
def test_datagram_when_it_is_no_geneve_is_an_invalid_tunnel(length: int) -> None:
    """RFC 8926, section 3.4: cut inside the header."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    assert talk.judge(wrap(leg, b"")[:length], leg.flow.path) is None
    assert talk.counted == {Violation.INVALID_GENEVE_TUNNEL: 1}


@pytest.mark.parametrize("byte", [4, 6, 27], ids=["vni", "vni-end", "attachment"])
def test_datagram_when_a_header_byte_differs_is_an_invalid_tunnel(byte: int) -> None:
    """The Geneve header comes back byte for byte."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    datagram = bytearray(wrap(leg, udp(OUT_4)))
    datagram[byte] ^= 1
    assert talk.judge(bytes(datagram), leg.flow.path) is None
    assert talk.counted == {Violation.INVALID_GENEVE_TUNNEL: 1}


def test_datagram_when_its_endpoint_is_unknown_has_an_invalid_endpoint_id() -> None:
    """InvalidGwlbEndpointId: no endpoint of this GWLB."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    header = AWS.build_header(0xA3, int.from_bytes(leg.cookie, "big"), is_ipv6=False)
    assert talk.judge(header + udp(OUT_4), leg.flow.path) is None
    assert talk.counted == {Violation.INVALID_ENDPOINT_ID: 1}


def test_datagram_when_the_endpoint_option_is_missing_has_an_invalid_endpoint_id() -> None:
    """InvalidGwlbEndpointId: options of another class are none of GWLB's."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    assert talk.judge(TENCENT.build_header(0xA1, 1, is_ipv6=False) + udp(OUT_4), leg.flow.path) is (
        None
    )
    assert talk.counted == {Violation.INVALID_ENDPOINT_ID: 1}


def test_datagram_when_the_cookie_option_is_cut_off_has_an_invalid_cookie() -> None:
    """InvalidGwlbFlowCookie: eight bytes fewer of options, and the length says so."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    head = wrap(leg, b"")[:32]
    assert talk.judge(bytes((head[0] - 2,)) + head[1:] + udp(OUT_4), leg.flow.path) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


@BOTH
def test_cookie_when_it_is_another_flows_is_invalid(ends: Ends) -> None:
    """InvalidGwlbFlowCookie: not this flow's."""
    talk = Dialogue()
    talk.send(udp(ends))
    other = talk.send(udp(ends.with_ports(1, 2)))
    assert talk.give_back(other, udp(ends)) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


def test_cookie_when_it_is_another_endpoints_is_invalid() -> None:
    """Equal addresses of two endpoints do not make one flow."""
    talk = Dialogue()
    first, second = talk.send(udp(OUT_4), 0), talk.send(udp(OUT_4), 1)
    datagram = wrap(first, b"")[:-4] + second.cookie + udp(OUT_4)
    assert talk.judge(datagram, first.flow.path) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


@BOTH
def test_cookie_when_of_the_wrong_direction_is_invalid(ends: Ends) -> None:
    """The appliance was shown the right one."""
    talk = Dialogue()
    out, _ = talk.send(udp(ends)), talk.send(udp(ends.reverse))
    assert talk.give_back(out, udp(ends.reverse)) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


@BOTH
def test_answer_when_made_by_the_appliance_may_carry_the_only_cookie_it_knows(ends: Ends) -> None:
    """Two-arm appliances and proxies answer inside the original flow's Geneve header."""
    talk = Dialogue()
    leg = talk.send(syn(ends))
    assert talk.give_back(leg, tcp_with_flags(ends.reverse, 0x12)) is leg.back


@BOTH
def test_reset_when_made_by_the_appliance_may_carry_either_cookie(ends: Ends) -> None:
    """REJECT with a reset may cross an answer of the server."""
    talk = Dialogue()
    out = talk.send(syn(ends))
    back = talk.send(tcp_with_flags(ends.reverse, 0x12))
    assert talk.give_back(out, reset(ends.reverse)) is back
    assert talk.give_back(back, reset(ends.reverse)) is back


@BOTH
def test_icmp_error_when_made_by_the_appliance_may_carry_a_cookie_of_the_quoted_flow(
    ends: Ends,
) -> None:
    """An error goes to the sender of the packet it quotes, inside that flow's tunnel."""
    talk = Dialogue()
    quoted = udp(ends)
    leg = talk.send(quoted)
    assert talk.give_back(leg, icmp_error(quoted)) is leg.back
    assert talk.give_back(leg.back, icmp_error(quoted)) is leg.back
    other = talk.send(udp(ends.with_ports(1, 2)))
    assert talk.give_back(other, icmp_error(quoted)) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


@BOTH
def test_icmp_error_when_it_quotes_a_later_fragment_belongs_to_the_trains_flow(ends: Ends) -> None:
    """A quote without ports is known by its fragment train."""
    talk = Dialogue()
    pieces = fragments(udp(ends, bytes(3000)), 1024)
    leg, *_ = [talk.send(piece) for piece in pieces]
    assert talk.give_back(leg, icmp_error(pieces[1])) is leg.back


@BOTH
def test_fragments_when_returned_follow_their_first_fragment(ends: Ends) -> None:
    """Each fragment comes back with the cookie of the train's flow."""
    talk = Dialogue()
    for piece in fragments(udp(ends, bytes(3000)), 1024):
        talk.pass_through(piece)
    assert not talk.counted


def test_fragments_when_made_by_the_appliance_follow_their_first_fragment() -> None:
    """The appliance may fragment a packet that came whole."""
    talk = Dialogue()
    packet = udp(OUT_4, bytes(3000))
    leg = talk.send(packet)
    for piece in fragments(packet, 1024):
        assert talk.give_back(leg, piece) is leg
    stray = fragments(packet, 1024, ident=1)[1]
    assert talk.give_back(leg, stray) is None
    assert talk.counted == {Violation.MISSING_FLOW_ENTRY: 1}


def test_packet_when_its_flow_is_unknown_misses_its_entry() -> None:
    """MissingFlowEntry: the 5-tuple was changed, or never came in."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    assert talk.give_back(leg, udp(OUT_4.with_ports(1, 2))) is None
    assert talk.counted == {Violation.MISSING_FLOW_ENTRY: 1}


def test_packet_when_its_flow_has_timed_out_misses_its_entry() -> None:
    """MissingFlowEntry: timed out; a fragment of a closed flow has no more right than the rest."""
    talk = Dialogue(other_idle_s=10)
    pieces = fragments(udp(OUT_4, bytes(3000)), 1024)
    leg, *_ = [talk.send(piece) for piece in pieces]
    talk.wait(11)
    assert talk.give_back(leg, udp(OUT_4)) is None
    assert talk.give_back(leg, pieces[1]) is None
    assert talk.counted == {Violation.MISSING_FLOW_ENTRY: 2}


def test_cookie_when_of_the_5_tuples_former_use_is_invalid() -> None:
    """Captures: an appliance that remembers old cookies loses packets under churn."""
    talk = Dialogue()
    former = talk.send(syn(OUT_4, 1))
    talk.send(syn(OUT_4, 2))
    assert talk.give_back(former, syn(OUT_4, 2)) is None
    assert talk.counted == {Violation.INVALID_FLOW_COOKIE: 1}


@BOTH
def test_returned_packet_when_it_passes_keeps_its_flow_alive(ends: Ends) -> None:
    """Traffic in either direction counts as use."""
    talk = Dialogue()
    leg = talk.send(udp(ends))
    talk.wait(100)
    assert talk.give_back(leg, udp(ends)) is leg
    talk.wait(100)
    assert talk.gateway.flows.count == 1


@pytest.mark.parametrize(
    ("packet", "drop"),
    [
        (udp_of_size(OUT_4, 8501), Drop.OVERSIZE),
        (udp(OUT_4)[:-1], Drop.MALFORMED),
        (udp(OUT_6), Drop.MALFORMED),
    ],
    ids=["oversize", "truncated", "other-version"],
)
def test_inner_packet_when_it_cannot_be_delivered_is_dropped(packet: bytes, drop: Drop) -> None:
    """No rule of AWS's return path, yet nothing to deliver."""
    talk = Dialogue()
    assert talk.give_back(talk.send(udp(OUT_4)), packet) is None
    assert talk.counted == {drop: 1}


@BOTH
def test_datagram_when_cut_anywhere_is_never_delivered(ends: Ends) -> None:
    """Truncation at every byte ends in a counter, not in an exception."""
    talk = Dialogue()
    leg = talk.send(udp(ends))
    datagram = wrap(leg, udp(ends))
    for length in range(len(datagram)):
        assert talk.judge(datagram[:length], leg.flow.path) is None
    assert sum(talk.counted.values()) == len(datagram)


def test_violations_when_many_are_remembered_in_part() -> None:
    """The last twenty, for whoever looks for the cause."""
    talk = Dialogue()
    leg = talk.send(udp(OUT_4))
    for _ in range(30):
        talk.give_back(leg, udp(OUT_4.with_ports(1, 2)))
    assert len(talk.gateway.recent) == 20
    assert talk.gateway.recent[0].startswith(Violation.MISSING_FLOW_ENTRY)
