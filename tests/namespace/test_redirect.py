"""Every accepted datagram through a redirect from gwi to gwo: what goes in comes out, whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import pytest

from gwlbtun.reasons import DropReason
from gwlbtun.wire.gwlb import INNER_MTU_BYTES
from tests.namespace.harness import DATA_PATHS, Daemon, Rig, eventually, fresh_endpoint
from tests.namespace.hooks import redirect
from tests.vectors import DECAP_VECTORS, Vector
from tests.vectors.geneve import COOKIE, ENDPOINT, NODE, OTHER_NODE, Node, gwlb
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, tcp, udp

pytestmark = pytest.mark.namespace

ROUND_TRIPS: Final = [
    vector
    for vector in DECAP_VECTORS
    if not isinstance(vector.verdict, DropReason)
    and vector.profile == "aws"
    and len(vector.inner) <= INNER_MTU_BYTES
]


@pytest.fixture(scope="module", params=DATA_PATHS)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rig, Daemon]]:
    with contextlib.closing(Rig(tmp_path_factory.mktemp("redirect"))) as rig:
        yield rig, rig.start("--datapath", request.param, "-c", redirect(rig))


def _returns(node: Node, datagram: bytes) -> bytes:
    return node.return_outer + datagram


@pytest.mark.parametrize("vector", ROUND_TRIPS, ids=lambda vector: vector.name)
def test_datagram_when_redirected_then_it_returns_whole(
    stage: tuple[Rig, Daemon], vector: Vector
) -> None:
    """AWS: outer addresses swapped, UDP source port kept, destination port 6081, the Geneve header
    byte for byte, the inner packet as it was. Each vector has its own cookie here.
    """
    rig, _ = stage
    cookie = (ROUND_TRIPS.index(vector) + 1).to_bytes(4, "big")
    datagram = vector.datagram.replace(COOKIE.to_bytes(4, "big"), cookie)
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == _returns(NODE, datagram)


@pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
def test_packet_when_larger_than_8500_then_it_arrives_and_does_not_leave(
    stage: tuple[Rig, Daemon], ends: Ends
) -> None:
    """AWS: GWLB drops what is larger than 8500 bytes, so none is sent; up to uplink MTU - 68 was
    seen arriving, so it is taken.
    """
    rig, daemon = stage
    inner = udp(ends.with_ports(1, 1), bytes(8933 - (48 if ends.is_ipv6 else 28)))
    before = daemon.drops.get("inner_oversize", 0)
    rig.gwlb.send(gwlb(inner))
    eventually(lambda: daemon.drops.get("inner_oversize", 0) == before + 1)
    assert rig.gwlb.is_silent()
    gwi = daemon.endpoint(ENDPOINT)["gwi"]
    arrived = iter(lambda: rig.stack.arrived(gwi), None)
    assert inner in arrived  # behind whatever other tests have sent


def test_flows_when_many_are_interleaved_then_none_gets_anothers_header(
    stage: tuple[Rig, Daemon],
) -> None:
    """AWS: cookie and flow must match, per endpoint, whatever addresses its VPC uses."""
    rig, daemon = stage
    endpoints = [fresh_endpoint() for _ in range(4)]
    for endpoint in endpoints:  # made known first: a waiting room has an order of its own
        rig.gwlb.send(gwlb(udp(CLIENT_4), 1, endpoint))
        rig.gwlb.returned()
    sent = set()
    for number in range(256):
        ends = (CLIENT_4, CLIENT_6)[number & 1].with_ports(1024 + number // 8, 443)
        node = (NODE, OTHER_NODE)[number >> 1 & 1]
        inner = (tcp, udp)[number >> 2 & 1](ends, number.to_bytes(2, "big"))
        datagram = gwlb(inner, 0x5000_0000 + number, endpoints[number % 4])
        rig.gwlb.send(datagram, node)
        sent.add(_returns(node, datagram))
    assert {rig.gwlb.returned() for _ in range(256)} == sent
    assert rig.gwlb.is_silent()
    eventually(lambda: all(daemon.endpoint(endpoint) for endpoint in endpoints))
    assert all(daemon.endpoint(endpoint)["drops"] == {} for endpoint in endpoints)


def test_first_packets_when_an_endpoint_opens_then_all_return_in_order(
    stage: tuple[Rig, Daemon],
) -> None:
    """The packets that open an endpoint wait for its hook and are not lost."""
    rig, _ = stage
    endpoint = fresh_endpoint()
    datagrams = [gwlb(tcp(CLIENT_4, bytes([n])), COOKIE, endpoint) for n in range(100)]
    for datagram in datagrams:
        rig.gwlb.send(datagram)
    returned = [rig.gwlb.returned() for _ in datagrams]
    assert returned == [_returns(NODE, datagram) for datagram in datagrams]


def test_answer_when_the_appliance_has_two_addresses_then_it_comes_from_the_one_written_to(
    stage: tuple[Rig, Daemon],
) -> None:
    """AWS, InvalidGeneveTunnel: the outer addresses are swapped, whichever of them routing would
    have chosen.
    """
    rig, _ = stage
    rig.run("ip", "address", "add", "10.0.9.101/24", "dev", "uplink")
    second = replace(NODE, destination=ip_address("10.0.9.101").packed)
    datagram = gwlb(tcp(CLIENT_4), COOKIE, fresh_endpoint())
    for node in (second, NODE, second):
        rig.gwlb.send(datagram, node)
        assert rig.gwlb.returned() == _returns(node, datagram)
