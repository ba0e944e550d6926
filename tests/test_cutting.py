"""Files of known and of unknown rows, cut into shards; and how large by default."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cut import (
    _grouped,
    _runs,
    cut_by_work,
    cut_shards,
    default_rows_per_part,
)
from transforms.shard import Piece, Shard
from transforms.sources.source import File

MIB = 1 << 20
ROOM = 32 * MIB
Run: TypeAlias = tuple[str, int | tuple[int, int] | None]
"""A row by its number, a span, or all of a file."""


def known(
    name: str, *blocks: int, divisible: bool = True, first: int = 0, size: int = 0
) -> File:
    return File(f"/{name}", name, size, "1", blocks, divisible, first)


def unknown(name: str, size: int, *ends: int) -> File:
    spans = tuple(itertools.pairwise((0, *ends))) if ends else ()
    return File(f"/{name}", name, size, "1", spans=spans)


@st.composite
def listings(draw: st.DrawFn, *, empty: bool = True) -> list[File]:
    """Files whose rows are known, or are not, or lie in spans."""
    blocks = st.lists(st.integers(0 if empty else 1, 30), max_size=4)
    sizes = st.integers(0, 40 * MIB)
    ends = st.lists(st.integers(1, 80 * MIB), max_size=4, unique=True).map(sorted)
    return [
        known(f"k{i}", *draw(blocks), divisible=draw(st.booleans()), first=3 * i)
        if draw(st.booleans())
        else unknown(f"u{i}", draw(sizes), *draw(ends))
        for i in range(draw(st.integers(0, 6)))
    ]


def planned(files: list[File]) -> list[Run]:
    """All that a plan over files must hold, in order."""
    runs: list[Run] = []
    for file in files:
        if file.blocks is not None:
            last = file.first + sum(file.blocks)
            runs += [(file.uri, row) for row in range(file.first, last)]
        else:
            runs += [(file.uri, span) for span in file.spans or (None,)]
    return runs


def held(shards: list[Shard]) -> list[Run]:
    runs: list[Run] = []
    for piece in (piece for shard in shards for piece in shard.pieces):
        if piece.rows is None:
            runs.append((piece.file, piece.span))
        else:
            last = piece.start + piece.rows
            runs += [(piece.file, row) for row in range(piece.start, last)]
    return runs


def piece_bytes(files: list[File]) -> dict[Run, int]:
    """A span's share of its file, however large the file's spans say that it is."""
    sizes: dict[Run, int] = {}
    for file in files:
        whole = sum(end - start for start, end in file.spans)
        for start, end in file.spans:
            sizes[file.uri, (start, end)] = file.bytes * (end - start) // whole
        sizes[file.uri, None] = file.bytes
    return sizes


@given(listings(), st.integers(1, 40))
def test_any_mixture_of_files_is_cut_into_all_of_its_rows(
    files: list[File], size: int
) -> None:
    shards = list(cut_shards(files, size))
    assert held(shards) == planned(files)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    for piece in (piece for shard in shards for piece in shard.pieces):
        assert (piece.name, piece.version) == (piece.file[1:], _version(files, piece))
        assert piece.rows != 0


def _version(files: list[File], piece: Piece) -> str:
    (file,) = [file for file in files if file.uri == piece.file]
    return f"{file.bytes} bytes, version 1"


@given(listings(), st.integers(1, 40))
def test_no_shard_mixes_known_with_unknown_rows_or_is_too_large(
    files: list[File], size: int
) -> None:
    sizes = piece_bytes(files)
    for shard in cut_shards(files, size):
        assert len({piece.rows is None for piece in shard.pieces}) == 1
        if shard.rows is not None:
            assert 0 < shard.rows <= size
        elif len(shard.pieces) > 1:
            assert sum(sizes[p.file, p.span] for p in shard.pieces) <= ROOM


@given(listings(empty=False), st.integers(1, 40))
def test_a_shard_ends_only_where_more_would_not_fit(
    files: list[File], size: int
) -> None:
    sizes, shards = piece_bytes(files), list(cut_shards(files, size))
    divisible = {file.uri: file.divisible for file in files}
    blocks = {
        (file.uri, start): rows for file in files for start, rows, *_ in _runs(file)
    }
    for shard, behind in itertools.pairwise(shards):
        after = behind.pieces[0]
        if (shard.rows is None) != (after.rows is None):
            continue
        if shard.rows is None:
            more = sizes[after.file, after.span]
            assert sum(sizes[p.file, p.span] for p in shard.pieces) + more > ROOM
        elif shard.rows < size:
            assert not divisible[after.file]
            assert shard.rows + (blocks[after.file, after.start] or 0) > size


def names(shards: list[list[Piece]]) -> list[list[tuple[str, int, int | None]]]:
    return [[(p.name, p.start, p.rows) for p in pieces] for pieces in shards]


def test_blocks_that_exceed_a_shard_fill_what_they_begin() -> None:
    files = [known("a", 4, 25, 3, 6, divisible=False, first=100), known("b", 3)]
    assert names(list(_grouped(files, 10))) == [
        [("a", 100, 4)],
        [("a", 104, 10)],
        [("a", 114, 10)],
        [("a", 124, 5), ("a", 129, 3)],
        [("a", 132, 6), ("b", 0, 3)],
    ]


def test_divisible_blocks_fill_shards_to_the_last_row() -> None:
    files = [known("a", 4, 7), known("b", 12, first=5), known("c"), known("d", 1)]
    assert names(list(_grouped(files, 10))) == [
        [("a", 0, 4), ("a", 4, 6)],
        [("a", 10, 1), ("b", 5, 9)],
        [("b", 14, 3), ("d", 0, 1)],
    ]


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([ROOM - 1, 1], [2]),
        ([ROOM - 1, 2], [1, 1]),
        ([ROOM, 0, 1], [2, 1]),
        ([ROOM + 1, 0, 1], [1, 2]),
        ([1, ROOM + 1, 1, 1], [1, 1, 2]),
        ([0] * 50, [50]),
    ],
)
def test_unknown_rows_are_grouped_up_to_32_mib(
    sizes: list[int], counts: list[int]
) -> None:
    files = [unknown(f"u{i}", size) for i, size in enumerate(sizes)]
    assert [len(shard.pieces) for shard in cut_shards(files, 1)] == counts


def test_room_begins_anew_where_known_and_unknown_rows_meet() -> None:
    files = [
        unknown("u0", 20 * MIB),
        known("k1", 7),
        unknown("u2", 20 * MIB),
        unknown("u3", 12 * MIB),
        known("k4", 7),
        known("k5", 3, divisible=False),
        unknown("u6", 1),
    ]
    assert [[p[0] for p in shard] for shard in names(list(_grouped(files, 10)))] == [
        ["u0"],
        ["k1"],
        ["u2", "u3"],
        ["k4", "k5"],
        ["u6"],
    ]


def test_a_span_weighs_its_share_of_the_files_bytes() -> None:
    packed = unknown("packed", 30, 10, 10, 40, 60)
    assert list(_runs(packed)) == [
        (0, None, (0, 10), 5),
        (0, None, (10, 10), 0),
        (0, None, (10, 40), 15),
        (0, None, (40, 60), 10),
    ]
    assert list(_runs(unknown("empty", 0, 0))) == [(0, None, (0, 0), 0)]
    assert list(_runs(unknown("whole", 30))) == [(0, None, None, 30)]


@pytest.mark.parametrize(
    ("files", "row_bytes", "batch_rows", "expected"),
    [
        ([known("small", 1000)], 8, 16, MIB),  # 8 MiB of rows
        ([known("large", 10**9)], 1024, 128, 128 * 1024),  # 128 MiB
        ([known("middle", 2**20)], 1024, 1, 2**15),  # 32 parts
        ([known("middle", 2**20)], 1024, 1000, 32_000),  # whole batches of them
        ([known("two", 2**19), known("one", 2**18, 2**18)], 1024, 1, 2**15),
        ([known("wide", 100)], 200 * MIB, 16, 16),  # at least a batch
        ([known("source", 1000, size=1000 * MIB)], 8, 10, 1020),  # 1 GiB of it
        ([known("source", 10, size=10 << 30)], 8, 32, 32),
        ([unknown("u", 10 << 40)], 8, 16, MIB),  # nothing is known of it
        ([unknown("u", 10 << 40), known("k", 1000, size=1)], 8, 16, MIB),
        ([known("empty", size=5)], 0, 16, 8 * MIB),  # of a byte, for want of better
        ([], 8, 16, MIB),
    ],
)
def test_default_parts_by_their_bytes(
    files: list[File], row_bytes: int, batch_rows: int, expected: int
) -> None:
    assert default_rows_per_part(files, row_bytes, batch_rows) == expected


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**15)), max_size=3),
    st.integers(1, 10**7),
    st.integers(1, 4096),
)
def test_default_parts_are_whole_batches_within_their_bounds(
    shapes: list[tuple[int, int]], row_bytes: int, batch_rows: int
) -> None:
    files = [known(f"f{i}", rows, size=n) for i, (rows, n) in enumerate(shapes)]
    found = default_rows_per_part(files, row_bytes, batch_rows)
    assert found >= batch_rows
    assert found % batch_rows == 0
    rows, size = (sum(column) for column in zip((0, 0), *shapes, strict=True))
    if found > batch_rows:
        assert found * row_bytes <= 128 * MIB
        assert found * (size // max(rows, 1)) <= 1 << 30
    more = found + batch_rows
    if more * (size // max(rows, 1)) <= 1 << 30:
        assert more * row_bytes > 8 * MIB


@pytest.mark.parametrize(
    ("rows_per_part", "rows", "row_flops", "batch_rows", "expected"),
    [
        (16_384, 600, 8_000_000_000, 64, 128),  # ResNet50: 2^40 are 137 rows
        (16_384, 600, 8_000_000_000, 256, 256),  # at least a batch
        (16_384, 2_000_000, 8_000_000_000, 64, 7_872),  # 256 parts are not exceeded
        (16_384, 10_000_000, 8_000_000_000, 64, 16_384),  # nor made by work alone
        (16_384, 600, 1_000_000, 64, 16_384),  # light models as before
        (16_384, 600, 0, 64, 16_384),  # nothing is known of the model
        (16_384, 0, 8_000_000_000, 64, 128),  # nothing is known of the rows
    ],
)
def test_heavy_rows_make_small_parts(
    rows_per_part: int, rows: int, row_flops: int, batch_rows: int, expected: int
) -> None:
    assert cut_by_work(rows_per_part, rows, row_flops, batch_rows) == expected


@given(
    st.integers(1, 10**4),
    st.integers(0, 10**9),
    st.integers(0, 10**14),
    st.integers(1, 4096),
)
def test_parts_by_work_are_whole_batches_of_bounded_work(
    batches: int, rows: int, row_flops: int, batch_rows: int
) -> None:
    found = cut_by_work(batches * batch_rows, rows, row_flops, batch_rows)
    assert found % batch_rows == 0
    assert batch_rows <= found <= batches * batch_rows
    if found * row_flops > 1 << 40 and found > batch_rows:  # a batch less
        assert -(-rows // (found - batch_rows)) > 256  # would make too many parts
    if found < batches * batch_rows:
        assert (found + batch_rows) * row_flops > 1 << 40  # no smaller than it must be
        assert rows <= 256 * found
