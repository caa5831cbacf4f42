"""A steady stream of numbered packets through the appliance, and which of them came back."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final

from gwlbtun.host.mmsg import ReceiveBatch
from gwlbtun.lab.namespaces import call_in_namespace
from tests.namespace.harness import Rig
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, udp

_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 32 << 20
_NUMBER: Final = struct.Struct("!I")
_PORT: Final = slice(-_NUMBER.size - 8, -_NUMBER.size - 6)
"""The inner UDP source port, counted from the end."""
_SETTLE_S: Final = 1.0


class Stream:
    """Sends in a thread of its own while the ``with`` block runs; then ``lost`` is known."""

    def __init__(self, rig: Rig, endpoint: int, rate_pps: int = 10_000, *, flows: int = 1) -> None:
        self.sent = 0
        self._returned: set[int] = set()
        self._rate_pps = rate_pps
        self._flows = flows
        template = NODE.packet(gwlb(udp(CLIENT_4, _NUMBER.pack(0)), 7, endpoint))
        # UDP checksums off, outer and inner: only the number at the end changes.
        packet = bytearray(template)
        packet[26:28] = bytes(2)
        packet[-_NUMBER.size - 2 : -_NUMBER.size] = bytes(2)
        self._packet = packet
        namespace = rig.namespaces[0]
        self._raw = call_in_namespace(
            namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        )
        self._receiver = rig.gwlb.swallower
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._batch = ReceiveBatch(self._receiver, 2048)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._send, self._collect)]
        self._is_over = threading.Event()

    def __enter__(self) -> Stream:
        while self._batch.receive():
            pass
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._threads[0].join()
        time.sleep(_SETTLE_S)
        self._is_over.set()
        self._threads[1].join()
        self._raw.close()

    @property
    def lost(self) -> int:
        """How many packets never came back."""
        return self.sent - len(self._returned)

    def _send(self) -> None:
        destination = socket.inet_ntoa(NODE.destination)
        start = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - start) * self._rate_pps)
            for number in range(self.sent, min(due, self.sent + 32)):
                self._packet[-_NUMBER.size :] = _NUMBER.pack(number)
                if self._flows > 1:
                    self._packet[_PORT] = (1024 + number % self._flows).to_bytes(2, "big")
                self._raw.sendto(self._packet, (destination, 0))
                self.sent += 1
            time.sleep(0.0005)

    def _collect(self) -> None:
        batch = self._batch
        while not self._is_over.is_set():
            count = batch.receive()
            for i in range(count):
                end = batch.offsets[i] + batch.lengths[i]
                (number,) = _NUMBER.unpack_from(batch.buffer, end - _NUMBER.size)
                self._returned.add(number)
            if not count:
                time.sleep(0.002)
