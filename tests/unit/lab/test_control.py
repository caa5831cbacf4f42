"""The control API: status, targets, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gwlbtun.lab.control import build_app
from gwlbtun.lab.plan import LabPlan
from gwlbtun.lab.rules import Drop, Violation
from tests.unit.lab.dialogue import OUT_4, Dialogue, syn
from tests.vectors.inet import tcp, udp


@pytest.fixture
def talk() -> Dialogue:
    return Dialogue(targets=2)


@pytest.fixture
async def api(talk: Dialogue) -> AsyncIterator[TestClient[Any, Any]]:
    """The API of a gateway without sockets."""
    pump: Any = SimpleNamespace(gateway=talk.gateway, io_errors=Counter())
    async with TestClient(TestServer(build_app(LabPlan("mine", appliances=2), pump))) as client:
        yield client


async def test_status_when_asked_counts_under_awss_names(
    talk: Dialogue, api: TestClient[Any, Any]
) -> None:
    """CloudWatch, namespace AWS/GatewayELB; zeros are there too."""
    talk.pass_through(syn(OUT_4))
    talk.offer(tcp(OUT_4.reverse.with_ports(1, 2)))
    talk.judge(b"", None)
    status = await (await api.get("/status")).json()
    assert status["metrics"] == {
        "ActiveFlowCount": 1,
        "NewFlowCount": 1,
        "ProcessedBytes": len(syn(OUT_4)),
        "HealthyHostCount": 2,
        "UnHealthyHostCount": 0,
        "PacketsDroppedCount_InvalidGeneveTunnel": 1,
        "PacketsDroppedCount_InvalidGwlbEndpointId": 0,
        "PacketsDroppedCount_InvalidGwlbFlowCookie": 0,
        "PacketsDroppedCount_MissingFlowEntry": 0,
    }
    assert status["violations"] == 1
    assert status["drops"][Drop.NO_CONNECTION] == 1
    assert status["endpoints"][0]["to_server"] == {"packets": 1, "bytes": len(syn(OUT_4))}
    assert sum(status["flows_by_target"].values()) == 1
    assert status["recent_violations"] == [f"{Violation.INVALID_GENEVE_TUNNEL}: "]


async def test_target_when_deregistered_drains_until_registered(
    talk: Dialogue, api: TestClient[Any, Any]
) -> None:
    """``gwlbtun lab deregister 2`` and back."""
    answer = await (await api.post("/targets/2/deregister")).json()
    assert answer == {"number": 2, "address": "10.99.2.10", "state": "draining"}
    assert talk.send(udp(OUT_4)).flow.path in talk.targets[0].paths
    assert (await (await api.post("/targets/2/register")).json())["state"] == "initial"
    assert (await api.post("/targets/3/register")).status == 404


async def test_settings_when_changed_hold_for_what_comes(
    talk: Dialogue, api: TestClient[Any, Any]
) -> None:
    """Flows opened from now on have the new idle time."""
    answer = await api.patch("/settings", json={"other_idle_s": 5})
    assert (await answer.json())["other_idle_s"] == 5
    talk.send(udp(OUT_4))
    talk.wait(5)
    assert talk.gateway.flows.count == 0


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"tcp_idl": 60}, "there is no setting 'tcp_idl', the nearest is 'tcp_idle_s'"),
        ({"stickiness": 4}, "stickiness: input should be 5, 3 or 2"),
    ],
)
async def test_settings_when_wrong_change_nothing(
    talk: Dialogue, api: TestClient[Any, Any], changes: dict[str, Any], explanation: str
) -> None:
    """An unknown name is an error that names the nearest known one."""
    before = talk.gateway.settings
    answer = await api.patch("/settings", json={**changes, "rebalance": True})
    assert (answer.status, await answer.text()) == (400, explanation)
    assert talk.gateway.settings is before


@pytest.mark.parametrize("body", ["", "[1]", "nonsense"])
async def test_settings_when_no_json_object_are_refused(
    api: TestClient[Any, Any], body: str
) -> None:
    """The simulator survives whatever is sent to it."""
    assert (await api.patch("/settings", data=body)).status == 400
