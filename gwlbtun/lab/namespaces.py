"""Network namespaces: commands and calls inside them, and the processes found there."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from gwlbtun.errors import KernelError

NETNS_DIR: Final = Path("/run/netns")
_CLONE_NEWNET: Final = 0x40000000
_TIMEOUT_S: Final = 30

_Result = TypeVar("_Result")


def enter_command(namespace: str, command: Sequence[str]) -> list[str]:
    """The command that runs a command in a namespace, keeping its process id.

    nsenter and not ``ip netns exec``, which puts a new /sys over the BPF file system.
    """
    return ["nsenter", f"--net={NETNS_DIR / namespace}", "--", *command]


def call_in_namespace(namespace: str, function: Callable[[], _Result]) -> _Result:
    """Call a function in a thread of its own that has entered the namespace: what it opens stays
    there, and no other thread ever leaves its own.
    """
    results: list[_Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=f"in {namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(NETNS_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise KernelError(f"cannot enter the network namespace {namespace}: {reason}")
    finally:
        os.close(fd)


def run_ip(arguments: Sequence[str], commands: Sequence[str] = ()) -> str:
    """Run ip(8), with a batch of commands on its standard input if there are any."""
    try:
        done = subprocess.run(
            ["ip", *arguments],
            input="\n".join(commands),
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"cannot run ip (package iproute2): {error}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise KernelError(f"ip {' '.join(arguments)}: {reason}")
    return done.stdout


def namespace_exists(namespace: str) -> bool:
    """Whether a namespace of this name is there."""
    return (NETNS_DIR / namespace).exists()


def pids_in_namespace(namespace: str) -> list[int]:
    """All processes that run in a namespace."""
    return [int(pid) for pid in run_ip(["netns", "pids", namespace]).split()]
