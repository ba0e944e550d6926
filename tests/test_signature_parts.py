"""Signatures with tensors of several parts, and with tables that stay empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job, parity_of, vectors

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models.load import load_model
from transforms.taps.survey import list_activations

VEC = tf.TensorSpec([None, 6], name="vec")
MODEL = {"build": None, "path": "saved"}
ALIKE = {"dead_dimensions": False}  # all rows may be
v1 = tf.compat.v1


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(function: Callable[..., Any], *specs: Any) -> None:
    module = tf.Module()
    module.serve = tf.function(function, input_signature=specs or [VEC])
    tf.saved_model.save(module, "saved", signatures=module.serve)


def save_version_1(
    serve: Callable[[Any], Any],
    main_op: Callable[[], Any] = v1.tables_initializer,
    placeholder: Callable[..., Any] = v1.placeholder,
) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        vec = placeholder(tf.float32, [None, 6], "vec")
        signature = v1.saved_model.predict_signature_def({"vec": vec}, serve(vec))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder("saved")
        builder.add_meta_graph_and_variables(
            *(session, ["serve"], {"serving_default": signature}), main_op=main_op()
        )
        builder.save()


def refusals() -> dict[str, str | None]:
    model = load_model(ModelSpec(path="saved"), {"vec": ((6,), "float32")})
    return {a.address: a.refusal for a in list_activations(model)}


def positive(vec: Any) -> Any:
    """The positive values of each row, as a ragged tensor."""
    return tf.ragged.boolean_mask(vec, vec > 0)


def test_ragged_outputs_are_rows_of_their_own_length(job: Job) -> None:
    save(lambda vec: {"a": vec + 1, "some": positive(vec), "z": vec * 2})
    taps = [{"path": ":some"}, {"path": ":z"}, {"path": ":a"}]
    table = job.run(model=MODEL, taps=taps)
    rows = vectors()
    for row, some, z, a in zip(
        rows, *(table[name].to_pylist() for name in ("some", "z", "a")), strict=True
    ):
        np.testing.assert_allclose(some, row[row > 0])
        np.testing.assert_allclose(z, row * 2)
        np.testing.assert_allclose(a, row + 1)
    assert parity_of(str(job.table), 5).passed


@pytest.mark.parametrize("version", [1, 2])
def test_sparse_outputs_are_refused_and_the_others_tapped(
    version: int, job: Job
) -> None:
    def serve(vec: Any) -> Any:
        return {"a": vec + 1, "few": tf.sparse.from_dense(vec), "z": vec * 2}

    (save_version_1 if version == 1 else save)(serve)
    found = refusals()
    assert (
        found[":few"] == "is sparse; export it as a dense tensor (tf.sparse.to_dense)"
    )
    with pytest.raises(ConfigError, match=r":few.*is sparse; export it as a dense"):
        job.plan(model=MODEL, taps=[{"path": ":few"}])
    table = job.run(model=MODEL, taps=[{"path": ":a"}, {"path": ":z"}])
    np.testing.assert_allclose(table["z"].to_pylist(), vectors() * 2, rtol=1e-6)
    np.testing.assert_allclose(table["a"].to_pylist(), vectors() + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda vec: tf.signal.fft(tf.cast(vec, tf.complex64)), "complex64"),
        (
            lambda vec: tf.raw_ops.TensorListFromTensor(tensor=vec, element_shape=[6]),
            "variant",
        ),
    ],
)
def test_outputs_that_no_column_holds_are_refused(
    value: Callable[[Any], Any], kind: str
) -> None:
    save(lambda vec: {"odd": value(vec), "same": vec * 1})
    found = refusals()
    assert found[":odd"] == f"is of type {kind}, which tables do not hold"
    assert found[":same"] is None


def test_a_handle_is_no_column() -> None:
    def serve(vec: Any) -> Any:
        handle = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.float32)
        return {"handle": handle, "same": vec * 1}

    save_version_1(serve)
    found = refusals()
    assert found[":handle"] == "is of type resource, which tables do not hold"
    assert found[":same"] is None


@pytest.mark.parametrize(
    ("kind", "spec", "parts"),
    [
        ("SparseTensor", tf.SparseTensorSpec([None, 6], tf.float32), "x, x_1, x_2"),
        ("RaggedTensor", tf.RaggedTensorSpec([None, None], tf.float32), "x, x_1"),
    ],
)
def test_inputs_in_parts_are_refused_by_name(kind: str, spec: Any, parts: str) -> None:
    def dense(x: Any) -> Any:
        return {"out": tf.sparse.to_dense(x) if "x_2" in parts else x.to_tensor()}

    save(dense, spec)
    message = f"takes a {kind} in parts \\({parts}\\); export a signature that takes"
    with pytest.raises(ConfigError, match=message):
        load_model(ModelSpec(path="saved"), None)


def test_sparse_inputs_of_tensorflow_1_are_refused_by_name() -> None:
    def serve(vec: Any) -> Any:
        return {"out": tf.sparse.to_dense(vec)}

    save_version_1(serve, placeholder=v1.sparse_placeholder)
    with pytest.raises(ConfigError, match=r"SparseTensor in parts \(vec_dense_shape, "):
        load_model(ModelSpec(path="saved"), None)


def test_a_dict_of_dense_inputs_is_no_tensor_in_parts() -> None:
    integers = tf.TensorSpec([None], tf.int64)
    floats = tf.TensorSpec([None], tf.float32)
    save(
        lambda x: {"out": x["a"] + tf.cast(x["b"], tf.float32)},
        {"a": floats, "b": integers},
    )
    declared = load_model(ModelSpec(path="saved"), None).form.declared()
    assert sorted(one.name for one in declared) == ["x", "x_1"]


def static(find: str = "") -> Callable[[Any], Any]:
    """Give what looks the signs of a row's values up, in a table of one version."""
    from tensorflow.python.ops import gen_lookup_ops as ops

    keys, values = [-1, 1], [10.0, 20.0]

    def current(vec: Any) -> Any:
        source = v1.lookup.KeyValueTensorInitializer(
            tf.constant(keys, tf.int64), tf.constant(values)
        )
        return v1.lookup.StaticHashTable(source, 0.0).lookup(vec)

    def by_reference(vec: Any) -> Any:
        table = ops.hash_table(tf.int64, tf.float32, shared_name="old")
        filled = ops.initialize_table(
            table, tf.constant(keys, tf.int64), tf.constant(values)
        )
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, filled)
        return ops.lookup_table_find(table, vec, 0.0)

    look = by_reference if find else current

    def serve(vec: Any) -> Any:
        signs = tf.cast(tf.sign(vec), tf.int64)
        return {"found": look(signs), "twice": vec * 2}

    return serve


