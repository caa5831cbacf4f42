"""Reverse path filtering: off on gwi whoever sets it, and no weaker anywhere else."""

from __future__ import annotations

from typing import Final

import pytest

from gwlbtun.wire.gwlb import endpoint_interfaces
from tests.namespace.harness import Daemon, Rig, eventually, fresh_endpoint
from tests.vectors.geneve import gwlb
from tests.vectors.inet import CLIENT_4, udp

pytestmark = pytest.mark.namespace

_OTHERS: Final = ("uplink", "lo")


def _effective(rig: Rig, name: str) -> int:
    """What the kernel applies: the larger of ``all`` and the interface's own."""
    return max(int(rig.read_net("ipv4", "conf", key, "rp_filter")) for key in ("all", name))


def _set(rig: Rig, name: str, value: int) -> None:
    rig.set_net(f"ipv4/conf/{name}/rp_filter", value)


def _open(rig: Rig, daemon: Daemon, endpoint: int) -> str:
    before = daemon.health["endpoints_opened"]
    rig.gwlb.send(gwlb(udp(CLIENT_4), 7, endpoint))
    eventually(lambda: daemon.health["endpoints_opened"] == before + 1)
    return endpoint_interfaces(endpoint)[0]


@pytest.mark.parametrize("value", [1, 2])
def test_filter_when_all_demanded_it_before_the_start_then_only_gwi_is_free_of_it(
    rig: Rig, value: int
) -> None:
    """ip-sysctl, rp_filter: the larger of ``all`` and the own value counts, so ``all`` has to be 0
    and everybody else gets what it demanded. A clean stop gives it back.
    """
    for name in ("all", "default", "uplink"):
        _set(rig, name, value)
    before = {name: _effective(rig, name) for name in _OTHERS}
    daemon = rig.start()
    gwi = _open(rig, daemon, fresh_endpoint())
    assert _effective(rig, gwi) == 0
    assert {name: _effective(rig, name) for name in _OTHERS} == before
    second = _open(rig, daemon, fresh_endpoint())
    assert _effective(rig, second) == 0
    eventually(lambda: daemon.is_healthy)
    assert daemon.stop() == 0
    assert rig.read_net("ipv4", "conf", "all", "rp_filter") == str(value)
    assert {name: _effective(rig, name) for name in _OTHERS} == before


@pytest.mark.parametrize("value", [1, 2])
def test_filter_when_something_demands_it_later_then_gwi_stays_free_of_it(
    rig: Rig, value: int
) -> None:
    """systemd-sysctl or an operator may set ``all`` at any time."""
    daemon = rig.start()
    gwi = _open(rig, daemon, fresh_endpoint())
    _set(rig, "all", value)
    eventually(lambda: _effective(rig, gwi) == 0)
    assert {_effective(rig, name) for name in _OTHERS} == {value}
    rig.run("ip", "link", "add", "later", "type", "veth", "peer", "name", "later2")
    assert _effective(rig, "later") == value
    assert daemon.stop() == 0
    assert rig.read_net("ipv4", "conf", "all", "rp_filter") == str(value)


def test_filter_when_set_soon_after_creation_then_it_is_put_right_and_packets_pass(
    rig: Rig,
) -> None:
    """Some 40-100 ms after an interface has appeared, udev writes the default into it."""
    script = '(sleep 0.06; echo 1 >"/proc/sys/net/ipv4/conf/$2/rp_filter") >/dev/null 2>&1 &'
    daemon = rig.start("-d", "-c", rig.write_script("late", script))
    gwi = _open(rig, daemon, fresh_endpoint())
    eventually(lambda: daemon.has_logged("reverse path filter turned off"))
    assert _effective(rig, gwi) == 0
    eventually(lambda: daemon.is_healthy)


def test_filter_when_set_again_and_again_then_gwi_ends_free_of_it(rig: Rig) -> None:
    """Every change is announced by the kernel and answered at once; none is missed."""
    daemon = rig.start()
    gwi = _open(rig, daemon, fresh_endpoint())
    for value in (1, 2) * 10:
        _set(rig, gwi, value)
    eventually(lambda: _effective(rig, gwi) == 0)
    packet = udp(CLIENT_4, b"still here")
    rig.gwlb.send(gwlb(packet, 7, fresh_endpoint()))
    eventually(lambda: daemon.health["endpoints_opened"] == 2)
    eventually(lambda: daemon.is_healthy)


def test_filter_when_no_endpoint_is_there_then_nothing_is_touched(rig: Rig) -> None:
    """An appliance that carries nothing has no business with the host's settings."""
    _set(rig, "all", 1)
    daemon = rig.start()
    assert daemon.stop() == 0
    assert rig.read_net("ipv4", "conf", "all", "rp_filter") == "1"
    assert rig.read_net("ipv4", "conf", "uplink", "rp_filter") == "0"
