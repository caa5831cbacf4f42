"""The kernel path in a real daemon: what it needs, what it survives, what it carries alone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from gwlbtun.host.attach import XdpLink
from gwlbtun.host.libbpf import BpfObject
from gwlbtun.host.offload import FLOW_MAPS, OBJECT_FILE
from gwlbtun.lab.instance import Lab, default_appliance
from gwlbtun.lab.namespaces import call_in_namespace, enter_command
from gwlbtun.lab.plan import CLIENT_ADDRESSES, SERVER_ADDRESSES, LabPlan
from gwlbtun.wire.gwlb import endpoint_id_to_hex, endpoint_interfaces
from tests.namespace.harness import PREFIX, Rig, eventually, fresh_endpoint
from tests.namespace.hooks import redirect
from tests.namespace.stream import Stream
from tests.vectors.geneve import COOKIE, NODE, gwlb, gwlb_header
from tests.vectors.inet import CLIENT_4, fragments, tcp, udp_of_size

pytestmark = pytest.mark.namespace

_GIGABYTE: Final = 1_000_000_000


def _round_trip(rig: Rig, endpoint: int, data: bytes = b"ping") -> None:
    datagram = gwlb(tcp(CLIENT_4, data), 7, endpoint)
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == NODE.return_outer + datagram


def _with_only(*capabilities: str) -> list[str]:
    """A command prefix that takes away all other capabilities for good."""
    listed = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ["setpriv", f"--bounding-set={listed}", f"--inh-caps={listed}", "--"]


def test_daemon_when_it_has_only_four_capabilities_then_it_serves_in_the_kernel(
    rig: Rig,
) -> None:
    """CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON are all that it needs."""
    rig.prefix = _with_only("net_admin", "net_raw", "bpf", "perfmon")
    hook = rig.write_script("none", "exit 0")
    daemon = rig.start("--datapath", "ebpf", "-c", hook)
    endpoint = fresh_endpoint()
    rig.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: rig.has_both(endpoint))
    eventually(lambda: daemon.is_healthy)
    assert daemon.has_logged("kernel path attached")


def test_daemon_when_the_kernel_path_is_not_permitted_then_auto_says_so_and_serves(
    rig: Rig,
) -> None:
    """One log line with the reason; the user-space path is complete."""
    rig.prefix = _with_only("net_admin", "net_raw")
    daemon = rig.start("-c", rig.write_script("none", "exit 0"))
    assert daemon.has_logged("all packets take the user-space path")
    eventually(lambda: daemon.is_healthy)
    endpoint = fresh_endpoint()
    rig.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: rig.has_both(endpoint))


def test_daemon_when_the_kernel_path_is_demanded_in_vain_then_it_ends_with_the_reason(
    rig: Rig,
) -> None:
    """--datapath ebpf does not fall back in silence."""
    command = [
        *_with_only("net_admin", "net_raw"),
        *(sys.executable, "-m", "gwlbtun", "--datapath", "ebpf"),
    ]
    done = subprocess.run(
        enter_command(rig.namespaces[1], command), capture_output=True, check=False, timeout=20
    )
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["level"] == "critical"


def test_daemon_when_told_to_stay_in_user_space_then_it_is_healthy_and_stays_so(
    rig: Rig,
) -> None:
    """Without a kernel path no task of it may end and spoil the health."""
    daemon = rig.start("--datapath", "user", "-c", redirect(rig))
    _round_trip(rig, fresh_endpoint())
    eventually(lambda: daemon.health["uptime_s"] >= 2)
    assert daemon.get_health()[1]["reasons"] == []
    assert not daemon.has_logged("kernel path loaded")


def test_packets_when_an_uplink_is_named_then_only_its_packets_stay_in_the_kernel(
    rig: Rig,
) -> None:
    """-I: what comes in elsewhere is carried by user space."""
    daemon = rig.start("--datapath", "ebpf", "-I", "other0", "-c", redirect(rig))
    _round_trip(rig, fresh_endpoint())
    assert not daemon.has_logged("kernel path attached")


def test_flows_when_there_are_ten_times_more_than_entries_then_no_packet_is_lost(
    rig: Rig,
) -> None:
    """LRU maps forget the oldest, and ingress learns each flow just before its packet returns."""
    rig.start("--datapath", "ebpf", "--max-flows", "1000", "-c", redirect(rig))
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    with Stream(rig, endpoint, flows=10_000) as stream:
        eventually(lambda: stream.sent > 30_000)
    assert stream.lost == 0


def test_packets_when_the_uplink_was_down_then_they_flow_again(rig: Rig) -> None:
    """Links survive a flap of their interface; nothing has to be restarted."""
    daemon = rig.start("--datapath", "ebpf", "-c", redirect(rig))
    endpoint = fresh_endpoint()
    _round_trip(rig, endpoint)
    rig.run("ip", "link", "set", "uplink", "down")
    rig.run("ip", "link", "set", "uplink", "up")
    for neighbour in ("10.0.9.4", "10.0.9.5"):
        rig.run(
            *("ip", "neighbour", "replace", neighbour, "dev", "uplink"),
            *("lladdr", "02:00:00:00:00:01", "nud", "permanent"),
        )
    before = daemon.endpoint(endpoint)["packets_in"]
    for _ in range(3):
        _round_trip(rig, endpoint)
    eventually(lambda: daemon.endpoint(endpoint)["packets_in"] == before + 3)


def test_endpoints_when_they_come_and_go_then_each_is_served_and_nothing_is_left(
    rig: Rig,
) -> None:
    """Churn: more endpoints than there is room for at once, one after the other."""
    daemon = rig.start(
        *("--datapath", "ebpf", "--max-endpoints", "8", "-t", "1", "-c", redirect(rig))
    )
    for _ in range(24):
        endpoint = fresh_endpoint()
        eventually(lambda: len(daemon.health["endpoints"]) < 8)
        for _ in range(3):
            _round_trip(rig, endpoint)
    eventually(lambda: daemon.health["endpoints_closed"] == 24)
    assert rig.interfaces == set()


@pytest.fixture
def far_end_that_polls(rig: Rig) -> Iterator[None]:
    """XDP_TX on a veth needs an XDP program at its other end: ours, which knows no endpoint."""
    programs = BpfObject(OBJECT_FILE)
    for name in FLOW_MAPS:
        programs.set_max_entries(name, 1)
    programs.load()
    attach = partial(XdpLink, programs.program("hairpin"))
    link = call_in_namespace(rig.namespaces[0], lambda: attach(socket.if_nametoindex("uplink")))
    yield
    link.close()
    programs.close()


@pytest.mark.parametrize("kind", ["tc", "xdp"])
def test_endpoint_when_it_is_a_hairpin_then_its_packets_return_uninspected(
    rig: Rig, kind: str, request: pytest.FixtureRequest
) -> None:
    """Whole, with our TTL, past the IP stack; the first one through user space."""
    if kind == "xdp":
        request.getfixturevalue("far_end_that_polls")
    endpoint = fresh_endpoint()
    options = ["--hairpin", f"vpce-{endpoint_id_to_hex(endpoint)}", *["--xdp"] * (kind == "xdp")]
    daemon = rig.start("--datapath", "ebpf", *options)
    for number in range(20):
        _round_trip(rig, endpoint, b"%d" % number)
    assert not daemon.has_logged("hairpin stays with tc")
    eventually(lambda: daemon.endpoint(endpoint)["packets_out"] == 20)
    assert daemon.drops == {}


@pytest.mark.parametrize("direction", ["to the appliance", "from the appliance"])
def test_tcp_when_a_gigabyte_ends_on_the_appliance_then_hardly_anything_is_sent_again(
    direction: str,
) -> None:
    """A proxy or a DNAT target: GSO and unfinished checksums leave correctly segmented and
    checksummed, in the kernel.
    """
    plan = LabPlan(f"{PREFIX}gigabyte", endpoints=1)
    with Lab(plan, [*default_appliance(), "--datapath", "ebpf", "-j"]) as lab:
        gwi, gwo = lab.interfaces(1)
        lab.run("client-1", ["ping", "-c", "1", SERVER_ADDRESSES[0]])
        own = plan.appliance_address(1)
        lab.run("appliance-1", ["ip", "route", "add", CLIENT_ADDRESSES[0], "dev", gwo])
        lab.run("appliance-1", ["iptables", "-w", "-t", "mangle", "-F", f"GWLBTUN-{gwi}"])
        lab.run(
            "appliance-1",
            [
                *("iptables", "-w", "-t", "nat", "-A", "PREROUTING", "-i", gwi, "-p", "tcp"),
                *("--dport", "5201", "-j", "DNAT", "--to-destination", own),
            ],
        )
        lab.start("appliance-1", ["iperf3", "-s"])
        eventually(lambda: ":5201" in lab.run("appliance-1", ["ss", "-Hltn"]).stdout)
        reverse = ["-R"] * (direction == "from the appliance")
        command = ["iperf3", "-c", SERVER_ADDRESSES[0], "-n", str(_GIGABYTE), "-J", *reverse]
        report = json.loads(lab.run("client-1", command, timeout_s=90).stdout)["end"]
        assert report["sum_received"]["bytes"] >= 0.99 * _GIGABYTE
        segments = _GIGABYTE / 8448
        assert report["sum_sent"].get("retransmits", 0) < segments / 100
        assert lab.status()["violations"] == 0


def test_fragments_when_their_first_leaves_by_the_kernel_path_then_they_follow(rig: Rig) -> None:
    """Later fragments that came first wait in user space, which does not see the first one."""
    rig.start("--datapath", "ebpf")
    endpoint = fresh_endpoint()
    whole = udp_of_size(CLIENT_4, 1500)
    gwi, gwo = endpoint_interfaces(endpoint)
    for _ in range(2):  # by user space, then by the kernel path
        rig.gwlb.send(gwlb(whole, COOKIE, endpoint))
        assert rig.stack.arrived(gwi) == whole
    first, *later = fragments(udp_of_size(CLIENT_4, 4000), 1000)
    for packet in later:
        rig.stack.send(gwo, packet)
    rig.stack.send(gwo, first)
    outside = NODE.return_outer + gwlb_header(whole, COOKIE, endpoint)
    returned = {rig.gwlb.returned() for _ in (first, *later)}
    assert returned == {outside + packet for packet in (first, *later)}
