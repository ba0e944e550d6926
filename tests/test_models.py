"""Every form of model: loaded, listed, tapped, and its numbers its own."""

from __future__ import annotations

import random
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import architectures
import forms
import keras
import numpy as np
import pytest
import tensorflow as tf
import toolbox
from conftest import Job, parity_of, stacked, vectors

from pipeline import verify_table
from pipeline.list_taps import list_taps
from transforms.config import ModelSpec, TapSpec
from transforms.lookup import ConfigError
from transforms.models.load import load_model
from transforms.taps.compile import compile_taps
from transforms.taps.language import choose
from transforms.taps.survey import list_activations

FEATURES = {"vec": ((6,), "float32")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(form: forms.Form) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of legacy formats
        form.prepare()


@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_gives_the_models_own_numbers(
    name: str, job: Job, here: Path
) -> None:
    form = forms.FORMS[name]
    prepare(form)
    taps = [
        {"path": address, "column": column}
        for address, column in zip(form.addresses, "abc", strict=True)
    ]
    model = {"build": None, **form.model}
    listed = {a.address: a for a in list_taps(job.config(model=model)).activations}
    assert [listed[a].shape for a in form.addresses] == [(5,), (4,), (3,)]
    assert all(listed[a].refusal is None for a in form.addresses)
    shares = [listed[a].flops_share or 0 for a in form.addresses]
    if not form.addresses[0].startswith(":"):
        assert 0 < shares[0] < shares[1] < shares[2] == 1
    table = job.run(model=model, taps=taps)
    for column, values in zip("abc", forms.expected(vectors()), strict=True):
        np.testing.assert_allclose(stacked(table[column]), values, atol=1e-5)
    assert verify_table(str(job.table)) == []
    parity = parity_of(str(job.table), 10)
    assert parity.passed
    assert parity.columns["c"].relative < 1e-5


def test_the_documents_list_exactly_the_forms_that_are_tested() -> None:
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    table = text.partition("| model | `[model]` |")[2].partition("\n\n")[0]
    named = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert named == list(forms.FORMS)


def test_a_signature_is_chosen_by_name(here: Path) -> None:
    forms._signatures()
    spec = ModelSpec(path="module", signature="half")
    model = load_model(spec, FEATURES)
    assert [a.address for a in list_activations(model) if not a.refusal] == [
        "start/matmul" if False else a.address
        for a in list_activations(model)
        if not a.refusal
    ]
    assert {":one", "start/one"} <= {a.address for a in list_activations(model)}


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (None, "model.signature is required, 'module' has half, whole"),
        ("hole", "must name a signature of 'module', got 'hole'; nearest is 'whole'"),
    ],
)
def test_a_signature_that_is_not_there_is_named(
    here: Path, signature: str | None, message: str
) -> None:
    forms._signatures()
    with pytest.raises(ConfigError, match=message):
        load_model(ModelSpec(path="module", signature=signature), FEATURES)


