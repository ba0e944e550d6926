"""What is listed of a model, and that tapped values are the model's own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import toolbox
from conftest import vectors

from transforms.config import ModelSpec, TapSpec
from transforms.lookup import ConfigError
from transforms.models.inputs import Input
from transforms.models.keras_layers import LayerForm
from transforms.models.load import load_model
from transforms.models.model import Model
from transforms.taps.compile import compile_taps
from transforms.taps.language import choose
from transforms.taps.survey import list_activations

FEATURES = {"vec": ((6,), "float32")}


def loaded(model: keras.Model, shape: tuple[int, ...] = (6,)) -> Model:
    name = model.inputs[0].name
    return Model(
        LayerForm(model), (Input(name, "x", shape, "float32", "float32"),), None
    )


def computed(
    model: Model, specs: list[TapSpec], x: np.ndarray
) -> dict[str, np.ndarray]:
    taps = choose(specs, list_activations(model))
    return compile_taps(model, taps, len(x))({"x": tf.constant(x)})


def test_listing_names_layers_sublayers_leaves_and_the_result() -> None:
    listed = list_activations(loaded(toolbox.dict_model()))
    assert [(a.address, a.shape, a.dtype) for a in listed] == [
        ("stem", (5,), "float32"),
        ("features/first", (4,), "float32"),
        ("features/second", (3,), "float32"),
        ("features:output", (3,), "float32"),
        ("features:activation_1", (4,), "float32"),
        ("features:nested/pair/0", (4,), "float32"),
        ("features:nested/pair/1", (3,), "float32"),
        ("head", (2,), "float32"),
        ("", (2,), "float32"),
    ]
    assert all(a.refusal is None for a in listed)


def test_layers_of_nested_models_are_told_apart() -> None:
    def encoder(name: str) -> keras.Model:
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(3, name="dense")], name=name
        )

    x = keras.Input((6,), name="x")
    both = [encoder("left")(x), encoder("right")(x)]
    model = keras.Model(x, keras.layers.Add(name="sum")(both))
    listed = [a.address for a in list_activations(loaded(model))]
    assert listed == ["left/dense", "left", "right/dense", "right", "sum", ""]


def test_calls_of_a_shared_layer_are_numbered_and_differ() -> None:
    x = keras.Input((6,), name="x")
    shared = keras.layers.Dense(6, name="shared")
    model = keras.Model(x, shared(shared(x)))
    values = computed(
        loaded(model), [TapSpec(path="shared@*", column="c{1}")], vectors(4)
    )
    once = keras.Model(x, shared(x))(vectors(4)).numpy()
    np.testing.assert_allclose(values["c0"], once, atol=1e-6)
    np.testing.assert_allclose(values["c1"], model(vectors(4)).numpy(), atol=1e-6)
    with pytest.raises(ConfigError, match="nearest are 'shared@0', 'shared@1'"):
        computed(loaded(model), [TapSpec(path="shared")], vectors(4))


def test_values_equal_those_of_keras_submodels() -> None:
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 2), name="x")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    made = toolbox.Intermediates(name="features")(x)
    model = keras.Model(image, keras.layers.Dense(2, name="head")(made["output"]))
    for weight in model.get_layer("norm").weights:
        weight.assign(np.random.default_rng(1).random(weight.shape) + 0.5)
    data = np.random.default_rng(0).random((5, 8, 8, 2), np.float32)
    values = computed(loaded(model, (8, 8, 2)), [TapSpec(path="**")], data)
    for name in ("conv", "norm", "drop", "pool", "head"):
        submodel = keras.Model(image, model.get_layer(name).output)
        expected = submodel(data, training=False).numpy()
        np.testing.assert_allclose(values[name], expected, atol=1e-5)
    submodel = keras.Model(image, made)
    expected = submodel(data, training=False)["nested"]["pair"][1].numpy()
    np.testing.assert_allclose(values["features_nested_pair_1"], expected, atol=1e-5)


def test_recurrent_cells_are_refused_and_their_layer_is_not() -> None:
    x = keras.Input((5, 3), name="x")
    model = keras.Model(x, keras.layers.LSTM(4, name="lstm")(x))
    listed = {a.address: a.refusal for a in list_activations(loaded(model, (5, 3)))}
    assert listed["lstm"] is None
    cells = [refusal for address, refusal in listed.items() if "lstm_cell" in address]
    assert cells
    assert all("inside a loop" in (refusal or "") for refusal in cells)
    with pytest.raises(ConfigError, match="inside a loop"):
        choose(
            [TapSpec(path="lstm/lstm_cell@0:0")],
            list_activations(loaded(model, (5, 3))),
        )


@keras.saving.register_keras_serializable("tests")
class Constant(keras.layers.Layer):
    """Returns something that has no rows."""

    def call(self, inputs: Any) -> Any:
        return {"out": inputs, "table": tf.ones([7, 3]), "size": tf.shape(inputs)[0]}


def test_values_without_a_batch_axis_are_refused() -> None:
    x = keras.Input((6,), name="x")
    model = keras.Model(x, Constant(name="c")(x)["out"])
    listed = {a.address: a.refusal for a in list_activations(loaded(model))}
    assert listed["c:out"] is None
    assert "no batch axis" in (listed["c:table"] or "")
    assert "no batch axis" in (listed["c:size"] or "")


def test_two_layers_of_one_name_are_refused_as_ambiguous() -> None:
    class Twins(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.pair = [keras.layers.Dense(2, name="twin") for _ in range(2)]

        def call(self, inputs: Any) -> Any:
            return self.pair[0](inputs) + self.pair[1](inputs)

    x = keras.Input((6,), name="x")
    model = keras.Model(x, Twins(name="t")(x))
    listed = list_activations(loaded(model))
    twins = [a.refusal for a in listed if a.address == "t/twin"]
    assert len(twins) == 2
    assert all("more than one activation" in (refusal or "") for refusal in twins)


def test_listing_and_compiling_leave_the_model_as_it_was() -> None:
    model = toolbox.dict_model()
    before = {id(layer): dict(vars(layer)) for layer in model._flatten_layers()}
    list_activations(loaded(model))
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)
        assert vars(layer).keys() == before[id(layer)].keys()


def test_a_call_that_the_user_has_replaced_stays_replaced() -> None:
    model = toolbox.dict_model()
    stem = model.get_layer("stem")
    original = stem.call
    object.__setattr__(stem, "call", lambda x, **_: original(x) * 100)
    expected = np.asarray(stem(vectors(4)))
    for _ in range(2):
        values = computed(loaded(model), [TapSpec(path="stem")], vectors(4))
        np.testing.assert_allclose(values["stem"], expected, rtol=1e-5)


def test_listing_does_not_run_the_model() -> None:
    x = keras.Input((6,), name="x")
    model = keras.Model(x, toolbox.RaisesWhenRun(name="late")(x))
    assert [a.address for a in list_activations(loaded(model))] == ["late", ""]


def test_layers_that_no_tap_needs_are_not_computed() -> None:
    x = keras.Input((6,), name="x")
    early = keras.layers.Dense(2, name="early")(x)
    model = keras.Model(x, toolbox.RaisesWhenRun(name="late")(early))
    values = computed(loaded(model), [TapSpec(path="early")], vectors(4))
    assert values["early"].shape == (4, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="this layer was run"):
        computed(loaded(model), [TapSpec(path="late")], vectors(4))


def test_one_trace_serves_all_batches() -> None:
    model = loaded(toolbox.dict_model())
    traces = []
    taps = choose([TapSpec(path="stem")], list_activations(model))
    stem = model.form.model.get_layer("stem")
    original = stem.activation
    stem.activation = lambda x: traces.append(1) or original(x)
    compiled = compile_taps(model, taps, 4)
    for _ in range(3):
        compiled({"x": tf.constant(vectors(4))})
    assert len(traces) == 1


def test_columns_of_many_types_come_out_of_one_buffer() -> None:
    @keras.saving.register_keras_serializable("tests")
    class Types(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return {
                "flag": inputs[:, 0] > 0.5,
                "half": tf.cast(inputs, tf.float16),
                "big": tf.cast(inputs * 100, tf.int64),
                "byte": tf.cast(inputs * 100, tf.uint8),
                "text": tf.strings.as_string(inputs[:, :2]),
                "out": inputs,
            }

    x = keras.Input((6,), name="x")
    model = loaded(keras.Model(x, Types(name="t")(x)["out"]))
    data = vectors(5)
    specs = [
        TapSpec(path="t:*", column="{1}"),
        TapSpec(path="t:out", column="short", dtype="float16"),
    ]
    values = computed(model, specs, data)
    np.testing.assert_array_equal(values["flag"], (data[:, 0] > 0.5).astype(np.uint8))
    np.testing.assert_array_equal(values["half"], data.astype(np.float16))
    assert values["half"].dtype == np.float32  # half-precision compute is widened
    np.testing.assert_array_equal(values["big"], (data * 100).astype(np.int64))
    np.testing.assert_array_equal(values["byte"], (data * 100).astype(np.uint8))
    assert values["text"].shape == (5, 2)
    assert values["short"].dtype == np.float16


def test_a_subclassed_model_is_built_and_listed() -> None:
    spec = ModelSpec(build="toolbox:Subclassed", inputs={"inputs": "vec"})
    model = load_model(spec, FEATURES)
    assert [a.address for a in list_activations(model)] == [
        "stem",
        "head",
        ":stem",
        ":logits",
    ]


def test_precision_changes_compute_and_not_columns() -> None:
    results = {}
    for precision in ("float32", "bfloat16"):
        spec = ModelSpec(build="toolbox:dict_model", precision=precision)
        model = load_model(spec, FEATURES)
        taps = choose([TapSpec(path="features:output")], list_activations(model))
        compiled = compile_taps(model, taps, 8)
        (results[precision],) = compiled({"vec": tf.constant(vectors(8))}).values()
    assert results["bfloat16"].dtype == np.float32
    difference = np.abs(results["float32"] - results["bfloat16"]).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("spec", "features", "message"),
    [
        ({}, FEATURES, "either path .* or build .* got neither"),
        ({"path": "a.keras", "build": "a:b"}, FEATURES, "got both"),
        ({"path": "no.keras"}, FEATURES, "model.path must be an existing file"),
        ({"path": "model.h6"}, FEATURES, "model.path must be an existing file"),
        ({"build": "toolbox:dict_modl"}, FEATURES, "nearest is 'dict_model'"),
        ({"build": "nowhere:f"}, FEATURES, "importable module, got 'nowhere'"),
        ({"build": "toolbox:vectors"}, FEATURES, "got 'vectors'"),
        (
            {"build": "toolbox:dict_model"},
            {"vec": ((5,), "float32")},
            r"must have shape \[6\], feature 'vec' has \[5\]",
        ),
        (
            {"build": "toolbox:dict_model"},
            {"vec": ((6,), "string")},
            "must be float32, feature 'vec' is string",
        ),
        (
            {"build": "toolbox:dict_model"},
            {"a": ((6,), "float32"), "b": ((6,), "float32")},
            "must say which feature goes into 'vec'",
        ),
        (
            {"build": "toolbox:dict_model", "inputs": {"vek": "vec"}},
            FEATURES,
            "must name inputs of the model, got 'vek'; nearest is 'vec'",
        ),
        (
            {"build": "toolbox:dict_model", "inputs": {"vec": "vek"}},
            FEATURES,
            "must name a feature, got 'vek' for input 'vec'; nearest is 'vec'",
        ),
        (
            {"build": "toolbox:Subclassed"},
            {"a": ((6,), "float32"), "b": ((6,), "float32")},
            "into 'inputs': more than one way fits .* give inputs = \"a\"",
        ),
        (
            {"build": "toolbox:Subclassed", "inputs": {"inputs": "vec"}},
            {"vec": ((), "float32")},
            "the model must take its inputs",
        ),
        ({"build": "toolbox:no_model"}, FEATURES, "failed with KeyError: 'no model'"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    spec: dict[str, Any], features: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(ModelSpec(**spec), features)