@pytest.mark.parametrize("by_reference", ["", "by reference"])
@pytest.mark.parametrize("initialized_by", ["its main_op", "a collection"])
def test_tables_of_tensorflow_1_compute_what_they_hold(
    by_reference: str, initialized_by: str, job: Job
) -> None:
    main_op = v1.tables_initializer if initialized_by == "its main_op" else lambda: None
    save_version_1(static(by_reference), main_op)
    operation = "LookupTableFind" if by_reference else None
    taps = [{"path": ":found"}, *([{"path": operation}] if operation else [])]
    table = job.run(model=MODEL, taps=taps, gates=ALIKE)
    expected = np.where(vectors() > 0, 20.0, 10.0)
    for column in set(table.column_names) & {"found", "LookupTableFind"}:
        np.testing.assert_array_equal(table[column].to_pylist(), expected)
    assert parity_of(str(job.table), 5).passed


def test_a_changing_table_that_loading_fills_computes_what_it_holds(job: Job) -> None:
    def serve(vec: Any) -> Any:
        table = v1.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 3.0)
        put = table.insert(tf.constant([1], tf.int64), tf.constant([20.0]))
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, put)
        return {"found": table.lookup(tf.cast(tf.sign(vec), tf.int64))}

    save_version_1(serve)
    table = job.run(model=MODEL, taps=[{"path": ":found"}], gates=ALIKE)
    expected = np.where(vectors() > 0, 20.0, 3.0)
    np.testing.assert_array_equal(table["found"].to_pylist(), expected)


