"""The health port: whether the load balancer should send new flows here, and all counters.

Any path and any method is answered: 200, or a truthful 503 with its reasons, never to be cached.
Several checkers probe at once, so an answer costs next to nothing: the verdict is asked for each
time, but the counters are collected anew only so often that this takes at most one twentieth of
the processor, however many endpoints there are.

The port shares the event loop with the packets, so nobody may hold on to it: 256 connections, the
oldest giving way to one more; 30 s each, whatever they do or do not send (aiohttp has no limit on
a request that is sent byte by byte); short lines, few headers. asyncio accepts ``backlog``
connections in one turn, and when descriptors run out tries each of these, fails, logs it and
pauses for a second: the backlog it is given is therefore 1, and the kernel's queue is lengthened
afterwards. Running out of descriptors so costs one log line a second and ends by itself.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gwlbtun import __version__
from gwlbtun.control.log import get_logger
from gwlbtun.errors import KernelError

_MAX_CONNECTIONS: Final = 256
_MAX_LIFE_S: Final = 30.0
_KEEPALIVE_S: Final = 10.0
_MAX_LINE_BYTES: Final = 4096
_MAX_HEADERS: Final = 64
_KERNEL_QUEUE: Final = 1024
_CLOSE_S: Final = 0.1
_COST_FACTOR: Final = 20
_MAX_AGE_S: Final = 1.0
"""Counters are collected for at most a twentieth of the time, and are never older than this."""
_NO_CACHE: Final = {"Cache-Control": "max-age=0, no-cache"}
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

# aiohttp logs a traceback for every malformed request; that is the client's fault, not news.
_UNHEARD: Final = logging.getLogger("gwlbtun.healthcheck.aiohttp")
_UNHEARD.setLevel(logging.CRITICAL + 1)


class HealthStyle(Enum):
    """What an answer carries beside its status code."""

    TEXT = "text"
    JSON = "json"
    STATUS_ONLY = "status-only"

    @classmethod
    def of(cls, *, is_json: bool, is_status_only: bool) -> HealthStyle:
        """The style of the options -j and -s; no body at all wins."""
        if is_status_only:
            return cls.STATUS_ONLY
        return cls.JSON if is_json else cls.TEXT


@dataclass(frozen=True, slots=True)
class Verdict:
    """Healthy or not, and why not."""

    ok: bool
    reasons: tuple[str, ...] = ()


class HealthServer:
    """Answers from ``start`` to ``close``; port 0 takes a free one, see ``port`` afterwards."""

    def __init__(
        self,
        port: int,
        *,
        style: HealthStyle,
        judge: Callable[[], Verdict],
        snapshot: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.port = port
        self._style = style
        self._judge = judge
        self._snapshot = snapshot
        self._log = get_logger("healthcheck")
        self._started_s = time.monotonic()
        self._servers: list[asyncio.Server] = []
        self._connections = _Connections()
        self._counters = ""
        self._counters_until_s = 0.0

    async def start(self) -> None:
        """Listen on IPv4, and on IPv6 where the system has it. Raises KernelError."""
        self._web = web.Server(
            self._answer,
            access_log=None,
            logger=_UNHEARD,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=1.0,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_HEADERS,
        )
        listeners = _open_listeners(self.port)
        self.port = listeners[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        for listener in listeners:
            server = await loop.create_server(
                lambda: _Connection(self._web(), self._connections), sock=listener, backlog=1
            )
            listener.listen(_KERNEL_QUEUE)
            self._servers.append(server)
        self._log.info("health port open", port=self.port)

    async def close(self) -> None:
        """Stop answering; whatever connections do, this takes a fraction of a second."""
        for server in self._servers:
            server.close()
        if self._servers:
            self._connections.close()
            await asyncio.sleep(0)  # connections are told that they are lost
            await self._web.shutdown(_CLOSE_S)
            await asyncio.sleep(0)
        self._servers.clear()

    async def _answer(self, _request: web.BaseRequest) -> web.StreamResponse:
        try:
            verdict = self._judge()
            body = self._build_body(verdict)
        except Exception:  # noqa: BLE001 - whatever it is, the truth is then 503
            self._log.exception("health check failed")
            verdict = Verdict(ok=False, reasons=("the health check itself failed, see the log",))
            body = "" if self._style is HealthStyle.STATUS_ONLY else f"{verdict.reasons[0]}\n"
        is_json = self._style is HealthStyle.JSON and body.startswith("{")
        return web.Response(
            status=200 if verdict.ok else 503,
            text=body,
            content_type="application/json" if is_json else "text/plain",
            headers=_NO_CACHE,
        )

    def _build_body(self, verdict: Verdict) -> str:
        if self._style is HealthStyle.STATUS_ONLY:
            return ""
        now_s, before_s = time.monotonic(), time.thread_time()
        if now_s >= self._counters_until_s:
            counters = {
                "version": __version__,
                "uptime_s": int(now_s - self._started_s),
                **self._snapshot(),
            }
            self._counters = self._render(counters)
            cost_s = time.thread_time() - before_s
            self._counters_until_s = now_s + min(cost_s * _COST_FACTOR, _MAX_AGE_S)
        head = {"status": "ok" if verdict.ok else "unhealthy", "reasons": verdict.reasons}
        if self._style is HealthStyle.JSON:
            return f"{self._render(head)[:-1]}, {self._counters[1:]}\n"
        return f"{self._render(head)}\n{self._counters}\n"

    def _render(self, values: Mapping[str, Any]) -> str:
        if self._style is HealthStyle.JSON:
            return json.dumps(values, default=str)
        return "\n".join(values_to_lines(values))


def values_to_lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested mappings and lists as indented text, one value a line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from values_to_lines(value, f"{indent}  ")
        elif _is_list(value) and any(isinstance(item, Mapping) for item in value):
            yield f"{indent}{key}:"
            for item in value:
                lines = list(values_to_lines(item, f"{indent}    "))
                yield f"{indent}  - {lines[0].lstrip()}"
                yield from lines[1:]
        elif _is_list(value) or isinstance(value, Mapping):
            yield f"{indent}{key}: {', '.join(map(str, value)) or 'none'}"
        else:
            yield f"{indent}{key}: {value}"


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _open_listeners(port: int) -> list[socket.socket]:
    """IPv4, and IPv6 where there is any, on the same port."""
    listeners: list[socket.socket] = []
    try:
        listeners.append(socket.create_server(("", port)))
        port = listeners[0].getsockname()[1]
        listeners.append(socket.create_server(("", port), family=socket.AF_INET6))
    except OSError as error:
        if listeners and error.errno in _NO_IPV6:
            return listeners
        for listener in listeners:
            listener.close()
        why = "another process uses it; end that or choose another port with -p"
        if error.errno != errno.EADDRINUSE:
            why = str(error.strerror)
        raise KernelError(f"cannot open health port {port}: {why}") from error
    return listeners


class _Connections:
    """The open connections, oldest first."""

    def __init__(self) -> None:
        self._open: dict[_Connection, None] = {}
        self._is_closed = False

    def add(self, connection: _Connection) -> None:
        if self._is_closed:  # accepted in the turn in which the port was closed
            connection.abort()
            return
        if len(self._open) >= _MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            self.remove(oldest)
            oldest.abort()
        self._open[connection] = None

    def remove(self, connection: _Connection) -> None:
        self._open.pop(connection, None)

    def close(self) -> None:
        self._is_closed = True
        for connection in self._open:
            connection.abort()


class _Connection(asyncio.Protocol):
    """aiohttp's protocol of one connection, with an end."""

    def __init__(self, inner: RequestHandler, connections: _Connections) -> None:
        self._inner = inner
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server gives
        self._transport = transport
        self._end = asyncio.get_running_loop().call_later(_MAX_LIFE_S, transport.abort)
        self._inner.connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._connections.remove(self)
        self._inner.connection_lost(exc)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
