"""Find keys that come twice in a table, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import scratch, storage
from transforms.table.directory import Table, open_parquet

_KEYS_IN_MEMORY = 4_000_000
_MOST_GROUPS = 512
_HASHED_AT_ONCE = 100_000
_ODD = np.uint64(0x9E3779B97F4A7C15)


def repeated_keys(
    table: Table, column: str, parts: Sequence[tuple[str, int]]
) -> dict[str, list[str]]:
    """Find keys that come more than once.

    Keys are spread by a hash over groups, of which one at a time is looked at; groups
    that are not looked at lie on the local disk.

    Args:
      table: whose keys.
      column: that holds them.
      parts: path and rows of each part.

    Returns:
      `{key: paths of the parts it is in}`, the first few; empty if all are unique.
    """
    rows = sum(count for _, count in parts)
    groups = min(-(-rows // _KEYS_IN_MEMORY), _MOST_GROUPS)
    if groups <= 1:
        found = [_marked(keys, i) for i, keys in _keys(table, column, parts)]
        return _repeated(found, parts)
    with scratch.directory() as directory:
        _spread(directory, groups, _keys(table, column, parts))
        for group in range(groups):
            with pa.memory_map(str(directory / f"{group}.arrow")) as stream:
                found = list(pa.ipc.open_stream(stream))
                if repeated := _repeated(found, parts):
                    return repeated
    return {}


def _keys(
    table: Table, column: str, parts: Sequence[tuple[str, int]]
) -> Iterator[tuple[int, pa.Array]]:
    """Yield part and keys, some at a time; nothing else of a part is read."""
    for index, (name, _) in enumerate(parts):
        fs, path = storage.filesystem(table.path(name))
        with fs.open(path, "rb") as stream, open_parquet(stream) as file:
            for batch in file.iter_batches(
                _HASHED_AT_ONCE, columns=[column], use_threads=False
            ):
                yield index, batch.column(0)


def _marked(keys: pa.Array, part: int) -> pa.RecordBatch:
    return pa.record_batch(
        {"key": keys, "part": pa.repeat(pa.scalar(part, pa.int32()), len(keys))}
    )


def _spread(
    directory: Path, groups: int, found: Iterator[tuple[int, pa.Array]]
) -> None:
    """Write each group of keys to a file of its own."""
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for part, keys in found:
            batch = _marked(keys, part)
            if not writers:
                for group in range(groups):
                    path = str(directory / f"{group}.arrow")
                    writer = pa.ipc.new_stream(path, batch.schema)
                    writers.append(stack.enter_context(writer))
            chosen = _hash(keys) % np.uint64(groups)
            for group in np.unique(chosen):
                writers[int(group)].write_batch(batch.filter(pa.array(chosen == group)))


def _hash(keys: pa.Array) -> np.ndarray:
    """Hash keys to uint64; equal ones alike."""
    if not pa.types.is_string(keys.type):
        mixed = keys.cast(pa.int64(), safe=False).to_numpy().astype(np.uint64) * _ODD
        return np.asarray(mixed >> np.uint64(32))
    array = keys.cast(pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)
    offsets = offsets[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    data = data[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    lengths = np.diff(offsets)
    starts = offsets[:-1] - offsets[0]
    inside = np.arange(len(data)) - np.repeat(starts, lengths)
    weights = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _ODD))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(data * weights[inside])])
    totals = sums[starts + lengths] - sums[starts]
    return np.asarray(totals >> np.uint64(32))


def _repeated(
    batches: Sequence[pa.RecordBatch], parts: Sequence[tuple[str, int]]
) -> dict[str, list[str]]:
    if not batches:
        return {}
    table = pa.Table.from_batches(batches)
    counts = table["key"].value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[:3]
    places = {}
    for key in twice:
        at = table.filter(pc.equal(table["key"], key))["part"].unique().to_pylist()
        places[str(key.as_py())] = [parts[part][0] for part in at]
    return places
