from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gwlbtun.datapath.flows import Flow, FlowBudget, FlowTable
from gwlbtun.datapath.peers import Peer

PEER = Peer(b"\x0a\0\x09\x04", 60000, b"\x0a\0\x09\x64")
OTHER_PEER = Peer(b"\x0a\0\x09\x05", 60001, b"\x0a\0\x09\x64")
ALL = 1_000_000


def put(table: FlowTable, name: str, now: int) -> Flow:
    return table.put(name.encode(), PEER, b"head", b"cook", now)


def names(table: FlowTable) -> str:
    return " ".join(sorted(key.decode() for key in table.flows))


def filed(table: FlowTable) -> Counter[bytes]:
    """How often each key waits in a bucket."""
    return Counter(key for bucket in table._buckets.values() for key in bucket)


def assert_whole(budget: FlowBudget, *tables: FlowTable) -> None:
    for table in tables:
        assert filed(table) == Counter(table.flows.keys())
    assert budget.count == sum(len(table.flows) for table in tables)
    assert budget.count <= budget.max_flows


def test_flow_when_put_again_has_what_its_newest_packet_carried() -> None:
    """AWS: a reused 5-tuple has a new cookie; every inbound packet refreshes the entry."""
    table = FlowTable(350, FlowBudget(10), now=100)
    flow = put(table, "a", 100)
    assert table.put(b"a", OTHER_PEER, b"new head", b"new!", 107) is flow
    carried = (flow.peer, flow.head, flow.cookie, flow.seen)
    assert carried == (OTHER_PEER, b"new head", b"new!", 107)
    assert filed(table) == Counter([b"a"])


def test_flow_when_idle_for_longer_than_its_time_expires() -> None:
    """AWS: idle timeout 350 s; GWLB still knows the flow in the 350th second."""
    budget = FlowBudget(10)
    table = FlowTable(350, budget, now=100)
    put(table, "a", 100)
    put(table, "b", 101)
    assert table.expire(450, ALL) == ALL
    assert names(table) == "a b"
    assert table.expire(451, ALL) == ALL - 1
    assert names(table) == "b"
    assert table.expire(10_000, ALL) == ALL - 1
    assert_whole(budget, table)
    assert (budget.count, budget.evicted) == (0, 0)


def test_flow_when_used_since_is_filed_again_and_expires_later() -> None:
    """A packet writes its second only; age is sorted out when the flow comes due."""
    budget = FlowBudget(10)
    table = FlowTable(120, budget, now=0)
    flow = put(table, "a", 0)
    flow.seen = 77
    assert table.expire(121, ALL) == ALL - 1
    assert table.expire(197, ALL) == ALL
    assert names(table) == "a"
    assert_whole(budget, table)
    assert table.expire(198, ALL) == ALL - 1
    assert names(table) == ""


def test_expiry_when_budgeted_looks_at_no_more_and_goes_on_next_time() -> None:
    """A million flows that come due at once never stop the packet path."""
    budget = FlowBudget(1000)
    table = FlowTable(10, budget, now=0)
    for number in range(100):
        put(table, str(number), 0)
    for left in range(90, -1, -10):
        assert table.expire(11, 10) == 0
        assert len(table.flows) == left
        assert_whole(budget, table)
    assert table.expire(11, 10) == 10
    assert table.expire(11, 0) == 0


def test_table_when_full_drops_the_longest_idle_flow() -> None:
    """The flow that GWLB gives up first is the one that goes first."""
    budget = FlowBudget(3)
    table = FlowTable(350, budget, now=0)
    oldest = put(table, "a", 0)
    put(table, "b", 1)
    put(table, "c", 2)
    oldest.seen = 3
    put(table, "d", 4)
    assert names(table) == "a c d"
    put(table, "e", 4)
    assert names(table) == "a d e"
    assert budget.evicted == 2
    assert_whole(budget, table)


def test_table_when_all_flows_are_of_this_second_drops_the_first_of_them() -> None:
    """Room is found within one second too: new flows are never refused."""
    budget = FlowBudget(2)
    table = FlowTable(350, budget, now=5)
    for name in "abcd":
        put(table, name, 5)
    assert names(table) == "c d"
    assert budget.evicted == 2


def test_budget_when_shared_drops_the_oldest_flow_of_all_tables() -> None:
    """All endpoints draw on one budget; an idle endpoint gives way to a busy one."""
    budget = FlowBudget(4)
    idle, busy = FlowTable(350, budget, now=0), FlowTable(120, budget, now=0)
    put(idle, "i", 0)
    put(busy, "b", 1)
    put(idle, "j", 2)
    put(busy, "c", 3)
    for name, expected in (("d", "j"), ("e", "j"), ("f", "")):
        put(busy, name, 9)
        assert names(idle) == expected
    assert names(busy) == "c d e f"
    assert budget.evicted == 3
    assert_whole(budget, idle, busy)


def test_budget_when_large_frees_several_flows_at_once() -> None:
    """A 16384th at a time: searching for the oldest table is then no cost per flow."""
    budget = FlowBudget(3 * 16384)
    table = FlowTable(350, budget, now=0)
    for number in range(budget.max_flows + 1):
        put(table, str(number), 0)
    assert budget.count == budget.max_flows - 2
    assert budget.evicted == 3
    assert names(table).split()[:1] == ["10"]


