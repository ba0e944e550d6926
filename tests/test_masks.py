"""Reductions over steps that Keras masks count the row's own steps only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import toolbox
from conftest import Job, parity_of, stacked

from transforms.lookup import ConfigError
from transforms.taps.chains import parse_reduction
from transforms.taps.masks import mask_of, reduce_masked

TOKENS = np.array([[3, 4, 0, 0], [1, 2, 3, 4], [7, 0, 0, 0], [0, 5, 0, 6]], np.int32)


def masked_model(library: Any = keras) -> Any:
    """tokens [4] -> an embedding with a mask, a layer that passes it on, a result."""
    library.utils.set_random_seed(1)
    tokens = library.Input((4,), dtype="int32", name="tokens")
    words = library.layers.Embedding(9, 3, mask_zero=True, name="words")(tokens)
    steps = library.layers.GRU(5, return_sequences=True, name="steps")(words)
    return library.Model(tokens, library.layers.Dense(2, name="head")(steps))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(toolbox, "made_here", masked_model, raising=False)
    np.save(tmp_path / "tokens.npy", TOKENS)
    path = {"tokens": str(tmp_path / "tokens.npy")}
    return Job(tmp_path, {"reader": "numpy", "path": path})


def sections(*taps: tuple[str, list[str]], **model: Any) -> dict[str, Any]:
    return {
        "source": {"key": None},
        "model": {"build": "toolbox:made_here", **model},
        "taps": [
            {"path": path, "reduce": reduce, "column": f"c{number}"}
            for number, (path, reduce) in enumerate(taps)
        ],
    }


def own_steps(values: np.ndarray) -> list[np.ndarray]:
    return [row[mask] for row, mask in zip(values, TOKENS != 0, strict=True)]


REDUCED: list[tuple[list[str], Any]] = [
    (["mean(axis='time')"], lambda own: own.mean(0)),
    (["global_average_pool"], lambda own: own.mean(0)),
    (["max(axis=1)"], lambda own: own.max(0)),
    (["min(axis=-2)"], lambda own: own.min(0)),
    (["sum(axis=[1, 2])"], lambda own: own.sum()),
    (["std(axis=1)"], lambda own: own.std(0)),
    (["mean"], lambda own: own.mean()),
    (["first"], lambda own: own[0]),
    (["last"], lambda own: own[-1]),
    (["mean(axis='features')", "max"], lambda own: own.mean(1).max()),
    (["max(axis=2, keepdims=True)", "last"], lambda own: own.max(1)[-1:]),
    (
        ["l2_normalize", "mean(axis='time')"],
        lambda own: (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(0),
    ),
    (["top_k(k=1)", "sum"], lambda own: own.max(1).sum()),
]


@pytest.mark.parametrize("address", ["words", "steps"])
def test_masked_steps_are_left_out(address: str, job: Job) -> None:
    taps = [(address, reduce) for reduce, _ in REDUCED]
    table = job.run(**sections(*taps)).sort_by("example_id")
    model = masked_model()
    inner = keras.Model(model.inputs, model.get_layer(address).output)
    own = own_steps(inner.predict(TOKENS, verbose=0))
    for number, (reduce, wanted) in enumerate(REDUCED):
        expected = [wanted(one) for one in own]
        got = stacked(table[f"c{number}"]).reshape(np.shape(expected))
        assert np.allclose(got, expected, atol=1e-6), reduce
    certificate = parity_of(str(job.table), rows=4)
    assert certificate.passed, certificate


def test_what_is_not_reduced_keeps_masked_steps(job: Job) -> None:
    table = job.run(**sections(("words", []), ("words", ["flatten"])))
    assert stacked(table["c0"]).size == stacked(table["c1"]).size == 4 * 4 * 3


def test_a_reduction_that_cannot_leave_steps_out_is_refused(job: Job) -> None:
    for reduce in (["l2_normalize(axis=1)"], ["mean(axis=2)", "top_k(k=2)"]):
        with pytest.raises(ConfigError, match="Keras masks steps of this activation"):
            job.plan(**sections(("words", reduce)))


def test_a_reduction_of_the_users_own_finds_the_mask(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(values: Any) -> Any:
        return tf.math.count_nonzero(values._keras_mask, 1)

    monkeypatch.setattr(toolbox, "count_own", count, raising=False)
    table = job.run(**sections(("words", ["toolbox:count_own"])))
    assert table.sort_by("example_id")["c0"].to_pylist() == [2, 4, 1, 2]


def test_models_of_keras_2_have_masks_too(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tf_keras

    monkeypatch.setattr(
        toolbox, "made_here", lambda: masked_model(tf_keras), raising=False
    )
    mean = ["mean(axis='time')"]
    table = job.run(**sections(("words", mean))).sort_by("example_id")
    words = masked_model(tf_keras).get_layer("words")(TOKENS).numpy()
    expected = [own.mean(0) for own in own_steps(words)]
    assert np.allclose(stacked(table["c0"]), expected, atol=1e-6)


def test_a_row_without_steps_of_its_own_has_no_first(job: Job, tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[2] = 0
    np.save(tmp_path / "tokens.npy", tokens)
    table = job.run(**sections(("words", ["first"])), errors={"max_fraction": 0.5})
    assert table.num_rows == 3
    assert job.errors()[0]["stage"] == "infer"


def test_only_masks_of_steps_count() -> None:
    values = tf.zeros([2, 3, 4])
    assert mask_of(values) is None
    values._keras_mask = tf.ones([2, 3, 4], tf.bool)
    assert mask_of(values) is None
    values._keras_mask = tf.ones([2, 3], tf.bool)
    assert mask_of(values) is values._keras_mask
    assert mask_of(3) is None


def test_a_mask_of_other_steps_is_refused() -> None:
    mean = parse_reduction("mean(axis=1)", "reduce[0]")
    with pytest.raises(ConfigError, match="Keras masks 3 steps of this activation"):
        reduce_masked(mean, tf.zeros([2, 5, 4]), tf.ones([2, 3], tf.bool))
