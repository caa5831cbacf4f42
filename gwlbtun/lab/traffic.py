"""Real traffic through a lab, made by ordinary tools, and what it proves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gwlbtun.errors import KernelError
from gwlbtun.lab.instance import Lab
from gwlbtun.lab.plan import SERVER_ADDRESSES
from gwlbtun.lab.processes import wait_until

TOOLS: Final = ("curl", "ip6tables", "iperf3", "iptables", "ping", "ss", "traceroute")
HTTP_PORT: Final = 8080
BLOCKED_PORT: Final = 8081
_IPERF_PORT: Final = 5201
_IPERF_TRIES: Final = 3
_SERVER_START_S: Final = 10
_TOOL_TIMEOUT_S: Final = 30
_CURL_REFUSED: Final = 7
"""curl(1): failed to connect to host."""


_Traffic = Callable[[Lab, int, str], tuple[bool, str]]
"""Traffic through an endpoint to an address: whether it went as it should, and a result to show."""


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of traffic through one endpoint. ``family`` is "4" or "6"."""

    endpoint: int
    what: str
    family: str
    is_ok: bool
    result: str


def start_servers(lab: Lab, endpoint: int) -> None:
    """HTTP on two ports, each answering with its server's name, and iperf3; IPv4 and IPv6."""
    role = f"server-{endpoint}"
    pages = lab.plan.state_dir / role
    pages.mkdir()
    (pages / "name").write_text(role)
    http = [sys.executable, "-m", "http.server", "--bind", "::", "--directory", str(pages)]
    for port in (HTTP_PORT, BLOCKED_PORT):
        lab.start(role, [*http, str(port)])
    lab.start(role, ["iperf3", "-s", "-p", str(_IPERF_PORT)])
    wanted = {f":{port} " for port in (HTTP_PORT, BLOCKED_PORT, _IPERF_PORT)}

    def is_listening() -> bool:
        listening = lab.run(role, ["ss", "-Hltn"]).stdout
        return all(port in listening for port in wanted)

    if not wait_until(is_listening, _SERVER_START_S, 0.1):
        raise KernelError(f"the servers of {role} did not start; see {lab.log_file(role)}")


def check_endpoint(lab: Lab, endpoint: int) -> Iterator[Check]:
    """Everything that should go through an endpoint, over both IP versions."""
    kinds: dict[str, _Traffic] = {
        "HTTP": _http,
        "TCP bulk": _tcp,
        "TCP bulk, reverse": _tcp_reverse,
        "UDP": _udp,
        "ping": _ping,
        "ping 20000 bytes (fragments)": _ping_fragments,
        "traceroute": _traceroute,
    }
    for what, run in kinds.items():
        for address in SERVER_ADDRESSES:
            yield _check(lab, endpoint, what, address, run)


def block_port(lab: Lab, endpoint: int) -> None:
    """What any administrator would do on the appliance."""
    gwi, _ = lab.interfaces(endpoint)
    rule = ["-w", "-I", "FORWARD", "-i", gwi, "-p", "tcp", "--dport", str(BLOCKED_PORT)]
    for number in lab.plan.appliance_numbers:
        for tool in ("iptables", "ip6tables"):
            lab.run(f"appliance-{number}", [tool, *rule, "-j", "REJECT"])


def check_blocking(lab: Lab, endpoint: int, *, is_blocked: bool) -> Iterator[Check]:
    """The rule stops its port and no other."""
    what = f"port {BLOCKED_PORT} {'behind' if is_blocked else 'before'} the iptables rule"
    for address in SERVER_ADDRESSES:
        run = _refused if is_blocked else _open
        yield _check(lab, endpoint, what, address, run)
        if is_blocked:
            beside = f"port {HTTP_PORT} beside it"
            yield _check(lab, endpoint, beside, address, _http)


def _check(lab: Lab, endpoint: int, what: str, address: str, run: _Traffic) -> Check:
    try:
        is_ok, result = run(lab, endpoint, address)
    except subprocess.TimeoutExpired as error:
        is_ok, result = False, f"no end after {error.timeout} s"
    return Check(endpoint, what, "6" if ":" in address else "4", is_ok, result)


