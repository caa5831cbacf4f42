"""Counters of the packet path: plain integers, written by it and read by anyone."""

from __future__ import annotations

from typing import Final

from gwlbtun.reasons import DropReason

_SLOTS: Final = max(DropReason) + 1


class Drops:
    """Dropped packets by reason."""

    __slots__ = ("by_reason",)

    def __init__(self) -> None:
        self.by_reason = [0] * _SLOTS

    def count(self, reason: DropReason, packets: int = 1) -> None:
        """Count packets that end here."""
        self.by_reason[reason] += packets

    def as_dict(self) -> dict[str, int]:
        """Every reason by its label, zeros included."""
        return {reason.label: self.by_reason[reason] for reason in DropReason}