def test_budget_when_a_table_is_removed_has_its_room_back() -> None:
    """A closed endpoint's flows count no more, and nobody looks for old flows there."""
    budget = FlowBudget(2)
    gone, stays = FlowTable(350, budget, now=0), FlowTable(350, budget, now=0)
    put(gone, "a", 0)
    put(gone, "b", 0)
    budget.remove(gone)
    assert budget.count == 0
    for name in "cde":
        put(stays, name, 1)
    assert names(gone) == "a b"
    assert names(stays) == "d e"
    assert budget.evicted == 1


@pytest.mark.parametrize("lag_s", [1, 2, 100])
def test_flow_when_its_clock_lags_behind_the_tables_still_goes_in_turn(lag_s: int) -> None:
    """The packet path reads its clock once per batch, so an endpoint may be created in a later
    second than its first packet has. Such a flow once was never found again, and the search for
    room never ended.
    """
    budget = FlowBudget(2)
    table = FlowTable(350, budget, now=100)
    put(table, "a", 100 - lag_s)
    put(table, "b", 100 - lag_s)
    put(table, "c", 100 - lag_s)
    assert names(table) == "b c"
    assert_whole(budget, table)
    assert table.expire(451, ALL) == ALL - 2
    assert names(table) == ""


def test_table_when_churned_stays_whole() -> None:
    """AWS: short flows by the thousand, some refreshed; nothing leaks, nothing grows."""
    budget = FlowBudget(500)
    tables = [FlowTable(350, budget, now=0), FlowTable(120, budget, now=0)]
    for number in range(20_000):
        now = number // 20
        flow = put(tables[number % 2], str(number % 1700), now)
        assert flow.seen == now
        if number % 500 == 0:
            for table in tables:
                table.expire(now, 50)
            assert_whole(budget, *tables)
    assert_whole(budget, *tables)
    assert all(len(table._buckets) < 400 for table in tables)


class FlowTableModel(RuleBasedStateMachine):
    """Tables of one budget against a dict from (table, key) to the second of its last use."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50
        self.budget = FlowBudget(6)
        self.tables = [FlowTable(idle_s, self.budget, self.now) for idle_s in (10, 4)]
        self.seen: dict[tuple[int, bytes], int] = {}

    @rule(seconds=st.sampled_from([0, 1, 1, 2, 5, 30]))
    def pass_time(self, seconds: int) -> None:
        """Seconds pass, or the next packet comes within the same one."""
        self.now += seconds

    @rule(index=st.integers(0, 1), number=st.integers(0, 9))
    def put(self, index: int, number: int) -> None:
        """A packet comes in: its flow is learned or refreshed; a full budget makes room."""
        key = bytes((number,))
        is_new = (index, key) not in self.seen
        flow = self.tables[index].put(key, PEER, b"", b"", self.now)
        assert (flow.seen, self.tables[index].flows[key]) == (self.now, flow)
        self._forget_oldest(1 if is_new and len(self.seen) == self.budget.max_flows else 0)
        self.seen[index, key] = self.now

    @rule(index=st.integers(0, 1), number=st.integers(0, 9))
    def use(self, index: int, number: int) -> None:
        """A packet goes out: it writes its second into the flow."""
        flow = self.tables[index].flows.get(bytes((number,)))
        if flow is not None:
            flow.seen = self.seen[index, bytes((number,))] = self.now

    @rule(index=st.integers(0, 1), max_looks=st.sampled_from([0, 1, 2, ALL]))
    def expire(self, index: int, max_looks: int) -> None:
        """Aging: what goes was idle too long, and with looks left over all of that is gone."""
        table = self.tables[index]
        left = table.expire(self.now, max_looks)
        assert 0 <= left <= max_looks
        for key in [key for at, key in self.seen if at == index and key not in table.flows]:
            assert self.seen.pop((index, key)) < self.now - table.idle_s
        if left:
            assert all(flow.seen >= self.now - table.idle_s for flow in table.flows.values())

    def _forget_oldest(self, wanted: int) -> None:
        """Take out what the tables have evicted; it must have been the longest idle."""
        gone = [(at, key) for at, key in self.seen if key not in self.tables[at].flows]
        assert len(gone) == wanted
        for place in gone:
            assert self.seen.pop(place) <= min(self.seen.values(), default=self.now)

    @invariant()
    def is_whole(self) -> None:
        """No key is lost from the buckets, and the tables hold what the model holds."""
        assert_whole(self.budget, *self.tables)
        assert self.seen == {
            (index, key): flow.seen
            for index, table in enumerate(self.tables)
            for key, flow in table.flows.items()
        }
        for table in self.tables:
            assert all(second >= table.oldest for second in table._buckets)


TestFlowTableModel = FlowTableModel.TestCase
TestFlowTableModel.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


def test_eviction_when_every_flow_has_been_used_since_then_looks_are_bounded() -> None:
    """A packet never waits for a look at each of a million flows: after some thousand, what was
    filed longest ago goes although it was used.
    """
    count = 10_000
    budget = FlowBudget(count)
    table = FlowTable(350, budget, 0)
    for number in range(count):
        put(table, f"{number}", 0)
    for known in table.flows.values():
        known.seen = 1
    put(table, "one more", 1)
    assert_whole(budget, table)
    assert b"one more" in table.flows
    assert b"4095" in table.flows  # the last that was spared
    assert b"4096" not in table.flows
