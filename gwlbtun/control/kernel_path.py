"""The kernel path in the daemon's life: loaded if it can be, told about peers and endpoints, aged.

With ``auto``, whatever speaks against it ends in one log line and the user-space path carries all
packets; with ``ebpf`` it is an error; with ``user`` it is not tried.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from gwlbtun.control.log import Logger
from gwlbtun.datapath.endpoints import Endpoint, FlowLimits
from gwlbtun.datapath.peers import Peer
from gwlbtun.errors import KernelError
from gwlbtun.host.adoption import IsAllowed
from gwlbtun.host.kernel_flows import KernelFlows
from gwlbtun.host.offload import Offload, OffloadSizes
from gwlbtun.host.pins import PinDirectory

DataPath = Literal["auto", "ebpf", "user"]
_AGE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Traffic:
    """An endpoint's packets on both paths together."""

    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


def open_kernel_path(
    data_path: DataPath,
    opt_class: int,
    sizes: OffloadSizes,
    log: Logger,
    *,
    is_kept: bool,
    has_xdp: bool,
    is_allowed: IsAllowed,
) -> Offload | None:
    """Load the programs, or say why not. Raises KernelError where they are demanded."""
    place = PinDirectory.of_this_namespace()
    if data_path == "user":
        place.remove()  # an earlier daemon's programs would go on beside us
        return None
    pins = place if is_kept else None
    try:
        offload = Offload(opt_class, sizes, pins, has_xdp=has_xdp, is_allowed=is_allowed)
    except KernelError as error:
        place.remove()
        if data_path == "ebpf":
            raise
        log.warning("all packets take the user-space path", reason=str(error))
        return None
    log.info("kernel path loaded", map_bytes=offload.map_bytes())
    if offload.is_rebuilt:
        log.warning(
            "the maps that were left do not fit this version or configuration: made anew, with"
            " the old entries if their layout allows it; else flows are learned again"
        )
    return offload


class KernelPath:
    """Keeps the kernel path in step with endpoints and peers; does nothing where there is none."""

    def __init__(
        self,
        offload: Offload | None,
        limits: FlowLimits,
        uplinks: Collection[str],
        log: Logger,
        *,
        is_kept: bool,
        has_xdp: bool,
    ) -> None:
        self.flow_count = 0
        """Flows in the kernel when they were last aged."""
        self._offload = offload
        self._is_kept = is_kept
        self._has_xdp = has_xdp
        self._uplinks = frozenset(uplinks)
        self._limits = limits
        self._log = log
        self._indices: dict[int, int] = {}

    def close(self) -> None:
        """Detach and free everything, or let it go on without us."""
        if self._offload is not None and self._is_kept:
            self._offload.leave()
        elif self._offload is not None:
            self._offload.close()

    def adopt_uplinks(self) -> None:
        """Take the uplinks over from an earlier process; its endpoints follow one by one."""
        if self._offload is not None and self._is_kept:
            for ifindex in self._offload.adopt_uplinks(self._uplinks):
                name = _interface_name(ifindex)
                self._log.info("kernel path taken over", uplink=name)
                self._reflect_at_driver(ifindex, name)

    def finish_adoption(self) -> None:
        """All endpoints that were left are taken over."""
        if self._offload is not None:
            self._offload.finish_adoption()

    def allow(self, peer: Peer, ifindex: int) -> None:
        """Let a peer's packets stay in the kernel, on the interface that they come in on."""
        if self._offload is None:
            return
        name = _interface_name(ifindex)
        if self._uplinks and name not in self._uplinks:
            return
        if ifindex not in self._offload.uplinks:
            problem = self._offload.add_uplink(ifindex, name)
            if problem is None:
                self._log.info("kernel path attached", uplink=name)
                self._reflect_at_driver(ifindex, name)
            else:
                self._log.warning("packets of an uplink stay in user space", reason=problem)
        self._offload.allow(peer.source, peer.destination)

    def _reflect_at_driver(self, ifindex: int, name: str) -> None:
        if self._offload is None or not self._has_xdp:
            return
        try:
            self._offload.reflect_at_driver(ifindex)
        except KernelError as error:
            self._log.warning("hairpin stays with tc", uplink=name, reason=str(error))

    def take(self, endpoint: Endpoint) -> None:
        """Serve what goes out of an endpoint's interfaces; from now on user space marks the flows
        that it learns, so that the kernel does not answer them with what it knows of the reverse.
        """
        if self._offload is None:
            return
        try:
            gwi, gwo = (socket.if_nametoindex(name) for name in (endpoint.gwi, endpoint.gwo))
            index, tag = self._offload.add_endpoint(endpoint.id, gwi, gwo)
        except (KernelError, OSError) as error:
            self._stay_in_user_space(endpoint, error)
            return
        self._indices[endpoint.id] = index
        endpoint.kernel = KernelFlows(self._offload, tag)

    def admit(self, endpoint: Endpoint) -> None:
        """Serve what comes in for the endpoint, too: after the packets that waited for it."""
        if self._offload is None or endpoint.kernel is None:
            return
        try:
            self._offload.admit_endpoint(endpoint.id, is_hairpin=endpoint.is_hairpin)
        except KernelError as error:
            self.release(endpoint)
            self._stay_in_user_space(endpoint, error)

    def _stay_in_user_space(self, endpoint: Endpoint, cause: Exception) -> None:
        self._log.warning(
            "an endpoint's packets stay in user space",
            endpoint=endpoint.hex_id,
            reason=str(cause),
        )

    def release(self, endpoint: Endpoint) -> None:
        """The endpoint's interfaces are about to go."""
        if self._offload is not None and endpoint.kernel is not None:
            del self._indices[endpoint.id]
            endpoint.kernel = None
            self._offload.remove_endpoint(endpoint.id)

    def traffic(self, endpoint: Endpoint) -> Traffic:
        """What both paths have counted."""
        own = (endpoint.packets_in, endpoint.bytes_in, endpoint.packets_out, endpoint.bytes_out)
        index = self._indices.get(endpoint.id)
        if self._offload is None or index is None:
            return Traffic(*own)
        return Traffic(*map(sum, zip(own, self._offload.counters(index), strict=True)))

    def drops(self) -> dict[str, int]:
        """What the kernel path itself had to drop, by reason."""
        return {} if self._offload is None else self._offload.drops()

    async def age(self) -> None:
        """Drop flows that have been idle for too long. Runs until cancelled."""
        while True:
            await asyncio.sleep(_AGE_S)
            if self._offload is None:
                continue
            left = 0
            for step in self._offload.expire(
                int(time.monotonic()), self._limits.tcp_idle_s, self._limits.other_idle_s
            ):
                left += step
                await asyncio.sleep(0)  # packets first
            self.flow_count = left


def _interface_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"
