"""control.hooks: operators' scripts, whatever they do. Every hook here is a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from gwlbtun.control.hooks import HookEvent, Hooks, HookTarget

TARGET = HookTarget("gwi-uur953OEv0f", "gwo-uur953OEv0f", (1 << 64) - 1)
OTHER = HookTarget("gwi-1", "gwo-1", 1)


class Log(CapturingLogger):
    """Collects what is logged as (level, event, values)."""

    def bind(self, **_: Any) -> Log:
        """The same log: what hooks bind is not looked at."""
        return self

    @property
    def said(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Level, event and values of each record."""
        return [(call.method_name, call.args[0], call.kwargs) for call in self.calls]

    def reason(self) -> str:
        """Why the hook failed."""
        return next(str(values["reason"]) for _, _, values in self.said if "reason" in values)

    def output(self) -> str:
        """What the hook wrote."""
        return next(str(values["output"]) for _, _, values in self.said if "output" in values)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def write_hook(tmp_path: Path) -> Callable[..., Path]:
    """Write a shell script; ``$DIR`` in its body is the test's directory."""

    def write(body: str, *, first: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
        file = tmp_path / "hook; touch injected"  # a name that a shell would fall for
        file.write_text(first + textwrap.dedent(body).replace("$DIR", str(tmp_path)))
        file.chmod(mode)
        return file

    return write


def hooks(log: Any, file: Path | None, timeout_s: float = 20) -> Hooks:
    return Hooks(file, file, timeout_s, log)


def counts(subject: Hooks, event: HookEvent = "CREATE") -> tuple[int, int, int]:
    found = subject.counts[event]
    return found.runs, found.failures, found.timeouts


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_hook_when_run_then_gets_the_references_arguments(
    log: Log, write_hook: Callable[..., Path], tmp_path: Path
) -> None:
    """FILE CREATE|DESTROY gwi gwo id17, as an argument list."""
    subject = hooks(log, write_hook('printf "%s\\n" "$@" >> "$DIR/arguments"'))
    assert await subject.run("CREATE", TARGET)
    assert await subject.run("DESTROY", OTHER)
    assert (tmp_path / "arguments").read_text().split() == [
        *("CREATE", "gwi-uur953OEv0f", "gwo-uur953OEv0f", "0ffffffffffffffff"),
        *("DESTROY", "gwi-1", "gwo-1", "00000000000000001"),
    ]
    assert not (tmp_path / "injected").exists()
    assert counts(subject) == counts(subject, "DESTROY") == (1, 0, 0)
    assert subject.counters()["create"] == {"runs": 1, "failures": 0, "timeouts": 0}


async def test_hook_when_none_is_configured_then_that_is_success(log: Log) -> None:
    """Nothing runs, nothing is counted."""
    subject = hooks(log, None)
    assert await subject.run("CREATE", TARGET)
    assert counts(subject) == (0, 0, 0)


async def test_hook_when_it_starts_then_inherits_no_descriptors(
    log: Log, write_hook: Callable[..., Path]
) -> None:
    """Only 0, 1 and 2; input is /dev/null; a session of its own."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        body = """
            import os
            print(sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1])
            print(os.readlink("/proc/self/fd/0"), os.getsid(0) == os.getpid())
        """
        file = write_hook(body, first=f"#!{sys.executable}\n")
        subject = Hooks(file, None, 20, log)  # type: ignore[arg-type]
        assert await subject.run("CREATE", TARGET)
    finally:
        os.close(reader)
        os.close(writer)
    assert log.output() == "[0, 1, 2]\n/dev/null True\n"


def test_hook_when_the_daemon_was_started_with_ignored_signals_then_hooks_have_defaults(
    tmp_path: Path,
) -> None:
    """Ignored signals and the mask pass through exec: after reset_signals none are left. The
    daemon here is started like by nohup and a script's ``&``, with SIGTERM blocked, too.
    """
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ngrep -E 'Sig(Ign|Blk)' /proc/self/status > {tmp_path}/out\n")
    hook.chmod(0o755)
    code = f"""
        import asyncio, pathlib, signal
        from gwlbtun.control.hooks import Hooks, HookTarget, reset_signals
        from gwlbtun.control.log import get_logger
        reset_signals()
        assert signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL)
        async def main():
            hooks = Hooks(pathlib.Path({str(hook)!r}), None, 10, get_logger("core"))
            assert await hooks.run("CREATE", HookTarget("a", "b", 1))
        asyncio.run(main())
        signal.raise_signal(signal.SIGINT)  # still ignored here
    """
    starter = f"""
        import os, signal, sys
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
        os.execv(sys.executable, [sys.executable, "-c", {textwrap.dedent(code)!r}])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(starter)], check=True, timeout=30)
    _, blocked, _, ignored = (tmp_path / "out").read_text().split()
    # Signals 32 and 33 belong to the C library: it lets nobody change what becomes of them.
    others = ~(1 << 31 | 1 << 32)
    assert int(blocked, 16) & others == 0
    assert int(ignored, 16) & others == 0


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ("exit 3", {}, "it ended with status 3"),
        ("kill -9 $$", {}, "it was ended by signal 9"),
        ("true", {"mode": 0o644}, "not executable"),
        ("echo hello", {"first": ""}, "#! line; begin it with one such as #!/bin/sh"),
        ("true", {"first": "#!/nonexistent/sh\n"}, "the interpreter named in its #! line"),
    ],
)
async def test_hook_when_it_fails_then_is_logged_and_counted(
    log: Log, write_hook: Callable[..., Path], body: str, options: Any, reason: str
) -> None:
    """No hook's failure stops anything; the log says what to do."""
    subject = hooks(log, write_hook(body, **options))
    assert not await subject.run("CREATE", TARGET)
    assert log.said[0][0] == "warning"
    assert reason in log.reason()
    assert counts(subject) == (1, 1, 0)


