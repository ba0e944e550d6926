"""How vectors lie in space, against what is known of made-up ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.health.directions import unit_vectors
from pipeline.health.spectrum import anisotropy, principal_components
from pipeline.report.neighbours import NEAREST, find_neighbours


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_components_are_those_of_the_covariance() -> None:
    vectors = normal(300, 4) * [8, 4, 2, 1] + 5
    found = principal_components(vectors)
    variances = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    np.testing.assert_allclose(found.shares, variances / variances.sum())
    spread = np.cov(found.scores.T)
    np.testing.assert_allclose(np.diag(spread), variances[:2])
    assert abs(spread[0, 1]) < 1e-9
    assert (found.scores[np.abs(found.scores).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize(("dimensions", "rank"), [([1, 1, 1, 1], 4), ([1, 1, 0, 0], 2)])
def test_the_effective_rank_counts_the_dimensions_in_use(
    dimensions: list[float], rank: int
) -> None:
    vectors = np.concatenate([np.eye(4), -np.eye(4)]) * dimensions
    assert principal_components(vectors).effective_rank == pytest.approx(rank)


def test_vectors_that_are_alike_have_no_components() -> None:
    found = principal_components(np.tile([0.1, 0.3, 1 / 3], (100, 1)))
    assert found.effective_rank == 0
    assert not found.shares.any()
    assert not found.scores.any()


def test_one_dimension_has_one_component() -> None:
    found = principal_components(np.array([[1.0], [2.0], [6.0]]))
    assert found.shares.tolist() == [1.0]
    assert found.scores.tolist() == [[-2.0, 0.0], [-1.0, 0.0], [3.0, 0.0]]


def test_numbers_at_the_end_of_their_type_have_components() -> None:
    vectors = normal(50, 3).astype(np.float64) * 1e307
    found = principal_components(vectors)
    np.testing.assert_allclose(
        found.shares, principal_components(vectors / 1e307).shares
    )


def test_anisotropy_is_the_mean_cosine_of_different_rows() -> None:
    vectors = normal(40, 5) + 1
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (units @ units.T)[~np.eye(40, dtype=bool)]
    assert anisotropy(vectors) == pytest.approx(cosines.mean(), abs=1e-5)
    with_zero = np.concatenate([vectors, np.zeros((3, 5), np.float32)])
    assert anisotropy(with_zero) == pytest.approx(anisotropy(vectors))


def test_anisotropy_needs_two_vectors() -> None:
    assert math.isnan(anisotropy(np.array([[1.0, 0.0], [0.0, 0.0]])))


def test_vectors_of_any_size_become_units() -> None:
    found = unit_vectors(np.array([[3e200, 4e200], [3e-200, 4e-200], [0, 0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_neighbours_are_those_of_the_greatest_cosines() -> None:
    vectors = normal(700, 8)
    index = np.arange(700) + 10  # rows of a sample whose first rows are not finite
    found = find_neighbours(vectors, index.tolist(), None, ())
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    for near in found.shown:
        own = cosines[near.row - 10]
        first = np.argsort(-own)[1 : NEAREST + 1]
        assert [other for other, _ in near.others] == (first + 10).tolist()
        np.testing.assert_allclose([c for _, c in near.others], own[first], rtol=1e-5)
    assert found.agreement is None


def test_neighbours_of_one_cluster_have_its_label() -> None:
    labels = ["a", "b"] * 300
    centres = np.array([[9, 0, 0], [0, 9, 0]] * 300)
    found = find_neighbours(normal(600, 3) + centres, range(600), labels, ())
    assert found.agreement == 1.0
    assert found.chance == pytest.approx(299 / 599)
    by_chance = find_neighbours(normal(600, 3), range(600), labels, ())
    assert by_chance.agreement == pytest.approx(0.5, abs=0.06)


def test_rows_with_pictures_are_shown_where_there_are_enough() -> None:
    pictured = range(0, 600, 20)
    shown = find_neighbours(normal(600, 3), range(600), None, pictured).shown
    others = {other for near in shown for other, _ in near.others}
    assert {near.row for near in shown} | others <= {*pictured}
    few = find_neighbours(normal(600, 3), range(600), None, [3]).shown
    assert few[0].row == 0


def test_few_rows_are_all_the_neighbours_there_are() -> None:
    (first, second) = find_neighbours(normal(2, 3), [0, 1], ["a", "b"], ()).shown
    assert [other for other, _ in first.others] == [1]
    assert [other for other, _ in second.others] == [0]
