"""One line per case, with its ratios to plain forwarding in the same run."""

from __future__ import annotations

from typing import Final

from bench.cases import KNOWN, Line
from bench.systems import PLAIN, System

HEADER: Final = (
    f"{'system':8} {'case':31} {'saturated':>10} {'of plain':>8} {'us/pkt':>7} {'of plain':>8}"
    f" {'<=0.1% loss':>11} {'of plain':>8} {'us/pkt':>7}"
    f" {'us at 1 k/s: p50/p99/p99.9':>26} {'of plain':>8} {'us at half rate':>15}"
)


class Table:
    """Prints lines as they come, and remembers the ceilings."""

    def __init__(self) -> None:
        self._ceilings: dict[str, Line] = {}
        self._known: dict[System, Line] = {}
        self.wrong = 0
        print(HEADER, flush=True)

    def add(self, line: Line) -> None:
        """Print a line; a plain one becomes the ceiling of those that name it."""
        if line.system == PLAIN:
            self._ceilings.setdefault(line.case.ceiling, line)
        elif line.case.name == KNOWN:
            self._known[line.system] = line
        self.wrong += line.wrong
        print(self._format(line), flush=True)

    def _format(self, line: Line) -> str:
        plain = self._ceilings[line.case.ceiling]
        own, ceiling = line.rates, plain.rates
        idle_us, half_us = line.delays.idle_us, line.delays.half_us
        text = (
            f"{line.system.name:8} {line.case.name:31}"
            f" {own.saturated_pps:10,.0f} {_ratio(own.saturated_pps, ceiling.saturated_pps)}"
            f" {own.saturated_cpu_us:7.2f} {_ratio(ceiling.saturated_cpu_us, own.saturated_cpu_us)}"
            f" {own.lossless_pps:11,.0f} {_ratio(own.lossless_pps, ceiling.lossless_pps)}"
            f" {own.lossless_cpu_us:7.2f}"
            f" {_times(idle_us):>26} {_ratio(idle_us[0], plain.delays.idle_us[0])}"
            f" {_times(half_us):>15}"
        )
        for whose, amount in line.bytes_per_flow.items():
            text += f"  {whose}: {amount:.0f} MB per million flows"
        known = self._known.get(line.system)
        if line.case.load.is_all_new and known:
            text += f"  of {KNOWN}:{_ratio(own.saturated_pps, known.rates.saturated_pps)}"
        return text + f"  {line.wrong} WRONG" * bool(line.wrong)


def _ratio(own: float, plain: float) -> str:
    return f"{own / plain if plain else 0.0:8.2f}"


def _times(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.0f}" for value in values)
