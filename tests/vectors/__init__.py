"""Named, readable, sourced packets: one set for every executor of the packet path.

``DECAP_VECTORS`` are single datagrams with their verdicts, ``SCENARIOS`` dialogues of datagrams
in and packets out. ``inet``, ``icmp`` and ``geneve`` hold the builders.
"""

from __future__ import annotations

from typing import Final

from tests.vectors.decap import DECAP_VECTORS, Vector
from tests.vectors.flow_scenarios import FLOW_SCENARIOS
from tests.vectors.fragment_scenarios import FRAGMENT_SCENARIOS
from tests.vectors.icmp_scenarios import ICMP_SCENARIOS
from tests.vectors.steps import WAITS, Arrive, Later, Leave, Return, Scenario, Step, Waits

SCENARIOS: Final = FLOW_SCENARIOS + FRAGMENT_SCENARIOS + ICMP_SCENARIOS

__all__ = [
    "DECAP_VECTORS",
    "SCENARIOS",
    "WAITS",
    "Arrive",
    "Later",
    "Leave",
    "Return",
    "Scenario",
    "Step",
    "Vector",
    "Waits",
]
