"""Packets that nobody sane sends: dropped, counted by reason, never more than that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import pytest

from gwlbtun.reasons import DropReason
from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import DATA_PATHS, Daemon, Rig, eventually, fresh_endpoint
from tests.namespace.hooks import redirect
from tests.vectors import DECAP_VECTORS, Vector
from tests.vectors.geneve import ENDPOINT, NODE, OTHER_NODE, gwlb
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, tcp, udp, udp_of_size

pytestmark = pytest.mark.namespace

BAD: Final = [
    vector
    for vector in DECAP_VECTORS
    if isinstance(vector.verdict, DropReason) and vector.profile == "aws"
]
BOTH: Final = pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Daemon]]:
    with contextlib.closing(Rig(tmp_path_factory.mktemp("hostile"))) as rig:
        yield rig, rig.start()


@pytest.mark.parametrize("vector", BAD, ids=lambda vector: vector.name)
def test_datagram_when_malformed_then_it_is_counted_and_creates_nothing(
    stage: tuple[Rig, Daemon], vector: Vector
) -> None:
    """Malformed packets are ordinary input: one counter moves, no endpoint comes."""
    rig, daemon = stage
    assert isinstance(vector.verdict, DropReason)
    label = vector.verdict.label
    before = daemon.drops
    rig.gwlb.send(vector.datagram)
    expected = {**before, label: before.get(label, 0) + 1}
    eventually(lambda: daemon.drops == expected)
    assert daemon.health["endpoints"] == []
    assert rig.interfaces == set()
    assert rig.gwlb.is_silent()


def test_datagram_when_its_source_port_is_0_then_it_is_counted(stage: tuple[Rig, Daemon]) -> None:
    """AWS, InvalidGeneveTunnel: there is no port that the answer could carry."""
    rig, daemon = stage
    rig.gwlb.send(gwlb(tcp(CLIENT_4)), replace(NODE, port=0))
    eventually(lambda: daemon.drops.get("invalid_geneve_tunnel") == 1)
    assert daemon.health["endpoints"] == []


def test_source_when_it_is_not_allowed_then_only_others_are_served(rig: Rig) -> None:
    """--allow-source: nobody else can make the appliance create interfaces or take packets."""
    daemon = rig.start("--allow-source", "10.0.9.4/32", "-c", redirect(rig))
    stranger = replace(NODE, source=ip_address("192.0.2.77").packed)
    for node in (OTHER_NODE, stranger):
        rig.gwlb.send(gwlb(tcp(CLIENT_4)), node)
    eventually(lambda: daemon.drops == {"source_not_allowed": 2})
    assert rig.interfaces == set()
    rig.gwlb.send(gwlb(tcp(CLIENT_4)), NODE)
    assert rig.gwlb.returned() == NODE.return_outer + gwlb(tcp(CLIENT_4))
    rig.gwlb.send(gwlb(tcp(CLIENT_4)), OTHER_NODE)  # the flow is known now, its sender is not
    eventually(lambda: daemon.drops == {"source_not_allowed": 3})


def test_endpoint_ids_when_there_are_more_than_allowed_then_the_first_ones_live(rig: Rig) -> None:
    """--max-endpoints: whoever can send packets cannot fill the system with interfaces."""
    daemon = rig.start("--max-endpoints", "5", "-c", redirect(rig))
    endpoints = [fresh_endpoint() for _ in range(200)]
    for endpoint in endpoints:
        rig.gwlb.send(gwlb(tcp(CLIENT_4), 1, endpoint))
    eventually(lambda: daemon.drops == {"endpoint_limit": 195})
    eventually(lambda: daemon.health["endpoints_opened"] == 5)
    assert rig.interfaces == {name for e in endpoints[:5] for name in endpoint_interfaces(e)}
    returned = {rig.gwlb.returned() for _ in range(5)}
    assert returned == {NODE.return_outer + gwlb(tcp(CLIENT_4), 1, e) for e in endpoints[:5]}
    warnings = [line for line in daemon.log if "limit is reached" in line["event"]]
    assert len(warnings) == 1


def test_datagram_when_larger_than_any_uplink_carries_then_it_is_counted(
    make_rig: Callable[..., Rig],
) -> None:
    """What does not fit into user space's slot is dropped whole; the next one is unharmed."""
    rig = make_rig(mtu_bytes=12000)
    daemon = rig.start("--datapath", "user", "-c", redirect(rig))
    rig.gwlb.send(gwlb(tcp(CLIENT_4)))
    rig.gwlb.returned()
    rig.gwlb.send(gwlb(udp_of_size(CLIENT_4, 10000)))
    rig.gwlb.send(gwlb(udp_of_size(CLIENT_4, 8500)))
    assert rig.gwlb.returned() == NODE.return_outer + gwlb(udp_of_size(CLIENT_4, 8500))
    eventually(lambda: daemon.drops == {"datagram_truncated": 1})


