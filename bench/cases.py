"""The cases, each measured on a topology of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from bench.load import ALL_FLOWS, ENDPOINT_ID, Load
from bench.measure import Delays, Effort, Meter, Rates, learn, measure_delays, measure_rates
from bench.memory import flow_maps_mb, rss_mb
from bench.programs import Traffic
from bench.systems import KERNEL_PATH, PLAIN, System, running
from bench.topology import (
    APPLIANCE,
    APPLIANCE_CORE,
    APPLIANCE_DEVICE,
    GWLB,
    GWLB_CORE,
    GWLB_DEVICE,
    kernel_threads,
    moderate,
    pin_polling,
    topology,
)

_MILLION: Final = 1_000_000
_PERIOD_US: Final = 50
"""At which returned packets are counted; short enough for the 256 that a veth holds."""
KNOWN: Final = "100 flows"
"""What the case with all new flows is compared with."""
_HAIRPIN: Final = ("--hairpin", f"{ENDPOINT_ID:017x}")


@dataclass(frozen=True, slots=True)
class Case:
    """One line for each system; ``ceiling`` is the plain case that it is compared with.

    A case with options of the daemon is one of its kernel path alone.
    """

    name: str
    hook: str
    load: Load
    ceiling: str = "64 bytes"
    options: tuple[str, ...] = ()

    def is_for(self, system: System) -> bool:
        """Whether the system can run it."""
        return not self.options or system == KERNEL_PATH


@dataclass(frozen=True, slots=True)
class Line:
    """The result of a case on a system; memory by whose it is, per flow it is for."""

    case: Case
    system: System
    rates: Rates
    delays: Delays
    wrong: int
    bytes_per_flow: dict[str, float]


PLAIN_CASES: Final = (
    Case("64 bytes", "redirect", Load(64, 100, is_tunnel=False)),
    Case("1400 bytes", "redirect", Load(1400, 100, is_tunnel=False), "1400 bytes"),
    Case("64 bytes, conntrack, 10 rules", "route", Load(64, 100, is_tunnel=False), "routed"),
)
"""``ceiling`` is the name that other cases know them by."""
CASES: Final = (
    Case("1 flow", "redirect", Load(64, 1)),
    Case(KNOWN, "redirect", Load(64, 100)),
    Case("10 000 flows", "redirect", Load(64, 10_000)),
    Case("1 000 000 flows", "redirect", Load(64, _MILLION)),
    Case("all new flows", "redirect", Load(64, ALL_FLOWS)),
    Case("100 flows, 1400 bytes", "redirect", Load(1400, 100), "1400 bytes"),
    Case("100 flows, conntrack, 10 rules", "route", Load(64, 100), "routed"),
    Case("hairpin", "redirect", Load(64, 100), options=_HAIRPIN),
    Case("hairpin, at the driver", "redirect", Load(64, 100), options=(*_HAIRPIN, "--xdp")),
)


def run_case(case: Case, system: System, effort: Effort) -> Line:
    """Build, measure, remove."""
    with topology():
        polling = pin_polling(APPLIANCE, APPLIANCE_DEVICE, APPLIANCE_CORE)
        with Traffic() as traffic:
            collecting = pin_polling(GWLB, GWLB_DEVICE, GWLB_CORE)
            # Counting goes before sending, or packets would be lost here and not there.
            os.sched_setscheduler(collecting, os.SCHED_FIFO, os.sched_param(1))
            traffic.use(case.load)
            with running(system, case.hook, case.options, traffic) as pids:
                softirq = kernel_threads(f"ksoftirqd/{APPLIANCE_CORE}")
                meter = Meter(traffic, [polling, *softirq, *pids])
                before_mb = rss_mb(pids)
                known = learn(meter, case.load, effort)
                memory = {}
                if system != PLAIN and case.load.flows == _MILLION:
                    growth_mb = (rss_mb(pids) - before_mb) * _MILLION / max(1, known)
                    memory = flow_maps_mb(pids) or {"process": growth_mb}
                moderate(GWLB, GWLB_DEVICE, _PERIOD_US)
                rates = measure_rates(meter, effort)
                moderate(GWLB, GWLB_DEVICE, 0)
                delays = measure_delays(meter, rates.lossless_pps / 2, effort)
                return Line(case, system, rates, delays, meter.wrong, memory)
