"""What surrounds the simulator's pump: health checks of the appliances, and the control API.

GET   /status                      everything that ``gwlbtun lab status`` shows
POST  /targets/<n>/deregister      no new flows from now on
POST  /targets/<n>/register        back to initial
PATCH /settings                    any fields of GwlbSettings, as JSON
"""

from __future__ import annotations

import asyncio
import difflib
import time
from typing import Any, Final

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from gwlbtun.lab.flows import Traffic
from gwlbtun.lab.gwlb import Gateway
from gwlbtun.lab.plan import LabPlan
from gwlbtun.lab.pump import Pump
from gwlbtun.lab.rules import Drop, Violation
from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.lab.targets import Target, TargetState

_FIRST_INTERVAL_S: Final = 0.1
"""A new target is asked more often: nobody likes to wait for a lab."""


def build_app(plan: LabPlan, pump: Pump) -> web.Application:
    """The control API of one simulator."""
    gateway = pump.gateway

    async def status(_: web.Request) -> web.Response:
        return web.json_response(describe(plan, pump))

    async def deregister(request: web.Request) -> web.Response:
        target = _target(gateway, request)
        target.deregister(time.monotonic(), gateway.settings.deregistration_delay_s)
        return web.json_response(_describe_target(plan, target))

    async def register(request: web.Request) -> web.Response:
        target = _target(gateway, request)
        target.register()
        return web.json_response(_describe_target(plan, target))

    async def change_settings(request: web.Request) -> web.Response:
        try:
            gateway.settings = gateway.settings.changed(await request.json())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=_explain(error)) from error
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text="settings are a JSON object") from error
        return web.json_response(gateway.settings.model_dump())

    app = web.Application()
    app.router.add_get("/status", status)
    app.router.add_post("/targets/{number}/deregister", deregister)
    app.router.add_post("/targets/{number}/register", register)
    app.router.add_patch("/settings", change_settings)
    return app


def _explain(error: ValidationError) -> str:
    """One clause per wrong setting, with the nearest known name for an unknown one."""
    clauses = []
    for detail in error.errors():
        name = ".".join(map(str, detail["loc"]))
        clause = f"{name}: {detail['msg'].lower()}"
        if detail["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(name, GwlbSettings.model_fields, 1, 0)
            clause = f"there is no setting {name!r}, the nearest is {nearest[0]!r}"
        clauses.append(clause)
    return "; ".join(clauses)


async def check_health(target: Target, address: str, gateway: Gateway) -> None:
    """Ask one appliance for its health again and again; 200-399 is healthy."""
    was_healthy = False
    async with aiohttp.ClientSession() as client:
        while True:
            settings = gateway.settings
            url = f"http://{address}:{settings.health_port}{settings.health_path}"
            timeout = aiohttp.ClientTimeout(total=settings.health_timeout_s)
            try:
                async with client.get(url, timeout=timeout, allow_redirects=False) as answer:
                    is_ok = 200 <= answer.status < 400
            except (aiohttp.ClientError, TimeoutError):
                is_ok = False
            target.note_check(is_ok, settings)
            was_healthy = was_healthy or target.state is TargetState.HEALTHY
            await asyncio.sleep(settings.health_interval_s if was_healthy else _FIRST_INTERVAL_S)


def describe(plan: LabPlan, pump: Pump) -> dict[str, Any]:
    """The state of the whole GWLB; metrics carry AWS's names, zeros included."""
    gateway = pump.gateway
    states = [target.state for target in gateway.targets]
    metrics: dict[str, int] = {
        "ActiveFlowCount": gateway.flows.count,
        "NewFlowCount": gateway.new_flows,
        "ProcessedBytes": sum(e.to_client.bytes + e.to_server.bytes for e in gateway.endpoints),
        "HealthyHostCount": states.count(TargetState.HEALTHY),
        "UnHealthyHostCount": states.count(TargetState.UNHEALTHY),
    }
    violations = {violation.value: gateway.counts[violation] for violation in Violation}
    return {
        "name": plan.name,
        "metrics": {**metrics, **violations},
        "violations": sum(violations.values()),
        "recent_violations": list(gateway.recent),
        "drops": {drop.value: gateway.counts[drop] for drop in Drop},
        "io_errors": dict(pump.io_errors),
        "endpoints": [
            {
                "number": number,
                "id": f"vpce-{endpoint.hex_id}",
                "to_server": _describe_traffic(endpoint.to_server),
                "to_client": _describe_traffic(endpoint.to_client),
            }
            for number, endpoint in enumerate(gateway.endpoints, 1)
        ],
        "targets": [_describe_target(plan, target) for target in gateway.targets],
        "flows_by_target": _flows_by_target(gateway),
        "settings": gateway.settings.model_dump(),
    }


def _describe_traffic(traffic: Traffic) -> dict[str, int]:
    return {"packets": traffic.packets, "bytes": traffic.bytes}


def _describe_target(plan: LabPlan, target: Target) -> dict[str, Any]:
    return {
        "number": target.number,
        "address": plan.appliance_address(target.number),
        "state": target.state.value,
    }


def _flows_by_target(gateway: Gateway) -> dict[str, int]:
    counts = {str(target.number): 0 for target in gateway.targets}
    for flow in gateway.flows:
        if flow.path is not None:
            counts[str(flow.path.target.number)] += 1
    return counts


def _target(gateway: Gateway, request: web.Request) -> Target:
    wanted = request.match_info["number"]
    for target in gateway.targets:
        if str(target.number) == wanted:
            return target
    raise web.HTTPNotFound(text=f"there is no target {wanted}")
