"""Links, and the kernel's word that a setting of one has changed. pyroute2 is used only here."""

from __future__ import annotations

import errno
import socket
from typing import Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gwlbtun.errors import KernelError
from gwlbtun.host.sysctl import write_net

_RTNLGRP_IPV4_NETCONF: Final = 24
_ADDR_GEN_MODE_NONE: Final = 1


async def bring_up(name: str, mtu_bytes: int, queue_packets: int) -> None:
    """Make a fresh TUN device ready to forward: MTU, queue, no addresses of its own, up.

    The kernel would otherwise give it a link-local IPv6 address and send router solicitations and
    multicast reports out of it, for which no flow can exist. Raises KernelError.
    """
    write_net(_ADDR_GEN_MODE_NONE, "ipv6", "conf", name, "addr_gen_mode")  # absent without IPv6
    write_net(0, "ipv6", "conf", name, "accept_ra")
    try:
        async with AsyncIPRoute() as route:
            await route.link(
                "set",
                index=socket.if_nametoindex(name),
                mtu=mtu_bytes,
                txqlen=queue_packets,
                state="up",
            )
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        reason = errno.errorcode.get(code or 0, str(error))
        message = f"cannot bring {name} up (mtu {mtu_bytes}): {reason}"
        raise KernelError(message) from error


class NetconfEvents:
    """Readable when any interface's IPv4 settings (forwarding, rp_filter, …) have changed.

    udev and systemd-sysctl write rp_filter 40-100 ms after an interface appears; the kernel tells
    at once (RTM_NEWNETCONF), which no polling can match.
    """

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._sock.bind((0, 1 << (_RTNLGRP_IPV4_NETCONF - 1)))

    def fileno(self) -> int:
        """For the event loop."""
        return self._sock.fileno()

    def drain(self) -> None:
        """Forget what has come. An overrun (ENOBUFS) is told once and means a change as well."""
        while True:
            try:
                self._sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue

    def close(self) -> None:
        """Stop listening."""
        self._sock.close()
