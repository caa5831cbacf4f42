"""From a client or server to an appliance: flows, cookies, targets."""

from __future__ import annotations

import struct

import pytest

from gwlbtun.lab.rules import Drop
from gwlbtun.lab.targets import TargetState
from gwlbtun.wire.gwlb import AWS
from tests.unit.lab.dialogue import (
    CLIENT_FD,
    OUT_4,
    OUT_6,
    SERVER_FD,
    Dialogue,
    make_healthy,
    make_unhealthy,
    syn,
    tcp_with_flags,
)
from tests.vectors.icmp import echo, icmp_error
from tests.vectors.inet import (
    HOP_BY_HOP,
    PADN,
    TCP,
    Ends,
    esp,
    fragments,
    ip,
    tcp,
    tcp_segment,
    udp,
    udp_of_size,
)

BOTH = pytest.mark.parametrize("ends", [OUT_4, OUT_6], ids=["ipv4", "ipv6"])


@BOTH
def test_head_when_a_packet_is_forwarded_is_what_gwlb_sends(ends: Ends) -> None:
    """GWLB on the wire: outer IPv4 with TTL 255, port 60000 or 60001 to 6081, three options."""
    leg = Dialogue().send(udp(ends))
    address, outer, geneve = leg.head[:16], leg.head[16:44], leg.head[44:]
    assert address == struct.pack("=H", 2) + b"\x17\xc1" + bytes((10, 99, 1, 10)) + bytes(8)
    assert (outer[0], outer[8], outer[9]) == (0x45, 255, 17)
    assert outer[12:15] == bytes((10, 99, 1))
    assert outer[15] in (1, 2)
    assert outer[16:20] == bytes((10, 99, 1, 10))
    assert int.from_bytes(outer[20:22], "big") in (60000, 60001)
    assert outer[22:24] == b"\x17\xc1"
    cookie = int.from_bytes(leg.cookie, "big")
    assert geneve == AWS.build_header(0xA1, cookie, is_ipv6=ends.is_ipv6)


@BOTH
def test_flow_when_answered_is_one_with_a_cookie_per_direction(ends: Ends) -> None:
    """Both directions go to one target; the lab gives each its own cookie."""
    talk = Dialogue(targets=5)
    out = talk.pass_through(syn(ends))
    back = talk.pass_through(tcp_with_flags(ends.reverse, 0x12))
    assert talk.pass_through(tcp(ends)) is out
    assert out.back is back
    assert out.flow is back.flow
    assert out.cookie != back.cookie
    assert (out.sink_fd, back.sink_fd) == (SERVER_FD, CLIENT_FD)
    assert talk.gateway.new_flows == talk.gateway.flows.count == 1


def test_flows_when_endpoints_have_equal_addresses_stay_apart() -> None:
    """Each endpoint has flows of its own."""
    talk = Dialogue()
    first, second = talk.send(udp(OUT_4), 0), talk.send(udp(OUT_4), 1)
    assert first.flow is not second.flow
    assert first.head[44:80] != second.head[44:80]


def test_tcp_flow_when_idle_for_350_s_ends_and_only_a_syn_opens_it_again() -> None:
    """GWLB, idle timeout: TCP 350 s; after expiry non-SYN packets are dropped."""
    talk = Dialogue()
    cookie = talk.send(syn(OUT_4)).cookie
    talk.wait(349)
    assert talk.send(tcp(OUT_4)).cookie == cookie
    talk.wait(349)
    assert talk.gateway.flows.count == 1
    talk.wait(1)
    assert talk.gateway.flows.count == 0
    assert talk.offer(tcp(OUT_4)) is Drop.NO_CONNECTION
    assert talk.counted == {Drop.NO_CONNECTION: 1}
    assert talk.send(syn(OUT_4)).cookie != cookie


def test_other_flow_when_idle_for_120_s_begins_anew() -> None:
    """GWLB, idle timeout: 120 s for everything but TCP, fixed."""
    talk = Dialogue()
    cookie = talk.send(udp(OUT_4)).cookie
    talk.wait(119)
    assert talk.send(udp(OUT_4)).cookie == cookie
    talk.wait(120)
    assert talk.send(udp(OUT_4)).cookie != cookie


