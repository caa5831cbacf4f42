"""The two namespaces and the veth pair, with fixed neighbours so that no packet waits for ARP."""

from __future__ import annotations

from typing import Final

from gwlbtun.lab.namespaces import run_ip

UPLINK: Final = "uplink"
_MACS: Final = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def build(gwlb: str, appliance: str, mtu_bytes: int) -> None:
    """Create everything; what exists already under one of the names is an error."""
    run_ip(["-batch", "-"], [f"netns add {gwlb}", f"netns add {appliance}"])
    mine, peers = (f"mtu {mtu_bytes} address {mac}" for mac in _MACS)
    run_ip(
        ["-netns", gwlb, "-batch", "-"],
        [
            f"link add {UPLINK} {mine} type veth peer name {UPLINK} {peers} netns {appliance}",
            *(f"address add 10.0.9.{host}/24 dev {UPLINK}" for host in (4, 5)),
            f"link set {UPLINK} up",
            *(
                f"neighbour replace 10.0.9.{host} lladdr {_MACS[1]} dev {UPLINK} nud permanent"
                for host in (100, 101)
            ),
        ],
    )
    run_ip(
        ["-netns", appliance, "-batch", "-"],
        [
            "link set lo up",
            f"address add 10.0.9.100/24 dev {UPLINK}",
            f"address add 2001:db8:9::100/64 dev {UPLINK} nodad",
            f"link set {UPLINK} up",
            *(
                f"neighbour replace 10.0.9.{host} lladdr {_MACS[0]} dev {UPLINK} nud permanent"
                for host in (4, 5)
            ),
        ],
    )
