"""What the user-space path asks of the kernel path, where there is one.

The kernel path keeps flows of its own. A packet comes up from it for one of two reasons: it is
unusual, or its flow is not known there. So user space tells the kernel path which flows it has
taken over, and asks it about flows before it looks at its own.
"""

from __future__ import annotations

from typing import Protocol

from gwlbtun.wire.inet import InnerFlow


class KernelEntry(Protocol):
    """What the kernel path puts around a flow's packets. Addresses are in network order."""

    @property
    def options(self) -> bytes:
        """The Geneve options, which end with the flow cookie."""

    @property
    def gwlb(self) -> bytes:
        """Where the flow's packets return to."""

    @property
    def appliance(self) -> bytes:
        """Which of our addresses they came to."""

    @property
    def port(self) -> int:
        """The GWLB's UDP source port."""


class KernelFlows(Protocol):
    """The kernel path's flows of one endpoint."""

    def take_over(self, inner: InnerFlow, now: int) -> None:
        """From now on user space holds what has to be put around this flow's packets."""

    def find(self, inner: InnerFlow) -> KernelEntry | None:
        """The kernel's own entry for a packet on its way out, by the same rules as in encap: exact
        direction, reverse, quote, fragment. None where it has none or user space has the flow.
        """