class Positional(tf.Module):
    """Two inputs, in another order than their names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(2.0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 6], name="zebra"),
            tf.TensorSpec([None, 6], name="ape"),
        ]
    )
    def serve(self, zebra: tf.Tensor, ape: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_less(ape, 100.0)
        difference = tf.subtract(zebra * self.scale, ape, name="difference")
        return {"early": zebra + 1.0, "late": difference}


def test_inputs_of_a_signature_are_wired_by_name(here: Path) -> None:
    module = Positional()
    tf.saved_model.save(module, "two", signatures=module.serve)
    spec = ModelSpec(path="two", inputs={"zebra": "a", "ape": "b"})
    shape = ((6,), "float32")
    model = load_model(spec, {"a": shape, "b": shape})
    taps = choose(
        [TapSpec(path=":late"), TapSpec(path="difference")], list_activations(model)
    )
    one, other = vectors(4), vectors(8)[4:]
    columns = compile_taps(model, taps, 4)(
        {"a": tf.constant(one), "b": tf.constant(other)}
    )
    np.testing.assert_allclose(columns["late"], one * 2 - other, atol=1e-6)
    np.testing.assert_allclose(columns["difference"], one * 2 - other, atol=1e-6)


def test_an_early_output_does_not_wait_for_the_rest_of_the_graph(here: Path) -> None:
    module = Positional()
    tf.saved_model.save(module, "two", signatures=module.serve)
    spec = ModelSpec(path="two", inputs={"zebra": "vec", "ape": "vec"})
    model = load_model(spec, FEATURES)
    huge = tf.constant(vectors(4) * 1e6)
    compiled = compile_taps(
        model, choose([TapSpec(path=":early")], list_activations(model)), 4
    )
    np.testing.assert_allclose(compiled({"vec": huge})["early"], huge + 1.0)
    compiled = compile_taps(
        model, choose([TapSpec(path=":*")], list_activations(model)), 4
    )
    assert compiled({"vec": tf.constant(vectors(4))})["late"].shape == (4, 6)


def test_loops_of_a_saved_model_are_listed_and_refused(here: Path) -> None:
    vec = keras.Input((6,), name="vec")
    steps = keras.layers.Reshape((3, 2))(vec)
    state = keras.layers.LSTM(4, name="lstm")(steps)
    head = keras.layers.Dense(2, name="head")(state)
    model = keras.Model(vec, head, name="net")
    model.export("exported", verbose=False)
    loaded = load_model(ModelSpec(path="exported"), FEATURES)
    listed = {a.address: a for a in list_activations(loaded)}
    inside = [a for a in listed if "/while/" in a]
    assert any(a.endswith("lstm_cell_1/Sigmoid") for a in inside)
    assert all("inside a loop" in str(listed[a].refusal) for a in inside)
    left = "net_1/lstm_1/lstm_cell_1/Sigmoid"  # looks like the cell's, is round 0
    assert "leads to no output" in str(listed[left].refusal)
    with pytest.raises(ConfigError, match="leads to no output"):
        choose([TapSpec(path=left)], list(listed.values()))
    # Behind the loop tracing does not know the batch any more; running does.
    behind = listed["net_1/head_1/BiasAdd"]
    assert (behind.shape, behind.refusal) == ((2,), None)
    taps = choose([TapSpec(path=behind.address, column="head")], list(listed.values()))
    values = compile_taps(loaded, taps, 8)({"vec": tf.constant(vectors(8))})["head"]
    np.testing.assert_allclose(values, model(vectors(8)).numpy(), atol=1e-6)


def test_a_time_axis_of_the_length_of_the_batch_is_not_taken_for_it(
    here: Path,
) -> None:
    vec = keras.Input((6,), name="vec")
    steps = keras.layers.Reshape((3, 2))(vec)
    state = keras.layers.LSTM(4, return_sequences=True, name="lstm")(steps)
    keras.Model(vec, state).export("exported", verbose=False)
    listed = list_activations(load_model(ModelSpec(path="exported"), FEATURES))
    (stack,) = [a for a in listed if a.address.endswith("TensorListStack")]
    assert "no batch axis in front" in str(stack.refusal)


def test_what_a_masked_loop_leaves_behind_is_refused_too(here: Path) -> None:
    architectures.masked().export("exported", verbose=False)
    listed = list_activations(load_model(ModelSpec(path="exported"), FEATURES))
    cell = [a for a in listed if a.address.startswith("net_1/lstm_1/lstm_cell_1/")]
    assert cell
    assert all(a.refusal for a in cell), [a for a in cell if not a.refusal]


def test_text_lookups_of_a_saved_model_can_be_tapped(job: Job, here: Path) -> None:
    architectures.lookup().export("exported", verbose=False)
    model = {"build": None, "path": "exported"}
    config = job.config(model=model)
    listed = {a.address: a for a in list_taps(config).activations}
    assert (listed[":output_0"].shape, listed[":output_0"].refusal) == ((5,), None)
    (find,) = [a for a in listed if "LookupTableFind" in a]
    taps = [{"path": ":output_0"}, {"path": find, "column": "index"}]
    table = job.run(model=model, taps=taps)
    assert table["index"].to_pylist()[:3] == [1, 2, 3]
    assert parity_of(str(job.table), 5).passed


class Named(tf.Module):
    """Names a tensor for others to find."""

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def serve(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = tf.identity(tf.nn.relu(vec - 0.5), name="embedding")
        return {"out": embedding * 2.0}


def test_tensors_that_the_author_named_are_listed(here: Path) -> None:
    module = Named()
    tf.saved_model.save(module, "named", signatures=module.serve)
    listed = list_activations(load_model(ModelSpec(path="named"), FEATURES))
    assert "embedding" in {a.address for a in listed if not a.refusal}


class Version1(tf.Module):
    """Passes its input on, beside what it computes."""

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def serve(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"same": vec, "twice": vec * 2.0}


def test_an_input_that_is_passed_on_can_be_tapped(job: Job, here: Path) -> None:
    module = Version1()
    tf.saved_model.save(module, "same", signatures=module.serve)
    table = job.run(model={"build": None, "path": "same"}, taps=[{"path": ":*"}])
    np.testing.assert_array_equal(stacked(table["same"]), vectors())
    np.testing.assert_array_equal(stacked(table["twice"]), vectors() * 2)


def save_version_1(directory: str, *, loop: bool) -> None:
    """A branch, and behind it perhaps a loop, as TensorFlow 1 makes them."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [None, 6], "vec")
            y = v1.cond(
                tf.reduce_sum(x) > 0,
                lambda: tf.identity(x * 2, "in_branch"),
                lambda: tf.identity(x * 3, "other"),
                name="cond",
            )
            if loop:
                _, y = tf.while_loop(
                    lambda i, _: i < 3, lambda i, v: (i + 1, v * 2.0), [0, y]
                )
            z = tf.add(y, 1.0, name="behind")
        finally:
            v1.enable_control_flow_v2()
        v1.saved_model.simple_save(session, directory, {"vec": x}, {"out": z})


