"""control.health: a truthful answer for everyone, a hold for nobody. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gwlbtun.control import health
from gwlbtun.control.health import HealthServer, HealthStyle, Verdict, values_to_lines
from gwlbtun.errors import KernelError

GOOD = Verdict(ok=True)
BAD = Verdict(ok=False, reasons=("interface gwi-1 is gone", "the appliance is stopping"))
SNAPSHOT = {
    "flows": {"count": 3, "max": 10},
    "drops": {"missing_flow_entry": 2},
    "endpoints": [{"id": "0" * 17, "gwi": "gwi-0", "drops": {}}, {"id": "1", "gwi": "gwi-1"}],
}
PROBE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Appliance:
    """What the health port asks; a test changes ``verdict``."""

    def __init__(self) -> None:
        self.verdict = GOOD
        self.snapshots = 0
        self.snapshot_cost_s = 0.0

    def judge(self) -> Verdict:
        """The verdict of this moment."""
        return self.verdict

    def snapshot(self) -> dict[str, Any]:
        """Counters, at a price."""
        self.snapshots += 1
        if self.snapshot_cost_s:
            until = time.thread_time() + self.snapshot_cost_s
            while time.thread_time() < until:
                pass
        return SNAPSHOT

    def serve(self, style: HealthStyle = HealthStyle.TEXT, port: int = 0) -> HealthServer:
        """A server that is not started yet."""
        return HealthServer(port, style=style, judge=self.judge, snapshot=self.snapshot)


@pytest.fixture
def appliance() -> Appliance:
    return Appliance()


@pytest.fixture
async def server(appliance: Appliance) -> AsyncIterator[HealthServer]:
    server = appliance.serve()
    await server.start()
    yield server
    await server.close()


async def ask(port: int, request: bytes = PROBE, host: str = "127.0.0.1") -> tuple[str, str]:
    """Head and body of the answer."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        answer = (await reader.read()).decode()
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


