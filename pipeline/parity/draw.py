"""Draw rows of a finished table, and find where in the source each came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from transforms.errors.quarantine import ERROR_SCHEMA
from transforms.shard import Piece, Shard
from transforms.table.directory import REPAIR, Table
from transforms.table.manifest import read_manifest
from transforms.table.plan_file import read_shards
from transforms.table.read import read_rows


def draw_rows(
    table: Table, rows: int, seed: int
) -> Iterator[tuple[list[dict[str, Any]], list[tuple[Piece, int]]]]:
    """Draw rows of the table without repetition.

    Yields:
      For each part from which rows are drawn: the stored rows, and for each of them the
      piece that it came from and its row in the piece's file.
    """
    manifest = read_manifest(table).to_pylist()
    ends = np.cumsum([part["rows"] for part in manifest])
    total = int(ends[-1]) if len(ends) else 0
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(total, min(rows, total), replace=False))
    shards = read_shards(table)
    for index in np.unique(np.searchsorted(ends, chosen, side="right")):
        start = int(ends[index]) - manifest[index]["rows"]
        inside = chosen[(chosen >= start) & (chosen < ends[index])] - start
        places = sound_rows(table, shards[int(index)])
        stored = read_rows(table.path(manifest[index]["path"]), inside)
        yield stored.to_pylist(), [places[int(row)] for row in inside]


def sound_rows(table: Table, shard: Shard) -> list[tuple[Piece, int]]:
    """Find where each row of a part came from: all rows of its shard but bad ones."""
    (commit,) = table.read_commits([shard.index])
    bad: set[tuple[str, int]] = set()
    if commit.errors:
        found_bad = table.read_parquet(commit.errors.path, ERROR_SCHEMA, REPAIR)
        errors = found_bad.select(["file", "row"])
        bad = {(row["file"], row["row"]) for row in errors.to_pylist()}
    found = commit.piece_rows or [piece.rows or 0 for piece in shard.pieces]
    places = [
        (piece, piece.start + row)
        for piece, rows in zip(shard.pieces, found, strict=True)
        for row in range(rows)
    ]
    return [(piece, row) for piece, row in places if (piece.file, row) not in bad]