def _run(lab: Lab, endpoint: int, *command: str) -> subprocess.CompletedProcess[str]:
    return lab.run(f"client-{endpoint}", command, timeout_s=_TOOL_TIMEOUT_S, check=False)


def _curl(lab: Lab, endpoint: int, address: str, port: int) -> subprocess.CompletedProcess[str]:
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{port}/name"
    return _run(lab, endpoint, "curl", "-sS", "-g", "--noproxy", "*", "--max-time", "10", url)


def _answers_its_name(endpoint: int, answer: subprocess.CompletedProcess[str]) -> tuple[bool, str]:
    """Both servers have one address, so the name says which endpoint the packets took."""
    if answer.returncode:
        return False, answer.stderr.strip()
    return answer.stdout == f"server-{endpoint}", f"{answer.stdout} answered"


def _http(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    return _answers_its_name(endpoint, _curl(lab, endpoint, address, HTTP_PORT))


def _open(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    return _answers_its_name(endpoint, _curl(lab, endpoint, address, BLOCKED_PORT))


def _refused(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    answer = _curl(lab, endpoint, address, BLOCKED_PORT)
    is_refused = answer.returncode == _CURL_REFUSED and "timed out" not in answer.stderr
    return is_refused, "refused at once" if is_refused else answer.stderr.strip() or answer.stdout


def _iperf(lab: Lab, endpoint: int, address: str, *options: str) -> dict[str, Any]:
    """One test. The server opens its port anew for each, and resets whoever comes in between: a
    test that has not begun is tried again.
    """
    command = ["iperf3", "-J", "-t", "1", "-p", str(_IPERF_PORT), "-c", address, *options]
    report: dict[str, Any] = {}
    for _ in range(_IPERF_TRIES):
        report = json.loads(_run(lab, endpoint, *command).stdout or "{}")
        if "error" not in report or report.get("start", {}).get("connected"):
            break
    return report


def _tcp(lab: Lab, endpoint: int, address: str, *options: str) -> tuple[bool, str]:
    report = _iperf(lab, endpoint, address, *options)
    if "error" in report or "end" not in report:
        return False, report.get("error", "iperf3 said nothing")
    rate = report["end"]["sum_received"]["bits_per_second"]
    return rate > 0, f"{rate / 1e6:.0f} Mbit/s"


def _tcp_reverse(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    return _tcp(lab, endpoint, address, "-R")


def _udp(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    report = _iperf(lab, endpoint, address, "-u", "-b", "20M", "-l", "1200")
    if "error" in report or "end" not in report:
        return False, report.get("error", "iperf3 said nothing")
    total = report["end"]["sum"]
    lost, packets = total["lost_packets"], total["packets"]
    return packets > 0 and lost <= packets / 100, f"{packets} packets, {lost} lost"


def _ping(lab: Lab, endpoint: int, address: str, *options: str) -> tuple[bool, str]:
    answer = _run(lab, endpoint, "ping", "-n", "-c", "3", "-i", "0.1", *options, address)
    times = re.search(r"= [\d.]+/([\d.]+)/", answer.stdout)
    if not answer.returncode and times and " 0% packet loss" in answer.stdout:
        return True, f"3 of 3, {times[1]} ms"
    return False, " ".join(answer.stdout.split()[-12:])


def _ping_fragments(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    return _ping(lab, endpoint, address, "-s", "20000")


def _traceroute(lab: Lab, endpoint: int, address: str) -> tuple[bool, str]:
    """The appliance is the first hop and answers from one of its own addresses, then the server."""
    answer = _run(lab, endpoint, "traceroute", "-n", "-q", "1", "-w", "2", "-m", "4", address)
    hops = re.findall(r"^\s*\d+\s+(\S+)", answer.stdout, re.MULTILINE)
    own = [f"10.99.{number}.10" for number in lab.plan.appliance_numbers]
    own += [f"fd00:99:{number}::10" for number in lab.plan.appliance_numbers]
    is_ok = len(hops) == 2 and hops[0] in own and hops[1] == address
    return is_ok, " → ".join(hops) or answer.stderr.strip()
