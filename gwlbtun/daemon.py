"""The process: what is built from the configuration, in which order it starts and stops.

Start: log, sockets, packet path, health port. Stop (SIGTERM, SIGINT): endpoints with their DESTROY
hooks while packets still flow, then the packet path, the health port, the log; five seconds at
most. One thread and one event loop carry all of it; only the log's writer has a thread of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

from gwlbtun import __version__
from gwlbtun.config import Config
from gwlbtun.control import log as logging
from gwlbtun.control.aging import Aging
from gwlbtun.control.devices import Devices
from gwlbtun.control.endpoints import EndpointLife
from gwlbtun.control.health import HealthServer, HealthStyle, Verdict
from gwlbtun.control.hooks import Hooks, reset_signals
from gwlbtun.control.kernel_path import KernelPath, open_kernel_path
from gwlbtun.control.leftovers import StateDirectory, remove_leftovers
from gwlbtun.control.log import Logger
from gwlbtun.control.reverse_path import ReversePathGuard
from gwlbtun.datapath.decap import Decap
from gwlbtun.datapath.endpoints import Endpoint, FlowLimits
from gwlbtun.datapath.peers import PeerTable
from gwlbtun.errors import KernelError
from gwlbtun.forwarder import Forwarder
from gwlbtun.host.keeper import Keeper
from gwlbtun.host.offload import OffloadSizes
from gwlbtun.host.systemd import SystemdStore, notify
from gwlbtun.host.tun import has_device, is_down
from gwlbtun.host.udp import buffer_bytes, open_receiver, open_sender
from gwlbtun.wire.gwlb import PROFILES

_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""A full collection visits every flow, 50-100 ms for a million: let it be rare. Flows are no
cycles, reference counting frees them."""
_OTHER_DESCRIPTORS: Final = 512
"""Beside the endpoints' two each: health connections, hooks, sockets."""
_ANY_BUFFER_BYTES: Final = 65536
_LAG_LIMIT_S: Final = 1.0
_CHECK_S: Final = 1.0


def run_daemon(config: Config, notices: tuple[str, ...]) -> int:
    """Run until a signal ends it; the process's exit status."""
    reset_signals()
    gc.set_threshold(*_GC_THRESHOLDS)
    _raise_descriptor_limit(2 * config.max_endpoints + _OTHER_DESCRIPTORS)
    state = logging.configure(config.log_levels)
    log = logging.get_logger("core")
    try:
        for notice in notices:
            log.warning(notice)
        with open_receiver(_ANY_BUFFER_BYTES):  # taken by another daemon? then touch nothing
            devices = _prepare_state(config, log)
        asyncio.run(_run(config, devices))
    except KernelError as error:
        log.critical(str(error))
        return 1
    finally:
        state.close()
    return 0


