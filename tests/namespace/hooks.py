"""Hook scripts for the tests, and what the lab's inspection hook needs besides."""

from __future__ import annotations

from typing import Final

from gwlbtun.lab.instance import INSPECT_HOOK
from tests.namespace.harness import Rig

INSPECT: Final = str(INSPECT_HOOK)
"""Routes what comes out of gwi to gwo of the same endpoint."""

_REDIRECT: Final = """
[ "$1" = CREATE ] || exit 0
tc qdisc add dev "$2" clsact
tc filter add dev "$2" ingress protocol all u32 match u32 0 0 \\
    action mirred egress redirect dev "$3"
"""


def redirect(rig: Rig) -> str:
    """A hook that sends what comes out of gwi into gwo at once, past the IP stack."""
    return rig.write_script("redirect", _REDIRECT)


def recorder(rig: Rig, name: str = "record", *, then: str = "") -> str:
    """A hook that writes its arguments and the flags of both interfaces into NAME.calls."""
    calls = rig.directory / f"{name}.calls"
    return rig.write_script(
        name,
        f"""
        state=
        for device in "$2" "$3"; do
            state="$state $(ip -o link show dev "$device" | grep -o '[<,]UP[,>]' || echo down)"
        done
        echo "$@$state" >>{calls}
        {then}
        """,
    )


def read_calls(rig: Rig, name: str = "record") -> list[list[str]]:
    """The argument lists that a recorder has written, each with the two interfaces' states."""
    calls = rig.directory / f"{name}.calls"
    return [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []
