"""Flow tables: what has to be put around a packet so that the GWLB takes it back.

Every table is a dict from flow key to Flow, and a packet that refreshes its flow only writes the
current second into it. Age is kept beside that: each key waits in the bucket of the second it was
filed under. When a bucket comes due, or when room is needed, its keys are looked at: those used
since are filed again under their last use, the others go. So the oldest idle flow always goes
first, to the second, and a flow costs one look per idle time instead of one per packet.

Seconds are whole numbers of a monotonic clock, passed in.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gwlbtun.datapath.peers import Peer

_EVICTION_LOOKS: Final = 4096
"""How many flows one eviction may look at and spare, two milliseconds' worth."""
_EVICTION_FRACTION: Final = 16384
"""A full budget frees max/16384 flows at a time: finding the oldest table is then no cost."""


class Flow:
    """The outer side of one direction of a flow.

    ``head`` and ``cookie`` together are the Geneve header, byte for byte as it came in. For the
    usual header, whose last 4 bytes are the cookie, ``head`` is one object shared by all flows of
    the endpoint; for any other layout ``head`` is the whole header and ``cookie`` empty.
    """

    __slots__ = ("cookie", "head", "peer", "seen")

    def __init__(self, peer: Peer, head: bytes, cookie: bytes, seen: int) -> None:
        self.peer = peer
        self.head = head
        self.cookie = cookie
        self.seen = seen


class FlowBudget:
    """How many flows all tables together may hold. ``evicted`` counts flows that had to go."""

    def __init__(self, max_flows: int) -> None:
        self.max_flows = max_flows
        self.count = 0
        self.evicted = 0
        self._tables: list[FlowTable] = []

    def add(self, table: FlowTable) -> None:
        """Let a table draw on the budget."""
        self._tables.append(table)

    def remove(self, table: FlowTable) -> None:
        """Give back all that a table holds; it must not be used afterwards."""
        self._tables.remove(table)
        self.count -= len(table.flows)

    def make_room(self) -> None:
        """Drop the longest idle flows until at least one more fits."""
        while self.count >= self.max_flows:
            table = min((t for t in self._tables if t.flows), key=lambda t: t.oldest)
            self.evicted += table.evict(max(1, self.max_flows // _EVICTION_FRACTION))


class FlowTable:
    """Flows of one kind of one endpoint, with one idle time.

    ``flows`` may be read and its values changed by anyone; keys are added and removed only here.
    """

    def __init__(self, idle_s: int, budget: FlowBudget, now: int) -> None:
        self.flows: dict[bytes, Flow] = {}
        self.idle_s = idle_s
        self.oldest = now
        """No flow is filed under an earlier second than this."""
        self._budget = budget
        self._buckets: dict[int, deque[bytes]] = {}
        budget.add(self)

    def learn(self, key: bytes, flow: Flow) -> None:
        """Add a flow whose key is not there yet; ``flow.seen`` is now."""
        budget = self._budget
        if budget.count >= budget.max_flows:
            budget.make_room()
        budget.count += 1
        self.flows[key] = flow
        self._file(key, flow.seen)

    def put(self, key: bytes, peer: Peer, head: bytes, cookie: bytes, now: int) -> Flow:
        """Learn a flow or refresh it with what its newest packet carried."""
        flow = self.flows.get(key)
        if flow is None:
            flow = Flow(peer, head, cookie, now)
            self.learn(key, flow)
        else:
            flow.peer, flow.head, flow.cookie, flow.seen = peer, head, cookie, now
        return flow

    def expire(self, now: int, max_looks: int) -> int:
        """Drop what has been idle for longer than ``idle_s``. Looks at no more than ``max_looks``
        keys, so that a million flows never stop the packet path; returns the looks left over.
        """
        while max_looks and self.oldest < now - self.idle_s:
            bucket = self._buckets.get(self.oldest)
            if not bucket:
                self._next_bucket()
                continue
            max_looks -= 1
            self._drop_unless_used(bucket.popleft())
        return max_looks

    def evict(self, wanted: int) -> int:
        """Drop up to ``wanted`` of the flows filed under the oldest second; how many went.

        Flows used since are spared, but only while looks are left: with a full table whose flows
        have all been used, a packet must not wait for a million looks.
        """
        bucket = self._buckets.get(self.oldest)
        gone, looks = 0, _EVICTION_LOOKS
        while bucket and gone < wanted:
            key = bucket.popleft()
            if looks > 0:
                looks -= 1
                gone += self._drop_unless_used(key)
            else:
                self._drop(key)
                gone += 1
        if not bucket and self.flows:  # then they are filed under later seconds
            self._next_bucket()
        return gone

    def _next_bucket(self) -> None:
        self._buckets.pop(self.oldest, None)
        self.oldest += 1

    def _drop_unless_used(self, key: bytes) -> bool:
        """Drop a flow of the oldest second, or file it again if a packet used it since."""
        seen = self.flows[key].seen
        if seen > self.oldest:
            self._file(key, seen)
            return False
        self._drop(key)
        return True

    def _drop(self, key: bytes) -> None:
        del self.flows[key]
        self._budget.count -= 1

    def _file(self, key: bytes, second: int) -> None:
        second = max(second, self.oldest)  # callers' clocks may lag
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = deque()
        bucket.append(key)
