"""The layers of the package: who may import whom, inside functions too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gwlbtun"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

BELOW: dict[str, set[str]] = {
    "__init__": set(),
    "reasons": set(),
    "errors": {"reasons"},
    "wire": {"errors", "reasons"},
    "datapath": {"wire", "errors", "reasons"},
    "bpf": {"wire", "errors", "reasons"},
    "host": {"bpf", "wire", "errors", "reasons"},
    "config": {"wire", "errors", "reasons"},
    "forwarder": {"datapath", "host", "wire", "errors", "reasons"},
    "lab": {"__init__", "config", "host", "wire", "errors", "reasons"},
}
"""What each part may import besides itself; wire ← datapath ← forwarder, control ← daemon ← cli."""
BELOW["control"] = {"__init__", "config", "forwarder", "bpf", *BELOW["forwarder"]}
BELOW["daemon"] = {"control", *BELOW["control"]}
BELOW["cli"] = {"daemon", "lab", *BELOW["daemon"]}
BELOW["__main__"] = {"cli"}

STATEFUL = {"socket", "asyncio", "time", "datetime", "select", "os", "threading", "random"}


def imports(module: str) -> Iterator[str]:
    """The full names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports hide which layer they reach"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_layers(module: str) -> set[str]:
    """The parts of this package that a file imports."""
    names = [name.split(".") for name in imports(module) if name.split(".")[0] == "gwlbtun"]
    return {"".join(name[1:2]) if name[1:2] != ["__version__"] else "__init__" for name in names}


def outside_packages(module: str) -> set[str]:
    """Top-level packages other than this one that a file imports."""
    return {name.split(".")[0] for name in imports(module)} - {"gwlbtun", "__future__"}


def layer_of(module: str) -> str:
    return module.split("/", maxsplit=1)[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES)
def test_module_when_it_imports_stays_above_what_it_uses(module: str) -> None:
    """Design, layout: dependencies point one way."""
    layer = layer_of(module)
    assert own_layers(module) - {layer} <= BELOW[layer]


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m) in {"wire", "datapath"}])
def test_core_when_it_imports_has_no_clock_socket_or_third_party(module: str) -> None:
    """Design, layout: the core never reads a clock or a socket; time and bytes are passed in."""
    outside = outside_packages(module)
    assert outside <= sys.stdlib_module_names
    assert not outside & STATEFUL


@pytest.mark.parametrize("module", [m for m in MODULES if layer_of(m) != "lab"])
def test_netlink_when_needed_is_reached_through_one_module(module: str) -> None:
    """Design, layout: pyroute2 in host/netlink only; the lab builds its own topology."""
    assert "pyroute2" not in outside_packages(module) or module == "host/netlink.py"
