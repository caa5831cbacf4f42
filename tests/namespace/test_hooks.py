"""Hooks as users' scripts see them: what they are told, when they run, and that whatever they do
stops no packet.
"""

from __future__ import annotations

import signal

import pytest

from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import Rig, eventually, fresh_endpoint
from tests.namespace.hooks import read_calls, recorder, redirect
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, tcp, udp

pytestmark = pytest.mark.namespace


def test_hook_when_an_endpoint_comes_and_goes_then_it_gets_the_references_arguments(
    rig: Rig,
) -> None:
    """Reference: FILE CREATE|DESTROY gwi gwo id, 17 hexadecimal digits, so that vpce-$4 is the
    endpoint's name. At CREATE the interfaces are up, at DESTROY they still are.
    """
    record = recorder(rig)
    daemon = rig.start("-c", record, "-r", record)
    rig.gwlb.send(gwlb(tcp(CLIENT_4), 7, 0x0123456789ABCDEF))
    eventually(lambda: daemon.health["endpoints_opened"] == 1)
    assert daemon.stop() == 0
    gwi, gwo = endpoint_interfaces(0x0123456789ABCDEF)
    both = [gwi, gwo, "00123456789abcdef", ",UP,", ",UP,"]
    assert read_calls(rig) == [["CREATE", *both], ["DESTROY", *both]]
    assert rig.interfaces == set()


def test_first_packet_when_create_takes_a_while_then_it_meets_the_hooks_rules(rig: Rig) -> None:
    """The packet that opens an endpoint waits for CREATE: a firewall is there before traffic."""
    slow = rig.write_script("slow", f'sleep 0.4; exec {redirect(rig)} "$@"')
    daemon = rig.start("-c", slow)
    datagram = gwlb(tcp(CLIENT_4, b"first"), 7, fresh_endpoint())
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == NODE.return_outer + datagram
    counts = {"runs": 1, "failures": 0, "timeouts": 0}
    eventually(lambda: daemon.health["hooks"]["create"] == counts)


@pytest.mark.parametrize(
    ("text", "failures"),
    [("exec sleep 60", 0), ("exit 3", 1), (None, 1)],
    ids=["hanging", "failing", "missing"],
)
def test_packets_when_create_does_not_do_its_work_then_they_flow(
    rig: Rig, text: str | None, failures: int
) -> None:
    """A hook that hangs, fails or is not there stops nothing: packets wait 3 s at most."""
    hook = rig.write_script("bad", text) if text else str(rig.directory / "absent")
    daemon = rig.start("-c", hook)
    endpoint = fresh_endpoint()
    gwi, gwo = endpoint_interfaces(endpoint)
    rig.gwlb.send(gwlb(tcp(CLIENT_4, b"first"), 7, endpoint))
    assert rig.stack.arrived(gwi) == tcp(CLIENT_4, b"first")
    rig.stack.send(gwo, tcp(CLIENT_4, b"back"))
    assert rig.gwlb.returned() == NODE.return_outer + gwlb(tcp(CLIENT_4, b"back"), 7, endpoint)
    eventually(lambda: daemon.health["hooks"]["create"]["failures"] == failures)
    eventually(lambda: daemon.is_healthy)


def test_other_endpoints_when_one_hook_hangs_then_they_are_created(rig: Rig) -> None:
    """Hooks run beside the packet path and beside each other."""
    record = recorder(rig, then='[ -e "$0.$2" ] || exit 0; exec sleep 60')
    daemon = rig.start("-c", record)
    stuck, *others = (fresh_endpoint() for _ in range(4))
    (rig.directory / f"record.{endpoint_interfaces(stuck)[0]}").touch()
    for endpoint in (stuck, *others):
        rig.gwlb.send(gwlb(udp(CLIENT_4), 7, endpoint))
    eventually(lambda: daemon.health["endpoints_opened"] == 4)
    assert len(read_calls(rig)) == 4


def test_hook_when_it_hangs_then_it_is_killed_with_what_it_started(rig: Rig) -> None:
    """--hook-timeout: the whole process group goes, and the log says so."""
    hook = rig.write_script("hang", 'sleep 61 & echo "waiting for nothing"; wait')
    daemon = rig.start("-c", hook, "--hook-timeout", "1")
    rig.gwlb.send(gwlb(udp(CLIENT_4), 7, fresh_endpoint()))
    eventually(lambda: daemon.health["hooks"]["create"]["timeouts"] == 1)
    eventually(lambda: daemon.has_logged("hook output"))
    output = [line["output"] for line in daemon.log if line["event"] == "hook output"]
    assert output == ["waiting for nothing\n"]
    assert "sleep 61" not in rig.run("ps", "-eo", "args")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_when_it_is_stopped_then_destroy_runs_for_every_endpoint(
    rig: Rig, number: signal.Signals
) -> None:
    """SIGTERM and SIGINT: DESTROY while the interfaces exist, then exit status 0."""
    daemon = rig.start("-r", recorder(rig))
    endpoints = {f"{fresh_endpoint():017x}" for _ in range(8)}
    for endpoint in endpoints:
        rig.gwlb.send(gwlb(udp(CLIENT_4), 7, int(endpoint, 16)))
    eventually(lambda: daemon.health["endpoints_opened"] == 8)
    assert daemon.stop(number) == 0
    calls = read_calls(rig)
    assert {call[3] for call in calls} == endpoints
    assert all(call[0] == "DESTROY" and call[4:] == [",UP,", ",UP,"] for call in calls)
    assert len(calls) == 8
    assert [line["event"] for line in daemon.log][-1] == "stopped"


@pytest.mark.parametrize("event", ["CREATE", "DESTROY"])
def test_daemon_when_a_hook_hangs_at_exit_then_it_is_gone_within_five_seconds(
    rig: Rig, event: str
) -> None:
    """What takes longer is killed by systemd, hooks unfinished and all."""
    hook = rig.write_script("hang", f'[ "$1" != {event} ] || exec sleep 62')
    daemon = rig.start("-c", hook, "-r", hook)
    for _ in range(3):
        rig.gwlb.send(gwlb(udp(CLIENT_4), 7, fresh_endpoint()))
    eventually(lambda: daemon.health["endpoints_opened"] == 3)
    assert daemon.stop() == 0
    assert "sleep 62" not in rig.run("ps", "-eo", "args")
    assert rig.interfaces == set()


def test_daemon_when_stopped_while_all_hooks_hang_then_it_is_gone_within_five_seconds(
    rig: Rig,
) -> None:
    """The worst moment: an endpoint that is just opening, and a DESTROY that hangs as well."""
    record = recorder(rig, then="exec sleep 63")
    daemon = rig.start("-c", record, "-r", record)
    rig.gwlb.send(gwlb(udp(CLIENT_4), 7, fresh_endpoint()))
    eventually(lambda: read_calls(rig))
    assert daemon.stop() == 0
    assert "sleep 63" not in rig.run("ps", "-eo", "args")
    assert rig.interfaces == set()


def test_hook_when_it_runs_then_it_inherits_no_descriptor_of_the_daemon(rig: Rig) -> None:
    """A TUN descriptor in a background job would keep a dead daemon's interfaces alive."""
    listing = rig.directory / "descriptors"
    hook = rig.write_script("list", f"readlink /proc/$$/fd/* >{listing} || :")
    daemon = rig.start("-c", hook)
    rig.gwlb.send(gwlb(udp(CLIENT_4), 7, fresh_endpoint()))
    eventually(lambda: daemon.health["endpoints_opened"] == 1)
    text = listing.read_text()
    assert "tun" not in text
    assert "socket:" not in text
    assert "epoll" not in text
