"""What outlives the daemon with --keep: restart, upgrade and crash lose nothing, and teardown
leaves nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gwlbtun.lab.namespaces import NETNS_DIR, enter_command
from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import Daemon, Rig, eventually, fresh_endpoint, marked_processes
from tests.namespace.hooks import INSPECT, read_calls, recorder, redirect
from tests.namespace.stream import Stream
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, tcp

pytestmark = pytest.mark.namespace


def _round_trip(rig: Rig, endpoint: int, data: bytes = b"ping") -> None:
    datagram = gwlb(tcp(CLIENT_4, data), 7, endpoint)
    rig.gwlb.send(datagram)
    assert rig.gwlb.returned() == NODE.return_outer + datagram


def _teardown(rig: Rig, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gwlbtun", "teardown", *options]
    return subprocess.run(
        enter_command(rig.namespaces[1], command),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def _places(rig: Rig) -> list[Path]:
    """Where a daemon of this rig keeps its pins and its files."""
    inode = str((NETNS_DIR / rig.namespaces[1]).stat().st_ino)
    return [Path("/sys/fs/bpf/gwlbtun") / inode, Path("/run/gwlbtun") / inode]


def _left(rig: Rig) -> list[object]:
    return [*[path for path in _places(rig) if path.exists()], *sorted(rig.interfaces)]


@pytest.fixture
def kept(rig: Rig) -> Iterator[Rig]:
    """A rig with a teardown at its end, so that neither keeper nor pin is left."""
    yield rig
    for daemon in rig.daemons:
        daemon.process.kill()
        daemon.process.wait()
    assert _teardown(rig).returncode == 0
    assert _left(rig) == []


def _hook(rig: Rig, way: str) -> str:
    return redirect(rig) if way == "redirect" else INSPECT


def _restart(rig: Rig, daemon: Daemon, hook: str) -> Daemon:
    assert daemon.stop() == 0
    return rig.start("--keep", "-c", hook)


def _crash(rig: Rig, daemon: Daemon, hook: str) -> Daemon:
    daemon.process.kill()
    daemon.process.wait()
    return rig.start("--keep", "-c", hook)


def _resize(rig: Rig, daemon: Daemon, hook: str) -> Daemon:
    """Other map sizes stand for another ABI version: the maps are made anew."""
    assert daemon.stop() == 0
    return rig.start("--keep", "-c", hook, "--max-flows", "5000")


@pytest.mark.parametrize("way", ["redirect", "routed"])
@pytest.mark.parametrize("end", [_restart, _crash, _resize], ids=["restart", "crash", "rebuild"])
def test_packets_when_the_daemon_ends_and_the_next_starts_then_none_is_lost(
    kept: Rig, end: Callable[[Rig, Daemon, str], Daemon], way: str
) -> None:
    """10 000 packets a second of a known endpoint, over a stop or a kill -9, the time without a
    daemon, and the take-over by the next.
    """
    hook = _hook(kept, way)
    daemon = kept.start("--keep", "-c", hook)
    endpoint = fresh_endpoint()
    kept.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    kept.gwlb.returned()  # routed or not
    with Stream(kept, endpoint) as stream:
        eventually(lambda: stream.sent > 5_000)
        daemon = end(kept, daemon, hook)
        before = stream.sent
        eventually(lambda: stream.sent > before + 5_000)
    assert stream.lost == 0
    assert daemon.has_logged("kernel path taken over")
    assert daemon.health["hooks"]["create"]["runs"] == 0
    eventually(lambda: daemon.is_healthy)


def test_endpoint_when_left_and_taken_over_then_it_is_the_same(kept: Rig) -> None:
    """Neither DESTROY nor CREATE runs; interfaces, flows and counters go on."""
    record = recorder(kept, then=f'exec {redirect(kept)} "$@"')
    daemon = kept.start("--keep", "-c", record, "-r", record)
    endpoint = fresh_endpoint()
    _round_trip(kept, endpoint)
    _round_trip(kept, endpoint)
    assert daemon.stop() == 0
    before = kept.run("ip", "-o", "link")
    _round_trip(kept, endpoint)
    daemon = kept.start("--keep", "-c", record, "-r", record)
    assert kept.run("ip", "-o", "link") == before
    assert [call[0] for call in read_calls(kept)] == ["CREATE"]
    _round_trip(kept, endpoint)
    eventually(lambda: daemon.endpoint(endpoint).get("packets_in", 0) >= 3)


def _keepers(rig: Rig) -> list[int]:
    return [
        pid
        for pid in marked_processes(rig.namespaces)
        if b"gwlbtun.host.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_devices_when_their_keeper_was_killed_then_a_new_one_holds_them(kept: Rig) -> None:
    """Else they would lose their carrier with the daemon, and mirred would drop."""
    daemon = kept.start("--keep", "-c", redirect(kept))
    endpoint = fresh_endpoint()
    for _ in range(2):
        _round_trip(kept, endpoint)
    (first,) = _keepers(kept)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: daemon.has_logged("devices are held again: the keeper had died"))
    assert _keepers(kept) not in ([], [first])
    daemon.process.kill()
    daemon.process.wait()
    _round_trip(kept, endpoint)


def test_endpoint_when_idle_with_keep_then_it_is_really_removed(kept: Rig) -> None:
    """Keeping is for the time between two daemons, not for endpoints that nobody uses."""
    daemon = kept.start("--keep", "-c", redirect(kept), "-t", "2")
    endpoint = fresh_endpoint()
    _round_trip(kept, endpoint)
    eventually(lambda: daemon.health["endpoints_closed"] == 1)
    assert kept.interfaces == set()
    _round_trip(kept, endpoint)


def test_endpoint_when_an_interface_is_deleted_with_keep_then_it_opens_anew(kept: Rig) -> None:
    """A detached descriptor can be neither persistent nor not: closing it must not fail."""
    daemon = kept.start("--keep", "-c", redirect(kept))
    endpoint = fresh_endpoint()
    _round_trip(kept, endpoint)
    kept.run("ip", "link", "del", endpoint_interfaces(endpoint)[0])
    eventually(lambda: daemon.health["endpoints_closed"] == 1)
    for _ in range(3):
        _round_trip(kept, endpoint)
    eventually(lambda: daemon.is_healthy)


def test_packets_when_the_next_daemon_allows_others_then_they_are_refused(kept: Rig) -> None:
    """What pinned maps remember of peers and flows is not above the new allow-list."""
    daemon = kept.start("--keep", "-c", redirect(kept))
    endpoint = fresh_endpoint()
    for _ in range(2):
        _round_trip(kept, endpoint)
    assert daemon.stop() == 0
    daemon = kept.start("--keep", "-c", redirect(kept), "--allow-source", "192.0.2.0/24")
    for data in (b"ping", b"other"):
        kept.gwlb.send(gwlb(tcp(CLIENT_4, data), 7, endpoint))
    eventually(lambda: daemon.drops == {"source_not_allowed": 2})


def test_endpoint_when_create_was_cut_off_then_the_next_daemon_runs_it_again(kept: Rig) -> None:
    """Half a hook is no firewall: only an endpoint whose CREATE has ended is taken over as is."""
    record = recorder(kept, then='exec sleep "$(cat "$0.sleep")"')
    sleep = kept.directory / "record.sleep"
    sleep.write_text("60")
    daemon = kept.start("--keep", "-c", record)
    endpoint = fresh_endpoint()
    kept.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: len(read_calls(kept)) == 1)
    assert daemon.stop() == 0
    sleep.write_text("0")
    kept.start("--keep", "-c", record)
    kept.gwlb.send(gwlb(tcp(CLIENT_4), 7, endpoint))
    eventually(lambda: len(read_calls(kept)) == 2)


def test_daemon_when_the_next_stays_in_user_space_then_no_program_goes_on(kept: Rig) -> None:
    """Else packets would pass by a daemon that knows nothing of them."""
    daemon = kept.start("--keep", "-c", redirect(kept))
    endpoint = fresh_endpoint()
    for _ in range(2):
        _round_trip(kept, endpoint)
    assert daemon.stop() == 0
    daemon = kept.start("--keep", "-c", redirect(kept), "--datapath", "user")
    _round_trip(kept, endpoint)
    eventually(lambda: daemon.endpoint(endpoint)["packets_in"] == 1)


def test_teardown_when_a_daemon_was_killed_then_every_trace_is_gone(rig: Rig) -> None:
    """Programs, maps, interfaces, keeper, files; the DESTROY hook runs if one is named."""
    record = recorder(rig)
    daemon = rig.start("--keep", "-c", redirect(rig))
    _round_trip(rig, fresh_endpoint())
    daemon.process.kill()
    daemon.process.wait()
    assert len(_left(rig)) == 4
    done = _teardown(rig, "-r", record)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("removed: ")
    assert _left(rig) == []
    assert [call[0] for call in read_calls(rig)] == ["DESTROY"]
    assert "nothing to remove" in _teardown(rig).stdout


def test_teardown_when_a_daemon_runs_then_it_refuses(kept: Rig) -> None:
    """One clear sentence, and nothing is touched."""
    kept.start("--keep", "-c", redirect(kept))
    endpoint = fresh_endpoint()
    _round_trip(kept, endpoint)
    done = _teardown(kept)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    _round_trip(kept, endpoint)


def test_start_without_keep_when_something_was_left_then_it_is_removed_first(rig: Rig) -> None:
    """Kill -9 followed by start always ends clean."""
    daemon = rig.start("--keep", "-c", redirect(rig))
    _round_trip(rig, fresh_endpoint())
    daemon.process.kill()
    daemon.process.wait()
    daemon = rig.start("-c", redirect(rig))
    assert daemon.has_logged("removed what an earlier daemon had left")
    assert _left(rig) == []
    _round_trip(rig, fresh_endpoint())
    assert daemon.stop(signal.SIGINT) == 0
    assert _left(rig) == []


def test_daemon_when_another_keeps_its_state_here_then_it_does_not_start(kept: Rig) -> None:
    """Two would take each other's endpoints."""
    kept.start("--keep")
    command = [sys.executable, "-m", "gwlbtun", "--keep"]
    done = subprocess.run(
        enter_command(kept.namespaces[1], command),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=dict(os.environ),
    )
    assert done.returncode == 1
    assert "belongs to another process" in done.stdout
