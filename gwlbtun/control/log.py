"""The log: one JSON object a line, or readable lines on a terminal, and never in the way.

    section logger ─→ stdlib logging ─→ LineQueue (bounded) ─→ one daemon thread ─→ stdout

Whoever reads stdout may stop reading: a pipe to a stopped process, a terminal held with Ctrl-S. A
write would then block, so one thread does all writing and nothing ever waits for it. What does
not fit into its queue is counted, and the count is reported in one line once there is room. That
thread writes to a descriptor of its own and never to ``sys.stdout``: at exit the interpreter
flushes that object, and a thread that died holding its lock would abort the process.

Records are key-value pairs. Text from outside is a value, never a format string.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gwlbtun.config import SECTIONS, complete_levels

Logger: TypeAlias = structlog.stdlib.BoundLogger

_ROOT: Final = "gwlbtun"
_LEVELS: Final = {
    "critical": logging.ERROR,  # the reference knows no level between critical and important
    "important": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "debugdetail": logging.DEBUG // 2,
}
_THIRD_PARTY: Final = ("aiohttp", "asyncio", "pyroute2")
_MAX_WAITING: Final = 10_000
_CLOSE_TIMEOUT_S: Final = 1.0
_REPORT_EVERY_S: Final = 1.0


def get_logger(section: str) -> Logger:
    """The logger of one section: ``get_logger("udp").info("socket opened", port=6081)``."""
    logger = structlog.wrap_logger(
        logging.getLogger(f"{_ROOT}.{section}"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("Logger", logger.bind())


class LogState:
    """The running log; whoever configured it closes it."""

    def __init__(self, lines: LineQueue) -> None:
        self._lines = lines

    @property
    def lost(self) -> int:
        """How many records did not fit into the queue or could not be written."""
        return self._lines.lost

    def set_levels(self, levels: Mapping[str, str]) -> None:
        """Give every section its level; ``all`` speaks for those not named."""
        complete = complete_levels(levels)
        for section in SECTIONS:
            logging.getLogger(f"{_ROOT}.{section}").setLevel(_LEVELS[complete[section]])
        logging.getLogger(_ROOT).setLevel(_LEVELS[complete["core"]])

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Write what waits, for no longer than the limit; True when all of it was written."""
        atexit.unregister(self._lines.finish)
        return self._lines.finish(timeout_s)


def configure(
    levels: Mapping[str, str], stream: TextIO | None = None, *, max_waiting: int = _MAX_WAITING
) -> LogState:
    """Send all logging to a stream (stdout); a log configured before is closed first."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LineQueue)]:
        handler.finish(_CLOSE_TIMEOUT_S)
        root.removeHandler(handler)
    stream = sys.stdout if stream is None else stream
    lines = LineQueue(stream, max_waiting)
    lines.setFormatter(_formatter(is_console=stream.isatty()))
    root.addHandler(lines)
    root.setLevel(logging.WARNING)
    for name in _THIRD_PARTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    state = LogState(lines)
    state.set_levels(levels)
    atexit.register(lines.finish, _CLOSE_TIMEOUT_S)
    return state


class LineQueue(logging.Handler):
    """A handler that never waits: lines go into a bounded queue, one thread writes them."""

    def __init__(self, stream: TextIO, max_waiting: int) -> None:
        super().__init__()
        self._write = _writer(stream)
        self._waiting: queue.Queue[str | None] = queue.Queue(max_waiting)
        self._overflowed = self._unwritten = self._reported = 0
        self._report_due_s = time.monotonic() + _REPORT_EVERY_S
        # Two counters, each with one writer, so that nobody needs a lock that a stopped reader
        # could hold: emit() runs under the handler's lock, the thread is alone.
        self._thread = threading.Thread(target=self._pump, name="gwlbtun-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that never reached the stream."""
        return self._overflowed + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        """Render here, where the values are still what they were, and hand the line over."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - no log call may fail, whatever it is given
            line = self._render("log record cannot be rendered", record.name, repr(error))
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._overflowed += 1

    def finish(self, timeout_s: float) -> bool:
        """End the thread once it has written what waits; False when time ran out before."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _pump(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._put(line)
            self._report_lost(is_due=self._waiting.empty())
        self._report_lost(is_due=True)

    def _report_lost(self, *, is_due: bool) -> None:
        """One line once the queue is empty; every second at most while it never is."""
        lost = self.lost - self._reported
        now_s = time.monotonic()
        if lost and (is_due or now_s >= self._report_due_s):
            self._reported += lost
            self._report_due_s = now_s + _REPORT_EVERY_S
            self._put(self._render("log records lost", "core", f"{lost} records"))

    def _put(self, line: str) -> None:
        """A line that cannot be written (EPIPE: the reader is gone) is lost, and that is all."""
        try:
            self._write(f"{line}\n".encode(errors="backslashreplace"))
        except (OSError, ValueError):
            self._unwritten += 1
            self._reported += 1

    def _render(self, event: str, name: str, detail: str) -> str:
        record = logging.LogRecord(
            name, logging.WARNING, __file__, 0, f"{event}: {detail}", None, None
        )
        return self.format(record)


def _writer(stream: TextIO) -> Callable[[bytes], None]:
    """How bytes get to the stream: by its descriptor, duplicated, if it has one."""
    try:
        fd = os.dup(stream.fileno())
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return lambda data: _write_text(stream, data)
    return lambda data: _write_all(fd, data)


def _write_text(stream: TextIO, data: bytes) -> None:
    stream.write(data.decode())
    stream.flush()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # someone made the shared file description non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _formatter(*, is_console: bool) -> logging.Formatter:
    shared: list[Processor] = [
        _add_section,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not is_console),
    ]
    last: list[Processor]
    if is_console:
        last = [_make_printable, structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *last,
        ]
    )


def _add_section(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """``section``: core, udp … for ours, the logger's whole name for a library's."""
    name: str = event["_record"].name
    event["section"] = name.removeprefix(f"{_ROOT}.")
    return event


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters: text from outside must not steer the terminal."""
    return {key: _printable(value) for key, value in event.items()}


def _printable(value: Any) -> Any:  # noqa: ANN401 - any value of a record
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
