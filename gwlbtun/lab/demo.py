"""``gwlbtun lab demo``: a lab with two endpoints of equal inner addresses, real traffic through
each, an ordinary iptables rule that blocks a port, and the GWLB's verdict. Leaves nothing behind.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from gwlbtun.errors import KernelError
from gwlbtun.lab.instance import Lab, default_appliance
from gwlbtun.lab.plan import LabPlan
from gwlbtun.lab.table import format_table
from gwlbtun.lab.traffic import (
    TOOLS,
    Check,
    block_port,
    check_blocking,
    check_endpoint,
    start_servers,
)


def run_demo(name: str) -> int:
    """Exit status 0 when everything went through and the GWLB found nothing wrong."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        raise KernelError(f"the demo needs {', '.join(missing)}: install what provides them")
    plan = LabPlan(name, endpoints=2)
    print("Building: 2 endpoints with the same inner addresses, 1 GWLB, 1 appliance …", flush=True)
    with Lab(plan, default_appliance()) as lab:
        checks: list[Check] = []
        for check in _all_checks(lab):
            print("." if check.is_ok else "!", end="", flush=True)
            checks.append(check)
        status = lab.status()
    print("\n\n" + _table(checks))
    counters = {k: v for k, v in {**status["drops"], **status["io_errors"]}.items() if v}
    rows = [(name, str(value)) for name, value in {**status["metrics"], **counters}.items()]
    print("\n" + format_table(("GWLB counter", "value"), rows))
    for line in status["recent_violations"]:
        print(line, file=sys.stderr)
    failed = sum(not check.is_ok for check in checks)
    verdict = f"{len(checks) - failed} of {len(checks)} checks passed"
    print(f"\n{verdict}, {status['violations']} violations of the GWLB's rules.")
    return 1 if failed or status["violations"] else 0


def _all_checks(lab: Lab) -> Iterator[Check]:
    for endpoint in lab.plan.endpoint_numbers:
        start_servers(lab, endpoint)
    for endpoint in lab.plan.endpoint_numbers:
        yield from check_endpoint(lab, endpoint)
    for endpoint in lab.plan.endpoint_numbers:
        yield from check_blocking(lab, endpoint, is_blocked=False)
        block_port(lab, endpoint)
        yield from check_blocking(lab, endpoint, is_blocked=True)


def _table(checks: list[Check]) -> str:
    """A line per kind of traffic, its two IP versions side by side."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for check in checks:
        cells = rows.setdefault((str(check.endpoint), check.what), {})
        cells[check.family] = check.result if check.is_ok else f"FAILED: {check.result}"
    lines = [(*row, cells.get("4", ""), cells.get("6", "")) for row, cells in rows.items()]
    return format_table(("endpoint", "traffic", "IPv4", "IPv6"), lines)
