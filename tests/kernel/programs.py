"""The kernel path's programs without a network: loaded, and run on single frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from gwlbtun.host.kernel_flows import KernelFlows
from gwlbtun.host.offload import Offload, OffloadSizes
from tests.vectors.geneve import NODE, Node

REDIRECT: Final = 7
UP: Final = 0xFFFFFFFF
MAX_DATAGRAM_BYTES: Final = 3300
"""BPF_PROG_TEST_RUN takes frames that fit one page; larger ones go through namespaces."""
_LOOPBACK: Final = 1
"""Any interface that exists: nothing is sent, BPF_PROG_TEST_RUN only tells the verdict."""
_CONTEXT: Final = bytes(192)
_ETHERNET: Final = bytes(6) + b"\x02\0\0\0\0\x09" + b"\x08\0"
"""To the loopback interface's own address, so that the frame is for this host."""


class Programs(Offload):
    """An offload that serves endpoints on the loopback interface and attaches nowhere."""

    def serve(self, endpoint_id: int, gwi: int = _LOOPBACK) -> KernelFlows:
        """Know an endpoint; its flows."""
        _, tag = self.add_endpoint(endpoint_id, gwi, gwi)
        self.admit_endpoint(endpoint_id)
        return KernelFlows(self, tag)

    def _attach(
        self, ifindex: int, program: int, *, is_egress: bool, is_adopted: bool = False
    ) -> None:
        """Not here."""

    def decap(self, datagram: bytes, node: Node = NODE) -> bytes | None:
        """Run a datagram of a GWLB node through decap: the inner packet, or None when it is left
        to user space, untouched.
        """
        frame = _ETHERNET + node.packet(datagram)
        verdict, output = self._object.run(self._decap, frame, _CONTEXT)
        if verdict == UP:
            assert output == frame
            return None
        assert verdict == REDIRECT
        return output[len(_ETHERNET) :]


@contextlib.contextmanager
def programs(opt_class: int = 0x0108, max_flows: int = 1000) -> Iterator[Programs]:
    """Programs with empty maps that take packets of the usual node."""
    with contextlib.closing(Programs(opt_class, OffloadSizes(max_flows, 64))) as loaded:
        loaded.allow(NODE.source, NODE.destination)
        yield loaded
