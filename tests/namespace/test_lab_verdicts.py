"""The lab's GWLB as a judge: an appliance that breaks a rule is counted under AWS's own name."""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gwlbtun.lab.instance import Lab
from gwlbtun.lab.namespaces import call_in_namespace
from gwlbtun.lab.plan import SERVER_ADDRESSES, LabPlan
from tests.namespace.harness import PREFIX, eventually

pytestmark = pytest.mark.namespace

_REFLECTOR: Final = Path(__file__).with_name("reflector.py")
_source_ports: Final = itertools.count(30000)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One endpoint whose only appliance is the reflector; it answers no health check, so flows
    come to it as a last resort.
    """
    with Lab(LabPlan(f"{PREFIX}judge", endpoints=1)) as lab:
        lab.start("appliance-1", [sys.executable, str(_REFLECTOR)])
        listening = ["ss", "-Hlun", "sport = :6081"]
        eventually(lambda: lab.run("appliance-1", listening).stdout)
        yield lab


def _send(lab: Lab, text: str) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", next(_source_ports)))
            sock.sendto(text.encode(), (SERVER_ADDRESSES[0], 9))

    call_in_namespace(lab.plan.namespace("client-1"), send)


def _violations(lab: Lab) -> dict[str, int]:
    return {
        name.removeprefix("PacketsDroppedCount_"): count
        for name, count in lab.status()["metrics"].items()
        if name.startswith("PacketsDroppedCount_")
    }


@pytest.mark.parametrize(
    ("way", "metric"),
    [
        ("ports", "InvalidGeneveTunnel"),
        ("addresses", "InvalidGeneveTunnel"),
        ("vni", "InvalidGeneveTunnel"),
        ("endpoint", "InvalidGwlbEndpointId"),
        ("other-endpoint", "InvalidGwlbEndpointId"),
        ("cookie", "InvalidGwlbFlowCookie"),
        ("flow", "MissingFlowEntry"),
    ],
)
def test_appliance_when_it_breaks_a_rule_then_awss_counter_of_it_moves(
    lab: Lab, way: str, metric: str
) -> None:
    """AWS/GatewayELB: each PacketsDroppedCount_* names one rule; the packet goes nowhere."""
    before, received = _violations(lab), lab.status()["endpoints"][0]["to_server"]["packets"]
    _send(lab, f"break {way}")
    expected = {**before, metric: before[metric] + 1}
    eventually(lambda: _violations(lab) == expected)
    assert lab.status()["endpoints"][0]["to_server"]["packets"] == received


def test_appliance_when_it_breaks_no_rule_then_the_packet_is_delivered(lab: Lab) -> None:
    """The control of the tests above: the same reflector, nothing spoilt."""
    before, received = _violations(lab), lab.status()["endpoints"][0]["to_server"]["packets"]
    _send(lab, "keep all")
    eventually(lambda: lab.status()["endpoints"][0]["to_server"]["packets"] == received + 1)
    assert _violations(lab) == before
