"""The life of an endpoint: opened by its first valid packet, closed when idle, broken or at exit.

    unknown ─ first packet ─→ opening ─ interfaces up, CREATE done or late ─→ open
       ↑                         │ packets wait here                            │ idle, exit
       └───── interfaces gone ───┴──────── closing: DESTROY, then close ←───────┘

Packets that come while an endpoint opens wait for it, so that the first packet of a flow already
meets the rules which the CREATE hook sets up; but no longer than three seconds and no more than a
megabyte of them, because a slow hook must not stop traffic.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection
from typing import Final

from gwlbtun.control.devices import Devices
from gwlbtun.control.hooks import Hooks, HookTarget
from gwlbtun.control.kernel_path import KernelPath
from gwlbtun.control.log import Logger
from gwlbtun.control.reverse_path import ReversePathGuard
from gwlbtun.datapath.endpoints import Endpoint, FlowLimits
from gwlbtun.datapath.peers import Peer
from gwlbtun.errors import KernelError
from gwlbtun.forwarder import Forwarder
from gwlbtun.host.netlink import bring_up
from gwlbtun.reasons import DropReason
from gwlbtun.wire.gwlb import INNER_MTU_BYTES, endpoint_id_to_hex

_QUEUE_PACKETS: Final = 8192
"""Of each device: what the stack may send while the forwarder is busy elsewhere."""
_ROOM_BYTES: Final = 1 << 20
_HOLD_S: Final = 3.0
_RETRY_S: Final = 10
_RETRY_FRAGMENTS_S: Final = 0.005
_STOP_CREATE_S: Final = 1.5
_STOP_DESTROY_S: Final = 2.0
_STOP_S: Final = 4.0
"""At exit: what is left of CREATE hooks, then DESTROY hooks, then everything."""
_LOG_EVERY_S: Final = 60


class _Life:
    """One endpoint from its first packet to its end; ``task`` is its only owner."""

    __slots__ = (
        "begun",
        "ending",
        "endpoint",
        "is_created",
        "is_left",
        "room",
        "room_bytes",
        "task",
    )

    def __init__(self, *, is_left: bool) -> None:
        self.is_left = is_left
        """At the beginning: by an earlier process. At the end: for a later one."""
        self.is_created = False
        """The CREATE hook has ended: only then may the next process do without it."""
        self.begun = asyncio.Event()
        self.room: list[tuple[bytes, Peer]] = []
        self.room_bytes = 0
        self.endpoint: Endpoint | None = None
        self.ending = asyncio.Event()
        self.task: asyncio.Task[None]


class EndpointLife:
    """Opens and closes endpoints; the forwarder reports to it (forwarder.Events)."""

    def __init__(
        self,
        limits: FlowLimits,
        max_endpoints: int,
        hooks: Hooks,
        guard: ReversePathGuard,
        kernel_path: KernelPath,
        devices: Devices,
        log: Logger,
        *,
        hairpin_endpoints: Collection[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.open: dict[int, Endpoint] = {}
        """Endpoints that carry packets, by id."""
        self.opened = self.closed = self.failed = 0
        self.forwarder: Forwarder
        """Set before the first packet: each of the two needs the other."""
        self._limits = limits
        self._max_endpoints = max_endpoints
        self._hooks = hooks
        self._guard = guard
        self._kernel_path = kernel_path
        self._devices = devices
        self._hairpin_endpoints = frozenset(hairpin_endpoints)
        self._log = log
        self._clock = clock
        self._lives: dict[int, _Life] = {}
        self._retrying: set[int] = set()
        self._retry_at: dict[int, float] = {}
        self._limit_told_at = -float(_LOG_EVERY_S)
        self._is_stopping = False

    def on_peer(self, peer: Peer, ifindex: int) -> None:
        """A GWLB node has come: its packets may stay in the kernel."""
        self._kernel_path.allow(peer, ifindex)

    def on_unknown(self, endpoint_id: int, datagram: bytes, peer: Peer) -> None:
        """Open the endpoint of a valid packet and let the packet wait for it, or count why not."""
        life = self._lives.get(endpoint_id)
        if life is None:
            refusal = self._refusal(endpoint_id)
            if refusal is not None:
                self.forwarder.drops.count(refusal)
                return
            life = self._begin(endpoint_id)
        if life.room_bytes + len(datagram) <= _ROOM_BYTES:
            life.room_bytes += len(datagram)
            life.room.append((datagram, peer))
        else:
            self.forwarder.drops.count(DropReason.ENDPOINT_OPENING)

    def on_waiting(self, endpoint: Endpoint) -> None:
        """Look every few milliseconds whether a waiting fragment's first one has left by the kernel
        path, as long as any waits.
        """
        if endpoint.kernel is not None and endpoint.id not in self._retrying:
            self._retrying.add(endpoint.id)
            asyncio.get_running_loop().call_later(_RETRY_FRAGMENTS_S, self._retry, endpoint)

    def _retry(self, endpoint: Endpoint) -> None:
        self._retrying.discard(endpoint.id)
        if self.open.get(endpoint.id) is endpoint:
            self.forwarder.retry_waiting(endpoint)
            if endpoint.waiting:
                self.on_waiting(endpoint)

    def on_broken(self, endpoint: Endpoint, cause: OSError) -> None:
        """An interface was deleted under us: close what is left; the next packet opens it anew."""
        if self.open.get(endpoint.id) is endpoint:
            self._log.error(
                "endpoint broken: an interface was deleted; its next packet opens it anew",
                endpoint=endpoint.hex_id,
                cause=cause.strerror,
            )
            self.forwarder.detach(endpoint)
            self._kernel_path.release(endpoint)
            del self.open[endpoint.id]
            self._lives[endpoint.id].ending.set()

    async def adopt(self) -> None:
        """Take over the endpoints that an earlier process has left, without their CREATE hook if
        that had ended there.
        """
        lives = [
            self._begin(i, is_left=self._devices.is_created(i))
            for i in self._devices.left_endpoints()
        ]
        self._kernel_path.adopt_uplinks()
        for life in lives:
            await life.begun.wait()
        self._kernel_path.finish_adoption()
        self._devices.finish_adoption()

    async def stop(self) -> None:
        """End every endpoint, DESTROY hooks and all, in four seconds at most; or leave them, if
        devices are kept.
        """
        self._is_stopping = True
        tasks = [life.task for life in self._lives.values()]
        for life in self._lives.values():
            is_idle_end = life.ending.is_set()  # its DESTROY hook may run already
            life.is_left = self._devices.is_kept and life.is_created and not is_idle_end
            life.ending.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def end(self, endpoint: Endpoint) -> None:
        """Let an endpoint end, with its DESTROY hook; its next packet after that opens it anew."""
        if self.open.get(endpoint.id) is endpoint:
            self._lives[endpoint.id].ending.set()

    def _refusal(self, endpoint_id: int) -> DropReason | None:
        now = self._clock()
        if self._is_stopping:
            return DropReason.ENDPOINT_OPENING
        if self._retry_at.get(endpoint_id, now) > now:
            return DropReason.ENDPOINT_FAILED
        if len(self._lives) < self._max_endpoints:
            return None
        if now - self._limit_told_at >= _LOG_EVERY_S:
            self._limit_told_at = now
            self._log.warning(
                "no more endpoints: the limit is reached",
                max_endpoints=self._max_endpoints,
                refused=endpoint_id_to_hex(endpoint_id),
            )
        return DropReason.ENDPOINT_LIMIT

    def _begin(self, endpoint_id: int, *, is_left: bool = False) -> _Life:
        life = self._lives[endpoint_id] = _Life(is_left=is_left)
        life.task = asyncio.create_task(
            self._live(endpoint_id, life), name=f"endpoint {endpoint_id_to_hex(endpoint_id)}"
        )
        return life

    async def _live(self, endpoint_id: int, life: _Life) -> None:
        endpoint = Endpoint(endpoint_id, self._limits, int(self._clock()))
        endpoint.is_hairpin = endpoint_id in self._hairpin_endpoints
        try:
            await self._bring_up(endpoint)
            await self._serve(endpoint, life)
        except KernelError as error:
            self._log.error("endpoint failed", endpoint=endpoint.hex_id, cause=str(error))
        except Exception:  # noqa: BLE001 - one endpoint's fault must not become another's
            self._log.exception("endpoint failed", endpoint=endpoint.hex_id)
        finally:
            life.begun.set()
            self._end(endpoint, life)

    def _end(self, endpoint: Endpoint, life: _Life) -> None:
        """Whatever happened: it is left or gone, and its next packet begins a new life."""
        try:
            if life.is_left and life.endpoint is not None:
                self._leave(endpoint)
            else:
                self._tear_down(endpoint)
            if life.endpoint is not None:
                self.closed += 1
                what = "endpoint left" if life.is_left else "endpoint closed"
                self._log.info(what, endpoint=endpoint.hex_id)
        finally:
            del self._lives[endpoint.id]
        if life.endpoint is None:
            self._fail(endpoint, life)
        elif life.room and not self._is_stopping:
            again = self._begin(endpoint.id)  # packets came while it ended
            again.room, again.room_bytes = life.room, life.room_bytes

    async def _bring_up(self, endpoint: Endpoint) -> None:
        endpoint.gwi_fd = self._devices.open(endpoint.gwi)
        endpoint.gwo_fd = self._devices.open(endpoint.gwo)
        for name in (endpoint.gwi, endpoint.gwo):
            await bring_up(name, INNER_MTU_BYTES, _QUEUE_PACKETS)
        self._guard.protect(endpoint.gwi)

    async def _serve(self, endpoint: Endpoint, life: _Life) -> None:
        """From CREATE to DESTROY; the interfaces are there all the time."""
        target = HookTarget(endpoint.gwi, endpoint.gwo, endpoint.id)
        create = asyncio.create_task(self._create(target, life), name=f"CREATE {endpoint.hex_id}")
        try:
            await _hold(create, life)
            self._admit(endpoint, life)
            await life.ending.wait()
            await asyncio.wait({create}, timeout=_STOP_CREATE_S if self._is_stopping else None)
        finally:
            if not create.done():
                create.cancel()
                await asyncio.gather(create, return_exceptions=True)
        if life.is_left:
            return
        limit = _STOP_DESTROY_S if self._is_stopping else None
        await self._hooks.run("DESTROY", target, timeout_s=limit)

    async def _create(self, target: HookTarget, life: _Life) -> None:
        """An endpoint that was left has been created already."""
        if life.is_left:
            life.is_left = False
        else:
            await self._hooks.run("CREATE", target)
        life.is_created = True
        self._devices.note_created(target.id, is_created=True)

    def _admit(self, endpoint: Endpoint, life: _Life) -> None:
        """Let packets through, those that have waited first."""
        life.endpoint = self.open[endpoint.id] = endpoint
        self.opened += 1
        self._kernel_path.take(endpoint)
        self.forwarder.attach(endpoint)
        room, life.room, life.room_bytes = life.room, [], 0
        for datagram, peer in room:
            self.forwarder.deliver(datagram, peer)
        self._kernel_path.admit(endpoint)
        self._log.info(
            "endpoint open",
            endpoint=endpoint.hex_id,
            gwi=endpoint.gwi,
            gwo=endpoint.gwo,
            waited=len(room),
        )
        life.begun.set()

    def _fail(self, endpoint: Endpoint, life: _Life) -> None:
        """It never opened: the packets that waited are lost, and it is not tried again at once."""
        self.failed += 1
        self.forwarder.drops.count(DropReason.ENDPOINT_FAILED, len(life.room))
        now = self._clock()
        self._retry_at = {key: at for key, at in self._retry_at.items() if at > now}
        self._retry_at[endpoint.id] = now + _RETRY_S

    def _leave(self, endpoint: Endpoint) -> None:
        """Let devices and kernel path go on without us."""
        del self.open[endpoint.id]
        self.forwarder.detach(endpoint)
        self._guard.release(endpoint.gwi)
        for fd in (endpoint.gwi_fd, endpoint.gwo_fd):
            os.close(fd)

    def _tear_down(self, endpoint: Endpoint) -> None:
        """Close everything that the endpoint has; its interfaces vanish with their descriptors."""
        if self.open.get(endpoint.id) is endpoint:
            del self.open[endpoint.id]
        self.forwarder.detach(endpoint)
        self._kernel_path.release(endpoint)
        self._guard.release(endpoint.gwi)
        for name, fd in ((endpoint.gwi, endpoint.gwi_fd), (endpoint.gwo, endpoint.gwo_fd)):
            if fd >= 0:
                self._devices.close(name, fd)
        self._devices.note_created(endpoint.id, is_created=False)
        endpoint.close()


async def _hold(create: asyncio.Task[None], life: _Life) -> None:
    """Let the CREATE hook do its work before the first packet, unless it is slow or all ends."""
    ending = asyncio.create_task(life.ending.wait(), name="ending")
    try:
        await asyncio.wait({create, ending}, timeout=_HOLD_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