async def read_end(reader: asyncio.StreamReader) -> None:
    """The server ends the connection, by FIN or, with unread bytes, by RST; it says nothing."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("line", ["GET /", "POST /a?b=c", "PUT /x/../y", "OPTIONS *", "DELETE /"])
async def test_health_when_asked_by_any_method_and_path_then_answers(
    server: HealthServer, line: str
) -> None:
    """Any HTTP request is answered, and never to be cached (the reference's interface)."""
    head, body = await ask(server.port, f"{line} HTTP/1.0\r\n\r\n".encode())
    assert head.splitlines()[0].split()[1] == "200"
    assert "Cache-Control: max-age=0, no-cache" in head
    assert "Content-Type: text/plain" in head
    assert body.startswith("status: ok\nreasons: none\nversion: ")


async def test_health_when_unhealthy_then_answers_503_with_all_reasons(
    appliance: Appliance, server: HealthServer
) -> None:
    """The next probe after a change tells the truth."""
    assert " 200 " in (await ask(server.port))[0]
    appliance.verdict = BAD
    head, body = await ask(server.port)
    assert " 503 " in head
    assert body.startswith(
        "status: unhealthy\nreasons: interface gwi-1 is gone, the appliance is stopping\n"
    )


async def test_health_when_json_is_wanted_then_the_body_is_one_object(appliance: Appliance) -> None:
    """Option -j."""
    server = appliance.serve(HealthStyle.JSON)
    await server.start()
    appliance.verdict = BAD
    head, body = await ask(server.port)
    await server.close()
    assert "Content-Type: application/json" in head
    found = json.loads(body)
    assert (found["status"], found["reasons"]) == ("unhealthy", list(BAD.reasons))
    assert {key: found[key] for key in SNAPSHOT} == SNAPSHOT
    assert found["uptime_s"] >= 0


async def test_health_when_only_the_status_is_wanted_then_the_body_is_empty(
    appliance: Appliance,
) -> None:
    """-s wins over -j, and costs no counters."""
    server = appliance.serve(HealthStyle.of(is_json=True, is_status_only=True))
    await server.start()
    head, body = await ask(server.port)
    await server.close()
    assert " 200 " in head
    assert body == ""
    assert appliance.snapshots == 0


async def test_health_when_the_verdict_cannot_be_found_then_answers_503(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health check that fails itself is no good health."""
    monkeypatch.setattr(appliance, "snapshot", lambda: 1 / 0)
    server = appliance.serve()
    await server.start()
    head, body = await ask(server.port)
    await server.close()
    assert " 503 " in head
    assert "failed" in body


async def test_health_when_the_counters_are_costly_then_they_are_not_collected_each_time(
    appliance: Appliance, server: HealthServer
) -> None:
    """At most one twentieth of the processor; the verdict is fresh all the same."""
    appliance.snapshot_cost_s = 0.1
    for _ in range(10):
        await ask(server.port)
    assert appliance.snapshots < 5  # one, unless the machine is so slow that it gets old
    appliance.verdict = BAD
    assert " 503 " in (await ask(server.port))[0]


async def test_health_when_ipv6_is_there_then_answers_on_it(server: HealthServer) -> None:
    """The same port on both; the systems that it is tested on have both."""
    assert socket.has_ipv6
    assert " 200 " in (await ask(server.port, host="::1"))[0]


async def test_health_when_hundreds_probe_at_once_then_all_are_answered(
    server: HealthServer,
) -> None:
    """Several checkers at once, and more."""
    answers = await asyncio.gather(*(ask(server.port) for _ in range(200)))
    assert all(" 200 " in head for head, _ in answers)


async def test_health_when_300_connections_idle_then_the_oldest_give_way(
    server: HealthServer,
) -> None:
    """At most 256; a probe still gets its answer."""
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(300)]
    assert " 200 " in (await ask(server.port))[0]
    for reader, _ in idle[:44]:
        await read_end(reader)
    assert not any(reader.at_eof() or reader.exception() for reader, _ in idle[50:])
    assert len(server._connections._open) <= 256
    for _, writer in idle:
        writer.close()
    await wait_until(lambda: not server._connections._open)


@pytest.mark.parametrize("is_sending", [True, False])
async def test_health_when_a_client_is_slow_then_its_connection_ends(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch, *, is_sending: bool
) -> None:
    """A connection lives for a limited time, whether it trickles (slowloris) or idles."""
    monkeypatch.setattr(health, "_MAX_LIFE_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n" if is_sending else b"")

    async def trickle() -> None:
        while is_sending:
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    await read_end(reader)
    task.cancel()
    writer.close()
    await wait_until(lambda: not server._connections._open)
    assert " 200 " in (await ask(server.port))[0]


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 10000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_health_when_a_client_is_rude_then_gets_400_and_no_line_in_the_log(
    server: HealthServer, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Size limits; malformed requests are no news."""
    head, _ = await ask(server.port, request_)
    assert " 400 " in head
    assert not [record for record in caplog.records if record.levelname != "INFO"]


async def test_health_when_closed_with_open_connections_then_ends_at_once(
    appliance: Appliance,
) -> None:
    """Half a second at most, whatever clients do; the port is free afterwards."""
    server = appliance.serve()
    await server.start()
    clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
    for _, writer in clients[:10]:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    for reader, _ in clients[:10]:
        await reader.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    await server.close()
    assert time.monotonic() - began < 0.5
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    for _, writer in clients:
        writer.close()
    await server.close()


async def test_health_when_the_port_is_in_use_then_says_so(appliance: Appliance) -> None:
    """One clear sentence."""
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(KernelError, match=f"health port {port}: another process uses it"):
            await appliance.serve(port=port).start()


def test_text_when_values_are_nested_then_is_indented() -> None:
    """Any snapshot is rendered."""
    assert "\n".join(values_to_lines({**SNAPSHOT, "names": ["a", "b"], "empty": []})) == (
        "flows:\n  count: 3\n  max: 10\n"
        "drops:\n  missing_flow_entry: 2\n"
        "endpoints:\n"
        "  - id: 00000000000000000\n    gwi: gwi-0\n    drops: none\n"
        "  - id: 1\n    gwi: gwi-1\n"
        "names: a, b\nempty: none"
    )
