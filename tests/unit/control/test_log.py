"""control.log: lines that never wait for their reader."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gwlbtun.control.log import LogState, configure, get_logger


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """The process's logging afterwards as it was."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def written(state: LogState, stream: io.StringIO) -> list[dict[str, Any]]:
    assert state.close()
    return records(stream)


def test_log_when_stdout_is_no_terminal_then_is_one_json_object_a_line() -> None:
    """Machines read it: time, level, section, event and the values."""
    state = configure({}, stream := io.StringIO())
    get_logger("udp").info("socket opened", port=6081, text="a\nb\x1b[2J")
    (record,) = written(state, stream)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "section": "udp",
        "level": "info",
        "event": "socket opened",
        "port": 6081,
        "text": "a\nb\x1b[2J",
    }


def test_log_when_stdout_is_a_terminal_then_lines_are_readable_and_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text from outside must not steer the terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    state = configure({}, stream)
    get_logger("core").warning("hook failed", output="\x1b[2Jgone")
    logging.getLogger("asyncio").error("odd \x1b[2J")
    assert state.close()
    assert "hook failed" in stream.getvalue()
    assert "section=core" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("critical", ["critical", "error"]),
        ("important", ["critical", "error", "warning"]),
        ("info", ["critical", "error", "warning", "info"]),
        ("debug", ["critical", "error", "warning", "info", "debug"]),
        ("debugdetail", ["critical", "error", "warning", "info", "debug"]),
    ],
)
def test_log_when_a_level_is_set_then_lower_ones_are_silent(
    level: str, expected: list[str]
) -> None:
    """The reference's five levels, for one section and no other."""
    state = configure({"tunnel": level, "all": "critical"}, stream := io.StringIO())
    for name in ("critical", "error", "warning", "info", "debug"):
        getattr(get_logger("tunnel"), name)("said")
        if name != "critical":
            get_logger("geneve").bind(x=1).log(logging.WARNING, "never said")
    assert [record["level"] for record in written(state, stream)] == expected


def test_log_when_text_contains_percent_signs_then_it_is_no_format() -> None:
    """Payload is never a format string; a library's bad format is reported, not raised."""
    logging.getLogger().handlers.clear()  # pytest's own would raise
    state = configure({}, stream := io.StringIO())
    get_logger("core").info("100%s done %d", value="%n%s")
    logging.getLogger("gwlbtun.core").warning("50% of %s")
    logging.getLogger("aiohttp.server").warning("%d items", "no number")
    first, second, third = written(state, stream)
    assert (first["event"], first["value"]) == ("100%s done %d", "%n%s")
    assert second["event"] == "50% of %s"
    assert third["event"].startswith("log record cannot be rendered")
    assert third["section"] == "aiohttp.server"


def test_log_when_an_exception_is_logged_then_its_traceback_is_a_value() -> None:
    """One record stays one line."""
    state = configure({}, stream := io.StringIO())
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        get_logger("core").exception("task failed")
    (record,) = written(state, stream)
    assert "ZeroDivisionError" in record["exception"]


def test_log_when_libraries_chat_then_only_warnings_are_kept() -> None:
    """aiohttp, pyroute2 and asyncio at warning, whatever our own levels are."""
    state = configure({"all": "debug"}, stream := io.StringIO())
    for name in ("aiohttp.access", "pyroute2.netlink", "asyncio"):
        logging.getLogger(name).info("chat")
        logging.getLogger(name).warning("worth it")
    assert [record["event"] for record in written(state, stream)] == ["worth it"] * 3


def test_log_when_configured_again_then_the_first_stream_is_finished() -> None:
    """No record is written twice."""
    configure({}, first := io.StringIO())
    get_logger("core").info("one")
    state = configure({}, second := io.StringIO())
    get_logger("core").info("two")
    assert [r["event"] for r in written(state, second)] == ["two"]
    assert [r["event"] for r in records(first)] == ["one"]


def test_log_when_the_reader_stops_then_nothing_waits_and_the_loss_is_reported() -> None:
    """A pipe nobody reads: records beyond the queue are counted, later told in one line."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        state = configure({}, stream, max_waiting=100)
        began = time.monotonic()
        for number in range(2000):
            get_logger("core").info("flood", number=number, padding="x" * 500)
        assert time.monotonic() - began < 5
        lost = state.lost
        assert lost > 1000
        assert state.close(timeout_s=0.2) is False
        assert time.monotonic() - began < 6
    os.set_blocking(reader, False)
    text = b""
    reported: list[int] = []
    deadline = time.monotonic() + 5
    while sum(reported) < lost and time.monotonic() < deadline:
        try:
            text += os.read(reader, 65536)
        except BlockingIOError:
            time.sleep(0.01)
        reported = [int(n) for n in re.findall(rb"log records lost: (\d+) records", text)]
    os.close(reader)
    assert sum(reported) == lost
    assert len(reported) <= 6


def test_log_when_the_reader_is_gone_then_no_error_comes_of_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """EPIPE: the records are lost, and nothing is said about it anywhere."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        state = configure({}, stream)
        for _ in range(10):
            get_logger("core").info("to nobody")
        assert state.close()
    assert state.lost == 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("is_closing", [True, False])
def test_log_when_the_process_ends_before_a_stopped_reader_then_it_ends_in_time(
    is_closing: bool,
) -> None:
    """Neither close, logging.shutdown nor the interpreter's own flush of stdout may hang."""
    code = f"""
        from gwlbtun.control.log import configure, get_logger
        state = configure({{}})
        for _ in range(20000):
            get_logger("core").info("flood", padding="x" * 100)
        if {is_closing}:
            state.close()
    """
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=writer, stderr=subprocess.PIPE
        )
        os.close(writer)
        _, errors = process.communicate(timeout=20)
    finally:
        os.close(reader)
    assert process.returncode == 0
    assert errors == b""
