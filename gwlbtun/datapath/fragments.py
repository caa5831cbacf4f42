"""Fragments on their way out that came before their first fragment.

Only a first fragment has ports, so the others wait here until it tells their flow. The appliance's
own stack sends fragments in order; those that pass through it may arrive in any order (RFC 791
promises none). Bounded in bytes and in time: one endpoint's fragments cost at most 256 KiB for two
seconds.
"""

from __future__ import annotations

from typing import Final

_MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 64
"""Datagrams that may wait for their first fragment: each costs a look every few milliseconds."""
_WAIT_S: Final = 2


class WaitingFragments:
    """Packets by fragment key, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[int, list[bytes]]] = {}
        self._bytes = 0

    def keep(self, fragment: bytes, packet: bytes, now: int) -> bool:
        """Let a packet wait for its first fragment; False when there is no room."""
        is_new = fragment not in self._waiting
        if self._bytes + len(packet) > _MAX_BYTES or (is_new and len(self._waiting) >= _MAX_KEYS):
            return False
        self._bytes += len(packet)
        self._waiting.setdefault(fragment, (now, []))[1].append(packet)
        return True

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def firsts(self) -> list[tuple[bytes, bytes]]:
        """Each fragment key with the first packet that waits under it."""
        return [(key, packets[0]) for key, (_, packets) in self._waiting.items()]

    def release(self, fragment: bytes) -> list[bytes]:
        """Take out what waited for this first fragment, in order of arrival."""
        if fragment not in self._waiting:
            return []
        packets = self._waiting.pop(fragment)[1]
        self._bytes -= sum(map(len, packets))
        return packets

    def expire(self, now: int) -> int:
        """Drop what has waited too long; how many packets went."""
        late = [key for key, (since, _) in self._waiting.items() if since < now - _WAIT_S]
        return sum(len(self.release(key)) for key in late)
