"""What columns are like: sums that do not depend on how rows were cut."""

from __future__ import annotations

import itertools
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.statistics import collect
from transforms.statistics.collect import Collector, sample_hashes, sampled
from transforms.statistics.column import WIDEST, ColumnStatistics
from transforms.statistics.drift import drift
from transforms.statistics.memory import BLOCK_BYTES, reused
from transforms.statistics.moments import Moments
from transforms.statistics.norms import BINS, bin_edges
from transforms.statistics.repeats import (
    DIFFERENT,
    FREQUENT,
    Repeats,
    hash_rows,
    mix,
)
from transforms.statistics.sample import ALL, HASH, ROWS, Sampler, Share, share_of
from transforms.statistics.spread import effective_rank, variances
from transforms.statistics.stored import SCHEMA, from_table, to_table

VECTOR = pa.list_(pa.field("element", pa.float32()))


def vector_column(values: np.ndarray) -> pa.Array:
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    flat = pa.array(values.reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat)


def keys_of(rows: int, start: int = 0) -> pa.Array:
    return pa.array([f"k{i}" for i in range(start, start + rows)])


def described(values: np.ndarray, cuts: list[int]) -> ColumnStatistics:
    """Statistics of rows that were cut, each piece added alone, then merged."""
    found = ColumnStatistics("c", values.shape[1])
    ends = [0, *sorted(cuts), len(values)]
    for start, stop in itertools.pairwise(ends):
        piece = ColumnStatistics("c", values.shape[1])
        keys = keys_of(stop - start, start)
        piece.add(vector_column(values[start:stop]), keys, sample_hashes(keys))
        found.merge(piece)
    return found


@settings(max_examples=60)
@given(
    st.integers(1, 70),
    st.integers(1, 9),
    st.lists(st.integers(0, 70), max_size=4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.uint8]),
)
def test_statistics_are_numpys_wherever_rows_are_cut(
    rows: int, width: int, cuts: list[int], seed: int, kind: type
) -> None:
    random = np.random.default_rng(seed)
    values = (random.normal(size=(rows, width)) * 50 + 100).astype(kind)
    values[random.random(rows) < 0.2] = 0
    values[random.random(rows) < 0.3] = values[0]
    found = described(values, [min(cut, rows) for cut in cuts])
    wide, moments = values.astype(np.float64), found.moments
    assert moments is not None
    assert (found.rows, moments.count) == (rows, rows)
    np.testing.assert_allclose(moments.mean, wide.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.std, wide.std(axis=0), rtol=1e-9, atol=1e-6)
    assert np.array_equal(moments.least, wide.min(axis=0))
    assert np.array_equal(moments.most, wide.max(axis=0))
    lengths = np.linalg.norm(wide, axis=1)
    assert found.zero_rows == (lengths == 0).sum()
    some = lengths[lengths > 0]
    assert found.norms.moments.count == len(some) == found.norms.histogram.sum()
    if len(some):
        assert found.norms.moments.mean[0] == pytest.approx(some.mean())
        assert found.norms.moments.most[0] == pytest.approx(some.max())
        longest = keys_of(rows)[int(lengths.argmax())].as_py()
        assert lengths[int(found.norms.longest[1:])] == pytest.approx(some.max())
        assert longest.startswith("k")
    different = len(np.unique(values, axis=0))
    assert (found.repeats.different, found.repeats.complete) == (different, True)
    assert found.repeats.share == pytest.approx(1 - different / rows)


