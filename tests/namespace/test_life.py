"""The life of an endpoint's interfaces: they come with its first packet, go when it is idle, and
come back.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import pytest

from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import Daemon, Rig, eventually, fresh_endpoint
from tests.namespace.hooks import read_calls, recorder, redirect
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, tcp, udp

pytestmark = pytest.mark.namespace


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Daemon]]:
    with contextlib.closing(Rig(tmp_path_factory.mktemp("life"))) as rig:
        yield rig, rig.start("-c", redirect(rig))


def _round_trip(rig: Rig, endpoint: int, data: bytes = b"ping") -> None:
    datagram = gwlb(tcp(CLIENT_4, data), 7, endpoint)
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == NODE.return_outer + datagram


@pytest.mark.parametrize(
    ("endpoint", "suffix"),
    [
        (0, "0"),
        (59, "X"),
        (60, "10"),
        (0x0123456789ABCDEF, "887epl1uMf"),
        (2**64 - 1, "uur953OEv0f"),
    ],
)
def test_interfaces_when_the_first_packet_comes_then_they_are_named_in_base_60(
    stage: tuple[Rig, Daemon], endpoint: int, suffix: str
) -> None:
    """Reference: gwi-<X> and gwo-<X>, X the id in base 60 with the digits 0-9, a-z, A-X."""
    rig, _ = stage
    assert not rig.has_both(endpoint)
    _round_trip(rig, endpoint)
    assert {f"gwi-{suffix}", f"gwo-{suffix}"} <= rig.interfaces


def test_interfaces_when_created_then_they_have_mtu_8500_and_no_address(
    stage: tuple[Rig, Daemon],
) -> None:
    """AWS: GWLB carries 8500 bytes. A link-local address would send router solicitations out of
    gwo, for which no flow exists.
    """
    rig, daemon = stage
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    for name in endpoint_interfaces(endpoint):
        shown = rig.run("ip", "address", "show", "dev", name)
        assert "mtu 8500" in shown
        assert ",UP" in shown
        assert "inet" not in shown
    eventually(lambda: daemon.endpoint(endpoint))
    assert daemon.endpoint(endpoint)["drops"] == {}


def test_endpoint_when_idle_then_it_goes_and_the_next_packet_brings_it_back(rig: Rig) -> None:
    """-t: interfaces and descriptors go, DESTROY runs while the interfaces still exist; the next
    packet opens the endpoint anew and is not lost.
    """
    record = recorder(rig)
    daemon = rig.start("--datapath", "user", "-t", "2", "-c", redirect(rig), "-r", record)
    before = daemon.descriptors
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    eventually(lambda: daemon.descriptors == before + 2)
    eventually(lambda: not rig.interfaces)
    eventually(lambda: daemon.descriptors == before)
    gwi, gwo = endpoint_interfaces(endpoint)
    assert read_calls(rig) == [["DESTROY", gwi, gwo, f"{endpoint:017x}", ",UP,", ",UP,"]]
    _round_trip(rig, endpoint)
    eventually(lambda: daemon.health["endpoints_opened"] == 2)
    assert daemon.health["endpoints_closed"] == 1
    eventually(lambda: daemon.health["flows"]["count"] == 1)


def test_endpoint_when_packets_only_leave_then_it_stays(rig: Rig) -> None:
    """-t counts packets in both directions: a long download is no idle endpoint."""
    daemon = rig.start("-t", "2", "-c", recorder(rig))
    busy, idle = fresh_endpoint(), fresh_endpoint()
    for endpoint in (busy, idle):
        rig.gwlb.send(gwlb(udp(CLIENT_4), 7, endpoint))
    eventually(lambda: daemon.endpoint(busy) and daemon.endpoint(idle))
    _, gwo = endpoint_interfaces(busy)

    def is_idle_one_gone() -> bool:
        rig.stack.send(gwo, udp(CLIENT_4.reverse))
        return not rig.has_both(idle)

    eventually(is_idle_one_gone)
    assert rig.has_both(busy)
    assert daemon.endpoint(busy)["packets_in"] == 1
    assert len(read_calls(rig)) == 2  # nobody was created twice
    eventually(lambda: not rig.has_both(busy))


def test_packet_when_it_comes_while_its_endpoint_goes_then_it_is_not_lost(rig: Rig) -> None:
    """Between the DESTROY hook's start and the end of the interfaces: packets still pass, and the
    next one after that opens the endpoint anew.
    """
    started = rig.directory / "started"
    hook = rig.write_script("slow", f"touch {started}; sleep 1")
    daemon = rig.start("-t", "1", "-c", redirect(rig), "-r", hook)
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    eventually(started.exists)
    _round_trip(rig, endpoint, b"late")
    eventually(lambda: daemon.health["endpoints_closed"] == 1)
    _round_trip(rig, endpoint, b"anew")


def test_endpoints_when_more_than_the_soft_limit_of_descriptors_then_all_are_served(
    rig: Rig,
) -> None:
    """Services of systemd start with a soft limit of 1024 descriptors, and an endpoint has two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        daemon = rig.start("-c", redirect(rig))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(100):
        _round_trip(rig, fresh_endpoint())
    eventually(lambda: daemon.health["endpoints_opened"] == 100)
    assert daemon.health["endpoints_failed"] == 0


def test_descriptors_when_endpoints_come_and_go_then_their_number_stays(rig: Rig) -> None:
    """Both data paths: what an endpoint takes, programs and links included, it gives back."""
    daemon = rig.start("-t", "1", "-c", redirect(rig))
    counts = []
    for number in (1, 2, 3):
        for _ in range(5):
            _round_trip(rig, fresh_endpoint())
        eventually(lambda closed=5 * number: daemon.health["endpoints_closed"] == closed)
        eventually(lambda: not daemon.health["endpoints"])
        counts.append(daemon.descriptors)
    eventually(lambda: daemon.descriptors <= counts[0])
