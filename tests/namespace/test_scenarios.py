"""Every round trip of the vectors through the real daemon: datagrams come from a fake GWLB, packets
are given to the real interfaces, whole packets are compared.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from gwlbtun.reasons import DropReason
from gwlbtun.wire.gwlb import INNER_MTU_BYTES, endpoint_interfaces
from tests.namespace.harness import DATA_PATHS, Daemon, Rig, eventually, fresh_endpoint
from tests.vectors import SCENARIOS, Arrive, Later, Leave, Return, Scenario
from tests.vectors.flow_scenarios import FLOW_SCENARIOS
from tests.vectors.geneve import ENDPOINT, OTHER_ENDPOINT

pytestmark = pytest.mark.namespace


def _playable(scenarios: list[Scenario]) -> list[Scenario]:
    """Those in which no minutes pass: aging is for unit tests and their clock."""
    return [s for s in scenarios if not any(isinstance(step, Later) for step in s.steps)]


ROUND_TRIPS: Final = _playable(SCENARIOS)
BY_GWI: Final = [s for s in _playable(FLOW_SCENARIOS) if not s.name.startswith("header-")]


@pytest.fixture(scope="module", params=DATA_PATHS)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rig, Daemon]]:
    with contextlib.closing(Rig(tmp_path_factory.mktemp("scenarios"))) as rig:
        yield rig, rig.start("--datapath", request.param, "--max-endpoints", "1000", "-t", "60")


class Player:
    """Plays one scenario with endpoints of its own on a shared daemon."""

    def __init__(self, rig: Rig, daemon: Daemon, *, way_out: int) -> None:
        self._rig = rig
        self._daemon = daemon
        self._way_out = way_out
        self._ids = {old: fresh_endpoint() for old in (ENDPOINT, OTHER_ENDPOINT)}
        self._counted = {old: Counter[str]() for old in self._ids}
        self._dropped = {old: Counter[str]() for old in self._ids}

    def play(self, scenario: Scenario) -> None:
        """Do every step, compare whole packets, and in the end all counters."""
        for step in scenario.steps:
            if isinstance(step, Arrive):
                self._arrive(step)
            elif isinstance(step, Leave):
                self._leave(step)
        used = [old for old in self._ids if self._counted[old]]
        assert self._rig.gwlb.is_silent()
        for old in used:
            self._expect(old)

    def _arrive(self, step: Arrive) -> None:
        self._rig.gwlb.send(self._relabel(step.datagram), step.node)
        gwi, _ = endpoint_interfaces(self._ids[step.endpoint])
        assert self._rig.stack.arrived(gwi) == step.inner
        self._counted[step.endpoint] += Counter(packets_in=1, bytes_in=len(step.inner))

    def _leave(self, step: Leave) -> None:
        name = endpoint_interfaces(self._ids[step.endpoint])[self._way_out]
        if len(step.packet) > INNER_MTU_BYTES:
            self._rig.run("ip", "link", "set", name, "mtu", "9001")
        self._rig.stack.send(name, step.packet)
        if isinstance(step.verdict, DropReason):
            self._dropped[step.endpoint][step.verdict.label] += 1
            self._expect(step.endpoint)
        elif isinstance(step.verdict, Return):
            for packet in (step.packet, *step.released):
                wanted = self._relabel(step.verdict.packet(packet))
                assert self._rig.gwlb.returned() == wanted
                self._counted[step.endpoint] += Counter(packets_out=1, bytes_out=len(packet))

    def _expect(self, old: int) -> None:
        """Wait for an endpoint's counters; they must be exactly what the scenario says."""

        def is_so() -> bool:
            entry = self._daemon.endpoint(self._ids[old])
            counted = {key: entry.get(key) for key in self._counted[old]}
            return entry.get("drops") == self._dropped[old] and counted == self._counted[old]

        eventually(is_so)

    def _relabel(self, data: bytes) -> bytes:
        for old, new in self._ids.items():
            data = data.replace(old.to_bytes(8, "big"), new.to_bytes(8, "big"))
        return data


@pytest.mark.parametrize("scenario", ROUND_TRIPS, ids=lambda scenario: scenario.name)
def test_scenario_when_packets_leave_by_gwo_then_they_return_whole(
    stage: tuple[Rig, Daemon], scenario: Scenario
) -> None:
    """AWS: outer addresses swapped, UDP source port kept, destination port 6081, the same Geneve
    header, the same inner packet; what never came in is dropped and counted.
    """
    Player(*stage, way_out=1).play(scenario)


@pytest.mark.parametrize("scenario", BY_GWI, ids=lambda scenario: scenario.name)
def test_scenario_when_packets_leave_by_gwi_then_they_return_just_the_same(
    stage: tuple[Rig, Daemon], scenario: Scenario
) -> None:
    """Reference: packets sent into gwi return like those sent into gwo."""
    Player(*stage, way_out=0).play(scenario)
