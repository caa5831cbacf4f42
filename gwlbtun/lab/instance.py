"""A running lab, as an object: for the command line and for tests.

with Lab(LabPlan("mine", appliances=2), default_appliance()) as lab:
    lab.run("client-1", ["ping", "-c", "1", "10.2.0.10"])
    lab.status()["violations"]
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from gwlbtun.errors import ConfigError, GwlbtunError, KernelError
from gwlbtun.lab import processes
from gwlbtun.lab.namespaces import enter_command, namespace_exists, pids_in_namespace
from gwlbtun.lab.plan import LabPlan
from gwlbtun.lab.topology import build_topology, destroy_topology, refuse_existing
from gwlbtun.wire.gwlb import endpoint_interfaces

INSPECT_HOOK: Final = Path(__file__).parent / "hooks" / "inspect.sh"
_PROCESS_FILE: Final = "processes.json"
_START_TIMEOUT_S: Final = 20
_CONTROL_TIMEOUT_S: Final = 5
_RUN_TIMEOUT_S: Final = 30


def default_appliance() -> list[str]:
    """This package's own daemon with the one-arm inspection hook."""
    hook = str(INSPECT_HOOK)
    return [sys.executable, "-m", "gwlbtun", "-c", hook, "-r", hook, "-p", "80"]


class Lab:
    """One lab, running or not. ``appliance_command`` is started in every appliance; without one,
    the appliances stay empty for the caller's own processes.
    """

    def __init__(self, plan: LabPlan, appliance_command: Sequence[str] = ()) -> None:
        self.plan = plan
        self.appliance_command = list(appliance_command)

    @classmethod
    def find(cls, name: str) -> Lab:
        """The lab that ``up`` has built under this name."""
        plan_file = LabPlan(name).file
        if not plan_file.exists():
            raise ConfigError(f"there is no lab {name!r}: gwlbtun lab up --name {name} builds it")
        return cls(LabPlan.from_json(plan_file.read_text()))

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def up(self) -> None:
        """Build and start everything, wait for health; on any failure, leave nothing behind."""
        name = self.plan.name
        try:
            self.plan.state_dir.mkdir(parents=True, mode=0o700)
        except FileExistsError as error:
            hint = f"gwlbtun lab down --name {name} removes it"
            raise ConfigError(f"lab {name!r} is there already; {hint}") from error
        try:
            refuse_existing(self.plan)
        except ConfigError:
            self.plan.state_dir.rmdir()
            raise
        try:
            self._up()
        except BaseException:
            self.down()
            raise

    def _up(self) -> None:
        self.plan.file.write_text(self.plan.to_json())
        build_topology(self.plan)
        simulator = [sys.executable, "-m", "gwlbtun.lab.simulator", str(self.plan.file)]
        self.start("gwlb", simulator)
        if not processes.wait_until(self._answers, _START_TIMEOUT_S):
            raise KernelError(f"the GWLB simulator does not answer: {self._last_words('gwlb')}")
        if self.appliance_command:
            for number in self.plan.appliance_numbers:
                self.start(f"appliance-{number}", self.appliance_command)
            self.wait_healthy()

    def down(self) -> None:
        """Stop and remove everything; whatever is gone already is fine."""
        recorded = processes.load(self._process_file)
        processes.stop([process for process in recorded if process.role != "gwlb"])
        processes.stop(recorded)
        for role in self.plan.roles:
            namespace = self.plan.namespace(role)
            if namespace_exists(namespace):
                processes.stop_pids(pids_in_namespace(namespace))
        destroy_topology(self.plan)
        shutil.rmtree(self.plan.state_dir, ignore_errors=True)

    def start(self, role: str, command: Sequence[str]) -> processes.Recorded:
        """Start a process in a namespace; it ends with the lab, its output is in ``log_file``."""
        namespace = self.plan.namespace(role)
        started = processes.start(role, enter_command(namespace, command), self.log_file(role))
        processes.save([*processes.load(self._process_file), started], self._process_file)
        return started

    def log_file(self, role: str) -> Path:
        """Where the background processes of a role write."""
        return self.plan.state_dir / f"{role}.log"

    def command(self, role: str, command: Sequence[str]) -> list[str]:
        """The command that runs a command in a namespace."""
        return enter_command(self.plan.namespace(role), command)

    def run(
        self,
        role: str,
        command: Sequence[str],
        *,
        timeout_s: float = _RUN_TIMEOUT_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a namespace to its end and return what it printed."""
        done = subprocess.run(
            self.command(role, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode:
            words = (done.stderr.strip() or done.stdout.strip())[-500:]
            raise GwlbtunError(
                f"{' '.join(command)} on {role} ended with status {done.returncode}: {words}"
            )
        return done

    def interfaces(self, endpoint: int) -> tuple[str, str]:
        """An endpoint's ``gwi`` and ``gwo`` on every appliance."""
        return endpoint_interfaces(self.plan.endpoint_id(endpoint))

    def status(self) -> dict[str, Any]:
        """What the simulator counted; see control.describe."""
        return self._request("GET", "/status")

    def deregister(self, target: int) -> dict[str, Any]:
        """Send a target no new flows from now on."""
        return self._request("POST", f"/targets/{target}/deregister")

    def register(self, target: int) -> dict[str, Any]:
        """Take a target back."""
        return self._request("POST", f"/targets/{target}/register")

    def change_settings(self, **changes: object) -> dict[str, Any]:
        """Change fields of GwlbSettings while the lab runs."""
        return self._request("PATCH", "/settings", json.dumps(changes))

    def wait_healthy(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when all registered targets are healthy."""

        def is_healthy() -> bool:
            self._expect_alive("appliance")
            states = [target["state"] for target in self.status()["targets"]]
            return all(state in ("healthy", "draining", "unused") for state in states)

        if not processes.wait_until(is_healthy, timeout_s, 0.1):
            roles = [f"appliance-{number}" for number in self.plan.appliance_numbers]
            words = "; ".join(self._last_words(role) for role in roles)
            raise GwlbtunError(f"not every appliance became healthy in {timeout_s} s: {words}")

    @property
    def _process_file(self) -> Path:
        return self.plan.state_dir / _PROCESS_FILE

    def _expect_alive(self, kind: str) -> None:
        for process in processes.load(self._process_file):
            if process.role.startswith(kind) and not process.is_alive:
                raise KernelError(f"a process ended at once: {self._last_words(process.role)}")

    def _answers(self) -> bool:
        self._expect_alive("gwlb")
        try:
            self.status()
        except KernelError:
            return False
        return True

    def _last_words(self, role: str) -> str:
        log = self.log_file(role)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{role} says {lines[-1] if lines else 'nothing'!r}"

    def _request(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = _UnixConnection(self.plan.control_socket)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            name = self.plan.name
            raise KernelError(f"the simulator of lab {name!r} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ConfigError(f"the simulator refuses: {text}")
        described: dict[str, Any] = json.loads(text)
        return described


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CONTROL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket instead of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
