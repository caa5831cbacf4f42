"""The appliance's own IP stack between gwi and gwo: errors it makes, rules it applies.
The lab's inspection hook does the routing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from tests.namespace.harness import DATA_PATHS, Daemon, Rig, fresh_endpoint
from tests.namespace.hooks import INSPECT
from tests.namespace.packets import Inner, parse
from tests.vectors.geneve import COOKIE, OTHER_COOKIE, OTHER_NODE, gwlb, gwlb_header
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    DONT_FRAGMENT,
    UDP,
    Ends,
    ip,
    tcp,
    udp,
    udp_datagram,
    udp_of_size,
)

pytestmark = pytest.mark.namespace

BOTH: Final = pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
_TIME_EXCEEDED: Final = {4: (11, 0), 6: (3, 0)}
_TOO_BIG: Final = {4: (3, 4), 6: (2, 0)}
_PORT_UNREACHABLE: Final = {4: (3, 3), 6: (1, 4)}
_APPLIANCE: Final = {
    4: socket.inet_aton("10.0.9.100"),
    6: socket.inet_pton(socket.AF_INET6, "2001:db8:9::100"),
}


@pytest.fixture(scope="module", params=DATA_PATHS)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rig, Daemon]]:
    with contextlib.closing(Rig(tmp_path_factory.mktemp("stack"))) as rig:
        rig.set_net("ipv4/icmp_ratelimit", 0)
        rig.set_net("ipv6/icmp/ratelimit", 0)
        for tables in ("iptables", "ip6tables"):
            rig.run(tables, "-A", "FORWARD", "-p", "tcp", "--dport", "23", "-j", "REJECT",
                    "--reject-with", "tcp-reset")  # fmt: skip
            rig.run(tables, "-A", "FORWARD", "-p", "udp", "--dport", "69", "-j", "REJECT")
        yield rig, rig.start("--datapath", request.param, "-c", INSPECT, "-r", INSPECT)


def _expires(packet: bytes) -> bytes:
    """The packet with a TTL or hop limit of 1; the checksum of IPv4 follows (RFC 1624)."""
    if packet[0] >> 4 == 6:
        return packet[:7] + b"\x01" + packet[8:]
    check = struct.unpack_from("!H", packet, 10)[0] + (64 - 1 << 8)
    return packet[:8] + b"\x01" + packet[9:10] + struct.pack("!H", check % 0xFFFF) + packet[12:]


def _answer(rig: Rig, packet: bytes, endpoint: int, cookie: int = COOKIE) -> Inner:
    """Send a packet in and take out what returns: it must be inside this packet's own tunnel."""
    rig.gwlb.send(gwlb(packet, cookie, endpoint), OTHER_NODE)
    outside = OTHER_NODE.return_outer + gwlb_header(packet, cookie, endpoint)
    returned = rig.gwlb.returned()
    assert returned[: len(outside)] == outside
    return parse(returned[len(outside) :])


def _is_error_about(inner: Inner, packet: bytes, kind: dict[int, tuple[int, int]]) -> None:
    """An ICMP error of the appliance, to the sender, that quotes the packet."""
    assert (inner.src, inner.dst) == (_APPLIANCE[inner.version], parse(packet).src)
    assert inner.icmp == kind[inner.version]
    quote, start = inner.payload[8:], 8 if inner.version == 6 else 12  # behind the TTL
    assert packet[start:].startswith(quote[start:])
    assert len(quote) >= 28


@BOTH
def test_packet_when_routed_then_it_returns_with_one_hop_less(
    stage: tuple[Rig, Daemon], ends: Ends
) -> None:
    """One-arm: what the stack forwards returns in its flow's header, otherwise unchanged."""
    packet = udp(ends, b"routed")
    inner = _answer(stage[0], packet, fresh_endpoint())
    assert inner.ttl == 63
    assert (inner.src, inner.dst, inner.payload) == (ends.src, ends.dst, parse(packet).payload)


