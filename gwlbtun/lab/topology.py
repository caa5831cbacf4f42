"""Building a lab's namespaces, devices and routes, and taking them away again.

The clients' and servers' devices are persistent TUN devices, addressed here and opened by the
simulator; each appliance has a veth to the GWLB. Nothing outside the lab's namespaces changes.
"""

from __future__ import annotations

import subprocess
from typing import Final

from gwlbtun.errors import ConfigError, KernelError
from gwlbtun.lab.namespaces import enter_command, namespace_exists, run_ip
from gwlbtun.lab.plan import (
    CLIENT_ADDRESSES,
    DEVICE,
    DEVICE_MTU_BYTES,
    SERVER_ADDRESSES,
    UPLINK,
    UPLINK_MTU_BYTES,
    LabPlan,
)


def refuse_existing(plan: LabPlan) -> None:
    """Raise ConfigError when a namespace of one of the lab's names is there: it is not ours."""
    for role in plan.roles:
        namespace = plan.namespace(role)
        if namespace_exists(namespace):
            raise ConfigError(
                f"the network namespace {namespace} exists already: choose another --name, "
                f"or remove it with ip netns delete"
            )


_TIMEOUT_S: Final = 10


def build_topology(plan: LabPlan) -> None:
    """Create everything."""
    run_ip(["-batch", "-"], [f"netns add {plan.namespace(role)}" for role in plan.roles])
    for role in plan.roles:
        _batch(plan, role, ["link set lo up"])
    for number in plan.endpoint_numbers:
        _batch(plan, f"client-{number}", _side_commands(CLIENT_ADDRESSES))
        _batch(plan, f"server-{number}", _side_commands(SERVER_ADDRESSES))
    for number in plan.appliance_numbers:
        _batch(plan, "gwlb", _gwlb_commands(plan, number))
        _batch(plan, f"appliance-{number}", _appliance_commands(plan, number))
        _finish_checksums(plan, number)


def _finish_checksums(plan: LabPlan, number: int) -> None:
    """A veth claims to finish the checksums of whatever is inside a tunnel, as few network cards
    do (ENA does not), and never does: what the appliance itself sends would arrive without.
    """
    command = enter_command(
        plan.namespace(f"appliance-{number}"), ["ethtool", "-K", UPLINK, "tx", "off"]
    )
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelError(f"cannot set up {UPLINK} (package ethtool): {error}") from error


def destroy_topology(plan: LabPlan) -> None:
    """Delete the namespaces; their devices go with them."""
    names = [plan.namespace(role) for role in plan.roles]
    commands = [f"netns delete {name}" for name in names if namespace_exists(name)]
    if commands:
        run_ip(["-force", "-batch", "-"], commands)


def _batch(plan: LabPlan, role: str, commands: list[str]) -> None:
    run_ip(["-netns", plan.namespace(role), "-batch", "-"], commands)


def _side_commands(addresses: tuple[str, str]) -> list[str]:
    ipv4, ipv6 = addresses
    return [
        f"tuntap add {DEVICE} mode tun",
        # No address of its own making, no multicast: a VPC would carry neither to a GWLB.
        f"link set {DEVICE} addrgenmode none multicast off mtu {DEVICE_MTU_BYTES} up",
        f"address add {ipv4}/24 dev {DEVICE}",
        f"address add {ipv6}/64 dev {DEVICE} nodad",
        f"route add default dev {DEVICE}",
        f"route add ::/0 dev {DEVICE}",
    ]


def _gwlb_commands(plan: LabPlan, number: int) -> list[str]:
    device, appliance = f"target-{number}", plan.namespace(f"appliance-{number}")
    mtu = f"mtu {UPLINK_MTU_BYTES}"
    return [
        f"link add {device} {mtu} type veth peer name {UPLINK} {mtu} netns {appliance}",
        *(f"address add {node}/24 dev {device}" for node in plan.node_addresses(number)),
        f"link set {device} up",
    ]


def _appliance_commands(plan: LabPlan, number: int) -> list[str]:
    """The IPv6 address is what the appliance's own ICMPv6 errors come from."""
    return [
        f"address add {plan.appliance_address(number)}/24 dev {UPLINK}",
        f"address add fd00:99:{number}::10/64 dev {UPLINK} nodad",
        f"link set {UPLINK} up",
        f"route add default via {plan.node_addresses(number)[0]}",
    ]
