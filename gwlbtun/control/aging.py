"""What time does to endpoints: flows and fragments grow old, an endpoint without traffic ends.

Beside the packets, in small slices: a million flows must never stop the packet path.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gwlbtun.control.endpoints import EndpointLife
from gwlbtun.control.kernel_path import KernelPath
from gwlbtun.control.log import Logger
from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.reasons import DropReason

_PERIOD_S: Final = 1
_LOOKS_PER_SLICE: Final = 2000


class Aging:
    """``idle_s`` is how long an endpoint may be without packets in both directions; 0 is for
    ever.
    """

    def __init__(
        self,
        life: EndpointLife,
        kernel_path: KernelPath,
        idle_s: int,
        log: Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._life = life
        self._kernel_path = kernel_path
        self._idle_s = idle_s
        self._log = log
        self._clock = clock
        self._last_traffic: dict[Endpoint, tuple[int, float]] = {}
        """Packets counted, and since when there have been no more."""

    async def run(self) -> None:
        """Every second, until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self.once()

    async def once(self) -> None:
        """One pass over all endpoints."""
        now = self._clock()
        endpoints = list(self._life.open.values())
        self._last_traffic = {e: self._last_traffic.get(e, (-1, now)) for e in endpoints}
        for endpoint in endpoints:
            late = endpoint.waiting.expire(int(now))
            if late:
                self._life.forwarder.drops.count(DropReason.FRAGMENT_UNMATCHED, late)
                endpoint.drops.count(DropReason.FRAGMENT_UNMATCHED, late)
            while not endpoint.expire(int(now), _LOOKS_PER_SLICE):
                await asyncio.sleep(0)  # packets first
            if self._idle_s and self._is_idle(endpoint, now):
                self._log.info("endpoint idle", endpoint=endpoint.hex_id, idle_s=self._idle_s)
                self._life.end(endpoint)

    def _is_idle(self, endpoint: Endpoint, now: float) -> bool:
        traffic = self._kernel_path.traffic(endpoint)
        count = traffic.packets_in + traffic.packets_out
        before, since = self._last_traffic[endpoint]
        if count != before:
            self._last_traffic[endpoint] = (count, now)
            return False
        return now - since >= self._idle_s
