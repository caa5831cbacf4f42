"""Keeps reverse path filtering off where inner packets enter the stack.

Inner packets come from anywhere, so a filter on gwi-<X> would silently black-hole the endpoint.
The effective value is the larger of ``all`` and the interface's own (ip-sysctl.rst, rp_filter), and
udev or systemd-sysctl set both on many systems, the interface's some 40-100 ms after it appears.
The kernel announces each such change, and the guard puts it right at once.

``all`` has to be 0 as well. What it demanded is then written into every other interface, so that
no interface of the host but ours is filtered less than before.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gwlbtun.control.log import Logger
from gwlbtun.host.netlink import NetconfEvents
from gwlbtun.host.sysctl import net_interfaces, read_net, write_net

_OUR_PREFIXES: Final = ("gwi-", "gwo-")


class ReversePathGuard:
    """``problem`` says in words why the filter could not be turned off, or is None."""

    def __init__(self, log: Logger) -> None:
        self.problem: str | None = None
        self.repairs = 0
        self._log = log
        self._names: set[str] = set()
        self._moved: str | None = None
        self._events = NetconfEvents()

    def start(self) -> None:
        """Watch from now on; needs the running event loop."""
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._on_change)

    def close(self) -> None:
        """Stop watching and give ``all`` back what it held before."""
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
        if self._moved is not None and read_net("ipv4", "conf", "all", "rp_filter") == "0":
            write_net(int(self._moved), "ipv4", "conf", "all", "rp_filter")

    def protect(self, name: str) -> None:
        """Keep the filter off on one more interface."""
        self._names.add(name)
        self.check()

    def release(self, name: str) -> None:
        """The interface is about to go."""
        self._names.discard(name)

    def check(self) -> None:
        """Put right what is wrong. A few file reads: cheap enough for every second."""
        if not self._names:
            return
        self.problem = self._clear_all()
        for name in sorted(self._names):
            if read_net("ipv4", "conf", name, "rp_filter") in ("0", None):
                continue
            problem = write_net(0, "ipv4", "conf", name, "rp_filter")
            self.problem = self.problem or problem
            if problem is None:
                self.repairs += 1
                self._log.debug("reverse path filter turned off", interface=name)

    def _on_change(self) -> None:
        self._events.drain()
        self.check()

    def _clear_all(self) -> str | None:
        demanded = read_net("ipv4", "conf", "all", "rp_filter")
        if demanded in ("0", None):
            return None
        for name in (*net_interfaces(), "default"):
            own = read_net("ipv4", "conf", name, "rp_filter")
            if own is not None and not name.startswith(_OUR_PREFIXES) and own < demanded:
                write_net(int(demanded), "ipv4", "conf", name, "rp_filter")
        problem = write_net(0, "ipv4", "conf", "all", "rp_filter")
        if problem is None:
            self._moved = demanded
            self._log.warning(
                "reverse path filtering moved from all to each other interface, or every"
                " endpoint would be black-holed",
                rp_filter=demanded,
            )
        return problem
