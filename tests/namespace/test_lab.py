"""The lab: real traffic of ordinary tools through a simulated GWLB and the real appliance, and the
GWLB's verdict on it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gwlbtun.lab.instance import Lab, default_appliance
from gwlbtun.lab.namespaces import NETNS_DIR, call_in_namespace
from gwlbtun.lab.plan import SERVER_ADDRESSES, STATE_ROOT, LabPlan
from gwlbtun.lab.traffic import Check, block_port, check_blocking, check_endpoint, start_servers
from tests.namespace.harness import MARK, PREFIX, eventually, marked_processes

pytestmark = pytest.mark.namespace

_ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two endpoints with the same inner addresses, servers behind each."""
    with Lab(LabPlan(f"{PREFIX}lab"), default_appliance()) as lab:
        for endpoint in lab.plan.endpoint_numbers:
            start_servers(lab, endpoint)
        yield lab


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """One endpoint, two appliances, a TCP echo server."""
    plan = LabPlan(f"{PREFIX}pair", endpoints=1, appliances=2)
    with Lab(plan, default_appliance()) as lab:
        lab.start("server-1", [sys.executable, "-c", _ECHO])
        eventually(lambda: ":7000" in lab.run("server-1", ["ss", "-Hltn"]).stdout)
        yield lab


def _is_mere_loss(check: Check) -> bool:
    """UDP that arrived with some loss: a matter of how busy the machine is, not of rules."""
    match = re.fullmatch(r"(\d+) packets, (\d+) lost", check.result)
    return match is not None and int(match[2]) < int(match[1]) / 2


def _connect(lab: Lab) -> socket.socket:
    address = (SERVER_ADDRESSES[0], 7000)
    client = lab.plan.namespace("client-1")
    return call_in_namespace(client, lambda: socket.create_connection(address, 10))


def _echoes(connection: socket.socket, data: bytes) -> bool:
    connection.sendall(data)
    return connection.recv(4096) == data


@pytest.mark.parametrize("endpoint", [1, 2])
def test_traffic_when_of_every_kind_then_it_passes_and_no_rule_is_broken(
    lab: Lab, endpoint: int
) -> None:
    """HTTP, bulk TCP both ways, UDP, ping, 20000-byte pings in fragments, traceroute that shows
    the appliance; IPv4 and IPv6; the answers come from this endpoint's server.
    """
    checks = list(check_endpoint(lab, endpoint))
    failed = [check for check in checks if not check.is_ok and not _is_mere_loss(check)]
    assert failed == []
    assert lab.status()["recent_violations"] == []


def test_rule_when_a_port_is_rejected_then_clients_are_refused_at_once(lab: Lab) -> None:
    """An iptables REJECT on one endpoint's gwi: its answer reaches the client; other ports and the
    other endpoint are unharmed.
    """
    block_port(lab, 1)
    checks = [
        *check_blocking(lab, 1, is_blocked=True),
        *check_blocking(lab, 2, is_blocked=False),
    ]
    assert [check for check in checks if not check.is_ok] == []
    assert lab.status()["violations"] == 0


def test_target_when_deregistered_then_new_flows_avoid_it_and_old_ones_live(pair: Lab) -> None:
    """AWS: a deregistered target gets no new flows at once, and keeps its existing ones for the
    deregistration delay.
    """

    def flows(target: str) -> int:
        return int(pair.status()["flows_by_target"][target])

    with contextlib.ExitStack() as stack:
        old = [stack.enter_context(_connect(pair)) for _ in range(16)]
        assert all(_echoes(connection, b"before") for connection in old)
        assert flows("1") > 0
        assert flows("2") > 0
        pair.deregister(1)
        on_first = flows("1")
        new = [stack.enter_context(_connect(pair)) for _ in range(16)]
        assert all(_echoes(connection, b"after") for connection in (*old, *new))
        assert flows("1") == on_first
        assert flows("2") >= len(new)
        assert pair.status()["targets"][0]["state"] == "draining"
    assert pair.status()["recent_violations"] == []


def test_flows_when_an_appliance_dies_then_rebalancing_moves_them_to_the_other(pair: Lab) -> None:
    """AWS, rebalance: flows leave an unhealthy target; the other appliance never saw them begin
    and has to take them all the same.
    """
    pair.register(1)
    pair.change_settings(rebalance=True, health_interval_s=0.2, health_timeout_s=1)
    pair.wait_healthy()
    with contextlib.ExitStack() as stack:
        old = [stack.enter_context(_connect(pair)) for _ in range(16)]
        assert all(_echoes(connection, b"before") for connection in old)
        assert int(pair.status()["flows_by_target"]["2"]) > 0
        victim = pair.plan.namespace("appliance-2")
        pids = subprocess.run(
            ["ip", "netns", "pids", victim], capture_output=True, text=True, check=True
        )
        subprocess.run(["kill", "-9", *pids.stdout.split()], check=True)
        eventually(lambda: pair.status()["targets"][1]["state"] == "unhealthy")
        eventually(lambda: pair.status()["flows_by_target"]["2"] == 0)
        assert all(_echoes(connection, b"after") for connection in old)
    assert pair.status()["recent_violations"] == []


def _gwlbtun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gwlbtun", "lab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def test_command_line_when_a_lab_goes_up_and_down_then_nothing_is_left() -> None:
    """Exit status 0 of up, status, shell and down; a second up is a caller's mistake, status 2."""
    name = f"{PREFIX}cli"
    before = {*marked_processes()}
    try:
        up = _gwlbtun("up", "--name", name, "--endpoints", "1")
        assert (up.returncode, up.stderr) == (0, "")
        again = _gwlbtun("up", "--name", name)
        assert again.returncode == 2
        assert len(again.stderr.splitlines()) == 1
        ping = ["ping", "-c", "1", SERVER_ADDRESSES[0]]
        assert _gwlbtun("shell", "--name", name, "client", "--", *ping).returncode == 0
        status = _gwlbtun("status", "--name", name)
        assert status.returncode == 0
        assert "PacketsDroppedCount_InvalidGwlbFlowCookie" in status.stdout
        assert MARK not in status.stdout
    finally:
        down = _gwlbtun("down", "--name", name)
    assert (down.returncode, down.stderr) == (0, "")
    assert [*NETNS_DIR.glob(f"{name}*")] == []
    assert not (STATE_ROOT / name).exists()
    assert {*marked_processes()} == before
