"""Tapping a model in somebody else's Beam pipeline."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import toolbox
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.test_pipeline import TestPipeline as EagerPipeline
from apache_beam.testing.util import assert_that
from conftest import vectors

from transforms import ActivationModelHandler
from transforms.handler import _compute
from transforms.lookup import ConfigError
from transforms.models.inputs import Input

MODEL = {"build": "toolbox:dict_model", "batch_rows": 8}
TAPS = [{"path": "features:activation_1", "column": "hidden"}, {"path": "head"}]


def handler(**options: Any) -> ActivationModelHandler:
    return ActivationModelHandler(MODEL, TAPS, **options)


def examples(rows: int) -> list[dict[str, Any]]:
    return [{"id": i, "vec": vec} for i, vec in enumerate(vectors(rows))]


def wanted(rows: int) -> np.ndarray:
    return np.asarray(toolbox.dict_model()(vectors(rows)))


def rows_are(expected: np.ndarray, tolerance: float = 1e-6) -> Any:
    def check(found: list[Any]) -> None:
        made = np.array(sorted([list(map(float, one["head"])) for one in found]))
        np.testing.assert_allclose(made, sorted(expected.tolist()), atol=tolerance)
        assert all(one["hidden"].shape == (4,) for one in found)

    return check


@pytest.mark.parametrize("options", [{}, {"min_batch_size": 3, "max_batch_size": 50}])
def test_examples_batched_by_beam_give_a_dict_each(options: dict[str, int]) -> None:
    with EagerPipeline() as pipeline:
        found = pipeline | beam.Create(examples(21)) | RunInference(handler(**options))
        assert_that(found, rows_are(wanted(21)))


def test_keys_pass_through() -> None:
    keyed = [(one["id"], one) for one in examples(5)]

    def check(found: list[Any]) -> None:
        for key, columns in found:
            np.testing.assert_allclose(columns["head"], wanted(5)[key], atol=1e-6)

    with EagerPipeline() as pipeline:
        found = (
            pipeline | beam.Create(keyed) | RunInference(KeyedModelHandler(handler()))
        )
        assert_that(found, check)


def test_batches_of_examples_need_no_batching() -> None:
    with EagerPipeline() as pipeline:
        found = (
            pipeline
            | beam.Create([examples(3), examples(3)])
            | RunInference(handler().with_no_batching())
        )
        assert_that(found, rows_are(np.concatenate([wanted(3)] * 2)))


def test_batches_of_columns_give_batches_of_columns() -> None:
    def check(found: list[Any]) -> None:
        (columns,) = found
        assert columns["hidden"].shape == (21, 4)
        np.testing.assert_allclose(columns["head"], wanted(21), atol=1e-6)

    with EagerPipeline() as pipeline:
        found = (
            pipeline
            | beam.Create([{"vec": vectors(21)}])
            | RunInference(handler().with_no_batching())
        )
        assert_that(found, check)


def test_rows_of_differing_length_come_as_arrays() -> None:
    lists = ActivationModelHandler(
        {"build": "architectures:words", "inputs": {"inputs": "text"}, "batch_rows": 2},
        [{"path": "split", "column": "words"}, {"path": ":vectors"}],
        features={"text": ((), "string")},
    )
    compiled = lists.load_model()
    texts = [{"text": text} for text in ("one", "one two", "a b c")]
    found = list(lists.run_inference(texts, compiled))
    assert [len(one["words"]) for one in found] == [3, 4, 5]
    assert found[1]["words"].tolist() == [b"one", b"two", b"and", b"more"]
    assert found[2]["vectors"].reshape(found[2]["vectors_shape"]).shape == (5, 4)
    batch = np.array([one["text"] for one in texts], object)
    (columns,) = lists.run_inference({"text": batch}, compiled)
    assert columns["words"].to_pylist()[0] == [b"one", b"and", b"more"]


def test_misuse_is_explained() -> None:
    loaded = handler().load_model()
    with pytest.raises(ConfigError, match="must hold the features vec, one lacks vec"):
        handler().run_inference([{"vek": 1}], loaded)
    with pytest.raises(ValueError, match="no inference_args"):
        handler().run_inference(examples(1), loaded, {"a": 1})
    subclassed = {"build": "toolbox:Subclassed", "inputs": {"inputs": "vec"}}
    with pytest.raises(ConfigError, match="features are required"):
        ActivationModelHandler(subclassed, TAPS).load_model()
    with pytest.raises(ConfigError, match="must match an activation, got 'had'"):
        ActivationModelHandler(MODEL, [{"path": "had"}]).load_model()


def test_examples_come_out_in_order_and_in_all_columns() -> None:
    loaded = handler().load_model()
    model = toolbox.dict_model()
    hidden = model.get_layer("stem")(vectors(5))
    found = handler().run_inference(examples(5), loaded)
    for row, columns in enumerate(found):
        np.testing.assert_allclose(columns["head"], wanted(5)[row], atol=1e-6)
    expected = model.get_layer("features")(hidden)["activation_1"]
    made = np.stack([columns["hidden"] for columns in found])
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert list(handler().run_inference([], loaded)) == []


def test_bytes_keep_their_zeros() -> None:
    texts = ActivationModelHandler(
        {"build": "architectures:echo"},
        [{"path": "", "column": "same"}],
        features={"text": ((), "string")},
    )
    given = [b"ab\0\0", b"c\0"]
    loaded = texts.load_model()
    found = texts.run_inference([{"text": one} for one in given], loaded)
    assert [one["same"] for one in found] == given


def test_features_that_do_not_fit_are_refused() -> None:
    loaded = handler().load_model()
    with pytest.raises(ConfigError, match=r"shape \[6\], an example has"):
        handler().run_inference([{"vec": np.ones(7)}], loaded)
    with pytest.raises(ConfigError, match="at least one row"):
        handler().run_inference({"vec": np.ones((0, 6))}, loaded)
    with pytest.raises(ConfigError, match=r"handler\.biuld is not a known key"):
        ActivationModelHandler({"biuld": "a:b"}, TAPS)
    with pytest.raises(ConfigError, match="must be int32, an example holds float64"):
        _compute(_Counts(), {"n": np.array([1.7])})
    with pytest.raises(ConfigError, match="must be int32, an example holds int64"):
        _compute(_Counts(), {"n": np.array([2**33])})


class _Counts:
    """As much of compiled taps as the check of features looks at."""

    inputs = (Input("n", "n", (), "int32", "int32"),)
    batch_rows = 1


def test_beam_learns_sizes_and_batches() -> None:
    assert handler().batch_elements_kwargs() == {"max_batch_size": 8}
    assert handler().get_metrics_namespace() == "featuretap"
    assert handler().get_num_bytes(examples(2)) == 2 * (6 * 4 + 8)
    assert handler().get_num_bytes({"vec": vectors(3)}) == 3 * 24