@BOTH
def test_packet_when_too_large_for_the_uplink_then_it_is_counted(rig: Rig, ends: Ends) -> None:
    """GWLB takes no fragments of outer packets: what the uplink cannot carry whole is dropped."""
    daemon = rig.start()
    rig.gwlb.send(gwlb(tcp(ends)))
    eventually(lambda: daemon.endpoint(ENDPOINT))
    _, gwo = endpoint_interfaces(ENDPOINT)
    rig.run("ip", "link", "set", "uplink", "mtu", "1500")
    for data in (b"x" * 2000, b"fits"):
        rig.stack.send(gwo, tcp(ends, data))
    assert rig.gwlb.returned() == NODE.return_outer + gwlb(tcp(ends, b"fits"))
    eventually(lambda: daemon.endpoint(ENDPOINT)["drops"] == {"outer_oversize": 1})
    eventually(lambda: daemon.endpoint(ENDPOINT)["packets_out"] == 1)


def test_junk_when_a_great_deal_of_it_comes_then_good_packets_still_pass(rig: Rig) -> None:
    """Whatever arrives, the daemon lives and serves; every packet ends in exactly one counter."""
    daemon = rig.start("-c", redirect(rig))
    good = gwlb(udp(CLIENT_4, b"good"))
    rig.gwlb.send(good)
    assert rig.gwlb.returned() == NODE.return_outer + good
    junk = [good[:length] for length in range(len(good))] * 3
    for datagram in junk:
        rig.gwlb.send(datagram)
    rig.gwlb.send(good)
    assert rig.gwlb.returned() == NODE.return_outer + good
    eventually(lambda: sum(daemon.drops.values()) == len(junk))
    eventually(lambda: daemon.endpoint(ENDPOINT)["packets_in"] == 2)
    assert rig.gwlb.is_silent()


def test_packet_when_there_is_no_route_back_then_it_is_counted(rig: Rig) -> None:
    """A sender that cannot be answered costs its own packets, not those behind them."""
    daemon = rig.start("-c", redirect(rig))
    stranger = replace(NODE, source=ip_address("192.0.2.77").packed)
    for number in range(20):
        datagram = gwlb(udp(CLIENT_4.with_ports(1000 + number, 53)))
        rig.gwlb.send(datagram, stranger if number % 2 else NODE)
    returned = [rig.gwlb.returned() for _ in range(10)]
    wanted = [gwlb(udp(CLIENT_4.with_ports(1000 + number, 53))) for number in range(0, 20, 2)]
    assert returned == [NODE.return_outer + datagram for datagram in wanted]
    eventually(lambda: daemon.drops == {"send_failed": 10})
    eventually(lambda: daemon.endpoint(ENDPOINT)["packets_out"] == 10)


@pytest.mark.parametrize("data_path", DATA_PATHS)
def test_datagram_when_an_inner_host_speaks_geneve_then_it_is_refused(
    rig: Rig, data_path: str
) -> None:
    """A client behind the GWLB could else speak as the GWLB, for any endpoint of its choice: its
    packet to the appliance's own port 6081 comes out of gwi and is delivered locally.
    """
    hook = rig.write_script("none", "exit 0")
    daemon = rig.start("--datapath", data_path, "-c", hook)
    endpoint, chosen = fresh_endpoint(), fresh_endpoint()
    ends = Ends(CLIENT_4.src, NODE.destination, 60000, 6081)
    forged = udp(ends, gwlb(tcp(CLIENT_4), 7, chosen))
    for _ in range(3):
        rig.gwlb.send(gwlb(forged, 7, endpoint))
    eventually(lambda: daemon.drops.get("source_inside_tunnel") == 3)
    assert not rig.has_both(chosen)
    assert daemon.health["endpoints_opened"] == 1
