"""Cut the rows of files into shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from transforms.dtypes import Feature
from transforms.errors.stages import read_errors
from transforms.shard import Piece, Shard
from transforms.sources.source import File, Source
from transforms.sources.staging import readable

_PART_BYTES = 128 << 20
_SMALLEST_PART_BYTES = 8 << 20
_WANTED_PARTS = 32
_UNKNOWN_BYTES = 32 << 20
_MOST_SOURCE_BYTES = 1 << 30
_PART_FLOPS = 1 << 40  # some seconds of one core
_MOST_PARTS_BY_WORK = 256


def cut_shards(
    files: Iterable[File], rows_per_part: int, first: int = 0
) -> Iterator[Shard]:
    """Group the rows of files into shards, in order, each row exactly once.

    A shard never has more than `rows_per_part` rows where rows are known. Where they
    are not, files and spans of files are grouped up to 32 MiB, larger ones stand alone.
    Blocks that are better read whole are cut only if they alone exceed a shard.
    Shards are numbered from `first`.
    """
    for index, pieces in enumerate(_grouped(files, rows_per_part), first):
        yield Shard(index, tuple(pieces))


def _grouped(files: Iterable[File], rows_per_part: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each shard."""
    pieces: list[Piece] = []
    room, bytes_room = rows_per_part, _UNKNOWN_BYTES
    for file in files:
        for start, rows, span, size in _runs(file):
            if pieces and (rows is None) != (pieces[-1].rows is None):
                yield pieces
                pieces, room, bytes_room = [], rows_per_part, _UNKNOWN_BYTES
            piece = Piece(file.uri, file.name, start, rows, span, file.identity)
            if rows is None:
                if pieces and size > bytes_room:
                    yield pieces
                    pieces, bytes_room = [], _UNKNOWN_BYTES
                pieces.append(piece)
                bytes_room -= size
                continue
            if pieces and not file.divisible and rows > room:
                yield pieces
                pieces, room = [], rows_per_part
            while rows:
                taken = min(room, rows)
                pieces.append(replace(piece, start=start, rows=taken))
                start, rows, room = start + taken, rows - taken, room - taken
                if room == 0:
                    yield pieces
                    pieces, room = [], rows_per_part
    if pieces:
        yield pieces


def _runs(
    file: File,
) -> Iterator[tuple[int, int | None, tuple[int, int] | None, int]]:
    """Yield first row, rows, span and bytes of what is best read whole."""
    if file.blocks is not None:
        start = file.first
        for rows in file.blocks:
            yield start, rows, None, 0
            start += rows
        return
    whole = sum(stop - start for start, stop in file.spans) or 1
    for span in file.spans:
        yield 0, None, span, file.bytes * (span[1] - span[0]) // whole
    if not file.spans:
        yield 0, None, None, file.bytes


def default_rows_per_part(
    files: Sequence[File], row_bytes: int, batch_rows: int
) -> int:
    """Choose parts of 8 to 128 MiB before compression, and 32 of them if that allows.

    Whole batches go into a part, so that no batch is filled up but the last; and no
    more rows than 1 GiB of the source holds, which a worker may have to copy.
    """
    known = [file for file in files if file.blocks]
    rows = sum(sum(file.blocks or ()) for file in known)
    wanted = rows * row_bytes // _WANTED_PARTS
    part_bytes = min(max(wanted, _SMALLEST_PART_BYTES), _PART_BYTES)
    source_bytes = sum(file.bytes for file in known) // max(rows, 1)
    most = min(
        part_bytes // max(row_bytes, 1), _MOST_SOURCE_BYTES // max(source_bytes, 1)
    )
    return max(most // batch_rows, 1) * batch_rows


def cut_by_work(rows_per_part: int, rows: int, row_flops: int, batch_rows: int) -> int:
    """Bound the rows of a part by the arithmetic that they need.

    Heavy models have small rows, so that bytes alone would leave one part for one core
    where there are many. The bound is the same on every machine, however many cores it
    has: the parts are the table's.

    Args:
      rows_per_part: the bound so far.
      rows: of the whole run, as far as they are known.
      row_flops: arithmetic operations that a row's activations need.
      batch_rows: rows in a batch.

    Returns:
      Rows of at most 2^40 operations, in whole batches, or of one batch if that alone
      needs more; but so many that they make at most 256 parts.

    >>> cut_by_work(16_384, 600, 8_000_000_000, 64)
    128
    """
    batches = _PART_FLOPS // max(row_flops * batch_rows, 1)
    fewest = -(-rows // (_MOST_PARTS_BY_WORK * batch_rows))
    return min(rows_per_part, max(batches, fewest, 1) * batch_rows)


def limit_shards(
    source: Source, features: Mapping[str, Feature], shards: Iterable[Shard], limit: int
) -> Iterator[Shard]:
    """Keep only the first rows; pieces that do not know their rows are counted."""
    index = 0
    for shard in shards:
        pieces = []
        for piece in shard.pieces:
            rows = piece.rows
            if rows is None:
                rows = _count(source, features, piece, limit)
            if rows := min(rows, limit):
                pieces.append(replace(piece, rows=rows))
            limit -= rows
        if pieces:  # of empty files nothing is left
            yield Shard(index, tuple(pieces))
            index += 1
        if limit <= 0:
            return


def _count(
    source: Source, features: Mapping[str, Feature], piece: Piece, limit: int
) -> int:
    """Count the rows of a piece up to `limit`, bad ones included."""
    with readable(source, [piece]) as pieces:
        examples = iter(source.read(pieces, features, None))
        count = 0
        while count < limit:
            try:
                if next(examples, None) is None:
                    break
            except read_errors():
                pass
            count += 1
    return count
