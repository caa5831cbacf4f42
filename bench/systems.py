"""What is measured: plain kernel forwarding, the daemon on either path, anybody's handler."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.programs import Traffic
from bench.topology import APPLIANCE, APPLIANCE_CORE, run
from gwlbtun.lab.namespaces import enter_command, pids_in_namespace

_HOOKS: Final = Path(__file__).parent / "hooks"
_START_S: Final = 20
_STOP_S: Final = 10
_PROBE_PPS: Final = 100


@dataclass(frozen=True, slots=True)
class System:
    """A tunnel handler by its command line, to which ``-c HOOK`` is added; plain has none."""

    name: str
    command: tuple[str, ...] = ()

    @classmethod
    def external(cls, command: str) -> System:
        """A handler that somebody wants to see beside the others."""
        return cls("handler", tuple(shlex.split(command)))


PLAIN: Final = System("plain")
KERNEL_PATH: Final = System("ebpf", (sys.executable, "-m", "gwlbtun", "--datapath", "ebpf"))
USER_PATH: Final = System("user", (sys.executable, "-m", "gwlbtun", "--datapath", "user"))
OWN: Final = (KERNEL_PATH, USER_PATH)


@contextlib.contextmanager
def running(
    system: System, hook: str, options: tuple[str, ...], traffic: Traffic
) -> Iterator[list[int]]:
    """The processes of the system, on the appliance's core, ready for traffic."""
    if not system.command:
        if hook == "route":
            run(*enter_command(APPLIANCE, [str(_HOOKS / "rules.sh")]))
        yield []
        return
    arguments = [*system.command, *options, "-c", str(_HOOKS / f"{hook}.sh")]
    process = subprocess.Popen(
        ["taskset", "-c", str(APPLIANCE_CORE), *enter_command(APPLIANCE, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(traffic, process)
        yield pids_in_namespace(APPLIANCE)
    finally:
        _stop(process)


def _wait_until_it_answers(traffic: Traffic, process: subprocess.Popen[bytes]) -> None:
    """Until packets return, and long enough for all that a first packet sets going."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if traffic.run(_PROBE_PPS, 0.3).returned:
            traffic.run(_PROBE_PPS, 0.7)
            return
    message = f"the handler returned no packet within {_START_S} s"
    raise RuntimeError(message)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
