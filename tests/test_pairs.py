"""Vectors of the same rows, compared: planted differences and what must come out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.health.classifier import classifier_auc
from pipeline.health.pairs import NEIGHBOURS, cka, cosines, moved, neighbour_overlap


def cloud(rows: int = 200, width: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors that lie mostly in four directions, off the origin: float32."""
    random = np.random.default_rng(seed)
    lying = random.normal(size=(rows, 4)) @ random.normal(size=(4, width))
    return (lying + 0.3 * random.normal(size=(rows, width)) + 1).astype(np.float32)


def rotation(width: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    found: np.ndarray = np.linalg.qr(random.normal(size=(width, width)))[0]
    return found


def test_equal_vectors_agree_in_everything() -> None:
    a = cloud()
    a[:50] = a[50:100]  # so that some tie
    assert (cosines(a, a) == 1).all()
    assert not moved(a, a).any()
    assert (neighbour_overlap(a, a) == 1).all()
    assert cka(a, a) == 1


def test_a_rotation_keeps_neighbours_and_not_coordinates() -> None:
    a = cloud()
    b = (a @ rotation(16)).astype(np.float32)
    assert abs(float(np.median(cosines(a, b)))) < 0.9
    assert neighbour_overlap(a, b).mean() > 0.999
    assert cka(a, b) == pytest.approx(1)


def test_a_factor_changes_lengths_alone() -> None:
    a = cloud()
    np.testing.assert_allclose(cosines(a, 3 * a), 1)
    assert neighbour_overlap(a, 3 * a).mean() == pytest.approx(1)
    assert cka(a, 3 * a) == pytest.approx(1)
    assert np.sqrt(np.square(moved(a, 3 * a)).mean()) > 1


@pytest.mark.parametrize("size", [0.01, 0.05])
def test_noise_moves_rows_by_its_share_of_the_spread(size: float) -> None:
    a = cloud().astype(np.float64)
    spread = np.sqrt(np.square(a - a.mean(axis=0)).sum(axis=1).mean())
    noise = np.random.default_rng(2).normal(size=a.shape) / np.sqrt(a.shape[1])
    found = moved(a, a + size * spread * noise)
    assert np.sqrt(np.square(found).mean()) == pytest.approx(size, rel=0.05)


def test_other_vectors_agree_by_chance_alone() -> None:
    a, b = cloud(400), np.random.default_rng(5).normal(size=(400, 16))
    by_chance = NEIGHBOURS / (len(a) - 1)
    assert neighbour_overlap(a, b).mean() == pytest.approx(by_chance, abs=0.015)
    assert abs(cka(a, b)) < 0.03


def test_the_alignment_of_wide_vectors_is_not_chance() -> None:
    """Where there are fewer rows than dimensions the biased estimate is near 1."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 64, 1000))
    assert abs(cka(a, b)) < 0.05

    def biased(x: np.ndarray, y: np.ndarray) -> float:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        own = np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T)
        return float(np.vdot(x @ x.T, y @ y.T) / own)

    assert biased(a, b) > 0.9


def by_song(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate of HSIC, as equation 5 of Song and others (2012) has it."""
    rows = len(a)
    ours, theirs = a @ a.T, b @ b.T
    np.fill_diagonal(ours, 0)
    np.fill_diagonal(theirs, 0)
    found = np.trace(ours @ theirs)
    found += ours.sum() * theirs.sum() / ((rows - 1) * (rows - 2))
    found -= 2 / (rows - 2) * (ours @ theirs).sum()
    return float(found / (rows * (rows - 3)))


@given(st.integers(0, 999), st.integers(5, 40), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=40)
def test_the_alignment_is_that_of_its_definition(
    seed: int, rows: int, width: int, other: int
) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(rows, width)), random.normal(size=(rows, other))
    b[:, 0] += a[:, 0]
    own = by_song(a, a) * by_song(b, b)
    if own > 1e-6 and by_song(a, a) > 0:
        assert cka(a, b) == pytest.approx(by_song(a, b) / np.sqrt(own), abs=1e-6)
        assert cka(b, a) == pytest.approx(cka(a, b), abs=1e-9)


@given(st.integers(0, 999), st.integers(12, 50), st.integers(2, 8))
@settings(max_examples=40)
def test_overlap_is_that_of_lists_of_neighbours(
    seed: int, rows: int, width: int
) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, rows, width))

    def lists(vectors: np.ndarray) -> list[set[int]]:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -np.inf)
        return [set(row[-NEIGHBOURS:]) for row in np.argsort(cosine, axis=1).tolist()]

    shares = [len(x & y) / NEIGHBOURS for x, y in zip(lists(a), lists(b), strict=True)]
    np.testing.assert_allclose(neighbour_overlap(a, b), shares, atol=1e-9)


