"""From traffic to figures: throughput, the highest rate without loss, CPU per packet, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.load import Load
from bench.programs import Outcome, Traffic
from bench.topology import cpu_ns

_MAX_LOSS: Final = 0.001
_IDLE_PPS: Final = 1000
_LEARN_PPS: Final = 30_000
_CLOSE_ENOUGH: Final = 1.03
_QUANTILES: Final = (0.5, 0.99, 0.999)
_Latency = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look. A rate is good when the best of ``trials`` is good."""

    flood_s: float = 0.8
    floods: int = 3
    trial_s: float = 0.6
    trials: int = 3
    steps: int = 9
    latency_s: float = 3.0
    tcp_s: int = 5


QUICK: Final = Effort(flood_s=0.4, floods=1, trial_s=0.3, trials=3, steps=5, latency_s=0.5, tcp_s=2)


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput in packets per second, and the CPU time of a packet at it, in microseconds."""

    saturated_pps: float
    saturated_cpu_us: float
    lossless_pps: float
    lossless_cpu_us: float


@dataclass(frozen=True, slots=True)
class Delays:
    """Latency in microseconds: p50, p99, p99.9."""

    idle_us: _Latency
    half_us: _Latency


class Meter:
    """Runs traffic and charges the appliance's processes for it."""

    def __init__(self, traffic: Traffic, pids: Iterable[int]) -> None:
        self._traffic = traffic
        self._pids = list(pids)
        self.wrong = 0

    def run(self, rate_pps: float, seconds: float, packets: int = 1 << 62) -> tuple[Outcome, float]:
        """Offer packets; what came of it, and microseconds of CPU time per packet returned."""
        before = sum(map(cpu_ns, self._pids))
        outcome = self._traffic.run(rate_pps, seconds, packets)
        spent_ns = sum(map(cpu_ns, self._pids)) - before
        self.wrong += outcome.wrong
        return outcome, spent_ns / 1000 / max(1, outcome.returned)


def learn(meter: Meter, load: Load, effort: Effort) -> int:
    """Show the appliance every flow once, unless each packet is a new one anyway. How many it
    surely knows then: those whose packet came back.
    """
    flood, _ = meter.run(0, effort.flood_s / 2)
    if load.is_all_new:
        return 0
    rate = max(_LEARN_PPS, flood.returned_pps / 2)
    learned, _ = meter.run(rate, 4 * load.flows / rate + 0.1, load.flows)
    return learned.returned


def measure_rates(meter: Meter, effort: Effort) -> Rates:
    """Throughput with known flows."""
    floods = [meter.run(0, effort.flood_s) for _ in range(effort.floods)]
    saturated = median(outcome.returned_pps for outcome, _ in floods)
    lossless = search(lambda rate: meter.run(rate, effort.trial_s), saturated, effort)
    return Rates(saturated, median(cost for _, cost in floods), *lossless)


def measure_delays(meter: Meter, half_pps: float, effort: Effort) -> Delays:
    """Latency when there is next to nothing to do, and at half of the highest rate."""
    idle, _ = meter.run(_IDLE_PPS, effort.latency_s)
    half, _ = meter.run(max(_IDLE_PPS, half_pps), effort.latency_s / 2)
    return Delays(tuple(map(idle.latency_us, _QUANTILES)), tuple(map(half.latency_us, _QUANTILES)))


def search(
    offer: Callable[[float], tuple[Outcome, float]], start_pps: float, effort: Effort
) -> tuple[float, float]:
    """The highest rate that comes back with at most 0.1 % loss, and its CPU time per packet.

    From the rate of saturation up or down until it lies between a good rate and a bad one, then
    the interval is halved on a logarithmic scale.
    """
    low, high = 0.0, 0.0
    best, cost_us = 0.0, 0.0
    rate = max(start_pps, _IDLE_PPS)
    for _ in range(effort.steps):
        for _ in range(effort.trials):
            outcome, cost = offer(rate)
            if is_good := outcome.loss <= _MAX_LOSS:
                break
        if is_good:
            low = rate
            if outcome.returned_pps > best:
                best, cost_us = outcome.returned_pps, cost
        else:
            high = rate
        rate = _next(low, high)
        if low and high and high / low < _CLOSE_ENOUGH:
            break
    return best, cost_us


def _next(low: float, high: float) -> float:
    if not high:
        return 1.4 * low
    if not low:
        return high / 1.6
    return float((low * high) ** 0.5)
