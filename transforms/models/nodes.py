"""Walk the nodes of stored graphs: what needs what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any


def split_tensor(tensor: str) -> tuple[str, int]:
    """Split a tensor's name, as graph definitions write it, into node and output."""
    node, _, index = tensor.removeprefix("^").partition(":")
    return node, int(index or 0)


def node_of(tensor: str) -> str:
    """Name the node, or the argument of a function, that a tensor comes from."""
    return tensor.removeprefix("^").partition(":")[0]


def ancestors(
    nodes: Mapping[str, Any],
    tensors: Iterable[str],
    ends: Sequence[str] = (),
    fed: Collection[tuple[str, int]] = (),
) -> set[str]:
    """Name the nodes that some tensors need.

    Args:
      nodes: `{name: node}` of the whole graph.
      tensors: names of the tensors.
      ends: operations that need no others.
      fed: tensors that are given from outside, as `split_tensor` splits them.
    """
    open_tensors = list(tensors)
    found: set[str] = set()
    while open_tensors:
        tensor = open_tensors.pop()
        given = not tensor.startswith("^") and split_tensor(tensor) in fed
        name = node_of(tensor)
        if not given and name in nodes and name not in found:
            found.add(name)
            if nodes[name].op not in ends:
                open_tensors += nodes[name].input
    return found


def dependents(
    nodes: Mapping[str, Any], start: Iterable[str], ends: Collection[str] = ()
) -> set[str]:
    """Name the nodes whose values depend on the `start` nodes, up to the `ends`."""
    users: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for tensor in node.input:
            if not tensor.startswith("^"):
                users.setdefault(node_of(tensor), []).append(name)
    open_names, found = list(start), set(start)
    while open_names:
        for user in users.get(open_names.pop(), ()):
            if user not in found and user not in ends:
                found.add(user)
                open_names.append(user)
    return found
