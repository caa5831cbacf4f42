"""Hook scripts: what the operator wants done when an endpoint comes and before it goes.

    FILE CREATE|DESTROY gwi-<X> gwo-<X> <endpoint id, 17 hexadecimal digits>

The interface of aws-gateway-load-balancer-tunnel-handler, which runs that as a shell command. Here
it is an argument list and no shell, beside the packet path, with a time limit. A file that cannot
be run, fails or hangs is logged and counted and stops nothing.

A hook gets /dev/null as its input, one pipe as its output, no other descriptor, and a session of
its own, so that everything it started is killed with it when its time is up. Its end is seen
through a pidfd: the process stays a zombie, and its number its own, until this module itself reaps
it, so a kill can never hit a stranger. What a hook leaves running in the background is left alone,
but loses its output (the pipe closes with the hook's own end): such a script redirects it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Literal, get_args

from gwlbtun.control.log import Logger
from gwlbtun.wire.gwlb import endpoint_id_to_hex

_MAX_OUTPUT_BYTES: Final = 4096
_READ_BYTES: Final = 65536
"""The capacity of a pipe: one read of this size after a hook's end gets all it still wrote."""
_MAX_PARALLEL: Final = 64
_KILL_GRACE_S: Final = 2.0
"""A killed process that sleeps in the kernel (D state) is waited for no longer than this."""


HookEvent = Literal["CREATE", "DESTROY"]
"""The first argument of a hook."""


@dataclass(frozen=True, slots=True)
class HookTarget:
    """The endpoint a hook is told about."""

    gwi: str
    gwo: str
    id: int


@dataclass(slots=True)
class HookCounts:
    """``failures`` includes ``timeouts``."""

    runs: int = 0
    failures: int = 0
    timeouts: int = 0


@dataclass(slots=True)
class _Queue:
    """The order of one endpoint's hooks; asyncio's lock is first come, first served."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Hooks:
    """Runs the two hooks: in order for one endpoint, side by side for different ones."""

    def __init__(
        self,
        create: Path | None,
        destroy: Path | None,
        timeout_s: float,
        log: Logger,
    ) -> None:
        # Absolute, because a name without a slash would be looked up in PATH.
        self._files: dict[HookEvent, Path | None] = {
            "CREATE": create and create.absolute(),
            "DESTROY": destroy and destroy.absolute(),
        }
        self._timeout_s = timeout_s
        self._log = log
        self._room = asyncio.Semaphore(_MAX_PARALLEL)
        self._queues: dict[int, _Queue] = {}
        self.counts: dict[HookEvent, HookCounts] = {
            event: HookCounts() for event in get_args(HookEvent)
        }

    def counters(self) -> dict[str, dict[str, int]]:
        """Counters by event, for the health body."""
        return {
            event.lower(): {
                "runs": counts.runs,
                "failures": counts.failures,
                "timeouts": counts.timeouts,
            }
            for event, counts in self.counts.items()
        }

    async def run(
        self, event: HookEvent, target: HookTarget, *, timeout_s: float | None = None
    ) -> bool:
        """Run a hook to its end, after all earlier ones of this endpoint; False when it failed.

        The time limit counts from the hook's own start. Cancelling kills the hook and all it
        started.
        """
        file = self._files[event]
        async with self._turn(target.id), self._room:
            if file is None:
                return True
            limit_s = self._timeout_s if timeout_s is None else timeout_s
            return await self._run_file(file, event, target, limit_s)

    @contextlib.asynccontextmanager
    async def _turn(self, endpoint_id: int) -> AsyncIterator[None]:
        queue = self._queues.setdefault(endpoint_id, _Queue())
        queue.users += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[endpoint_id]

    async def _run_file(
        self, file: Path, event: HookEvent, target: HookTarget, timeout_s: float
    ) -> bool:
        counts = self.counts[event]
        counts.runs += 1
        id_hex = endpoint_id_to_hex(target.id)
        log = self._log.bind(hook=event, file=str(file), endpoint=id_hex)
        try:
            child = _Child([str(file), event, target.gwi, target.gwo, id_hex])
        except (OSError, ValueError) as error:
            counts.failures += 1
            log.warning("hook cannot be run", reason=_why_not_run(file, error))
            return False
        with child:
            is_done = await child.wait(timeout_s)
            if not is_done:
                await child.kill()
        if not is_done:
            counts.timeouts += 1
        is_good = is_done and child.status == 0
        output = child.output.decode(errors="backslashreplace")
        if is_good:
            log.debug("hook ran", output=output)
            return True
        counts.failures += 1
        reason = _why_failed(child.status) if is_done else f"killed after {timeout_s:g} s"
        log.warning("hook failed", reason=reason)
        log.info("hook output", output=output)
        return False


class _Child:
    """One process, from its start until it is reaped; leaving the ``with`` block kills it if it
    still runs, which is how a cancelled wait ends.
    """

    def __init__(self, argv: list[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._tail = bytearray()
        self._pipe, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output, True)
        try:
            # No preexec_fn: it would forbid vfork, and copying page tables takes long.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                close_fds=True,
                start_new_session=True,
            )
            self._pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(output)
        self._loop.add_reader(self._pidfd, self._see_end)
        self._loop.add_reader(self._pipe, self._read)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            self._kill_group()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_GRACE_S)
        self._read()
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._pipe)
        os.close(self._pidfd)
        os.close(self._pipe)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def output(self) -> bytes:
        """The end of what it wrote."""
        return bytes(self._tail[-_MAX_OUTPUT_BYTES:])

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the process's own end, not for what it left in the background."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return self._ended.is_set()
        return True

    async def kill(self) -> None:
        """Kill the process and its group."""
        self._kill_group()
        await self.wait(_KILL_GRACE_S)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _see_end(self) -> None:
        if self._process.poll() is not None:
            self._loop.remove_reader(self._pidfd)
            self._ended.set()

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._pipe)
        self._tail += data
        del self._tail[:-_MAX_OUTPUT_BYTES]


def _why_not_run(file: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "it is not executable for this user; chmod +x it"
    if isinstance(error, FileNotFoundError) and file.exists():
        return "the interpreter named in its #! line does not exist"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return "it is neither a program nor has it a #! line; begin it with one such as #!/bin/sh"
    return str(error)


def _why_failed(status: int | None) -> str:
    if status is not None and status < 0:
        return f"it was ended by signal {-status}"
    return f"it ended with status {status}"


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """A handler that does what SIG_IGN does, but does not outlive exec."""


def reset_signals() -> None:
    """Make this process one whose children start with all signals at their defaults.

    Ignored signals and the mask pass through exec, so a daemon started by ``nohup`` or with ``&``
    from a script would hand on an ignored SIGHUP or SIGINT, and a hook could not be interrupted.
    Handlers do not pass through exec: an ignored signal gets one that does nothing. An ignored
    SIGCHLD would moreover make exit statuses unreadable. SIGPIPE and SIGXFSZ stay ignored, as
    Python has them: ``subprocess`` gives those back to children (``restore_signals``).

    To be called from the main thread, before any other thread starts: masks belong to threads.
    """
    restored_by_subprocess = {signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - restored_by_subprocess:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
