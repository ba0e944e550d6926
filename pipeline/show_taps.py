"""Show what can be tapped as text for people, or as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.show import size_text
from transforms.messages import shape_text

if TYPE_CHECKING:
    from pipeline.list_taps import TapListing
    from transforms.taps.language import Activation

HEAD = (
    "",
    "address",
    "shape",
    "dtype",
    "a row",
    "dataset",
    "FLOPs",
    "column, or why not",
)


def table_rows(listing: TapListing) -> Iterator[tuple[str, ...]]:
    """Give a row of text for each activation, in the order of `HEAD`."""
    for one in listing.activations:
        yield _row(one.address or "'' (the model's result)", one, listing)


def tree_rows(listing: TapListing) -> Iterator[tuple[str, ...]]:
    """Give the same rows as a tree of layers, with a row for what only holds others."""
    root: dict[str | None, Any] = {}
    for one in listing.activations:
        path, colon, leaf = one.address.partition(":")
        segments = path.split("/") if path else []
        if colon or not segments:
            segments.append(f":{leaf}" if leaf else "'' (the model's result)")
        node = root
        for segment in segments:
            node = node.setdefault(segment, {})
        node[None] = one
    yield from _branches(root, "", listing)


def documents(listing: TapListing) -> list[dict[str, Any]]:
    """Give a JSON document for each activation."""
    return [
        {
            "address": one.address,
            "shape": list(one.shape),
            "dtype": one.dtype,
            "rows": listing.rows,
            "bytes_per_row": one.bytes_per_row,
            "bytes": listing.bytes(one),
            "flops_per_row": one.flops,
            "flops_share": one.flops_share,
            "refusal": one.refusal,
            "columns": list(listing.columns.get(one.address, ())),
        }
        for one in listing.activations
    ]


def _branches(
    node: Mapping[Any, Any],
    before: str,
    listing: TapListing,
) -> Iterator[tuple[str, ...]]:
    below = [(name, child) for name, child in node.items() if name is not None]
    for index, (name, child) in enumerate(below):
        last = index == len(below) - 1
        label = f"{before}{'└─ ' if last else '├─ '}{name}"
        if None in child:
            yield _row(label, child[None], listing)
        else:
            yield ("", label, "", "", "", "", "", "")
        further = f"{before}{'   ' if last else '│  '}"
        yield from _branches(child, further, listing)


def _row(
    label: str,
    one: Activation,
    listing: TapListing,
) -> tuple[str, ...]:
    share, columns = one.flops_share, listing.columns.get(one.address, ())
    return (
        "*" if columns else "",
        label,
        shape_text(one.shape),
        one.dtype,
        size_text(one.bytes_per_row),
        size_text(listing.bytes(one)),
        "?" if share is None else f"{share:.0%}",
        one.refusal or ", ".join(columns),
    )
