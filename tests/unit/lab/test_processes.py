"""Background processes: found again by process id and start time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from gwlbtun.lab import processes


def test_process_when_started_is_in_its_own_session_and_ends_when_stopped(tmp_path: Path) -> None:
    """It outlives its starter and is recognised by a file."""
    started = processes.start("role", ["sleep", "60"], tmp_path / "log")
    processes.save([started], tmp_path / "processes.json")
    (found,) = processes.load(tmp_path / "processes.json")
    assert found == started
    assert found.is_alive
    assert os.getsid(found.pid) == found.pid
    processes.stop([found])
    assert not found.is_alive


def test_process_when_its_id_was_given_to_another_is_left_alone(tmp_path: Path) -> None:
    """A recycled process id never kills a stranger."""
    stranger = processes.start("role", ["sleep", "60"], tmp_path / "log")
    recorded = replace(stranger, started="1")
    assert not recorded.is_alive
    processes.stop([recorded])
    assert stranger.is_alive
    processes.stop([stranger])


def test_process_when_it_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """Nothing is left behind."""
    script = "trap '' TERM; echo ready; while :; do sleep 60; done"
    started = processes.start("role", ["sh", "-c", script], tmp_path / "log")
    assert processes.wait_until(lambda: "ready" in (tmp_path / "log").read_text(), 10)
    processes.stop([started], patience_s=0.1)
    assert not started.is_alive


def test_output_when_written_goes_to_the_log(tmp_path: Path) -> None:
    """Both streams, and none of the caller's."""
    started = processes.start("role", ["sh", "-c", "echo out; echo err >&2"], tmp_path / "log")
    assert processes.wait_until(lambda: not started.is_alive, 10)
    assert (tmp_path / "log").read_text().split() == ["out", "err"]


def test_processes_when_none_were_recorded_are_none(tmp_path: Path) -> None:
    """Down works from whatever up left."""
    assert processes.load(tmp_path / "processes.json") == []
