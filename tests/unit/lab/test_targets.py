"""Targets: health, registration, and which one takes a new flow."""

from __future__ import annotations

from collections import Counter

from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.lab.targets import TargetState, choose_path
from tests.unit.lab.dialogue import make_healthy, make_targets, make_unhealthy

KEYS = [number.to_bytes(4, "big") for number in range(600)]


def test_target_when_checks_follow_each_other_changes_at_the_thresholds() -> None:
    """GWLB, health checks: so many results in a row make a state."""
    (target,) = make_targets(1, are_healthy=False)
    settings = GwlbSettings(healthy_threshold=3, unhealthy_threshold=2)
    states = []
    for is_ok in (True, True, True, False, True, False, False):
        target.note_check(is_ok, settings)
        states.append(target.state)
    initial, healthy = TargetState.INITIAL, TargetState.HEALTHY
    assert states == [initial, initial, *[healthy] * 4, TargetState.UNHEALTHY]


def test_target_when_deregistered_drains_whatever_its_health() -> None:
    """GWLB, deregistration delay: draining, then unused; registered again it is initial."""
    (target,) = make_targets(1)
    target.deregister(100.0, 30)
    make_unhealthy(target)
    target.tick(129.9)
    assert target.state is TargetState.DRAINING
    target.deregister(129.0, 30)
    target.tick(130.0)
    assert target.state is TargetState.UNUSED
    target.register()
    assert target.state is TargetState.INITIAL
    make_healthy(target)
    target.register()
    assert target.state is TargetState.HEALTHY


def test_path_when_chosen_spreads_over_targets_nodes_and_ports() -> None:
    """Several nodes and both source ports of the captures are in use."""
    targets = make_targets(3)
    chosen = Counter(choose_path(targets, key) for key in KEYS)
    assert set(chosen) == {path for target in targets for path in target.paths}
    assert max(chosen.values()) < 3 * min(chosen.values())


def test_path_when_a_target_goes_changes_for_its_flows_only() -> None:
    """Rendezvous hashing moves no more than it must."""
    targets = make_targets(3)
    before = {key: choose_path(targets, key) for key in KEYS}
    make_unhealthy(targets[0])
    for key, path in before.items():
        after = choose_path(targets, key)
        assert path is not None
        assert after is not None
        assert after.target is not targets[0]
        assert after is path or path.target is targets[0]


def test_path_when_no_target_is_healthy_is_a_registered_one() -> None:
    """A last resort is better than none; a deregistered target is none."""
    targets = make_targets(2, are_healthy=False)
    targets[0].deregister(0.0, 10)
    path = choose_path(targets, b"key")
    assert path is not None
    assert path.target is targets[1]
    targets[1].deregister(0.0, 10)
    assert choose_path(targets, b"key") is None
