from __future__ import annotations

import pytest

from gwlbtun.datapath.counters import Drops
from gwlbtun.reasons import DropReason


@pytest.mark.parametrize("reason", DropReason, ids=lambda reason: reason.label)
def test_drop_when_counted_moves_its_counter_only(reason: DropReason) -> None:
    """Every drop has a reason, and every reason its own counter."""
    drops = Drops()
    drops.count(reason)
    drops.count(reason, 4)
    assert drops.as_dict() == {each.label: 5 * (each is reason) for each in DropReason}
    assert sum(drops.by_reason) == 5


def test_reasons_when_listed_keep_their_numbers() -> None:
    """The numbers are an ABI shared with the kernel path: append only."""
    assert [(reason.value, reason.label) for reason in DropReason][:23] == [
        (1, "source_not_allowed"),
        (2, "invalid_geneve_tunnel"),
        (3, "datagram_truncated"),
        (4, "geneve_truncated"),
        (5, "geneve_version"),
        (6, "geneve_control"),
        (7, "geneve_option_malformed"),
        (8, "geneve_option_critical"),
        (9, "geneve_protocol"),
        (10, "invalid_gwlb_endpoint_id"),
        (11, "invalid_gwlb_flow_cookie"),
        (12, "inner_truncated"),
        (13, "inner_version"),
        (14, "inner_header"),
        (15, "endpoint_limit"),
        (16, "endpoint_opening"),
        (17, "endpoint_failed"),
        (18, "tun_write_failed"),
        (19, "missing_flow_entry"),
        (20, "fragment_unmatched"),
        (21, "inner_oversize"),
        (22, "outer_oversize"),
        (23, "send_failed"),
    ]


def test_reasons_when_numbered_have_no_gap_and_a_meaning_each() -> None:
    """Counters are indexed by reason; the meaning is what a person reads."""
    assert [int(reason) for reason in DropReason] == list(range(1, len(DropReason) + 1))
    assert all(reason.meaning for reason in DropReason)
