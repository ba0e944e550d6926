"""Cursors over the rows of a shard, against a list of all of its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.cut import cut_shards
from transforms import shard
from transforms.errors.failure import Failure
from transforms.shard import (
    Piece,
    Shard,
    Shards,
    position,
    split_position,
    split_positions,
)
from transforms.sources.positions import (
    are_gapless,
    next_position,
    nothing_between,
    piece_and_row,
    pieces_from,
    positions_between,
    shard_positions,
)
from transforms.sources.source import File
from transforms.table.directory import to_parquet

Layout: TypeAlias = list[tuple[int, bool]]
"""Of each piece, the rows that it holds and whether the plan knows how many."""

layouts = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=5)
some_rows = layouts.map(lambda layout: [*layout, (2, len(layout) % 2 == 0)])


def laid_out(layout: Layout) -> list[Piece]:
    return [
        Piece(f"uri{i}", f"name{i}", 10 * i, rows if known else None)
        for i, (rows, known) in enumerate(layout)
    ]


def existing(layout: Layout) -> list[int]:
    """All positions."""
    return [position(i, r) for i, (rows, _) in enumerate(layout) for r in range(rows)]


def found_in(layout: Layout, pieces: list[Piece]) -> list[list[int]]:
    """Rows of files that reading each piece gives."""
    numbers = [int(piece.file.removeprefix("uri")) for piece in pieces]
    ends = [
        10 * i + layout[i][0] if p.rows is None else p.start + p.rows
        for i, p in zip(numbers, pieces, strict=True)
    ]
    return [list(range(p.start, e)) for p, e in zip(pieces, ends, strict=True)]


@st.composite
def cursors(draw: st.DrawFn, layout: Layout) -> int:
    """A position that reading may have come to: of a row, or after the last one."""
    index = draw(st.integers(0, len(layout)))
    most = layout[index][0] if index < len(layout) else 0
    return position(index, draw(st.integers(0, most)))


@st.composite
def layouts_with(draw: st.DrawFn, count: int) -> tuple[Any, ...]:
    layout = draw(layouts)
    return layout, *(draw(cursors(layout)) for _ in range(count))


numbers = st.tuples(st.integers(0, 2**22 - 1), st.integers(0, 2**40 - 1))


@given(st.lists(numbers, min_size=1))
@example([(0, 2**40 - 1), (1, 0), (2**22 - 1, 2**40 - 1)])
def test_a_position_is_a_piece_and_a_row_that_grow_along_the_shard(
    places: list[tuple[int, int]],
) -> None:
    positions = [position(*place) for place in places]
    assert [split_position(at) for at in positions] == places
    found = split_positions(np.array(positions, np.int64))
    assert list(zip(*(part.tolist() for part in found), strict=True)) == places
    assert [split_position(at) for at in sorted(positions)] == sorted(places)


@given(layouts_with(1))
def test_a_place_is_where_the_next_row_may_be(case: tuple[Layout, int]) -> None:
    layout, at = case
    pieces = laid_out(layout)
    index, row = piece_and_row(pieces, at)
    found = position(index, row)
    assert not [p for p in existing(layout) if at <= p < found]
    assert at <= found <= position(len(pieces))
    assert (
        index == len(pieces) or pieces[index].rows is None or found in existing(layout)
    )


@given(layouts_with(1))
def test_the_rest_holds_the_rows_from_a_position_on(case: tuple[Layout, int]) -> None:
    layout, at = case
    pieces = laid_out(layout)
    rest = pieces_from(pieces, at)
    located = [Shard(0, tuple(pieces)).locate(p) for p in existing(layout) if p >= at]
    assert [
        (piece.file, row)
        for piece, rows in zip(rest, found_in(layout, rest), strict=True)
        for row in rows
    ] == [(piece.file, row) for piece, row in located]
    assert all(piece.rows is None or piece.rows > 0 for piece in rest[:1])
    skipped = len(pieces) - len(rest)
    assert [replace(p, start=0, rows=0) for p in rest] == [
        replace(p, start=0, rows=0) for p in pieces[skipped:]
    ]


@given(layouts_with(1))
def test_positions_of_a_reader_of_the_rest_become_those_of_the_shard(
    case: tuple[Layout, int],
) -> None:
    layout, at = case
    pieces = laid_out(layout)
    rest, first = pieces_from(pieces, at), position(*piece_and_row(pieces, at))
    found = [
        position(index, row)
        for index, rows in enumerate(found_in(layout, rest))
        for row in range(len(rows))
    ]
    expected = [p for p in existing(layout) if p >= at]
    assert shard_positions(np.array(found, np.int64), first).tolist() == expected
    assert [int(shard_positions(np.int64(p), first)) for p in found] == expected


@given(layouts_with(2))
def test_between_two_positions_are_the_rows_that_must_exist(
    case: tuple[Layout, int, int],
) -> None:
    """Of unknown rows, those before one that was found in the same piece."""
    layout, at, found = case
    last, end = split_position(found)
    certain = [
        (rows if known else end if index == last else 0, True)
        for index, (rows, known) in enumerate(layout)
    ]
    expected = [p for p in existing(certain) if at <= p < found]
    assert list(positions_between(laid_out(layout), at, found)) == expected
    assert nothing_between(laid_out(layout), at, found) == (not expected)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Layout, int, list[int]]:
    """Positions that follow one another, with at most one thing wrong."""
    layout = draw(some_rows)
    everything = existing(layout)
    first = draw(st.integers(0, len(everything) - 1))
    some = everything[first : draw(st.integers(first, len(everything))) + 1]
    at, where = some[0], draw(st.integers(0, len(some) - 1))
    match draw(st.sampled_from(["nothing", "left out", "twice", "swapped", "at"])):
        case "left out":
            del some[where]
        case "twice":
            some.insert(where, some[where])
        case "swapped":
            some[where], some[-1] = some[-1], some[where]
        case "at":
            at = draw(cursors(layout))
    return layout, at, some or [at]


@given(batches())
def test_a_batch_is_in_order_if_it_leaves_out_no_row_that_exists(
    case: tuple[Layout, int, list[int]],
) -> None:
    layout, at, found = case
    last = dict(split_position(p) for p in sorted(found))
    certain = [
        (rows if known else last.get(index, -1) + 1, True)
        for index, (rows, known) in enumerate(layout)
    ]
    expected = [p for p in existing(certain) if at <= p <= found[-1]]
    assert are_gapless(laid_out(layout), at, np.array(found)) == (found == expected)


@given(some_rows, st.data())
def test_reading_goes_on_after_a_row_that_failed(
    layout: Layout, data: st.DataObject
) -> None:
    everything = existing(layout)
    at = data.draw(st.sampled_from(everything))
    after = [p for p in everything if p > at]
    failure = Failure(at, "read", "ValueError", "")
    assert [p for p in everything if p >= next_position(failure)] == after
    lost = next_position(replace(failure, rest_lost=True))
    others = [p for p in after if split_position(p)[0] != split_position(at)[0]]
    assert [p for p in everything if p >= lost] == others


def test_after_more_rows_than_were_planned_is_the_next_piece() -> None:
    pieces = laid_out([(3, True), (2, True)])
    assert list(positions_between(pieces, position(0, 5), position(1))) == []
    assert pieces_from(pieces, position(0, 5)) == pieces[1:]


counts = st.integers(0, 2**40)
names = st.sampled_from(["", "a", "gs://b/ü#1", "a\n"])
spans = st.none() | st.tuples(counts, counts)
pieces = st.builds(Piece, names, names, counts, st.none() | counts, spans)
grouped = st.lists(st.lists(pieces, max_size=2), max_size=6)


def shards_of(groups: list[list[Piece]], chunk: int) -> tuple[list[Shard], Shards]:
    """Shards, and the same laid out some at a time."""
    shards = [Shard(i, tuple(group)) for i, group in enumerate(groups)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "_CHUNK_SHARDS", chunk)
        return shards, Shards.of(iter(shards))


@given(grouped, st.integers(1, 4), st.data())
def test_shards_in_columns_are_the_shards(
    groups: list[list[Piece]], chunk: int, data: st.DataObject
) -> None:
    shards, stored = shards_of(groups, chunk)
    count = len(shards)
    assert list(stored) == shards
    assert [stored[i] for i in range(-count, count)] == shards + shards
    part = data.draw(st.slices(count))
    assert list(stored[part]) == shards[part]
    assert list(stored[part][::-1]) == shards[part][::-1]
    with pytest.raises(IndexError, match="out of range"):
        stored[count]
    rows = [piece.rows for group in groups for piece in group]
    assert stored.rows == (None if None in rows else sum(rows))  # type: ignore[arg-type]
    assert [s.rows is None for s in stored] == [
        None in [piece.rows for piece in group] for group in groups
    ]


@given(grouped, st.integers(1, 4))
def test_shards_survive_a_parquet_file(groups: list[list[Piece]], chunk: int) -> None:
    shards, stored = shards_of(groups, chunk)
    read = Shards(pq.read_table(pa.BufferReader(to_parquet(stored.table))))
    assert list(read) == shards
    assert (read.rows, read.digest()) == (stored.rows, stored.digest())
    assert (stored[1:].digest(), read[1:].files()) == (
        Shards.of(shards[1:]).digest(),
        Shards.of(shards[1:]).files(),
    )


@given(grouped, st.integers(1, 4))
def test_files_of_shards_have_their_versions(
    groups: list[list[Piece]], chunk: int
) -> None:
    versioned = [[replace(p, version=f"of {p.file}") for p in g] for g in groups]
    _, stored = shards_of(versioned, chunk)
    assert stored.files() == {p.file: f"of {p.file}" for g in groups for p in g}


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), max_size=4),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_the_digest_tells_exactly_how_the_rows_of_files_are_cut(
    blocks: list[list[int]], size: int, other: int
) -> None:
    files = [File(f"u{i}", f"n{i}", 0, "", tuple(b)) for i, b in enumerate(blocks)]
    one, two = (Shards.of(cut_shards(files, n)) for n in (size, other))
    assert (one.digest() == two.digest()) == (list(one) == list(two))
    moved = [replace(file, uri="/moved/" + file.uri, version="2") for file in files]
    assert Shards.of(cut_shards(moved, size)).digest() == one.digest()


def test_the_digest_tells_spans_apart() -> None:
    def digest(*groups: list[tuple[int, int] | None]) -> str:
        made = [[Piece("u", "n", span=span) for span in group] for group in groups]
        return shards_of(made, 10)[1].digest()

    cuts = [
        digest([(0, 5), (5, 9)]),
        digest([(0, 5)], [(5, 9)]),
        digest([(0, 4), (4, 9)]),
        digest([None, None]),
        digest([None], [None]),
        digest([(0, 5), (5, 9), None]),
    ]
    assert len(set(cuts)) == len(cuts)
    assert cuts[0] == digest([(0, 5), (5, 9)])