@BOTH
@pytest.mark.parametrize("build", [tcp, udp])
def test_ttl_when_it_ends_here_then_the_error_returns_to_the_sender(
    stage: tuple[Rig, Daemon], ends: Ends, build: type
) -> None:
    """RFC 792, RFC 4443: time exceeded goes back inside the quoted flow's tunnel: traceroute works
    through the appliance.
    """
    packet = _expires(build(ends, b"x" * 40))
    inner = _answer(stage[0], packet, fresh_endpoint())
    _is_error_about(inner, packet, _TIME_EXCEEDED)


@BOTH
def test_port_when_rejected_then_port_unreachable_returns(
    stage: tuple[Rig, Daemon], ends: Ends
) -> None:
    """REJECT of iptables: the error goes back inside the quoted flow's tunnel."""
    packet = udp(ends.with_ports(40000, 69), b"x" * 40)
    inner = _answer(stage[0], packet, fresh_endpoint())
    _is_error_about(inner, packet, _PORT_UNREACHABLE)


@BOTH
def test_port_when_rejected_by_reset_then_the_reset_returns(
    stage: tuple[Rig, Daemon], ends: Ends
) -> None:
    """REJECT with tcp-reset: the server's answer, in the flow's header."""
    inner = _answer(stage[0], tcp(ends.with_ports(40000, 23)), fresh_endpoint())
    assert (inner.src, inner.dst) == (ends.dst, ends.src)
    assert inner.payload[:4] == struct.pack("!HH", 23, 40000)
    assert inner.payload[13] & 0x04  # RST


@BOTH
@pytest.mark.parametrize("size_bytes", [8501, 8933])
def test_packet_when_too_big_to_return_then_the_sender_is_told_8500(
    stage: tuple[Rig, Daemon], ends: Ends, size_bytes: int
) -> None:
    """AWS: GWLB carries 8500 bytes and takes no part in path MTU discovery, so the appliance's
    own "fragmentation needed" or "packet too big" has to reach the sender.
    """
    headers = 48 if ends.is_ipv6 else 28
    datagram = udp_datagram(ends, bytes(size_bytes - headers))
    packet = ip(ends, UDP, datagram, fragment=DONT_FRAGMENT)
    inner = _answer(stage[0], packet, fresh_endpoint())
    _is_error_about(inner, packet, _TOO_BIG)
    assert struct.unpack_from("!I", inner.payload, 4)[0] == 8500


def test_packet_when_it_may_be_fragmented_then_its_fragments_return(
    stage: tuple[Rig, Daemon],
) -> None:
    """RFC 791: without DF the stack cuts what is larger than 8500; each piece returns, the later
    ones known by their fragment id.
    """
    packet = udp_of_size(CLIENT_4, 8933)
    endpoint = fresh_endpoint()
    pieces = [_answer(stage[0], packet, endpoint)]
    outside = OTHER_NODE.return_outer + gwlb_header(packet, COOKIE, endpoint)
    returned = stage[0].gwlb.returned()
    assert returned.startswith(outside)
    pieces.append(parse(returned[len(outside) :]))
    assert b"".join(piece.payload for piece in pieces) == parse(packet).payload
    assert all(len(piece.packet) <= 8500 for piece in pieces)


@BOTH
def test_errors_when_two_endpoints_have_equal_addresses_then_each_gets_its_own(
    stage: tuple[Rig, Daemon], ends: Ends
) -> None:
    """AWS: VPCs of two endpoints may have the same addresses."""
    packet = _expires(udp(ends, b"x" * 40))
    endpoints = fresh_endpoint(), fresh_endpoint()
    for endpoint, cookie in (*zip(endpoints, (COOKIE, OTHER_COOKIE), strict=True),) * 2:
        _is_error_about(_answer(stage[0], packet, endpoint, cookie), packet, _TIME_EXCEEDED)
