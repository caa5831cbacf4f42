"""The GWLB's process: ``python -m gwlbtun.lab.simulator PLAN``, inside the gwlb namespace.

Start: open the TUN devices in the clients' and servers' namespaces, then the sockets, then the
health checks, last the control socket: whoever can connect to it finds everything in place. Stop
(SIGTERM, SIGINT): in reverse.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from aiohttp import web

from gwlbtun.host.tun import open_tun
from gwlbtun.lab.control import build_app, check_health
from gwlbtun.lab.flows import Endpoint
from gwlbtun.lab.gwlb import Gateway
from gwlbtun.lab.namespaces import call_in_namespace
from gwlbtun.lab.plan import CLIENT_NETWORKS, DEVICE, LabPlan
from gwlbtun.lab.pump import Pump
from gwlbtun.lab.targets import Target

_TICK_S: Final = 0.1
_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""A full collection visits every flow: let it be rare."""


def main() -> int:
    """Read the plan, run until told to stop."""
    gc.set_threshold(*_GC_THRESHOLDS)
    plan = LabPlan.from_json(Path(sys.argv[1]).read_text())
    endpoints = [_open_endpoint(plan, number) for number in plan.endpoint_numbers]
    targets = [_target(plan, number) for number in plan.appliance_numbers]
    pump = Pump(Gateway(endpoints, targets, plan.settings))
    try:
        asyncio.run(_serve(plan, pump))
    finally:
        pump.close()
        for endpoint in endpoints:
            os.close(endpoint.client_fd)
            os.close(endpoint.server_fd)
    return 0


async def _serve(plan: LabPlan, pump: Pump) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_reader(pump.fileno(), pump.turn)
    runner = web.AppRunner(build_app(plan, pump))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_tick(pump.gateway), name="tick")]
        for target in pump.gateway.targets:
            address = plan.appliance_address(target.number)
            check = check_health(target, address, pump.gateway)
            tasks.append(group.create_task(check, name=f"health {address}"))
        await runner.setup()
        await web.UnixSite(runner, str(plan.control_socket)).start()
        await stopping.wait()
        await runner.cleanup()
        for task in tasks:
            task.cancel()
    loop.remove_reader(pump.fileno())


async def _tick(gateway: Gateway) -> None:
    loop = asyncio.get_running_loop()
    while True:
        gateway.tick(loop.time())
        await asyncio.sleep(_TICK_S)


def _open_endpoint(plan: LabPlan, number: int) -> Endpoint:
    client_fd, server_fd = (
        call_in_namespace(plan.namespace(f"{side}-{number}"), lambda: open_tun(DEVICE))
        for side in ("client", "server")
    )
    return Endpoint(plan.endpoint_id(number), CLIENT_NETWORKS, client_fd, server_fd)


def _target(plan: LabPlan, number: int) -> Target:
    nodes = [IPv4Address(node).packed for node in plan.node_addresses(number)]
    return Target(number, IPv4Address(plan.appliance_address(number)).packed, nodes)


if __name__ == "__main__":
    sys.exit(main())
