"""``make bench``: one command, one line per case, ratios in one run."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.cases import CASES, PLAIN_CASES, Case, run_case
from bench.measure import QUICK, Effort
from bench.systems import OWN, PLAIN, System
from bench.table import Table
from bench.tcp import print_tcp
from bench.topology import GWLB_CORE, NICE

_LOCK: Final = Path("/run/gwlbtun-bench.lock")
_QUICK_CASES: Final = ("100 flows", "all new flows", "hairpin")
_TCP: Final = "tcp"


def main() -> int:
    """Run the cases that were asked for; exit status 1 when any packet came back wrong."""
    options = _parse()
    systems = [system for system in OWN if system.name in options.system]
    if options.handler:
        systems.append(System.external(options.handler))
    effort = QUICK if options.quick else Effort()
    names = options.cases or (
        [*_QUICK_CASES] if options.quick else [c.name for c in CASES] + [_TCP]
    )
    cases = [case for case in CASES if case.name in names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clean up as after Ctrl-C
    with _alone():
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        os.sched_setaffinity(0, {GWLB_CORE})
        wrong = _packets(cases, systems, effort) if cases else 0
        if _TCP in names:
            print_tcp([system for system in systems if system in OWN], effort)
    return 1 if wrong else 0


def _packets(cases: list[Case], systems: list[System], effort: Effort) -> int:
    table = Table()
    needed = {case.ceiling for case in cases}
    ceilings = [case for case in PLAIN_CASES if case.ceiling in needed]
    for case in ceilings:
        table.add(run_case(case, PLAIN, effort))
    for case in cases:
        for system in filter(case.is_for, systems):
            table.add(run_case(case, system, effort))
    table.add(run_case(ceilings[0], PLAIN, effort))  # how steady the machine was
    return table.wrong


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--system",
        action="append",
        choices=[system.name for system in OWN],
        help="the daemon's path to measure, repeatable (default: both)",
    )
    parser.add_argument(
        "--handler", metavar="COMMAND", help="another tunnel handler; -c HOOK is added to it"
    )
    parser.add_argument("--quick", action="store_true", help="few cases, short: is it still fast?")
    known = [*(case.name for case in CASES), _TCP]
    parser.add_argument("cases", nargs="*", help=f"any of: {', '.join(map(repr, known))}")
    options = parser.parse_args()
    unknown = set(options.cases) - set(known)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    options.system = options.system or [system.name for system in OWN]
    return options


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two benches at once would measure each other."""
    with _LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another bench runs on this machine")
        yield


if __name__ == "__main__":
    sys.exit(main())