@pytest.mark.parametrize(("rows", "width"), [(5000, 300), (3001, 1), (70, 4099)])
@pytest.mark.parametrize("cut", [1, 700, 5000])
def test_statistics_of_many_rows_are_numpys_however_they_came(
    rows: int, width: int, cut: int
) -> None:
    values = np.random.default_rng(3).normal(5, 2, (rows, width)).astype(np.float32)
    values[rows // 2, 0] = np.nan
    chunks = [vector_column(values[at : at + cut]) for at in range(0, rows, cut)]
    found, keys = ColumnStatistics("c", width), keys_of(rows)
    found.add(pa.chunked_array(chunks), keys, sample_hashes(keys))
    wide = np.delete(values, rows // 2, axis=0).astype(np.float64)
    moments = found.moments
    assert moments is not None
    assert (found.rows, moments.count) == (rows, rows - 1)
    np.testing.assert_allclose(moments.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, wide.std(axis=0), rtol=1e-9)
    assert np.array_equal(moments.least, wide.min(axis=0))
    assert np.array_equal(moments.most, wide.max(axis=0))
    assert np.array_equal(found.repeats.hashes[:9], np.unique(hash_rows(values))[:9])


def test_a_thread_has_memory_of_its_own_which_it_uses_again() -> None:
    first = reused("test", (4, 8), np.float64)
    first[:] = 7
    assert np.shares_memory(first, reused("test", (2, 3), np.uint8))
    assert not np.shares_memory(first, reused("other", (4, 8), np.float64))
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(reused, "test", (4, 8), np.float64).result()
    assert not np.shares_memory(first, elsewhere)
    long = reused("test", (1, BLOCK_BYTES), np.float64)
    assert (long.shape, np.shares_memory(first, long)) == ((1, BLOCK_BYTES), False)


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(0, 1000))
def test_a_stored_column_comes_back(cuts: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)
    values[3, 1], values[7] = np.nan, 0
    found = described(values, cuts)
    (back,) = from_table(to_table([found]).cast(SCHEMA))
    assert to_table([back]).equals(to_table([found]))
    assert (back.non_finite_rows, back.non_finite.keys) == (1, ["k3"])
    assert (back.zero_rows, back.zeros.keys) == (1, ["k7"])
    assert back.moments is not None
    assert back.moments.count == 39


def test_lists_that_do_not_fit_together_are_told() -> None:
    stored = to_table([described(np.ones((2, 3), np.float32), [])])
    place = SCHEMA.get_field_index("mean")
    broken = stored.set_column(place, SCHEMA.field(place), [[[1.0]]])
    with pytest.raises(ValueError, match=r"column 'c' has numbers of .* dimensions"):
        from_table(broken)


def test_rows_that_are_not_finite_count_apart() -> None:
    values = np.ones((5, 2))
    values[1, 0], values[2, 1], values[3] = np.inf, -np.nan, 1e200
    found = described(values, [2])
    assert (found.non_finite_rows, found.zero_rows, found.rows) == (2, 0, 5)
    assert sorted(found.non_finite.keys) == ["k1", "k2"]
    assert found.moments is not None
    assert found.moments.most.tolist() == [1e200, 1e200]  # whose square is infinite


def test_sums_beyond_float64_are_infinite() -> None:
    found = Moments(1)
    found.add(np.array([[0], [1.2e154], [1.2e154], [-1.2e154]]))
    assert (found.most[0], found.m2[0]) == (1.2e154, np.inf)


def test_rows_of_tiny_values_are_not_zero() -> None:
    values = np.zeros((5, 2))
    values[1, 1] = -1e-200  # whose square is zero
    found = described(values, [2])
    assert (found.zero_rows, found.norms.moments.count) == (4, 1)
    assert found.norms.longest == "k1"


def test_rows_of_differing_length_have_lengths_and_repeats() -> None:
    lists = pa.array([[3.0, 4.0], [], [0.0, 0.0], [3.0, 4.0], [5.0]], VECTOR)
    keys = keys_of(5)
    for values, rows in ((lists, 5), (lists.slice(1), 4)):
        found = ColumnStatistics("c", None)
        found.add(values, keys.slice(5 - rows), sample_hashes(keys.slice(5 - rows)))
        assert found.moments is None
        assert (found.rows, found.zero_rows) == (rows, 2)
        assert found.norms.moments.most[0] == 5.0
        assert found.repeats.different == 4


def test_long_rows_are_looked_at_some_at_a_time() -> None:
    rows, length = 64, 50_000
    flat = np.repeat(np.arange(rows, dtype=np.float32), length)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * length)
    values = pa.ListArray.from_arrays(offsets, pa.array(flat))
    found = ColumnStatistics("c", None)
    tracemalloc.start()
    found.add(values, keys_of(rows), sample_hashes(keys_of(rows)))
    assert tracemalloc.get_traced_memory()[1] < flat.nbytes / 2
    tracemalloc.stop()
    assert (found.zero_rows, found.repeats.different) == (1, rows)
    longest = (rows - 1) * np.sqrt(length)
    assert found.norms.moments.most[0] == pytest.approx(longest)


def test_very_wide_rows_have_no_dimensions() -> None:
    found = described(np.ones((2, WIDEST + 1), np.float32), [])
    assert found.moments is None
    assert (found.constant_dimensions, found.repeats.share) == (0, 0.5)


