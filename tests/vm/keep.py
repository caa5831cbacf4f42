"""A daemon with --keep is killed, followed by another one, and torn down: on kernels without tcx
what stays is clsact filters. ``scripts/vm-test.sh`` runs this in front of other kernels; the name
keeps it out of a plain pytest run.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwlbtun.lab.namespaces import NETNS_DIR, call_in_namespace
from tests.namespace.harness import Daemon, Rig, eventually, fresh_endpoint
from tests.namespace.hooks import redirect
from tests.namespace.topology import UPLINK
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, tcp

pytestmark = pytest.mark.namespace
PINS = Path("/sys/fs/bpf/gwlbtun")
STATE = Path("/run/gwlbtun")


class Stage:
    """A daemon that keeps its state, and one endpoint behind it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.endpoint = fresh_endpoint()
        self.hook = redirect(rig)

    def start(self, *options: str) -> Daemon:
        """A daemon; whatever an earlier one left is its own now."""
        return self.rig.start("--datapath", "ebpf", "--keep", "-c", self.hook, *options)

    def open_endpoint(self) -> None:
        """Make the endpoint known; while a slow machine runs the hook, packets may be lost."""
        opening = gwlb(tcp(CLIENT_4.with_ports(1, 443)), 1, self.endpoint)

        def is_returned(timeout_s: float) -> bool:
            try:
                self.rig.gwlb.receive(timeout_s)
            except TimeoutError:
                return False
            return True

        def is_open() -> bool:
            self.rig.gwlb.send(opening)
            return is_returned(10)

        eventually(is_open)
        while is_returned(1):
            pass

    def round_trip(self, port: int, ends: Ends = CLIENT_4) -> None:
        """One packet of a flow in, and out again as it was."""
        datagram = gwlb(tcp(ends.with_ports(port, 443), b"x"), port, self.endpoint)
        self.rig.gwlb.send(datagram)
        assert self.rig.gwlb.returned() == NODE.return_outer + datagram

    def round_trips(self, first_port: int) -> None:
        """Flows of both IP versions, each of them new and then known."""
        for port in range(first_port, first_port + 5):
            for ends in (CLIENT_4, CLIENT_6) * 2:
                self.round_trip(port, ends)

    def tear_down(self) -> str:
        """``gwlbtun teardown``; what it says."""
        return self.rig.run(sys.executable, "-m", "gwlbtun", "teardown")

    def filters(self) -> str:
        """The programs at the uplink, as tc shows them."""
        return self.rig.run("tc", "filter", "show", "dev", UPLINK, "ingress")

    @property
    def own_name(self) -> str:
        """What pins and state are called: the number of the network namespace."""
        return str((NETNS_DIR / self.rig.namespaces[1]).stat().st_ino)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with contextlib.closing(Rig(tmp_path)) as rig:
        yield Stage(rig)


def _kill(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()


def test_daemon_when_killed_then_packets_pass_and_the_next_one_takes_over(stage: Stage) -> None:
    """New flows, too, while nobody is there; nothing is created twice; teardown leaves nothing."""
    first = stage.start()
    stage.open_endpoint()
    stage.round_trips(1000)
    eventually(lambda: first.has_logged("kernel path attached"))
    _kill(first)
    stage.round_trips(2000)
    second = stage.start()
    stage.round_trips(1000)
    stage.round_trips(3000)
    assert second.has_logged("kernel path taken over")
    eventually(lambda: second.endpoint(stage.endpoint)["packets_in"] >= 60)
    assert second.stop() == 0
    stage.round_trips(4000)
    names = {name for _, name in call_in_namespace(stage.rig.namespaces[1], socket.if_nameindex)}
    assert stage.rig.has_both(stage.endpoint)
    stage.tear_down()
    assert stage.filters() == ""
    assert not (PINS / stage.own_name).exists()
    assert not (STATE / stage.own_name).exists()
    assert stage.rig.interfaces == set()
    after = {name for _, name in call_in_namespace(stage.rig.namespaces[1], socket.if_nameindex)}
    assert names - after == {n for n in names if n.startswith(("gwi-", "gwo-"))}


def test_daemon_when_its_maps_are_made_anew_then_flows_are_learned_again(stage: Stage) -> None:
    """The program at the uplink must be the new one: the old one would go on filling old maps."""
    first = stage.start()
    stage.open_endpoint()
    stage.round_trips(1000)
    _kill(first)
    second = stage.start("--max-flows", "5000")
    assert second.has_logged("kernel path taken over")
    stage.round_trips(1000)
    stage.round_trips(2000)
    assert second.drops == {}
    second.stop()
    stage.tear_down()
    assert stage.filters() == ""


def test_daemon_when_killed_without_keep_then_the_next_one_serves_its_endpoint(
    stage: Stage,
) -> None:
    """A filter outlives its daemon, the devices do not: nobody may vanish in them."""
    options = ("--datapath", "ebpf", "-c", stage.hook)
    first = stage.rig.start(*options)
    stage.open_endpoint()
    stage.round_trips(1000)
    _kill(first)
    eventually(lambda: not stage.rig.interfaces)
    second = stage.rig.start(*options)
    stage.open_endpoint()
    stage.round_trips(1000)
    assert second.stop() == 0
    assert stage.filters() == ""
