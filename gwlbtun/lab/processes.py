"""The lab's background processes: started in sessions of their own, found again by process id and
start time, so that a recycled id never kills a stranger.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gwlbtun.errors import KernelError

_PATIENCE_S: Final = 5
_POLL_S: Final = 0.02
_START_TIME_FIELD: Final = 19
"""Counted after the command name in /proc/PID/stat (proc(5), field 22)."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process as it was when it was started."""

    role: str
    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; one that ended at once has no start time."""
        return bool(self.started) and _start_time(self.pid) == self.started


def start(role: str, command: Sequence[str], log: Path) -> Recorded:
    """Start a process that outlives its starter and holds none of its descriptors."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise KernelError(f"cannot start {command[0]}: {error.strerror}") from error
    return Recorded(role, pid, _start_time(pid))


def stop(processes: Sequence[Recorded], patience_s: float = _PATIENCE_S) -> None:
    """End processes: politely first, so that they clean up, then their whole sessions."""
    _signal(processes, signal.SIGTERM)
    wait_until(lambda: not any(process.is_alive for process in processes), patience_s)
    for process in processes:
        if process.is_alive:
            for kill in (os.killpg, os.kill):  # one that was found may lead no group
                with contextlib.suppress(ProcessLookupError):
                    kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(process.is_alive for process in processes), _PATIENCE_S)


def stop_pids(pids: Sequence[int]) -> None:
    """End processes that were found, not recorded; never this one."""
    stop([Recorded("", pid, _start_time(pid)) for pid in pids if pid != os.getpid()])


def save(processes: Sequence[Recorded], path: Path) -> None:
    """Write down what runs."""
    path.write_text(json.dumps([asdict(process) for process in processes]))


def load(path: Path) -> list[Recorded]:
    """What was written down; nothing when nothing was."""
    return [Recorded(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Ask again and again; False when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def _signal(processes: Sequence[Recorded], number: signal.Signals) -> None:
    for process in processes:
        if process.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _start_time(pid: int) -> str:
    """The kernel's start time of a process; empty when it is gone or a zombie."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)  # our own children would stay zombies
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[_START_TIME_FIELD - 1]
