"""Read the keys of tables, and find those that come twice, in bounded memory.

A key is a column, or several: an entity and a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import scratch, storage
from transforms.key_hashes import combine, hash_keys
from transforms.table.directory import Table, open_parquet

_KEYS_IN_MEMORY = 4_000_000
_MOST_GROUPS = 512
_HASHED_AT_ONCE = 100_000


def repeated_keys(
    table: Table, columns: Sequence[str], parts: Sequence[tuple[str, int]]
) -> dict[tuple[Any, ...], list[str]]:
    """Find keys that come more than once.

    Args:
      table: whose keys.
      columns: that hold them together, scalars without nulls.
      parts: path and rows of each part.

    Returns:
      `{values of the columns: paths of the parts they are in}`, the first few; empty if
      all are unique.
    """
    rows = sum(count for _, count in parts)
    for found in in_groups(keys_of(table, columns, parts), rows):
        if repeated := _repeated(found, columns, parts):
            return repeated
    return {}


def in_groups(
    found: Iterator[pa.RecordBatch], rows: int
) -> Iterator[list[pa.RecordBatch]]:
    """Give keys in groups that fit into memory; equal keys are in the same one.

    Keys are spread by a hash over groups, of which one at a time is looked at; groups
    that are not looked at lie on the local disk.

    Args:
      found: keys, with one column more that is not hashed, at the end.
      rows: how many there are.
    """
    groups = min(-(-rows // _KEYS_IN_MEMORY), _MOST_GROUPS)
    if groups <= 1:
        yield list(found)
        return
    with scratch.directory() as directory:
        _spread(directory, groups, found)
        for group in range(groups):
            with pa.memory_map(str(directory / f"{group}.arrow")) as stream:
                yield list(pa.ipc.open_stream(stream))


def keys_of(
    table: Table, columns: Sequence[str], parts: Sequence[tuple[str, int]]
) -> Iterator[pa.RecordBatch]:
    """Yield keys with the number of their part, some at a time; nothing else is read.

    The columns are called by their positions, the number of the part `part`.
    """
    for index, (name, _) in enumerate(parts):
        fs, path = storage.filesystem(table.path(name))
        with fs.open(path, "rb") as stream, open_parquet(stream) as file:
            for batch in file.iter_batches(
                _HASHED_AT_ONCE, columns=list(columns), use_threads=False
            ):
                found = {str(i): batch[column] for i, column in enumerate(columns)}
                part = pa.repeat(pa.scalar(index, pa.int32()), len(batch))
                yield pa.record_batch({**found, "part": part})


def _spread(directory: Path, groups: int, found: Iterator[pa.RecordBatch]) -> None:
    """Write each group of keys to a file of its own."""
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for batch in found:
            if not writers:
                for group in range(groups):
                    path = str(directory / f"{group}.arrow")
                    writer = pa.ipc.new_stream(path, batch.schema)
                    writers.append(stack.enter_context(writer))
            hashes = np.zeros(len(batch), np.uint64)
            for column in batch.columns[:-1]:
                hashes = combine(hashes, hash_keys(column))
            chosen = hashes % np.uint64(groups)
            for group in np.unique(chosen):
                writers[int(group)].write_batch(batch.filter(pa.array(chosen == group)))


def _repeated(
    batches: Sequence[pa.RecordBatch],
    columns: Sequence[str],
    parts: Sequence[tuple[str, int]],
) -> dict[tuple[Any, ...], list[str]]:
    if not batches:
        return {}
    table = pa.Table.from_batches(batches)
    names = [str(i) for i in range(len(columns))]
    grouped = table.group_by(names, use_threads=False)
    counts = grouped.aggregate([("part", "count"), ("part", "distinct")])
    twice = counts.filter(pc.greater(counts["part_count"], 1)).slice(0, 3)
    return {
        tuple(key[name] for name in names): [
            parts[part][0] for part in sorted(key["part_distinct"])
        ]
        for key in twice.to_pylist()
    }