def test_single_numbers_and_flags_are_rows_of_one() -> None:
    keys = keys_of(4)
    for values in (pa.array([1, 1, 0, 2]), pa.array([True, True, False, True])):
        found = ColumnStatistics("c", 1)
        found.add(values, keys, sample_hashes(keys))
        assert found.zero_rows == 1
        assert found.moments is not None
        expected = np.mean([float(value) for value in values.to_pylist()])
        assert found.moments.mean[0] == pytest.approx(expected)


def test_bins_lie_around_lengths() -> None:
    edges = bin_edges()
    values = np.array([[1e-30], [0.1], [1.0], [3.0], [1e30]])
    found = described(values, [])
    for length in values[:, 0]:
        place = int(np.searchsorted(edges, length, side="right")) - 1
        assert found.norms.histogram[min(max(place, 0), BINS - 1)] >= 1
    assert edges[BINS // 2] == 1.0


def repeats_of(hashes: np.ndarray, pieces: int = 7) -> Repeats:
    found = Repeats()
    for piece in np.array_split(hashes, pieces):
        part = Repeats()
        part.add(piece, keys_of(len(piece)))
        found.merge(part)
    return found


def test_without_repetition_none_is_seen_in_any_number_of_rows() -> None:
    found = repeats_of(mix(np.arange(50_000, dtype=np.uint64)))
    assert not found.complete
    assert (found.different, found.share, found.most(5)) == (50_000, 0.0, [])


@pytest.mark.parametrize("often", [2, 3, 10])
def test_vectors_that_all_come_often_are_counted(often: int) -> None:
    once = mix(np.arange(20_000, dtype=np.uint64))
    found = repeats_of(np.tile(once, often))
    assert found.share == pytest.approx(1 - 1 / often, abs=0.01)


def test_few_vectors_that_come_very_often_are_found() -> None:
    rare = mix(np.arange(30_000, dtype=np.uint64))
    frequent = np.repeat(rare[:2], [40_000, 20_000])
    hashes = np.random.default_rng(0).permutation(np.concatenate([rare, frequent]))
    found = repeats_of(hashes)
    assert found.share == pytest.approx(60_000 / 90_000, abs=0.01)
    first, second = found.most(2)
    for one, rows in ((first, 40_001), (second, 20_001)):
        assert rows - found.error <= one.rows <= rows
    assert found.error <= 90_000 / FREQUENT


def test_many_vectors_that_come_rather_often_are_estimated() -> None:
    rare = mix(np.arange(200_000, dtype=np.uint64))
    hashes = np.concatenate([rare, np.repeat(rare[:300], 400)])
    found = repeats_of(np.random.default_rng(1).permutation(hashes))
    error = 4 / np.sqrt(DIFFERENT)  # within four standard errors, by fixed data
    assert found.different == pytest.approx(200_000, rel=error)


def test_numbers_of_different_vectors_are_within_their_error() -> None:
    """The standard error of 2.2 % holds where a few vectors have most of the rows."""
    errors = []
    for seed in range(20):
        values = np.exp(np.random.default_rng(seed).normal(8, 2, 50_000))
        hashes = mix(values.astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
        errors.append(repeats_of(hashes).different / len(np.unique(hashes)) - 1)
    assert np.sqrt(np.mean(np.square(errors))) < 1.25 / np.sqrt(DIFFERENT)
    assert abs(np.mean(errors)) < 0.02


def test_results_do_not_depend_on_the_order() -> None:
    random = np.random.default_rng(2)
    hashes = mix(random.integers(0, 9000, 30_000).astype(np.uint64))
    one = repeats_of(hashes, 3)
    other = repeats_of(random.permutation(hashes), 11)
    assert np.array_equal(one.hashes, other.hashes)
    assert np.array_equal(one.counts, other.counts)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 5000])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.bool_])
def test_rows_have_one_hash_if_and_only_if_they_are_one(width: int, kind: type) -> None:
    values = np.random.default_rng(0).integers(0, 2, (400, width)).astype(kind)
    values = np.concatenate([values, values[:50]])
    different = len(np.unique(values, axis=0))
    assert len(np.unique(hash_rows(values))) == different


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8])
def test_vectors_of_signs_do_not_collide(kind: type) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (300_000, 64), np.int8)
    for values in (2 * bits - 1, bits):
        hashes = hash_rows(values.astype(kind))
        assert len(np.unique(hashes)) == len(hashes)


def test_small_whole_numbers_do_not_collide() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 4, (100_000, 16)).astype(np.float32)
    assert len(np.unique(hash_rows(values))) == len(np.unique(values, axis=0))