def test_branches_of_tensorflow_1_are_refused(here: Path) -> None:
    save_version_1("v1", loop=False)
    model = load_model(ModelSpec(path="v1"), FEATURES)
    listed = {a.address: a for a in list_activations(model)}
    inside = ["cond/in_branch", "cond/other", "cond/mul", "cond/mul_1"]
    assert all("inside a loop, a branch" in str(listed[a].refusal) for a in inside)
    assert listed["behind"].refusal is None
    taps = choose([TapSpec(path="behind")], list(listed.values()))
    values = compile_taps(model, taps, 4)({"vec": tf.constant(vectors(4))})["behind"]
    np.testing.assert_allclose(values, vectors(4) * 2 + 1, rtol=1e-6)


def test_loops_of_tensorflow_1_are_refused_with_what_follows(here: Path) -> None:
    save_version_1("v1", loop=True)
    model = load_model(ModelSpec(path="v1"), FEATURES)
    listed = {a.address: a for a in list_activations(model)}
    assert "inside a loop, a branch" in str(listed["while/mul"].refusal)
    assert listed["behind"].refusal is not None


def test_a_module_that_makes_its_variables_late_is_listed_and_restored(
    here: Path,
) -> None:
    module = architectures.Lazy()
    vec = tf.constant(vectors(4))
    wanted = module(vec)["o"]
    tf.train.Checkpoint(module).write("lazy")
    spec = ModelSpec(build="architectures:lazy", weights="lazy")
    model = load_model(spec, FEATURES)
    activations = list_activations(model)
    assert [a.address for a in activations] == [":o"]
    compiled = compile_taps(model, choose([TapSpec(path=":o")], activations), 4)
    np.testing.assert_allclose(compiled({"vec": vec})["o"], wanted)
    tf.train.Checkpoint(tf.Module()).write("empty")
    with pytest.raises(ConfigError, match=r"model\.weights must fit"):
        load_model(spec.model_copy(update={"weights": "empty"}), FEATURES)


def test_what_depends_on_a_changing_variable_is_refused() -> None:
    model = load_model(ModelSpec(build="architectures:counter"), FEATURES)
    listed = {a.address: a.refusal for a in list_activations(model)}
    assert "changes from batch to batch" in str(listed[":counted"])


def test_functions_may_branch_and_never_train(job: Job) -> None:
    table = job.run(
        model={"build": "architectures:branching"}, taps=[{"path": "", "column": "y"}]
    )
    np.testing.assert_allclose(stacked(table["y"]), vectors() * 3, rtol=1e-6)


def test_an_optional_parameter_is_an_input_if_it_is_wired(job: Job) -> None:
    model = {
        "build": "architectures:optional_inputs",
        "inputs": {"a": "vec", "b": "vec"},
    }
    table = job.run(model=model, taps=[{"path": "", "column": "y"}])
    np.testing.assert_allclose(stacked(table["y"]), vectors() * 11, rtol=1e-6)


def test_another_function_of_one_module_is_another_model() -> None:
    one, other = (
        load_model(ModelSpec(build=f"architectures:{name}"), FEATURES)
        for name in ("doubled", "tripled")
    )
    assert one.digest != other.digest


def test_a_loaded_saved_model_may_come_from_build(here: Path) -> None:
    forms._signatures()
    Path("loads.py").write_text(
        "import tensorflow as tf\ndef make(): return tf.saved_model.load('module')\n"
    )
    spec = ModelSpec(build="loads:make", signature="half")
    assert "start/one" in {
        a.address for a in list_activations(load_model(spec, FEATURES))
    }


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    load_model(ModelSpec(build="forms:functional"), FEATURES)
    assert (random.random(), np.random.rand()) == expected


