"""The real daemon in an ``appliance`` namespace, a fake GWLB in another one, a veth pair between.

    gwlb: 10.0.9.4, 10.0.9.5 ── uplink ──veth, MTU 9001── uplink ── 10.0.9.100: appliance, gwlbtun

All names carry this process's id, all processes the environment variable ``MARK``, so that what is
left behind can be found and told from anybody else's.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from gwlbtun.lab.namespaces import (
    NETNS_DIR,
    call_in_namespace,
    enter_command,
    namespace_exists,
    run_ip,
)
from gwlbtun.wire.gwlb import endpoint_id_to_hex, endpoint_interfaces
from tests.namespace.sockets import PATIENCE_S, Gwlb, Stack, read_net
from tests.namespace.topology import UPLINK, build

PREFIX: Final = f"gwlbtun-test-{os.getpid()}-"
MARK: Final = "GWLBTUN_TEST"
HEALTH_PORT: Final = 8080
DATA_PATHS: Final = ("user", "ebpf")
_numbers = itertools.count(1)
_endpoint_ids = itertools.count(0x0A7E_57ED_0000_0001)


def fresh_endpoint() -> int:
    """An endpoint id that no daemon has seen."""
    return next(_endpoint_ids)


def eventually(condition: Callable[[], object], timeout_s: float = 2 * PATIENCE_S) -> None:
    """Ask again and again until it holds. Health counters in particular may be a little old."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s} s"
        time.sleep(0.02)


class Daemon:
    """One running ``gwlbtun``; its log goes to a file unless the caller wants it elsewhere."""

    def __init__(
        self,
        namespace: str,
        log_file: Path,
        arguments: Sequence[str],
        prefix: Sequence[str] = (),
    ) -> None:
        self._namespace = namespace
        self._log_file = log_file
        with log_file.open("wb") as out:
            self.process = start_daemon(namespace, arguments, out.fileno(), prefix)

    def wait_until_it_serves(self) -> None:
        """Return when it answers health checks; whatever it said is the failure's reason."""
        file = self._log_file
        eventually(lambda: self.process.poll() is not None or "port open" in file.read_text())
        assert self.process.poll() is None, file.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line logged so far."""
        text = self._log_file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def has_logged(self, event: str) -> bool:
        """Whether a line of this event is there."""
        return any(line.get("event") == event for line in self.log)

    def get_health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of a health check."""
        address = ("127.0.0.1", HEALTH_PORT)
        connection = http.client.HTTPConnection(*address)
        connection.sock = call_in_namespace(
            self._namespace, lambda: socket.create_connection(address, PATIENCE_S)
        )
        with closing(connection):
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    @property
    def health(self) -> dict[str, Any]:
        """The body of a health check."""
        return self.get_health()[1]

    @property
    def is_healthy(self) -> bool:
        """Whether the load balancer would send new flows here."""
        return self.get_health()[0] == http.client.OK

    @property
    def drops(self) -> dict[str, int]:
        """Drops so far, by reason, without zeros."""
        return {reason: count for reason, count in self.health["drops"].items() if count}

    def endpoint(self, endpoint_id: int) -> dict[str, Any]:
        """The health body's entry of one endpoint; empty when it is not open."""
        wanted = endpoint_id_to_hex(endpoint_id)
        found = [entry for entry in self.health["endpoints"] if entry["id"] == wanted]
        return found[0] if found else {}

    @property
    def descriptors(self) -> int:
        """How many descriptors the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit status, within the five seconds that it promises."""
        self.process.send_signal(number)
        try:
            return self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()


def start_daemon(
    namespace: str, arguments: Sequence[str], stdout: int, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start ``gwlbtun`` in a namespace; stderr goes where stdout goes."""
    own = [*prefix, sys.executable, "-m", "gwlbtun", *arguments]
    command = enter_command(namespace, own)
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT)


class Rig:
    """The two namespaces and everything in them."""

    def __init__(self, directory: Path, mtu_bytes: int = 9001) -> None:
        number = next(_numbers)
        self.directory = directory
        self.namespaces = f"{PREFIX}{number}-gwlb", f"{PREFIX}{number}-appliance"
        self.daemons: list[Daemon] = []
        self.prefix: list[str] = []
        """A command before the daemon's own, such as setpriv."""
        self._resources = contextlib.ExitStack()
        self._resources.callback(self._remove)
        try:
            build(*self.namespaces, mtu_bytes)
            self.gwlb = self._resources.enter_context(closing(Gwlb(self.namespaces[0], UPLINK)))
            self.stack = self._resources.enter_context(closing(Stack(self.namespaces[1])))
        except BaseException:
            self.close()
            raise

    def start(self, *options: str) -> Daemon:
        """Start a daemon with JSON health answers and wait until it serves."""
        log_file = self.directory / f"log-{len(self.daemons)}"
        arguments = ["-p", str(HEALTH_PORT), "-j", *options]
        daemon = Daemon(self.namespaces[1], log_file, arguments, self.prefix)
        self.daemons.append(daemon)
        daemon.wait_until_it_serves()
        return daemon

    def run(self, *command: str) -> str:
        """Run a command in the appliance; it has to succeed."""
        done = subprocess.run(
            enter_command(self.namespaces[1], command),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    @property
    def interfaces(self) -> set[str]:
        """Every interface of the appliance that is an endpoint's."""
        names = call_in_namespace(self.namespaces[1], socket.if_nameindex)
        return {name for _, name in names if name.startswith(("gwi-", "gwo-"))}

    def has_both(self, endpoint_id: int) -> bool:
        """Whether both interfaces of an endpoint exist."""
        return {*endpoint_interfaces(endpoint_id)} <= self.interfaces

    def read_net(self, *path: str) -> str:
        """net.<path> in the appliance."""
        return read_net(self.namespaces[1], *path)

    def set_net(self, key: str, value: int) -> None:
        """Set a key below net in the appliance, written with slashes."""
        self.run("sh", "-c", 'echo "$2" >"/proc/sys/net/$1"', "sh", key, str(value))

    def write_script(self, name: str, text: str) -> str:
        """An executable shell script; its path."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\nset -eu\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def close(self) -> None:
        """Remove all of it, whatever state it is in."""
        self._resources.close()

    def _remove(self) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait()
        for pid in marked_processes(self.namespaces):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not [*marked_processes(self.namespaces)])
        for namespace in self.namespaces:
            if namespace_exists(namespace):
                run_ip(["netns", "delete", namespace])


def marked_processes(namespaces: Sequence[str] = ()) -> Iterator[int]:
    """Our background processes, all of them or those in some namespaces."""
    paths = [NETNS_DIR / name for name in namespaces]
    inodes = [path.stat().st_ino for path in paths if path.exists()]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = f"{MARK}={PREFIX}".encode() in (process / "environ").read_bytes().split(b"\0")
            if is_ours and (not namespaces or (process / "ns/net").stat().st_ino in inodes):
                yield int(process.name)