@pytest.mark.parametrize("by_reference", ["", "by reference"])
def test_a_table_that_nothing_fills_is_refused_by_name(
    by_reference: str, job: Job
) -> None:
    save_version_1(static(by_reference), main_op=v1.no_op)
    found = refusals()
    name = "HashTable" if by_reference else "hash_table"
    assert str(found[":found"]).startswith(f"needs the table '{name}', which loading")
    assert "export the model with a main_op" in str(found[":found"])
    assert found[":twice"] is None
    with pytest.raises(ConfigError, match="needs the table"):
        job.plan(model=MODEL, taps=[{"path": ":found"}])
    table = job.run(model=MODEL, taps=[{"path": ":twice"}])
    np.testing.assert_allclose(table["twice"].to_pylist(), vectors() * 2, rtol=1e-6)


def test_a_variable_that_nothing_fills_is_refused_by_name() -> None:
    def serve(vec: Any) -> Any:
        local = [v1.GraphKeys.LOCAL_VARIABLES]
        lost = v1.Variable(
            tf.ones([6]), collections=local, use_resource=True, name="lost"
        )
        return {"sum": vec + lost, "twice": vec * 2}

    save_version_1(serve, main_op=v1.no_op)
    found = refusals()
    assert str(found[":sum"]).startswith("needs the variable 'lost:0', which loading")
    assert found[":twice"] is None


def test_a_model_that_tensorflow_cannot_load_is_refused_with_the_reason() -> None:
    save(lambda vec: {"out": vec + 1})
    Path("saved/saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(
        ConfigError, match=r"that TensorFlow can load, got 'saved': \w+"
    ):
        load_model(ModelSpec(path="saved"), None)


def save_graphs(*kinds: list[str]) -> None:
    """Save the same variable with several graphs; the n-th adds it n times."""
    builder = v1.saved_model.Builder("saved")
    for times, tags in enumerate(kinds, 1):
        with tf.Graph().as_default(), v1.Session() as session:
            vec = v1.placeholder(tf.float32, [None, 6], "vec")
            ones = v1.get_variable("ones", initializer=tf.ones([6]))
            outputs = {"out": vec + ones * float(times)}
            signature = v1.saved_model.predict_signature_def({"vec": vec}, outputs)
            session.run(v1.global_variables_initializer())
            if times == 1:
                builder.add_meta_graph_and_variables(session, tags, {"one": signature})
            else:
                builder.add_meta_graph(tags, {"one": signature})
    builder.save()


@pytest.mark.parametrize(
    ("kinds", "added"),
    [
        ([["train"], []], 2),
        ([[], ["train"]], 1),
        ([["serve", "tpu"], ["serve"], []], 2),
        ([["anything"]], 1),
    ],
)
def test_the_graph_for_serving_is_taken(
    kinds: list[list[str]], added: int, job: Job
) -> None:
    save_graphs(*kinds)
    table = job.run(model=MODEL, taps=[{"path": ":out"}])
    np.testing.assert_allclose(table["out"].to_pylist(), vectors() + added, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "added"), [([], 1), (["train"], 2), (["tpu", "serve"], 3), (["serve"], 4)]
)
def test_a_graph_can_be_chosen_by_its_tags(
    tags: list[str], added: int, job: Job
) -> None:
    save_graphs([], ["train"], ["serve", "tpu"], ["serve"])
    table = job.run(model={**MODEL, "tags": tags}, taps=[{"path": ":out"}])
    np.testing.assert_allclose(table["out"].to_pylist(), vectors() + added, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "said"),
    [(None, "none of them is for serving"), (("serve",), r"got \['serve'\]")],
)
def test_graphs_that_cannot_be_meant_are_named(
    tags: tuple[str, ...] | None, said: str
) -> None:
    save_graphs(["train"], ["eval"])
    with pytest.raises(
        ConfigError,
        match=rf"by all its tags, {said}: .* tagged \[\['train'\], \['eval'\]\]",
    ):
        load_model(ModelSpec(path="saved", tags=tags), None)
