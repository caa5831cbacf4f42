"""What others do to an endpoint's interfaces, and what becomes of them when the daemon dies."""

from __future__ import annotations

import pytest

from gwlbtun.lab.namespaces import run_ip
from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import Rig, eventually, fresh_endpoint
from tests.namespace.hooks import read_calls, recorder, redirect
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, tcp

pytestmark = pytest.mark.namespace


def _round_trip(rig: Rig, endpoint: int, data: bytes = b"ping") -> None:
    datagram = gwlb(tcp(CLIENT_4, data), 7, endpoint)
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == NODE.return_outer + datagram


@pytest.mark.parametrize("which", [0, 1], ids=["gwi", "gwo"])
def test_endpoint_when_an_interface_is_deleted_then_it_opens_anew(rig: Rig, which: int) -> None:
    """`ip link del` by mistake: what is left is closed with its DESTROY hook, and a packet after
    that finds an endpoint with both interfaces.
    """
    record = recorder(rig)
    daemon = rig.start("-c", redirect(rig), "-r", record)
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    rig.run("ip", "link", "del", endpoint_interfaces(endpoint)[which])
    eventually(lambda: daemon.health["endpoints_closed"] == 1)
    assert [call[0] for call in read_calls(rig)] == ["DESTROY"]
    assert any(line["event"].startswith("endpoint broken") for line in daemon.log)
    assert rig.interfaces == set()
    _round_trip(rig, endpoint)
    eventually(lambda: daemon.is_healthy)


def test_packets_when_gwi_is_down_then_they_are_counted_until_it_is_up_again(
    rig: Rig,
) -> None:
    """An operator may take an interface down for a while; nothing has to be restarted."""
    daemon = rig.start("--datapath", "user", "-c", redirect(rig))
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    gwi, _ = endpoint_interfaces(endpoint)
    rig.run("ip", "link", "set", gwi, "down")
    rig.gwlb.send(gwlb(tcp(CLIENT_4, b"lost"), 7, endpoint))
    eventually(lambda: daemon.endpoint(endpoint)["drops"] == {"tun_write_failed": 1})
    rig.run("ip", "link", "set", gwi, "up")
    _round_trip(rig, endpoint)


def test_daemon_when_killed_then_no_interface_is_left_and_a_new_one_serves(rig: Rig) -> None:
    """After kill -9 the devices go with their descriptors; nothing is in a restart's way."""
    daemon = rig.start("-c", redirect(rig))
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not rig.interfaces)
    rig.start("-c", redirect(rig))
    _round_trip(rig, endpoint)


def test_endpoint_when_a_name_is_taken_then_it_fails_alone_and_leaves_nothing(rig: Rig) -> None:
    """Whatever else bears the name of gwo: the half-made endpoint is taken away whole, the log
    says why, packets are counted, and others are served.
    """
    daemon = rig.start("--datapath", "user", "-c", redirect(rig))
    before = daemon.descriptors
    endpoint = fresh_endpoint()
    _, gwo = endpoint_interfaces(endpoint)
    rig.run("ip", "link", "add", "name", gwo, "type", "veth", "peer", "name", "other")
    for _ in range(2):
        rig.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: daemon.drops == {"endpoint_failed": 2})
    assert rig.interfaces == {gwo}
    eventually(lambda: daemon.descriptors == before)
    causes = [line["cause"] for line in daemon.log if line["event"] == "endpoint failed"]
    assert len(causes) == 1
    assert gwo in causes[0]
    _round_trip(rig, fresh_endpoint())


def test_endpoint_when_its_hook_moves_gwi_to_another_namespace_then_it_stays_healthy(
    rig: Rig,
) -> None:
    """Users isolate endpoints in network namespaces of their own; packets go where gwi went."""
    hook = rig.write_script(
        "move", f'[ "$1" = DESTROY ] || ip link set "$2" netns {rig.namespaces[0]}'
    )
    daemon = rig.start("-c", hook)
    endpoint = fresh_endpoint()
    gwi, gwo = endpoint_interfaces(endpoint)
    rig.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: daemon.endpoint(endpoint))
    assert rig.interfaces == {gwo}
    run_ip(["-netns", rig.namespaces[0], "link", "set", gwi, "up"])
    rig.gwlb.send(gwlb(tcp(CLIENT_4, b"moved"), 7, endpoint))
    eventually(lambda: daemon.endpoint(endpoint)["packets_in"] == 1)
    uptime_s = daemon.health["uptime_s"]
    eventually(lambda: daemon.health["uptime_s"] > uptime_s + 2)  # it looks every second
    assert daemon.is_healthy


def test_packet_when_an_interface_is_deleted_and_destroy_is_slow_then_it_is_not_lost(
    rig: Rig,
) -> None:
    """A broken endpoint leaves the kernel path at once: its next packet waits for the new one."""
    hook = rig.write_script("slow", "exec sleep 1")
    daemon = rig.start("-c", redirect(rig), "-r", hook)
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    _round_trip(rig, endpoint)
    rig.run("ip", "link", "del", endpoint_interfaces(endpoint)[1])
    eventually(lambda: any(line["event"].startswith("endpoint broken") for line in daemon.log))
    _round_trip(rig, endpoint, b"anew")
