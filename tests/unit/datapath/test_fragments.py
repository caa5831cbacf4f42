from __future__ import annotations

import pytest

from gwlbtun.datapath.fragments import _MAX_BYTES, _MAX_KEYS, WaitingFragments


def test_fragments_when_released_come_in_order_of_arrival_and_once() -> None:
    """RFC 791: any order is allowed; the appliance adds no disorder of its own."""
    waiting = WaitingFragments()
    for packet in (b"third", b"second"):
        assert waiting.keep(b"one", packet, 0)
    assert waiting.keep(b"other", b"else", 0)
    assert waiting.release(b"one") == [b"third", b"second"]
    assert waiting.release(b"one") == []
    assert waiting.release(b"unknown") == []
    assert waiting.release(b"other") == [b"else"]


@pytest.mark.parametrize(("after_s", "late"), [(0, 0), (2, 0), (3, 2), (100, 2)])
def test_fragments_when_they_wait_too_long_are_dropped(after_s: int, late: int) -> None:
    """Two seconds from the first of them on; later ones of the same packet do not prolong it."""
    waiting = WaitingFragments()
    waiting.keep(b"one", b"a", 10)
    waiting.keep(b"one", b"b", 12)
    waiting.keep(b"new", b"c", 10 + after_s)
    assert waiting.expire(10 + after_s) == late
    assert waiting.release(b"one") == ([] if late else [b"a", b"b"])
    assert waiting.release(b"new") == [b"c"]


def test_fragments_when_they_are_more_than_256_kib_are_refused() -> None:
    """Every table is bounded, in bytes here; room comes back by release and by time."""
    waiting = WaitingFragments()
    assert waiting.keep(b"one", bytes(_MAX_BYTES - 10), 0)
    assert waiting.keep(b"two", bytes(10), 1)
    assert not waiting.keep(b"three", b"x", 1)
    assert waiting.release(b"three") == []
    assert waiting.release(b"two") == [bytes(10)]
    assert waiting.keep(b"three", b"x", 1)
    assert waiting.expire(3) == 1
    assert waiting.keep(b"four", bytes(_MAX_BYTES - 1), 3)
    assert not waiting.keep(b"four", b"xy", 3)


def test_fragments_when_of_too_many_datagrams_are_not_kept() -> None:
    """Each costs a look every few milliseconds: no more than 64 wait, whatever their size."""
    waiting = WaitingFragments()
    for number in range(_MAX_KEYS):
        assert waiting.keep(number.to_bytes(2, "big"), b"x", 0)
    assert not waiting.keep(b"one more", b"x", 0)
    assert waiting.keep(bytes(2), b"y", 0)
