"""A lab's names and addresses."""

from __future__ import annotations

import pytest

from gwlbtun.errors import ConfigError
from gwlbtun.lab.plan import LabPlan
from gwlbtun.lab.settings import GwlbSettings


def test_plan_when_written_and_read_is_the_same() -> None:
    """down, status and the simulator work from what up wrote."""
    plan = LabPlan("mine", 3, 2, 4, GwlbSettings(stickiness=3, rebalance=True))
    assert LabPlan.from_json(plan.to_json()) == plan


def test_namespace_when_a_role_has_no_number_is_the_first() -> None:
    """``gwlbtun lab shell client`` is client-1."""
    plan = LabPlan("mine", appliances=2)
    assert plan.namespace("client") == plan.namespace("client-1") == "mine-client-1"
    assert plan.namespace("gwlb") == "mine-gwlb"
    assert len(plan.roles) == len({plan.namespace(role) for role in plan.roles}) == 7


@pytest.mark.parametrize("role", ["client-3", "nobody", "appliance-0", ""])
def test_namespace_when_the_lab_has_no_such_role_is_an_error(role: str) -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match="client-1, server-1, client-2"):
        LabPlan().namespace(role)


@pytest.mark.parametrize("name", ["", "../etc", "Upper", "1st", "a b", "x" * 33])
def test_plan_when_the_name_fits_no_namespace_is_an_error(name: str) -> None:
    """The name becomes part of namespaces and of a directory."""
    with pytest.raises(ConfigError, match="no lab name"):
        LabPlan(name)


@pytest.mark.parametrize("what", ["endpoints", "appliances", "nodes"])
@pytest.mark.parametrize("number", [0, 21])
def test_plan_when_a_number_is_out_of_range_is_an_error(what: str, number: int) -> None:
    """Addresses are numbered within one byte, and a machine has its limits."""
    with pytest.raises(ConfigError, match=what):
        LabPlan(**{what: number})  # type: ignore[arg-type]