class Daemon:
    """Everything that runs, wired together once."""

    def __init__(self, config: Config, devices: Devices) -> None:
        self._config = config
        self._devices = devices
        self._log = logging.get_logger("core")
        self._stop = asyncio.Event()
        self._problems: list[str] = []
        self._dead_tasks: list[str] = []
        self._started_s = time.monotonic()
        self._lag_s = 0.0
        self._limits = FlowLimits.of(config.max_flows, config.tcp_idle_s, config.other_idle_s)
        self._hooks = Hooks(
            config.hook_create,
            config.hook_destroy,
            timeout_s=config.hook_timeout_s,
            log=logging.get_logger("core"),
        )
        self._guard = ReversePathGuard(logging.get_logger("tunnel"))
        self._peers = PeerTable(config.allowed_sources)
        self._kernel_path = KernelPath(
            open_kernel_path(
                config.datapath,
                PROFILES[config.provider].opt_class,
                OffloadSizes(config.max_flows, config.max_endpoints),
                self._log,
                is_kept=config.keep,
                has_xdp=config.hairpin_xdp,
                is_allowed=self._peers.is_allowed,
            ),
            self._limits,
            config.uplinks,
            self._log,
            is_kept=config.keep,
            has_xdp=config.hairpin_xdp,
        )
        self._life = EndpointLife(
            self._limits,
            config.max_endpoints,
            self._hooks,
            self._guard,
            self._kernel_path,
            devices,
            logging.get_logger("geneve"),
            hairpin_endpoints=config.hairpin_endpoints,
        )
        self._aging = Aging(
            self._life, self._kernel_path, config.endpoint_idle_s, logging.get_logger("geneve")
        )
        self._forwarder: Forwarder

    async def run(self) -> None:
        """Start, serve until SIGTERM, SIGINT or a hang-up, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:  # no nohup
                loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:  # unwound from the last to the first
            self._start_packets(stack)
            await self._life.adopt()
            await self._start_health(stack)
            for name, work in (
                ("age", self._aging.run()),
                ("age kernel", self._kernel_path.age()),
                ("check", self._check()),
            ):
                task = asyncio.create_task(work, name=name)
                task.add_done_callback(self._on_task_end)
                stack.push_async_callback(_cancel, task)
            stack.push_async_callback(self._life.stop)
            notify("READY=1")
            await self._stop.wait()
            notify("STOPPING=1")
            self._log.info("stopping", endpoints=len(self._life.open))
        self._log.info("stopped")

    def _start_packets(self, stack: AsyncExitStack) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        receiver = stack.enter_context(open_receiver(config.receive_buffer_bytes))
        sender = stack.enter_context(open_sender())
        self._guard.start()
        stack.callback(self._guard.close)
        forwarder = Forwarder(
            receiver,
            sender,
            Decap(PROFILES[config.provider]),
            self._peers,
            self._life,
        )
        stack.callback(forwarder.close)
        stack.callback(self._kernel_path.close)
        if config.log_packets:
            forwarder.trace = _trace
        self._forwarder = self._life.forwarder = forwarder
        loop.add_reader(forwarder.fileno(), forwarder.turn)
        stack.callback(loop.remove_reader, forwarder.fileno())
        self._log.info(
            "started",
            version=__version__,
            provider=config.provider,
            receive_buffer_bytes=buffer_bytes(receiver),
            max_flows=config.max_flows,
            max_endpoints=config.max_endpoints,
        )

    async def _start_health(self, stack: AsyncExitStack) -> None:
        if self._config.health_port is None:
            return
        style = HealthStyle.of(
            is_json=self._config.health_json, is_status_only=self._config.health_status_only
        )
        server = HealthServer(
            self._config.health_port, style=style, judge=self.judge, snapshot=self.snapshot
        )
        await server.start()
        stack.push_async_callback(server.close)

    def judge(self) -> Verdict:
        """Whether the load balancer should send new flows here, and if not, why."""
        reasons = [*self._problems]
        if self._stop.is_set():
            reasons.append("the appliance is stopping")
        return Verdict(ok=not reasons, reasons=tuple(reasons))

    def snapshot(self) -> dict[str, Any]:
        """All counters, for the health body."""
        life, budget = self._life, self._limits.flows
        return {
            "version": __version__,
            "uptime_s": int(time.monotonic() - self._started_s),
            "flows": {
                "count": budget.count + self._kernel_path.flow_count,
                "max": budget.max_flows,
                "evicted": budget.evicted,
            },
            "endpoints_opened": life.opened,
            "endpoints_closed": life.closed,
            "endpoints_failed": life.failed,
            "event_loop_lag_s": round(self._lag_s, 3),
            "hooks": self._hooks.counters(),
            "drops": self._drops(),
            "endpoints": [self._describe(endpoint) for endpoint in life.open.values()],
        }

    def _drops(self) -> dict[str, int]:
        """By reason, on both paths together."""
        drops = self._forwarder.drops.as_dict()
        for label, packets in self._kernel_path.drops().items():
            drops[label] += packets
        return drops

    def _describe(self, endpoint: Endpoint) -> dict[str, Any]:
        traffic = self._kernel_path.traffic(endpoint)
        return {
            "id": endpoint.hex_id,
            "gwi": endpoint.gwi,
            "gwo": endpoint.gwo,
            "packets_in": traffic.packets_in,
            "bytes_in": traffic.bytes_in,
            "packets_out": traffic.packets_out,
            "bytes_out": traffic.bytes_out,
            "flows": endpoint.flow_count,
            "drops": {k: v for k, v in endpoint.drops.as_dict().items() if v},
        }

    async def _check(self) -> None:
        """Every second: look at what packets need, so that a probe costs nothing."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _CHECK_S
            await asyncio.sleep(_CHECK_S)
            self._lag_s = loop.time() - due
            self._guard.check()
            await asyncio.to_thread(self._devices.ensure_held, self._log)
            self._problems = [*self._find_problems()]

    def _find_problems(self) -> Iterator[str]:
        if self._lag_s > _LAG_LIMIT_S:
            yield f"the event loop is {self._lag_s:.1f} s late"
        if self._guard.problem is not None:
            yield self._guard.problem
        for endpoint in self._life.open.values():
            devices = ((endpoint.gwi, endpoint.gwi_fd), (endpoint.gwo, endpoint.gwo_fd))
            for name, fd in devices:
                if not has_device(fd):
                    yield f"interface {name} is gone"
                elif is_down(name):
                    yield f"interface {name} is down"
        yield from self._dead_tasks

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A task that ends by itself has failed: say so in the log and in health."""
        if not task.cancelled():
            self._dead_tasks.append(f"task {task.get_name()!r} has failed")
            self._problems = [*self._problems, self._dead_tasks[-1]]
            self._log.critical("task failed", task=task.get_name(), exc_info=task.exception())


async def _run(config: Config, devices: Devices) -> None:
    """Everything that belongs to the event loop is made inside it."""
    await Daemon(config, devices).run()


def _prepare_state(config: Config, log: Logger) -> Devices:
    """Be the one that keeps its state here, or remove what one that was killed has left."""
    has_manager = bool(os.environ.get("NOTIFY_SOCKET"))
    if not config.keep:
        if has_manager:  # it may hold devices of an earlier daemon that kept its state
            SystemdStore().clear()
        found = remove_leftovers()
        if found:
            log.warning("removed what an earlier daemon had left", found=found)
        return Devices(None, None)
    state = StateDirectory()
    state.lock()
    if has_manager:
        return Devices(SystemdStore(), state.path)
    keeper = Keeper(state.keeper_socket)
    keeper.start()
    return Devices(keeper, state.path)


def _raise_descriptor_limit(wanted: int) -> None:
    """The usual soft limit of 1024 would end at some 500 endpoints."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _trace(direction: str, endpoint: Endpoint, packet: memoryview) -> None:
    """One debug line per packet, on request only (-x): it costs most of the packet rate."""
    logging.get_logger("tunnel").debug(
        "packet", direction=direction, endpoint=endpoint.hex_id, hex=packet.hex()
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