def test_a_saved_model_of_a_fixed_batch_size_is_run_and_certified(
    job: Job, here: Path
) -> None:
    vec = keras.Input(batch_shape=(4, 6), name="vec")
    model = keras.Model(vec, keras.layers.Dense(3, name="head")(vec), name="net")
    model.export("exported", verbose=False)
    section = {"build": None, "path": "exported", "batch_rows": 4}
    taps = [{"path": ":*"}, {"path": "net_1/head_1/BiasAdd", "column": "head"}]
    table = job.run(model=section, taps=taps)
    wanted = [model(vectors()[i : i + 4]).numpy() for i in range(0, 100, 4)]
    np.testing.assert_allclose(stacked(table["head"]), np.concatenate(wanted), 1e-5)
    assert parity_of(str(job.table), 5).passed


def test_a_subclassed_model_with_nested_dicts_gives_its_own_values(job: Job) -> None:
    section = {"build": "architectures:without_some", "inputs": {"inputs": "vec"}}
    taps = [
        {"path": ":logits", "column": "logits"},
        {"path": ":aux/pair/0", "column": "aux"},
        {"path": "block:pair/right/1/deep", "column": "deep"},
    ]
    table = job.run(model=section, taps=taps)
    model = load_model(ModelSpec(**section), FEATURES).form.model
    wanted = model(vectors())
    np.testing.assert_allclose(stacked(table["logits"]), wanted["logits"], atol=1e-6)
    first = wanted["aux"]["pair"][0]
    np.testing.assert_allclose(stacked(table["aux"]), first, atol=1e-6)
    np.testing.assert_allclose(stacked(table["deep"]), first * 4, atol=1e-5)


def test_layers_get_the_same_names_however_often_a_model_is_built() -> None:
    spec = ModelSpec(build="architectures:shared")
    listings = [
        [a.address for a in list_activations(load_model(spec, FEATURES))]
        for _ in range(2)
    ]
    assert listings[0] == listings[1]
    assert "net/dense@0" in listings[0]


def test_building_keeps_the_users_dtype_policy() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = load_model(ModelSpec(build="forms:functional"), FEATURES)
        assert model.form.model.get_layer("one").compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", ["dict", "tuple"])
@pytest.mark.parametrize("known", ["built", "unbuilt"])
def test_the_sequential_of_the_articles_is_explained(kind: str, known: str) -> None:
    spec = ModelSpec(build=f"toolbox:{kind}_sequential_{known}", inputs={"x": "vec"})
    if known == "built":
        spec = ModelSpec(build=spec.build)
    entry = {"dict": "output", "tuple": "0"}[kind]
    with pytest.raises(ConfigError) as caught:
        load_model(spec, FEATURES)
    text = str(caught.value)
    assert f"'features' gives a {kind} ({entry}, " in text
    assert "'head' comes after it" in text
    assert f"head(made[{int(entry) if entry.isdigit() else entry!r}])" in text
    assert f"'features:{entry}'" in text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"path": "some.weights.h5"}, "holds weights only; give it as model.weights"),
        ({"path": "broken.h5"}, "must be a model that Keras can load"),
        ({"path": "notes.txt"}, "must be a .keras or .h5 file or a SavedModel"),
        ({"path": "model.keras", "signature": "a"}, "signature is for SavedModel"),
        ({"build": "forms:module", "signature": "a"}, "signature is for SavedModel"),
        ({"path": "model.keras", "tags": []}, "tags is for SavedModel"),
        ({"build": "forms:module", "tags": ["a"]}, "tags is for SavedModel"),
        ({"build": "forms:module", "precision": "float16"}, "functions compute in"),
        ({"path": "exported", "precision": "bfloat16"}, "SavedModels compute in"),
        ({"build": "forms:module", "precision": "float32"}, "functions compute in"),
        ({"path": "exported", "precision": "float32"}, "SavedModels compute in"),
        ({"build": "toolbox:no_function"}, "must return a Keras model, a tf.Module"),
        ({"build": "toolbox:no_parameter"}, "with a parameter for each input"),
        (
            {"build": "forms:module", "weights": "some.weights.h5"},
            "only a TensorFlow checkpoint can go into a tf.Module",
        ),
        (
            {"build": "architectures:lstm", "weights": "ckpt"},
            "model.weights must fit the model",
        ),
        (
            {"build": "architectures:quantized", "precision": "bfloat16"},
            "cannot be set for a quantized model",
        ),
    ],
)
def test_models_that_cannot_be_had_are_explained(
    here: Path, model: dict[str, Any], message: str
) -> None:
    forms.functional().save_weights("some.weights.h5")
    forms.functional().save("model.keras")
    forms.functional().export("exported", verbose=False)
    forms._checkpoint(forms.functional())
    Path("broken.h5").write_bytes(b"no HDF5")
    Path("notes.txt").touch()
    with pytest.raises(ConfigError, match=message):
        load_model(ModelSpec(**model), FEATURES)


