"""Learn to tell two sets of vectors apart: how well that goes is how they differ."""

from __future__ import annotations

import numpy as np

_FOLDS = 5


def classifier_auc(a: np.ndarray, b: np.ndarray) -> float:
    """Give how well a classifier tells two sets of vectors apart that it has not seen.

    The area under the ROC curve: the chance that a vector of `b` looks more like `b`
    than one of `a` does. It is 0.5 if the sets cannot be told apart, 1 if they always
    can be. The classifier is linear in the values and their squares, so that it sees
    shifts and spreads of dimensions: Fisher's discriminant with a ridge of as many
    units as it has terms. The result is the mean over five folds; the rows of a set
    must be in an order that has nothing to do with their values, and no row be in both.

    Args:
      a: finite, `[rows, width]`, some dozens of rows.
      b: other rows, of the same width.
    """
    folds = [_auc(*_scores(_split(a, fold), _split(b, fold))) for fold in range(_FOLDS)]
    return float(np.mean(folds))


def _split(vectors: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the rows to learn from, and those to judge by."""
    judged = np.arange(len(vectors)) % _FOLDS == fold
    wide = vectors.astype(np.float64)
    return wide[~judged], wide[judged]


def _scores(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Learn from the first of each pair; say how much the second look like `b`."""
    learned = np.concatenate([a[0], b[0]])
    judged = np.concatenate([a[1], b[1]])
    learned, judged = _terms(learned, judged)
    labels = np.concatenate(
        [np.full(len(a[0]), -1 / len(a[0])), np.full(len(b[0]), 1 / len(b[0]))]
    )
    rows, terms = learned.shape
    if terms <= rows:
        ridge = learned.T @ learned + terms * np.eye(terms)
        direction = np.linalg.solve(ridge, learned.T @ labels)
    else:  # the same, by a system of as many equations as there are rows
        ridge = learned @ learned.T + terms * np.eye(rows)
        direction = learned.T @ np.linalg.solve(ridge, labels)
    scores = judged @ direction
    return scores[: len(a[1])], scores[len(a[1]) :]


def _terms(learned: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give values and their squares, each of mean 0 and spread 1 in what is learned."""
    learned, judged = _standard(learned, judged)
    squares = _standard(np.square(learned), np.square(judged))
    return (
        np.concatenate([learned, squares[0]], axis=1),
        np.concatenate([judged, squares[1]], axis=1),
    )


def _standard(learned: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = learned.mean(axis=0), learned.std(axis=0)
    scale = np.where(std > 0, std, 1.0)
    return (learned - mean) / scale, (judged - mean) / scale


def _auc(a: np.ndarray, b: np.ndarray) -> float:
    """Give the share of pairs in which `b` has the greater score; ties count half."""
    order = np.sort(a)
    below = np.searchsorted(order, b, "left") + np.searchsorted(order, b, "right")
    return float(below.mean() / (2 * len(a)))
