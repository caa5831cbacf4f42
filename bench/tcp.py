"""TCP through a whole lab: the appliance's CPU time per kB of payload.

Clients, server and the simulated GWLB share core 0, and the simulator is what limits throughput;
the appliance has core 1 to itself. Compare the cost, not the rate.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Final

from bench.measure import Effort
from bench.systems import System
from bench.topology import (
    APPLIANCE_CORE,
    GWLB_CORE,
    cpu_ns,
    inside,
    kernel_threads,
    pin_polling,
    run,
)
from gwlbtun.lab.instance import INSPECT_HOOK, Lab
from gwlbtun.lab.namespaces import pids_in_namespace
from gwlbtun.lab.plan import SERVER_ADDRESSES, UPLINK, LabPlan

_LAB: Final = "gwlbtun-bench"
_TARGET: Final = "target-1"
_SEGMENT_BYTES: Final = (1360, 8460)
"""Of inner packets of 1400 and of 8500 bytes."""
_HEALTH: Final = ("-p", "80")


@dataclass(frozen=True, slots=True)
class _Result:
    megabits: float
    cpu_us_per_kb: float


def print_tcp(systems: list[System], effort: Effort) -> None:
    """One line for each system and segment size."""
    print(f"\n{'system':8} {'TCP, iperf3 through the lab':31} {'Mbit/s':>10} {'us/kB':>8}")
    for segment in _SEGMENT_BYTES:
        for system in systems:
            result = _measure(system, segment, effort.tcp_s)
            print(
                f"{system.name:8} {f'segments of {segment} bytes':31}"
                f" {result.megabits:10,.0f} {result.cpu_us_per_kb:8.2f}",
                flush=True,
            )


def _measure(system: System, segment: int, seconds: int) -> _Result:
    appliance = [*system.command, "-c", str(INSPECT_HOOK), "-r", str(INSPECT_HOOK), *_HEALTH]
    command = ["taskset", "-c", str(APPLIANCE_CORE), *appliance]
    with Lab(LabPlan(_LAB, endpoints=1), command) as lab:
        polling = _pin(lab)
        lab.start("server-1", ["iperf3", "-s"])
        client = ["iperf3", "-c", SERVER_ADDRESSES[0], "-M", str(segment), "-J", "-t"]
        _connect(lab, [*client, "1"])
        pids = [
            *(polling, *kernel_threads(f"ksoftirqd/{APPLIANCE_CORE}")),
            *pids_in_namespace(lab.plan.namespace("appliance-1")),
        ]
        before = sum(map(cpu_ns, pids))
        output = lab.run("client-1", [*client, str(seconds)], timeout_s=seconds + 20).stdout
        spent_ns = sum(map(cpu_ns, pids)) - before
    received = json.loads(output)["end"]["sum_received"]
    return _Result(received["bits_per_second"] / 1e6, spent_ns / max(1, received["bytes"]))


def _connect(lab: Lab, client: list[str]) -> None:
    """A first, short transfer, as soon as the server listens: the endpoint is learned by it."""
    deadline = time.monotonic() + 10
    while lab.run("client-1", client, check=False).returncode:
        if time.monotonic() > deadline:
            message = "iperf3 finds no server through the lab"
            raise RuntimeError(message)
        time.sleep(0.2)


def _pin(lab: Lab) -> int:
    """Both ends of the appliance's veth polled by threads of their own; the appliance's."""
    appliance, gwlb = (lab.plan.namespace(role) for role in ("appliance-1", "gwlb"))
    for namespace, device in ((appliance, UPLINK), (gwlb, _TARGET)):
        # Without TSO a veth takes everything for something to aggregate, and queues it.
        run(*inside(namespace, "ethtool", "-K", device, "tso", "off", "gro", "on"))
    pin_polling(gwlb, _TARGET, GWLB_CORE)
    return pin_polling(appliance, UPLINK, APPLIANCE_CORE)