async def test_hook_when_the_file_is_missing_then_is_logged_and_counted(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is a file here, not a command of PATH."""
    monkeypatch.chdir(tmp_path)
    subject = hooks(log, Path("true"))
    assert not await subject.run("CREATE", TARGET)
    assert "No such file" in log.reason()
    assert counts(subject) == (1, 1, 0)


async def test_hook_when_it_writes_then_output_is_a_value_of_the_log(
    log: Log, write_hook: Callable[..., Path]
) -> None:
    """At info on failure, at debug on success; any bytes; never a format."""
    subject = hooks(log, write_hook("printf '%%s\\377'; echo error >&2; exit ${1#CREATE}0"))
    assert await subject.run("CREATE", TARGET)
    assert log.said == [("debug", "hook ran", {"output": "%s\\xfferror\n"})]
    log.calls.clear()
    subject = hooks(log, write_hook("echo tail; exit 1"))
    assert not await subject.run("CREATE", TARGET)
    assert log.said[1] == ("info", "hook output", {"output": "tail\n"})


async def test_hook_when_it_floods_then_the_end_of_its_output_is_kept(
    log: Log, write_hook: Callable[..., Path]
) -> None:
    """10 MB are drained, 4 KiB kept."""
    subject = hooks(log, write_hook("head -c 10000000 /dev/zero | tr '\\0' x; echo end"))
    assert await subject.run("CREATE", TARGET)
    assert len(log.output()) == 4096
    assert log.output().endswith("xend\n")


async def test_hook_when_it_leaves_a_child_with_the_pipe_then_only_the_hook_is_waited_for(
    log: Log, write_hook: Callable[..., Path], tmp_path: Path
) -> None:
    """A background child holds the pipe open: the hook's own end counts."""
    subject = hooks(log, write_hook('sleep 300 & echo $! > "$DIR/pid"; echo started'))
    async with asyncio.timeout(10):
        assert await subject.run("CREATE", TARGET)
    assert log.output() == "started\n"
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


async def test_hook_when_time_is_up_then_its_whole_group_is_killed(
    log: Log, write_hook: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGKILL to the process group: the hook may ignore everything else."""
    body = 'trap "" TERM INT HUP; sleep 300 & echo $! > "$DIR/pid"; echo waiting; wait'
    subject = hooks(log, write_hook(body), timeout_s=300)
    assert not await subject.run("CREATE", TARGET, timeout_s=1)
    assert counts(subject) == (1, 1, 1)
    assert log.reason() == "killed after 1 s"
    assert log.output() == "waiting\n"
    pid = int((tmp_path / "pid").read_text())
    await wait_until(lambda: not is_alive(pid))


async def test_hook_when_cancelled_then_its_group_is_killed_and_reaped(
    log: Log, write_hook: Callable[..., Path], tmp_path: Path
) -> None:
    """Whoever stops waiting leaves nothing behind, no descriptor either."""
    open_before = open_descriptors()
    subject = hooks(log, write_hook('sleep 300 & echo $$ $! > "$DIR/pid"; wait'))
    task = asyncio.create_task(subject.run("CREATE", TARGET))
    await wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hook, child = map(int, (tmp_path / "pid").read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(hook, 0)
    await wait_until(lambda: not is_alive(child))
    assert open_descriptors() == open_before
    assert not subject._queues


async def test_hook_when_create_still_runs_then_destroy_of_that_endpoint_waits(
    log: Log, write_hook: Callable[..., Path], tmp_path: Path
) -> None:
    """In order for one endpoint, side by side for different ones."""
    body = """
        echo "$1 $2" >> "$DIR/order"
        if [ $1$2 = CREATEgwi-1 ]; then
            while ! [ -e "$DIR/go" ]; do sleep 0.01; done
        fi
        echo "end $1 $2" >> "$DIR/order"
    """
    subject = hooks(log, write_hook(body))
    order = tmp_path / "order"
    create = asyncio.create_task(subject.run("CREATE", OTHER))
    await wait_until(order.exists)
    destroy = asyncio.create_task(subject.run("DESTROY", OTHER))
    assert await subject.run("CREATE", TARGET)
    assert "DESTROY" not in order.read_text()
    (tmp_path / "go").touch()
    assert all(await asyncio.gather(create, destroy))
    mine = [line for line in order.read_text().splitlines() if line.endswith("gwi-1")]
    assert mine == ["CREATE gwi-1", "end CREATE gwi-1", "DESTROY gwi-1", "end DESTROY gwi-1"]


async def test_hook_when_many_endpoints_come_at_once_then_all_run_and_the_loop_stays_free(
    log: Log, write_hook: Callable[..., Path]
) -> None:
    """100 slow hooks take about as long as two."""
    subject = hooks(log, write_hook("sleep 0.3"))
    began = time.monotonic()
    runs: list[Awaitable[bool]] = [
        subject.run("CREATE", HookTarget("a", "b", number)) for number in range(100)
    ]
    assert all(await asyncio.gather(*runs))
    assert time.monotonic() - began < 15
    assert counts(subject) == (100, 0, 0)