def test_a_model_of_keras_2_without_its_package_says_how_to_convert(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(forms.FORMS["Keras 2, `.keras`"])
    monkeypatch.setitem(__import__("sys").modules, "tf_keras", None)
    with pytest.raises(ConfigError, match=r"saved by Keras 2\.\d.*: install tf_keras"):
        load_model(ModelSpec(path="keras2.keras"), FEATURES)


def test_the_digest_changes_with_any_file_of_a_saved_model(here: Path) -> None:
    forms.functional().export("exported", verbose=False)
    shutil.copytree("exported", "other")
    before = load_model(ModelSpec(path="exported"), FEATURES).digest
    assert load_model(ModelSpec(path="other"), FEATURES).digest == before
    Path("other/assets/words.txt").write_text("added")
    assert load_model(ModelSpec(path="other"), FEATURES).digest != before


def test_a_model_directory_comes_from_any_filesystem(here: Path) -> None:
    import fsspec

    forms.functional().export("exported", verbose=False)
    forms._checkpoint(forms.functional())
    memory = fsspec.filesystem("memory")
    memory.put("exported", "memory://models/exported", recursive=True)
    for file in here.glob("ckpt.*"):
        memory.put(str(file), f"memory://models/{file.name}")
    try:
        local = load_model(ModelSpec(path="exported"), FEATURES)
        spec = ModelSpec(path="memory://models/exported")
        assert load_model(spec, FEATURES).digest == local.digest
        spec = ModelSpec(
            build="forms:functional_without_weights", weights="memory://models/ckpt"
        )
        weights = load_model(spec, FEATURES).form.model.get_weights()
        np.testing.assert_array_equal(weights[0], forms.WEIGHTS[0])
    finally:
        memory.rm("memory://models", recursive=True)


class Large(tf.Module):
    """More weights than a graph definition can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(tf.zeros([550, 1_000_000]))
        self.table[:6, :4].assign(tf.ones([6, 4]))

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def serve(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"out": tf.nn.relu(vec @ self.table[:6, :4], name="hidden") * 2.0}


@pytest.mark.heavy
def test_a_saved_model_may_be_larger_than_a_graph_definition(
    job: Job, here: Path
) -> None:
    module = Large()
    tf.saved_model.save(module, "large", signatures=module.serve)
    del module
    model = {"build": None, "path": "large"}
    table = job.run(model=model, taps=[{"path": "hidden"}, {"path": ":out"}])
    hidden = np.repeat(vectors().sum(1, keepdims=True), 4, 1)
    np.testing.assert_allclose(stacked(table["hidden"]), hidden, rtol=1e-5)
    with pytest.raises(RuntimeError, match="can be checked up to 2 GB of weights"):
        parity_of(str(job.table), 1)
    shutil.rmtree(job.table)
    job.run(model=model, taps=[{"path": ":out"}])
    assert parity_of(str(job.table), 3).passed


def test_precision_float32_undoes_a_mixed_policy() -> None:
    spec = ModelSpec(build="architectures:mixed", precision="float32")
    layers = load_model(spec, FEATURES).form.model.layers
    assert {layer.compute_dtype for layer in layers} == {"float32"}


_ = re


def test_constants_that_the_optimizer_merges_are_found_by_parity(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow computes `x * inf`; an eager call gives finite numbers."""

    def scaled(vec: Any) -> Any:
        return tf.minimum(vec, 1e-5) * 1e38 * 1e3

    monkeypatch.setattr(toolbox, "made_here", lambda: scaled, raising=False)
    assert np.isfinite(scaled(tf.constant(vectors())).numpy()).all()
    model = {"build": "toolbox:made_here"}
    table = job.run(model=model, taps=[{"path": "", "column": "c"}])
    assert np.isinf(stacked(table["c"])).all()
    assert not parity_of(str(job.table), 3).columns["c"].passed


def test_threads_that_build_at_once_get_one_model() -> None:
    spec = ModelSpec(build="toolbox:picky_model")
    with ThreadPoolExecutor(4) as pool:
        built = pool.map(lambda _: load_model(spec, FEATURES).digest, range(48))
        assert len(set(built)) == 1