def sample_of(pieces: list[np.ndarray], share: Share) -> pa.Table | None:
    """The sample of whole keys that come in pieces, each with a sampler of its own."""
    parts = [Sampler(share, ["key"]) for _ in pieces]
    for ids, part in zip(pieces, parts, strict=True):
        keys = pa.array(ids)
        part.add(pa.table({"key": keys}), sample_hashes(keys))
    found = [part.finish() for part in parts]
    whole = Sampler(Share(below=min(part.below for part in parts)), ["key"])
    for rows in found:
        if rows is not None:
            whole.add(rows, rows[HASH].to_numpy())
    return whole.finish()


@pytest.mark.parametrize("rows", [10, 4096, 12_000, 100_000])
@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_a_sample_is_the_rows_of_the_smallest_hashes_however_they_are_cut(
    rows: int, pieces: int
) -> None:
    ids = np.arange(rows)
    hashes = sample_hashes(pa.array(ids))
    expected = np.sort(hashes)[:ROWS]
    found = sample_of(np.array_split(ids, pieces), share_of(rows, pieces))
    assert found is not None
    assert np.array_equal(found[HASH].to_numpy(), expected)
    unknown = sample_of(np.array_split(ids, pieces), share_of(None, pieces))
    assert unknown is not None
    assert np.array_equal(unknown[HASH].to_numpy(), expected[: len(unknown)])
    assert len(unknown) >= min(rows, ROWS // 2)


def test_a_sample_has_no_long_lists_and_few_pictures() -> None:
    schema = pa.schema(
        [
            ("key", pa.int64()),
            ("vector", VECTOR),
            ("wide", VECTOR),
            ("ragged", VECTOR),
            ("words", pa.list_(pa.string())),
            ("picture", pa.binary()),
            ("pixels", pa.list_(pa.uint8())),
        ]
    )
    widths = {"vector": 2, "wide": 5000, "ragged": None}
    assert sampled(schema, widths) == ["key", "vector", "picture", "pixels"]
    assert sampled(schema, {**widths, "pixels": None}) == ["key", "vector", "picture"]
    rows = 2000
    keys = pa.array(np.arange(rows))
    sampler = Sampler(Share(), ["key", "picture", "pixels"], {"pixels"})
    lists = pa.array([[1, 2]] * rows, pa.list_(pa.uint8()))
    table = pa.table({"key": keys, "picture": [b"x"] * rows, "pixels": lists})
    sampler.add(table, sample_hashes(keys))
    found = sampler.finish()
    assert found is not None
    pictures = rows - found["picture"].null_count
    assert rows / 32 < pictures < rows / 8
    assert found["picture"][0].as_py() == b"x"
    assert found["pixels"].is_valid() == found["picture"].is_valid()
    assert found["pixels"][0].as_py() == [1, 2]


def test_a_sample_holds_no_more_than_its_rows() -> None:
    buffer = np.zeros((100, 5000), np.float32)
    left = weakref.ref(buffer)
    small = pa.array(buffer[:, :1].reshape(-1)), pa.array(np.arange(100))
    sampler = Sampler(Share(most=500), ["key", "x"])
    rows = pa.table({"key": small[1], "x": pa.array(buffer.reshape(-1)).slice(0, 100)})
    sampler.add(rows, sample_hashes(small[1]))
    del rows, small, buffer
    assert left() is None
    sampler.add(
        pa.table({"key": [1], "x": pa.array([1], pa.float32())}),
        np.array([1], np.uint64),
    )
    found = sampler.finish()
    assert found is not None
    assert len(found) == 101


def test_of_equal_hashes_at_the_end_none_is_kept() -> None:
    sampler = Sampler(Share(most=3), ["key"])
    for hashes in ([1, 2, 3], [3]):
        sampler.add(pa.table({"key": hashes}), np.array(hashes, np.uint64))
    found = sampler.finish()
    assert found is not None
    assert (found["key"].to_pylist(), sampler.below) == ([1, 2], 3)


def test_large_shares_are_read_from_the_parts() -> None:
    schema = pa.schema([("key", pa.int64()), ("c", VECTOR)])
    assert Collector(schema, {"c": 2}, share_of(5000, 3)).sampler is None
    collector = Collector(schema, {"c": 2}, share_of(50_000, 3))
    assert collector.sampler is not None
    assert share_of(50_000, 3).below < ALL


@pytest.mark.parametrize("at_a_time", [1, 1000, 65_536])
def test_a_collector_looks_at_all_rows(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_ROWS_AT_A_TIME", at_a_time)
    schema = pa.schema([("key", pa.int64()), ("c", VECTOR)])
    collector = Collector(schema, {"c": 2}, share_of(100_000, 3))
    for start in range(0, 9000, 300):
        values = np.full((300, 2), start, np.float32)
        arrays = [pa.array(np.arange(start, start + 300)), vector_column(values)]
        collector.add(pa.record_batch(arrays, names=["key", "c"]))
    collector.finish()
    (column,) = collector.columns
    assert (column.rows, column.repeats.different) == (9000, 30)
    assert column.moments is not None
    assert column.moments.mean.tolist() == [4350, 4350]
    assert collector.sampler is not None
    chosen = collector.sampler.finish()
    assert chosen is not None
    below = sample_hashes(pa.array(np.arange(9000))) < collector.sampler.below
    assert sorted(chosen["key"].to_pylist()) == np.flatnonzero(below).tolist()
    assert chosen["c"].to_pylist() == [
        [k // 300 * 300] * 2 for k in chosen["key"].to_pylist()
    ]


@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 100))
def test_the_effective_rank_is_that_of_the_covariance(
    width: int, rows: int, seed: int
) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)) * np.arange(
        1, width + 1
    )
    expected = np.linalg.eigvalsh(np.cov(vectors.T, bias=True).reshape(width, width))
    found = variances(vectors)
    assert found.sum() == pytest.approx(expected.sum())
    assert found[: min(rows, width)] == pytest.approx(
        expected[::-1][: min(rows, width)], abs=1e-9
    )
    assert 1 <= effective_rank(vectors) <= min(width, rows - 1) + 1e-9