def test_5_tuple_when_used_again_gets_a_new_cookie() -> None:
    """Captures: a reused 5-tuple has a new cookie; a repeated SYN is no new use."""
    talk = Dialogue()
    cookie = talk.send(syn(OUT_4, 1000)).cookie
    assert talk.send(syn(OUT_4, 1000)).cookie == cookie
    assert talk.send(syn(OUT_4, 7000)).cookie != cookie
    assert talk.gateway.flows.count == 1


def test_syn_when_behind_an_extension_header_opens_a_flow() -> None:
    """RFC 8200, section 4: the upper-layer header follows the extension headers."""
    segment = bytearray(tcp_segment(OUT_6))
    segment[13] = 0x02
    packet = ip(OUT_6, TCP, bytes(segment), extensions=[(HOP_BY_HOP, PADN)])
    talk = Dialogue()
    assert talk.send(packet) is talk.send(tcp(OUT_6))


@BOTH
def test_later_fragments_when_the_first_came_follow_it(ends: Ends) -> None:
    """Fragments without ports carry the cookie of their first fragment's flow."""
    talk = Dialogue()
    pieces = fragments(udp(ends, bytes(3000)), 1024)
    leg = talk.send(pieces[0])
    assert [talk.send(piece) for piece in pieces[1:]] == [leg, leg]
    assert talk.send(udp(ends)) is leg


def test_later_fragment_when_the_first_never_came_is_dropped() -> None:
    """Nothing says which flow it belongs to."""
    talk = Dialogue()
    assert talk.offer(fragments(udp(OUT_4, bytes(3000)), 1024)[1]) is Drop.NO_FIRST_FRAGMENT


def test_fragment_train_when_old_is_forgotten() -> None:
    """A host waits 30 s for the rest of a datagram (Linux: ipfrag_time)."""
    talk = Dialogue()
    pieces = fragments(udp(OUT_4, bytes(3000)), 1024)
    talk.send(pieces[0])
    talk.wait(31)
    assert talk.offer(pieces[1]) is Drop.NO_FIRST_FRAGMENT


@BOTH
def test_icmp_error_when_the_quoted_flow_is_known_uses_that_directions_cookie(ends: Ends) -> None:
    """An error about a client's packet travels towards the client."""
    talk = Dialogue()
    quoted = udp(ends)
    leg = talk.send(quoted)
    assert talk.send(icmp_error(quoted)) is leg.back


def test_icmp_error_when_the_quoted_flow_is_unknown_is_a_flow_of_its_own() -> None:
    """Everything but TCP and UDP is addresses and protocol."""
    talk = Dialogue()
    leg = talk.send(icmp_error(udp(OUT_4)))
    assert talk.send(icmp_error(tcp(OUT_4))) is leg


def test_flow_when_not_tcp_or_udp_is_addresses_and_protocol() -> None:
    """GWLB, flow stickiness: 3-tuple for other protocols; identifiers do not count."""
    talk = Dialogue()
    assert talk.send(echo(OUT_4, 1)) is talk.send(echo(OUT_4, 2))
    assert talk.send(esp(OUT_4, 1)) is talk.send(esp(OUT_4, 2))
    assert talk.gateway.flows.count == 2


@pytest.mark.parametrize(
    ("packet", "drop"),
    [
        (b"", Drop.MALFORMED),
        (b"\x50" + bytes(60), Drop.MALFORMED),
        (udp(OUT_4)[:-1], Drop.MALFORMED),
        (udp_of_size(OUT_4, 8501), Drop.OVERSIZE),
    ],
)
def test_packet_when_gwlb_cannot_carry_it_is_dropped(packet: bytes, drop: Drop) -> None:
    """GWLB carries 8500 bytes at most and answers nothing."""
    talk = Dialogue()
    assert talk.offer(packet) is drop
    assert talk.counted == {drop: 1}


def test_packet_when_of_8500_bytes_is_carried() -> None:
    """8500 is the largest packet that GWLB carries."""
    Dialogue().pass_through(udp_of_size(OUT_4, 8500))


@pytest.mark.parametrize("stickiness", [5, 3, 2])
def test_stickiness_when_set_says_which_flows_share_a_target(stickiness: int) -> None:
    """GWLB, flow stickiness: 5-tuple, 3-tuple (addresses, protocol), 2-tuple (addresses)."""
    talk = Dialogue(targets=8, stickiness=stickiness)
    paths = [
        {talk.send(build(OUT_4.with_ports(port, 443))).flow.path for port in range(1000, 1032)}
        for build in (udp, syn)
    ]
    assert (len(paths[0]) > 1) is (stickiness == 5)
    assert (paths[0] == paths[1]) is (stickiness == 2)