@given(st.integers(0, 999), st.integers(1, 20))
@settings(max_examples=30)
def test_repeated_vectors_neither_help_nor_harm(seed: int, different: int) -> None:
    """Rows that come many times tie for a place: that is no disagreement."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(different, 5))[random.integers(0, different, 60)]
    b = a @ rotation(5)
    np.testing.assert_allclose(neighbour_overlap(a, b), 1, atol=1e-6)
    np.testing.assert_array_equal(neighbour_overlap(a, a), neighbour_overlap(a, 2 * a))


def test_vectors_that_became_alike_keep_no_neighbours() -> None:
    found = neighbour_overlap(cloud(400), np.ones((400, 3)))
    assert found.max() < 0.2
    thirds = np.tile([0.1, 0.3, 1 / 3], (200, 1))  # whose mean is a rounding off
    for alike in (np.ones((200, 3)), thirds):
        assert np.isnan(cka(cloud(), alike))
        assert np.isnan(cka(alike, 2 * alike))


def test_overlap_is_the_same_for_blocks_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = cloud(), cloud(seed=0) + np.random.default_rng(1).normal(size=(200, 16))
    whole = neighbour_overlap(a, b)
    monkeypatch.setattr("pipeline.health.directions._BLOCK", 7)
    np.testing.assert_allclose(neighbour_overlap(a, b), whole, atol=1e-12)


def test_zero_vectors_have_a_cosine() -> None:
    a = np.array([[0.0, 0], [0, 0], [1, 0]])
    b = np.array([[0.0, 0], [0, 2], [1, 1]])
    np.testing.assert_allclose(cosines(a, b), [1, 0, np.sqrt(0.5)])


def test_rows_that_move_from_one_point_move_without_measure() -> None:
    a = np.full((3, 2), 0.1)
    np.testing.assert_array_equal(
        moved(a, a + np.array([[0], [0], [1]])), [0, 0, np.inf]
    )


@pytest.mark.parametrize("size", [1e-300, 1e200])
def test_no_size_of_values_overflows(size: float) -> None:
    a = cloud().astype(np.float64)
    b = a + np.random.default_rng(1).normal(size=a.shape)
    for measure in (cosines, moved, neighbour_overlap, cka):
        small, large = measure(a, b), measure(a * size, b * size)
        np.testing.assert_allclose(large, small, rtol=1e-6)


def test_half_precision_and_whole_numbers_are_taken() -> None:
    a = cloud()
    assert neighbour_overlap(a, a.astype(np.float16)).mean() > 0.99
    whole = np.round(a * 100).astype(np.int16)
    flags = a > 1
    assert cka(whole, a) > 0.99
    assert cosines(flags, flags).min() == 1
    assert moved(whole, whole + np.int16(1)).max() < 0.1


def auc_of_halves(a: np.ndarray, b: np.ndarray) -> float:
    return classifier_auc(a[::2], b[1::2])


def test_what_does_not_differ_cannot_be_told_apart() -> None:
    found = [auc_of_halves(a, a) for a in (cloud(400, seed=s) for s in range(8))]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_shifts_and_spreads_are_told_apart() -> None:
    a = cloud(400)
    assert auc_of_halves(a, a + 2) > 0.99
    assert auc_of_halves(a, (a - 1) * 1.5 + 1) > 0.7  # the mean stays
    half = a.copy()
    half[:200] += 2
    assert 0.6 < auc_of_halves(a, half) < 0.95


def test_wide_vectors_are_told_apart_as_narrow_ones() -> None:
    """There are fewer rows than dimensions: another system of equations is solved."""
    a = cloud(200, 500)
    assert auc_of_halves(a, a + 0.5) > 0.9
    narrow, wide = cloud(300, 20), cloud(300, 20) + 0.3
    solved = auc_of_halves(narrow, wide)
    padding = np.random.default_rng(0).normal(size=(300, 0))
    padded = [np.concatenate([x, padding], axis=1) for x in (narrow, wide)]
    assert auc_of_halves(padded[0], padded[1]) == pytest.approx(solved)


def test_dimensions_that_are_constant_tell_nothing() -> None:
    a = cloud(400)
    constant = np.concatenate([a, np.full((400, 3), 7, np.float32)], axis=1)
    assert auc_of_halves(constant, constant) == pytest.approx(
        auc_of_halves(a, a), abs=0.02
    )


def test_one_wild_value_does_not_decide() -> None:
    a = cloud(400)
    wild = a.copy()
    wild[4, 0], wild[5, 0] = 1e6, -1e6
    assert abs(auc_of_halves(wild, wild) - auc_of_halves(a, a)) < 0.1
