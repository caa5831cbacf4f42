"""From traffic to figures: the highest rate without loss, and CPU per packet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.topology import cpu_ns
from bench.traffic import Load, Outcome, Traffic

_MAX_LOSS: Final = 0.001
_TRIAL_S: Final = 1.5
_STEPS: Final = 7
_LEARN_PPS: Final = 20_000
_SATURATE_PPS: Final = 400_000


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the result. Rates in packets per second, CPU in microseconds per packet."""

    case: str
    lossless_pps: float
    saturated_pps: float
    cpu_us: float
    wrong: int


def measure(case: str, load: Load, pids: Iterable[int]) -> Figures:
    """Measure one case; ``pids`` are the processes whose CPU time is the appliance's."""
    processes = list(pids)
    traffic = Traffic(load)
    try:
        known = load.flows or 1
        learned = traffic.run(_LEARN_PPS, known / _LEARN_PPS + 1, packets=known)
        wrong = learned.wrong
        best: Outcome | None = None
        cost_us = 0.0
        for rate in _search():
            before = sum(map(cpu_ns, processes))
            outcome = traffic.run(rate.value, _TRIAL_S)
            spent_ns = sum(map(cpu_ns, processes)) - before
            wrong += outcome.wrong
            rate.is_good = outcome.loss <= _MAX_LOSS
            if rate.is_good and (best is None or outcome.returned_pps > best.returned_pps):
                best, cost_us = outcome, spent_ns / 1000 / max(1, outcome.returned)
        flood = traffic.run(_SATURATE_PPS, _TRIAL_S)
        return Figures(
            case,
            best.returned_pps if best else 0.0,
            flood.returned_pps,
            cost_us,
            wrong + flood.wrong,
        )
    finally:
        traffic.close()


class _Rate:
    """A rate to try; the caller says whether it was good."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.is_good = False


def _search(low: float = 2_000, high: float = 400_000) -> Iterator[_Rate]:
    """Halve the interval, on a logarithmic scale, between a good rate and a bad one."""
    for _ in range(_STEPS):
        rate = _Rate((low * high) ** 0.5)
        yield rate
        if rate.is_good:
            low = rate.value
        else:
            high = rate.value
