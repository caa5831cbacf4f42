"""``make bench``: one command, one line per case, ratios in one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.measure import Figures, measure
from bench.topology import (
    APPLIANCE,
    APPLIANCE_CORE,
    GWLB_CORE,
    inside,
    pin_polling,
    topology,
)
from bench.traffic import Load, Traffic

_HOOKS: Final = Path(__file__).parent / "hooks"
_START_S: Final = 10
_CASES: Final = {
    "plain": (None, Load(64, 100, is_tunnel=False)),
    "1 flow": ("redirect", Load(64, 1)),
    "100 flows": ("redirect", Load(64, 100)),
    "10 000 flows": ("redirect", Load(64, 10_000)),
    "1 000 000 flows": ("redirect", Load(64, 1_000_000)),
    "all new flows": ("redirect", Load(64, 0)),
    "100 flows, 1400 bytes": ("redirect", Load(1400, 100)),
    "100 flows, routed, conntrack, 10 rules": ("route", Load(64, 100)),
}


def main() -> int:
    """Run the cases that were asked for; exit status 1 when any packet came back wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--handler",
        default=f"{sys.executable} -m gwlbtun",
        help="the tunnel handler to measure; -c HOOK is added (default: gwlbtun)",
    )
    parser.add_argument("cases", nargs="*", help=f"any of: {', '.join(map(repr, _CASES))}")
    options = parser.parse_args()
    unknown = set(options.cases) - set(_CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    cases = ["plain", *(c for c in _CASES if c in (options.cases or _CASES) and c != "plain")]
    os.sched_setaffinity(0, {GWLB_CORE})
    print(f"{'case':40} {'<=0.1% loss':>12} {'saturated':>10} {'of plain':>9} {'us/packet':>10}")
    ceiling = 0.0
    wrong = 0
    for case in cases:
        hook, load = _CASES[case]
        with topology():
            polling = pin_polling()
            with _handler(options.handler, hook) as pid:
                figures = measure(case, load, [polling] if pid is None else [polling, pid])
        ceiling = ceiling or figures.lossless_pps
        wrong += figures.wrong
        print(_line(figures, ceiling), flush=True)
    return 1 if wrong else 0


def _line(figures: Figures, ceiling: float) -> str:
    ratio = figures.lossless_pps / ceiling if ceiling else 0.0
    return (
        f"{figures.case:40} {figures.lossless_pps:12,.0f} {figures.saturated_pps:10,.0f}"
        f" {ratio:9.3f} {figures.cpu_us:10.2f}" + (f"  {figures.wrong} WRONG" * bool(figures.wrong))
    )


@contextlib.contextmanager
def _handler(command: str, hook: str | None) -> Iterator[int | None]:
    """Run the handler on the appliance's core until the case is over."""
    if hook is None:
        yield None
        return
    arguments = [*shlex.split(command), "-c", str(_HOOKS / f"{hook}.sh")]
    process = subprocess.Popen(
        ["taskset", "-c", str(APPLIANCE_CORE), *inside(APPLIANCE, *arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers()
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers() -> None:
    probe = Traffic(Load(64, 1))
    try:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if probe.run(10, 0.2).returned:
                return
    finally:
        probe.close()
    message = f"the handler returned no packet within {_START_S} s"
    raise RuntimeError(message)


if __name__ == "__main__":
    sys.exit(main())
