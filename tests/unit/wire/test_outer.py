from __future__ import annotations

import pytest

from gwlbtun.wire.outer import OUTER_BYTES, build_outer
from tests.vectors.geneve import NODE, OTHER_NODE, Node


def test_outer_header_when_built_has_these_bytes() -> None:
    """AWS: addresses swapped, destination port 6081, source port as it came; TTL 64."""
    built = build_outer(bytes((10, 0, 9, 100)), bytes((10, 0, 9, 4)), 60000)
    assert built == bytes.fromhex("45000000 00000000 40110000 0a000964 0a000904 ea6017c1")
    assert len(built) + len(b"length, checksum of UDP"[:4]) == OUTER_BYTES


@pytest.mark.parametrize("node", [NODE, OTHER_NODE], ids=["node", "other-node"])
def test_outer_header_when_built_for_a_node_is_its_vectors(node: Node) -> None:
    """AWS: what returns differs from node to node in address and source port only."""
    assert build_outer(node.destination, node.source, node.port) == node.return_outer


@pytest.mark.parametrize("port", [1, 6081, 65535])
def test_source_port_when_any_is_kept(port: int) -> None:
    """AWS: how GWLB chooses the source port is not documented."""
    assert build_outer(bytes(4), bytes(4), port)[20:] == port.to_bytes(2, "big") + b"\x17\xc1"