def test_effective_ranks_of_known_clouds() -> None:
    random = np.random.default_rng(0)
    line = random.normal(size=(500, 1)) @ random.normal(size=(1, 20))
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(random.normal(size=(5000, 20))) == pytest.approx(20, rel=0.02)
    assert effective_rank(np.tile([0.1, 0.3, 1 / 3], (100, 1))) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_effective_ranks_do_not_depend_on_the_scale(scale: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    assert effective_rank(vectors * scale) == pytest.approx(effective_rank(vectors))


def moments_of(values: np.ndarray) -> Moments:
    found = Moments(values.shape[1])
    found.add(values)
    return found


def test_drift_is_in_standard_deviations_and_free_of_chance() -> None:
    random = np.random.default_rng(0)
    before = random.normal(size=(2000, 64)) * 3 + 5
    same = random.normal(size=(300, 64)) * 3 + 5
    assert drift(moments_of(same), moments_of(before)) < 0.05
    assert drift(moments_of(same + 3), moments_of(before)) == pytest.approx(1, abs=0.05)
    half = same.copy()
    half[::2] += 6
    assert drift(moments_of(half), moments_of(before)) > 0.9
    wider = (same - 5) * 2 + 5
    assert drift(moments_of(wider), moments_of(before)) == pytest.approx(1, abs=0.1)


def test_constant_dimensions_drift_if_they_move() -> None:
    before = np.ones((50, 4))
    moved = before.copy()
    moved[:, 0] = 2
    assert drift(moments_of(before), moments_of(before)) == 0
    assert drift(moments_of(moved), moments_of(before)) == 0.5  # of four dimensions one
    assert drift(Moments(4), moments_of(before)) == float("inf")


def rarely_firing(rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Units after a ReLU, of which many fire in a few rows only, or in none."""
    bias = np.random.default_rng(1).normal(2.5, 0.7, 256) - shift
    values = np.random.default_rng(seed).normal(size=(rows, 256)) - bias
    return np.maximum(values, 0.0)


@pytest.mark.parametrize("rows", [300, 1000, 5000])
def test_units_that_hardly_ever_fire_are_no_drift(rows: int) -> None:
    before = moments_of(rarely_firing(rows, 2))
    assert drift(moments_of(rarely_firing(rows, 3)), before) < 0.25
    assert drift(moments_of(rarely_firing(rows, 4, shift=1)), before) > 0.5
    assert drift(moments_of(rarely_firing(rows, 5) * 255), before) > 0.5


def test_a_dimension_that_moves_in_one_row_is_not_one_that_moved() -> None:
    before, now = np.zeros((500, 2)), np.zeros((500, 2))
    now[7, 0] = 3
    assert drift(moments_of(now), moments_of(before)) < 0.05
    now[:250, 0] = 3
    assert drift(moments_of(now), moments_of(before)) == pytest.approx(0.7, abs=0.02)
    now[:] = np.nextafter(np.inf, 0)  # of which float64 holds no square
    assert drift(moments_of(now), moments_of(before)) == 1.0
