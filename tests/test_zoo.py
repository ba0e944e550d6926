"""Well-known models: listed, tapped at three depths, run, compared with Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import zoo
from conftest import Job, parity_of, stacked

from pipeline.list_taps import list_taps
from transforms.config import TapSpec
from transforms.models.load import cached_model
from transforms.table.directory import Table
from transforms.table.gates import read_verdicts
from transforms.taps.compile import compile_taps
from transforms.taps.language import Activation, choose
from transforms.taps.survey import list_activations

ROWS = 9
MIXED = ("other rows", "place in the batch", "again", "trace", "random", "changes")
COMPUTED = ("bert", "convnext_tiny", "gru", "lstm", "mobilenet_v3")  # not proved
DEPTHS = (0.2, 0.5, 0.9)
TOLERANCE = 1e-4  # of the largest value; 1e-6 is usual, NASNet's depth makes it more

members = [
    pytest.param(name, marks=[pytest.mark.heavy] if member.heavy else [])
    for name, member in zoo.ZOO.items()
]


def write(path: Path, examples: dict[str, np.ndarray]) -> None:
    columns = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(values.reshape(-1)), values[0].size
        )
        for name, values in examples.items()
    }
    pq.write_table(pa.table(columns), path)


def job_for(name: str, directory: Path) -> Job:
    member = zoo.ZOO[name]
    write(directory / "data.parquet", member.examples(ROWS))
    shapes = [
        {"step": "reshape", "feature": feature, "shape": list(shape)}
        for feature, (shape, _, _) in member.inputs.items()
    ]
    source = {
        "reader": "parquet",
        "path": str(directory / "data.parquet"),
        "key": None,
        "preprocess": shapes,
    }
    job = Job(directory, source)
    job.source.pop("key")
    return job


def sections(name: str) -> dict[str, Any]:
    return {
        "source": {"key": None},
        "model": {"build": f"zoo:{name}", "batch_rows": 4},
    }


def at_three_depths(activations: tuple[Activation, ...]) -> list[Activation]:
    """Activations of top-level layers, and the last of all."""
    open_to_taps = [
        a
        for a in activations
        if not a.refusal
        and a.dtype == "float32"
        and not set("/:@") & set(a.address)
        and a.address
    ]
    return [open_to_taps[int(len(open_to_taps) * depth)] for depth in DEPTHS]


def deviation(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", members)
def test_member_of_the_zoo(name: str, tmp_path: Path) -> None:
    job = job_for(name, tmp_path)
    listing = list_taps(job.config(**sections(name)))
    refusals = [str(a.refusal) for a in listing.activations]
    assert [why for why in refusals if any(word in why for word in MIXED)] == []
    proved = [a.alone for a in listing.activations if a.refusal is None]
    assert all(proved) == (name not in COMPUTED)
    chosen = at_three_depths(listing.activations)
    shares = [a.flops_share or 0 for a in chosen]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1.01
    taps = [{"path": a.address, "column": f"c{i}"} for i, a in enumerate(chosen)]
    table = job.run(**sections(name), taps=taps)

    keras.utils.clear_session()  # names count from the start, as in featuretap
    model = zoo.ZOO[name].build()
    outputs = {operation.name: operation.output for operation in model.operations}
    reference = keras.Model(model.inputs, [outputs[a.address] for a in chosen])
    examples = zoo.ZOO[name].examples(ROWS)
    inputs = [examples[tensor.name] for tensor in model.inputs]
    wanted = reference(inputs, training=False)
    for index, values in enumerate(wanted):
        found = stacked(table[f"c{index}"]).reshape(values.shape)
        assert deviation(found, values.numpy()) < TOLERANCE
    parity = parity_of(str(job.table), 3)
    assert parity.passed, parity.columns


@pytest.mark.parametrize("name", members)
def test_no_gate_warns_of_a_healthy_table(name: str, tmp_path: Path) -> None:
    job = job_for(name, tmp_path)
    write(tmp_path / "data.parquet", zoo.ZOO[name].examples(40))
    activations = list_taps(job.config(**sections(name))).activations
    deep = at_three_depths(activations)[-1]
    job.run(**sections(name), taps=[{"path": deep.address, "column": "deep"}])
    verdicts = read_verdicts(Table(str(job.table)))
    said = [one.sentence() for one in verdicts if one.outcome != "passed"]
    assert said == []
    assert {"duplicates", "zero_rows"} <= {verdict.gate for verdict in verdicts}


@pytest.mark.parametrize("name", members)
def test_values_do_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    job = job_for(name, tmp_path)
    config = job.config(**sections(name))
    examples = zoo.ZOO[name].examples(ROWS)
    tensors = {key: tf.constant(values) for key, values in examples.items()}
    shapes = {k: (tuple(v.shape[1:]), v.dtype.name) for k, v in tensors.items()}
    model = cached_model(config.model, shapes)
    activations = list_activations(model)
    specs = [
        TapSpec(path=a.address, column=f"c{i}")
        for i, a in enumerate(at_three_depths(tuple(activations)))
    ]
    taps = choose(specs, activations)
    together = compile_taps(model, taps, ROWS)(tensors)
    alone = compile_taps(model, taps, 1)
    mixed = compile_taps(model, taps, 4)
    order = np.random.default_rng(1).permutation(ROWS)[:4]
    for row in range(2):
        found = alone({k: v[row : row + 1] for k, v in tensors.items()})
        for column, values in found.items():
            assert deviation(values[0], together[column][row]) < TOLERANCE
    found = mixed({k: tf.gather(v, order) for k, v in tensors.items()})
    for column, values in found.items():
        assert deviation(values, together[column][order]) < TOLERANCE