def test_new_flows_when_a_target_is_unhealthy_avoid_it() -> None:
    """GWLB, no_rebalance: new flows go to healthy targets, existing ones stay."""
    talk = Dialogue(targets=2)
    before = [talk.send(udp(OUT_4.with_ports(port, 53))) for port in range(1, 33)]
    make_unhealthy(talk.targets[0])
    talk.wait(1)
    after = [talk.send(udp(OUT_4.with_ports(port, 53))) for port in range(1, 65)]
    assert after[:32] == before
    targets = [leg.flow.path.target for leg in after if leg.flow.path]
    assert talk.targets[0] in targets[:32]
    assert set(targets[32:]) == {talk.targets[1]}


def test_sticky_flows_when_their_target_is_lost_go_on_together_elsewhere() -> None:
    """A new flow of a sticky key does not follow an old one to an unhealthy target."""
    talk = Dialogue(targets=2, stickiness=2)
    first = talk.send(udp(OUT_4)).flow.path
    assert first is not None
    make_unhealthy(first.target)
    second = talk.send(udp(OUT_4.with_ports(1, 2))).flow.path
    assert second is not None
    assert second.target is not first.target
    assert talk.send(udp(OUT_4.with_ports(3, 4))).flow.path is second


def test_existing_flows_when_rebalanced_leave_an_unhealthy_target() -> None:
    """GWLB, rebalance: existing flows are hashed again; what is on its way back still counts."""
    talk = Dialogue(targets=2, rebalance=True)
    leg = talk.send(udp(OUT_4))
    former = leg.flow.path
    assert former is not None
    datagram = leg.head[44:] + udp(OUT_4)
    make_unhealthy(former.target)
    talk.wait(1)
    assert leg.flow.path is not None
    assert leg.flow.path.target is not former.target
    assert talk.judge(datagram, former) is leg
    talk.pass_through(udp(OUT_4))


def test_existing_flows_when_no_target_is_better_stay_until_one_is() -> None:
    """GWLB, rebalance: flows need a healthy target to go to."""
    talk = Dialogue(targets=2, rebalance=True)
    leg = talk.send(udp(OUT_4))
    former = leg.flow.path
    assert former is not None
    for target in talk.targets:
        make_unhealthy(target)
    talk.wait(1)
    assert leg.flow.path is former
    other = next(target for target in talk.targets if target is not former.target)
    make_healthy(other)
    talk.wait(1)
    assert leg.flow.path in other.paths


def test_former_paths_when_targets_flap_are_bounded() -> None:
    """Only the last few ways back are remembered."""
    talk = Dialogue(targets=2, rebalance=True)
    leg = talk.send(udp(OUT_4))
    for _ in range(10):
        assert leg.flow.path is not None
        make_unhealthy(leg.flow.path.target)
        talk.wait(1)
        for target in talk.targets:
            make_healthy(target)
        talk.wait(1)
    assert len(leg.flow.former_paths) == 4
    talk.pass_through(udp(OUT_4))


def test_existing_flows_when_their_target_is_deregistered_leave_after_the_delay() -> None:
    """GWLB, deregistration delay: draining until it ends, then unused; rebalance moves flows."""
    talk = Dialogue(targets=2, rebalance=True)
    leg = talk.send(udp(OUT_4))
    former = leg.flow.path
    assert former is not None
    former.target.deregister(talk.now, 60)
    talk.wait(59)
    assert talk.send(udp(OUT_4)).flow.path is former
    assert former.target.state is TargetState.DRAINING
    talk.wait(1)
    assert leg.flow.path is not former
    assert former.target.state is TargetState.UNUSED


def test_new_flow_when_no_target_is_registered_is_dropped() -> None:
    """There is nowhere to go."""
    talk = Dialogue()
    talk.targets[0].deregister(talk.now, 60)
    assert talk.offer(udp(OUT_4)) is Drop.NO_TARGET


def test_new_flow_when_the_table_is_full_is_dropped() -> None:
    """Every table is bounded."""
    talk = Dialogue()
    talk.gateway.flows.max_flows = 1
    talk.send(udp(OUT_4))
    assert talk.offer(udp(OUT_6)) is Drop.TABLE_FULL
