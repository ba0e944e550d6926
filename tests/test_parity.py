"""The certificate: it passes what is right, and catches what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, parity_of, stacked, vectors, write_tfrecord

from pipeline import run_plan
from pipeline.list_taps import list_taps
from pipeline.parity.deviations import Tally
from pipeline.parity.reference_reductions import REDUCTIONS as REFERENCE_REDUCTIONS
from pipeline.parity.reference_steps import STEPS as REFERENCE_STEPS
from transforms.lookup import ConfigError
from transforms.models import keras_layers, load
from transforms.preprocess import steps
from transforms.preprocess.steps import PREPROCESSORS
from transforms.table.columns import Column
from transforms.taps.reductions import REDUCTIONS
from transforms.worker import _workers

TEXT = {"inputs": {"text": "text"}}
STEPS = [
    {"step": "rescale", "feature": "vec", "scale": 2.0, "offset": -1.0},
    {"step": "toolbox:double", "factor": 0.5},
]


def of(build: str, **model: Any) -> dict[str, Any]:
    return {"build": f"architectures:{build}", **model}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "everything": of("everything"),
    "without_some": of("without_some", inputs={"inputs": "vec"}),
    "operations": of("operations"),
    "shared": of("shared"),
    "several_inputs": of("several_inputs", inputs={"one": "vec", "other": "vec"}),
    "two_arguments": of("two_arguments", inputs={"one": "vec", "other": "vec"}),
    "dict_argument": of("dict_argument", inputs={"a": "vec", "b": "vec"}),
    "lstm": of("lstm"),
    "gru": of("gru"),
    "attention": of("attention"),
    "training_matters": of("training_matters"),
    "mixed": of("mixed"),
    "quantized": of("quantized"),
    "lookup": of("lookup", **TEXT),
    "vectorized": of("vectorized", **TEXT),
    "words": of("words", inputs={"inputs": "text"}),
    "cut": of("cut"),
    "masked": of("masked"),
    "timed": of("timed"),
    "sink": of("sink"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_all_that_can_be_tapped_is_the_models_own(name: str, job: Job) -> None:
    model = ARCHITECTURES[name]
    taps = [{"path": "**"}]
    steps = [{"step": "reshape", "feature": "text", "shape": [1]}]
    source = {"preprocess": steps if name == "vectorized" else []}
    table = job.run(source=source, model=model, taps=taps)
    parity = parity_of(str(job.table), 12, seed=1)
    assert parity.rows == 12
    assert parity.passed, parity.columns
    features = set(table.column_names) - {"example_id"}
    shapes = {n for n in features if n.endswith("_shape")}
    assert parity.columns.keys() == {"example_id"} | features - shapes


def test_listing_shows_structures_types_and_operations(job: Job) -> None:
    def listed(name: str) -> dict[str, tuple[Any, ...]]:
        listing = list_taps(job.config(model=ARCHITECTURES[name]))
        return {a.address: (*a.shape, a.dtype) for a in listing.activations}

    assert listed("everything") == {
        "every/dense": (3, "float32"),
        "every:out": (3, "float32"),
        "every:pair/left": (3, "float32"),
        "every:pair/right/0": (3, "float32"),
        "every:pair/right/1/deep": (3, "float32"),
        "every:whole": (6, "int32"),
        "every:flag": (6, "bool"),
        "every:text": (2, "string"),
        "every:scalar": ("float32",),
        "head": (2, "float32"),
        "": (2, "float32"),
    }
    without = listed("without_some")
    assert {":logits", ":aux/pair/0", "block:pair/left"} <= without.keys()
    assert not any("none" in address or address == "pair/1" for address in without)
    assert {"multiply", "add", "tanh", "split:0", "split:1", ":left", ":right"} <= (
        listed("operations").keys()
    )
    shared = listed("shared")
    assert [a for a in shared if a.startswith("again")] == [
        "again@0",
        "again@1",
        "again@2",
    ]
    assert {"net@0", "net@1", "net/dense@0", "net/dense@1"} <= shared.keys()
    assert {"td/each@0", "td/each@1", "td/each@2", "both/forward_gru"} <= (
        listed("gru").keys()
    )
    assert {"attend:0", "attend:1", "attend/query"} <= listed("attention").keys()
    assert listed("words")[":hashed"] == (None, "int64")
    assert listed("words")[":vectors"] == (None, 4, "float32")


def test_cells_inside_of_loops_are_listed_and_refused(job: Job) -> None:
    listing = list_taps(job.config(model=ARCHITECTURES["lstm"]))
    cells = [a for a in listing.activations if "lstm_cell" in a.address]
    assert cells
    assert all("inside a loop" in str(a.refusal) for a in cells)


def test_what_cannot_be_a_column_is_listed_and_refused(job: Job) -> None:
    model = {"build": "architectures:odd", "inputs": {"inputs": "vec"}}
    listing = list_taps(job.config(model=model))
    reasons = {a.address.removeprefix("odd:"): a.refusal for a in listing.activations}
    expected = {
        "complex": "is of type complex64, which tables do not hold",
        "sparse": "is a SparseTensor, not a tensor of the graph",
        "table": "has no batch axis in front: it is not one value for each row",
        "deep": "has more than one axis whose length differs between rows",
        "masked": "has a first axis of which one cannot tell whether it is the batch",
        "number": "is a int, not a tensor of the graph",
    }
    assert {name: reasons[name] for name in expected} == expected
    assert reasons["fine"] is None
    assert reasons["branch"] is None
    assert reasons["unknown"] is None


def test_layers_of_one_name_are_refused_however_often_they_are_called(
    job: Job,
) -> None:
    listing = list_taps(job.config(model=of("twins")))
    refused = {a.address: a.refusal for a in listing.activations if a.refusal}
    assert refused.keys() == {"c/a@0", "c/a@1", "c/a"}
    assert all("more than one activation" in str(r) for r in refused.values())
    job.run(model=of("twins"), taps=[{"path": "**"}])
    assert parity_of(str(job.table), 5).passed


def test_an_axis_as_long_as_a_fixed_batch_is_not_taken_for_it(job: Job) -> None:
    model = of("fixed_batch", batch_rows=3)
    listing = list_taps(job.config(model=model))
    refused = {a.address for a in listing.activations if a.refusal}
    assert refused == {"transpose", "head", ""}
    job.run(model=model, taps=[{"path": "steps"}])
    assert parity_of(str(job.table), 5).passed


def test_mixed_rows_are_found_behind_all_kinds_of_operations(job: Job) -> None:
    model = {"build": "architectures:turned", "batch_rows": 3}
    source = {"preprocess": ["toolbox:shorten"]}
    listing = list_taps(job.config(source=source, model=model))
    refused = {a.address for a in listing.activations if a.refusal}
    assert refused == {":relu", ":normed", ":log", ":plain", ":constant"}
    assert {a.address for a in listing.activations} - refused == {":fine"}


def test_what_fails_on_made_up_rows_leaves_the_rest_open(job: Job) -> None:
    model = {"build": "architectures:half_failing", "batch_rows": 3}
    listing = list_taps(job.config(model=model))
    refused = {a.address for a in listing.activations if a.refusal}
    assert refused == {"bad", ""}
    assert {a.address for a in listing.activations} - refused == {"one", "two"}


def test_a_partly_quantized_model_is_certified(job: Job) -> None:
    job.run(model=of("partly_quantized"), taps=[{"path": "**"}])
    assert parity_of(str(job.table), 5).passed


def test_what_reductions_cancel_out_is_no_fault(job: Job) -> None:
    taps = [
        {"path": "norm", "reduce": "mean(axis=-1)", "column": "nothing"},
        {"path": "norm", "reduce": "std(axis=-1)", "column": "one"},
    ]
    job.run(model=ARCHITECTURES["attention"], taps=taps)
    assert parity_of(str(job.table), 20).passed


def test_quantized_layers_and_nested_calls_are_listed(job: Job) -> None:
    listing = list_taps(job.config(model=of("quantized")))
    assert [a.address for a in listing.activations] == ["hidden", "head", ""]


def test_half_precision_is_widened_before_it_is_reduced(job: Job) -> None:
    steps = [{"step": "rescale", "feature": "vec", "scale": 40000.0}]
    taps = [{"path": "sink:a", "reduce": "sum", "column": "total"}]
    table = job.run(
        source={"preprocess": steps},
        model=of("sink", precision="float16"),
        taps=taps,
    )
    assert np.isfinite(table["total"].to_numpy()).all()
    assert table["total"].to_numpy().max() > 65504


def test_a_stateful_layer_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match="layer 'gru' is stateful"):
        job.plan(model={"build": "architectures:stateful"})


def test_types_are_kept_and_shapes_go_into_the_table(job: Job) -> None:
    table = job.run(model=ARCHITECTURES["everything"], taps=[{"path": "every:*"}])
    data = vectors()
    types = {field.name: str(field.type) for field in table.schema}
    assert types["every_whole"] == "list<element: int32>"
    assert types["every_flag"] == "list<element: bool>"
    assert types["every_text"] == "list<element: string>"
    assert types["every_scalar"] == "float"
    np.testing.assert_array_equal(
        stacked(table["every_whole"]), (data * 100).astype(np.int32)
    )
    np.testing.assert_array_equal(stacked(table["every_flag"]), data > 0.5)


def test_rows_of_differing_length_become_lists_with_their_shapes(job: Job) -> None:
    table = job.run(
        model=ARCHITECTURES["words"],
        taps=[{"path": ":**"}, {"path": "split", "column": "words"}],
    )
    texts = pq.read_table(job.source["path"].replace("*", "0"))["text"].to_pylist()
    assert table["words"].to_pylist()[: len(texts)] == [
        f"{text} and more".split() for text in texts
    ]
    shapes = table["vectors_shape"].to_pylist()
    assert shapes[0] == [4, 4]
    lengths = [len(values) for values in table["vectors"].to_pylist()]
    assert lengths == [a * b for a, b in shapes]
    one = np.reshape(table["vectors"][0].as_py(), shapes[0])
    np.testing.assert_allclose(one.mean(0), table["mean"][0].as_py(), atol=1e-6)
    assert "hashed_shape" not in table.column_names


def test_a_certificate_is_stored_and_repeats(job: Job) -> None:
    job.run()
    parity = parity_of(str(job.table), 7, seed=5)
    stored = json.loads((job.table / "_featuretap" / "parity.json").read_text())
    assert stored == json.loads(json.dumps(parity.to_json()))
    assert (stored["rows"], stored["seed"], stored["passed"]) == (7, 5, True)
    assert stored["columns"]["hidden"]["relative"] < 1e-5
    summary = json.loads((job.table / "_SUCCESS").read_text())
    assert summary["parity"]["passed"] is True
    assert summary["parity"]["rows"] == 7
    assert summary["rows"] == 100
    assert parity_of(str(job.table), 7, seed=5) == parity
    assert parity_of(str(job.table), 1000).rows == 100


def test_rows_are_found_again_behind_bad_ones(job: Job) -> None:
    steps = ["toolbox:refuse_thirteen"]
    job.run(source={"preprocess": steps}, errors={"max_fraction": 0.1})
    assert parity_of(str(job.table), 100).passed
    assert parity_of(str(job.table), 100).rows == 99


@pytest.mark.parametrize("reader", ["tfrecord", "gzip", "parquet", "tfds", "user"])
def test_rows_of_every_reader_are_found_again(
    reader: str, tmp_path: Path, sources: dict[str, dict[str, Any]]
) -> None:
    job = Job(tmp_path, sources[reader])
    job.run(source={"key": None, "preprocess": STEPS})
    assert parity_of(str(job.table), 15).passed


def broken_rescale(values: Any, *, scale: float, offset: float = 0.0) -> Any:
    return values * scale


def in_training(form: Any, tensors: Any) -> Any:
    positional, named = form.arrange(tensors)
    return form.model(*positional, **named, training=True)


def swapped(value: Any, path: str = "") -> Any:
    found = dict(_leaves(value, path))
    keys = list(found)
    return zip(keys, [*list(found.values())[1:], found[keys[0]]], strict=True)


def next_call(address: str) -> tuple[str, int, str]:
    path, call, leaf = _parse(address)
    return path, (call + 1) % 3 if path == "again" else call, leaf


def forget() -> None:
    """Make the process load models and compile taps anew."""
    load._models.clear()
    _workers.clear()


_leaves, _parse = keras_layers.leaves, keras_layers._parse
Break = Callable[[pytest.MonkeyPatch], None]
BREAKS: dict[str, tuple[Break, dict[str, Any], list[str]]] = {
    "wrong preprocessing": (
        lambda patch: (
            patch.setitem(steps.BATCH_STEPS, "rescale", broken_rescale)
            or patch.setitem(steps.PREPROCESSORS, "rescale", broken_rescale)
        ),
        ARCHITECTURES["attention"],
        ["embed"],
    ),
    "batch normalization in training": (
        lambda patch: patch.setattr(keras_layers.LayerForm, "_call", in_training),
        ARCHITECTURES["training_matters"],
        ["bn"],
    ),
    "dropout in training": (
        lambda patch: patch.setattr(keras_layers.LayerForm, "_call", in_training),
        ARCHITECTURES["training_matters"],
        ["dropout"],
    ),
    "swapped leaves": (
        lambda patch: patch.setattr(keras_layers, "leaves", swapped),
        ARCHITECTURES["several_inputs"] | {"build": "toolbox:dict_model", "inputs": {}},
        ["features:output"],
    ),
    "wrong call": (
        lambda patch: patch.setattr(keras_layers, "_parse", next_call),
        ARCHITECTURES["shared"],
        ["again@1"],
    ),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_the_certificate_catches(
    fault: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, model, addresses = BREAKS[fault]
    sections = {
        "source": {"preprocess": STEPS},
        "model": model,
        "taps": [{"path": address, "column": "tapped"} for address in addresses],
    }
    forget()
    with monkeypatch.context() as patch:
        apply(patch)
        # what planning and the first batch find must be found without them
        patch.setattr(
            "transforms.taps.survey.refusals_of",
            lambda _, tensors: [None] * len(tensors),
        )
        patch.setattr("pipeline.plan.mixing_taps", lambda *args: {})
        patch.setattr("transforms.taps.ahead.check_company", lambda _, parts: parts)
        job.run(**sections)
    broken = parity_of(str(job.table), 20)
    assert not broken.passed
    assert not broken.columns["tapped"].passed
    assert broken.columns["example_id"].passed
    summary = json.loads((job.table / "_SUCCESS").read_text())
    assert summary["parity"]["passed"] is False
    shutil.rmtree(job.table)
    forget()
    job.run(**sections)
    assert parity_of(str(job.table), 20).passed


def test_the_certificate_catches_rows_that_changed_places(job: Job) -> None:
    job.run()
    name = min(p.name for p in (job.table / "data").glob("part-*"))
    part = pq.read_table(job.table / "data" / name)
    turned = part.take(list(range(part.num_rows))[::-1])
    pq.write_table(turned, job.table / "data" / name)
    parity = parity_of(str(job.table), 100)
    assert parity.columns["example_id"].mismatched == part.num_rows
    assert not parity.columns["hidden"].passed


def test_a_huge_value_does_not_hide_the_others(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(keras_layers, "leaves", swapped)
        job.run(model=of("sink"), taps=[{"path": "sink:a", "column": "tapped"}])
    assert not parity_of(str(job.table), 20).passed
    forget()


def test_a_wrong_shape_is_caught(job: Job) -> None:
    job.run(model=ARCHITECTURES["cut"], taps=[{"path": "cut"}])
    name = min(p.name for p in (job.table / "data").glob("part-*"))
    part = pq.read_table(job.table / "data" / name)
    index = part.column_names.index("cut_shape")
    turned = pa.array([[2, 4]] * part.num_rows, part.schema.field("cut_shape").type)
    part = part.set_column(index, part.schema.field("cut_shape"), turned)
    pq.write_table(part, job.table / "data" / name)
    assert not parity_of(str(job.table), 100).columns["cut"].passed


def test_a_wrong_direction_is_caught_where_values_are_close(job: Job) -> None:
    tally = Tally(Column("c", "feature", "float32", (1000,)))
    expected = np.zeros(1000, np.float32)
    expected[:10] = 1.0
    found = expected.copy()
    found[10:] = 0.008  # each within the tolerance of values, together not
    tally.add(found.tolist(), expected, None)
    parity = tally.result("float32")
    assert (parity.relative or 1) < 1e-2
    assert (parity.cosine or 0) > 1e-4
    assert not parity.passed


@pytest.mark.parametrize(
    ("stored", "expected", "passed"),
    [
        ([1e200, 1e200], [1e200, 1e200], True),
        ([1.7e308, 0.0], [-1.7e308, 0.0], False),
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.inf, 1.0], [1.0, 1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1e-3, 0.0], [0.0, 0.0], False),
    ],
)
def test_extreme_values_are_compared(
    stored: list[float], expected: list[float], passed: bool
) -> None:
    tally = Tally(Column("c", "feature", "float64", (2,)))
    tally.add(stored, np.array(expected), None)
    parity = tally.result("float32")
    assert parity.passed is passed
    json.dumps(parity.relative, allow_nan=False)
    json.dumps(parity.max_abs, allow_nan=False)


def test_kept_features_and_prepared_keys_are_certified(job: Job) -> None:
    steps = ["toolbox:with_uid"]
    job.run(source={"key": "uid", "keep": ["text", "id"], "preprocess": steps})
    parity = parity_of(str(job.table), 10)
    assert parity.passed
    assert parity.columns.keys() == {"example_id", "text", "id", "hidden", "head"}


def test_a_table_without_rows_has_no_certificate(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", range(1), vectors())
    with (tmp_path / "a.tfrecord").open("r+b") as stream:
        stream.truncate(20)
    source = {"reader": "tfrecord", "path": str(tmp_path / "a.tfrecord")}
    source["features"] = {"id": "int64", "vec": {"dtype": "float32", "shape": [6]}}
    job = Job(tmp_path / "out", source)
    run_plan(job.plan(errors={"max_fraction": 1.0}))
    with pytest.raises(RuntimeError, match="must have rows to be checked"):
        parity_of(str(job.table), 1)


def test_reduced_columns_are_certified(job: Job) -> None:
    texts = [
        "mean(axis='steps')",
        "max(axis=1)",
        "min(axis=1)",
        "sum(axis=1)",
        "std(axis=1)",
        "flatten",
        "first",
        "last",
        "global_average_pool",
        "l2_normalize",
        "top_k(k=2)",
        "top_k(k=2, indices=True)",
        "random_projection(dim=3, seed=1)",
        "toolbox:scaled_sum(scale=2.0)",
    ]
    assert REDUCTIONS.keys() <= {text.partition("(")[0] for text in texts}
    taps = [
        {"path": "embed", "reduce": text, "column": f"c{i}"}
        for i, text in enumerate(texts)
    ]
    chain = ["mean(axis=1)", "l2_normalize", "toolbox:normal"]
    taps.append({"path": "embed", "reduce": chain})
    job.run(model=ARCHITECTURES["attention"], taps=taps)
    parity = parity_of(str(job.table), 20)
    assert parity.passed, parity.columns


def test_every_built_in_has_a_reference_of_its_own() -> None:
    assert REFERENCE_REDUCTIONS.keys() == REDUCTIONS.keys()
    assert REFERENCE_STEPS.keys() == PREPROCESSORS.keys()
    for name, function in REFERENCE_REDUCTIONS.items():
        assert function is not REDUCTIONS[name]


def test_less_precision_is_measured_and_widely_tolerated(job: Job) -> None:
    taps = [
        {"path": "head"},
        {"path": "features:output", "column": "short", "dtype": "float16"},
    ]
    job.run(model={"precision": "bfloat16"}, taps=taps)
    columns = parity_of(str(job.table), 20).columns
    assert columns["head"].precision == "bfloat16"
    assert 1e-5 < (columns["head"].relative or 0) < 1e-1
    shutil.rmtree(job.table)
    job.run(model={"precision": "float32"}, taps=taps)
    columns = parity_of(str(job.table), 20).columns
    precisions = columns["head"].precision, columns["short"].precision
    assert precisions == ("float32", "float16")
    assert 0 < (columns["short"].relative or 0) < 1e-3


def test_a_changed_model_is_refused(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    architectures.operations().save(path)
    model = {"build": None, "path": str(path)}
    job.run(model=model, taps=[{"path": "add"}])
    keras.utils.set_random_seed(4)
    architectures.attention().save(path)
    with pytest.raises(RuntimeError, match="the model must be the one that the table"):
        parity_of(str(job.table), 1)


def test_an_unfinished_table_has_no_certificate(job: Job) -> None:
    job.run()
    (job.table / "_SUCCESS").unlink()
    with pytest.raises(FileNotFoundError, match="has no _SUCCESS"):
        parity_of(str(job.table), 1)
