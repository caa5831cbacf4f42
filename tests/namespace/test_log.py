"""The log, and how the process starts and refuses to: what an operator sees first."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess

import pytest

from tests.namespace.harness import HEALTH_PORT, Rig, eventually, fresh_endpoint, start_daemon
from tests.namespace.hooks import redirect
from tests.vectors.geneve import ENDPOINT, NODE, gwlb
from tests.vectors.inet import CLIENT_4, tcp

pytestmark = pytest.mark.namespace

_F_SETPIPE_SZ = 1031


def _refusal(rig: Rig, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a daemon that has to refuse to start."""
    output = rig.directory / "refusal"
    with output.open("wb") as file:
        process = start_daemon(rig.namespaces[1], arguments, file.fileno())
        try:
            status = process.wait(20)
        finally:
            process.kill()
            process.wait()
    return status, output.read_text()


def test_log_when_stdout_is_no_terminal_then_each_line_is_json_and_tells_what_happened(
    rig: Rig,
) -> None:
    """One JSON object a line: time, level, section, event, values."""
    daemon = rig.start("-c", redirect(rig))
    rig.gwlb.send(gwlb(tcp(CLIENT_4)))
    rig.gwlb.returned()
    assert daemon.stop() == 0
    assert all({"event", "level", "section", "timestamp"} <= line.keys() for line in daemon.log)
    events = [line["event"] for line in daemon.log]
    wanted = ["started", "health port open", "endpoint open", "stopping"]
    assert [event for event in events if event in wanted] == wanted
    assert events[-2:] == ["endpoint closed", "stopped"]
    opened = next(line for line in daemon.log if line["event"] == "endpoint open")
    assert opened["endpoint"] == f"{ENDPOINT:017x}"


def test_log_when_packets_flow_then_nothing_is_said_about_each(rig: Rig) -> None:
    """Nothing is logged per packet: not for good ones, not for bad ones."""
    daemon = rig.start("-c", redirect(rig))
    good = gwlb(tcp(CLIENT_4))
    rig.gwlb.send(good)
    rig.gwlb.returned()
    eventually(lambda: daemon.has_logged("endpoint open"))
    before = daemon.log
    for _ in range(200):
        rig.gwlb.send(good)
        rig.gwlb.send(good[:50])
        rig.gwlb.returned()
    eventually(lambda: daemon.drops == {"inner_truncated": 200})
    assert daemon.log == before


def test_log_when_packets_are_asked_for_then_they_are_in_the_debug_log(rig: Rig) -> None:
    """-x with --logging tunnel=debug: one line per packet and direction, in hexadecimal."""
    daemon = rig.start("-x", "--logging", "tunnel=debug", "-c", redirect(rig))
    rig.gwlb.send(gwlb(tcp(CLIENT_4, b"%s{}%n")))
    rig.gwlb.returned()
    hexes = {"in": tcp(CLIENT_4, b"%s{}%n").hex(), "out": tcp(CLIENT_4, b"%s{}%n").hex()}

    def logged() -> dict[str, str]:
        return {line["direction"]: line["hex"] for line in daemon.log if line["event"] == "packet"}

    eventually(lambda: logged() == hexes)


def test_packets_when_nobody_reads_the_log_then_they_still_flow(rig: Rig) -> None:
    """A stopped reader of stdout: the pipe fills, log lines are lost and counted, packets not;
    SIGTERM still ends the process within five seconds.
    """
    reader, writer = os.pipe()
    fcntl.fcntl(writer, _F_SETPIPE_SZ, 4096)
    arguments = ["-p", str(HEALTH_PORT), "-x", "-d", "-c", redirect(rig)]
    process = start_daemon(rig.namespaces[1], arguments, writer)
    os.close(writer)
    try:
        eventually(lambda: rig.run("ss", "-Hlun", "sport = :6081"))
        datagram = gwlb(tcp(CLIENT_4, bytes(100)), 7, fresh_endpoint())
        for _ in range(120):  # two lines a packet: more than the log's queue of 10000 holds
            for _ in range(50):
                rig.gwlb.send(datagram)
            for _ in range(50):
                assert rig.gwlb.returned() == NODE.return_outer + datagram
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        written = os.read(reader, 65536)
        assert json.loads(written.splitlines()[0])["event"]
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def test_daemon_when_the_port_is_taken_then_one_sentence_says_so(rig: Rig) -> None:
    """A second daemon, or the reference still running: exit status 1 and what to do."""
    rig.start()
    status, output = _refusal(rig, "-p", "8081")
    assert status == 1
    critical = [
        line for line in map(json.loads, output.splitlines()) if line["level"] == "critical"
    ]
    assert len(critical) == 1
    assert critical[0]["event"] == (
        "UDP port 6081 belongs to another process: stop it first"
        " (ss -ulpn 'sport = :6081' names it)"
    )


def test_daemon_when_the_health_port_is_taken_then_one_sentence_says_so(rig: Rig) -> None:
    """A web server on the appliance: exit status 1, no traceback."""
    command = ["nsenter", f"--net=/run/netns/{rig.namespaces[1]}", "python3", "-m", "http.server"]
    with subprocess.Popen([*command, "8082"], stdout=-3, stderr=-3) as other:
        try:
            eventually(lambda: rig.run("ss", "-Hltn", "sport = :8082"))
            status, output = _refusal(rig, "-p", "8082")
        finally:
            other.kill()
    assert status == 1
    assert "health port 8082" in output
    assert "Traceback" not in output


def test_daemon_when_an_option_is_wrong_then_status_2_and_one_line(rig: Rig) -> None:
    """A mistake of the caller is exit status 2, one sentence, nothing opened."""
    status, output = _refusal(rig, "--max-endpoints", "many")
    assert status == 2
    assert len(output.splitlines()) == 1
    assert "many" in output
