"""Which feature goes into which input: said, found, or asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from conftest import Job

from pipeline.parity.certificate import check_parity
from pipeline.plan import make_plan
from pipeline.run import run_plan
from pipeline.show import plan_json, print_plan
from transforms.config import Config, ModelSpec
from transforms.lookup import ConfigError
from transforms.models.function import FunctionForm
from transforms.models.inputs import Declared, input_text, parameters, wire
from transforms.models.keras_layers import LayerForm
from transforms.models.load import load_model
from transforms.models.model import ModelForm

VEC = ((6,), "float32")
TWO = {"a": VEC, "b": VEC}
IMAGE = Declared("image", (None, 8, 8, 1), "float32")
WORDS = Declared("words", (None,), "string")
FEATURES = {
    "pixels": ((8, 8, 1), "uint8"),
    "caption": ((), "string"),
    "label": ((), "int64"),
}


def wiring(
    declared: list[Declared], features: Any, inputs: Any = (), apart: Any = ()
) -> dict[str, str]:
    spec = ModelSpec(build="m:f", inputs=inputs or {})
    return {i.name: i.feature for i in wire(spec, declared, features, apart)}


def refused(declared: list[Declared], features: Any, inputs: Any = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        wiring(declared, features, inputs)
    return str(caught.value)


def test_the_only_feature_that_the_table_does_not_take_goes_in() -> None:
    anything = [Declared("x", None, "", is_open=True)]
    apart = ("caption", "label")
    assert wiring(anything, FEATURES, apart=apart) == {"x": "pixels"}
    assert wiring(anything, {"a": VEC}, apart=("a",)) == {"x": "a"}


def test_a_name_goes_before_what_fits() -> None:
    one, other = (Declared(name, (None, 6), "float32") for name in ("b", "q"))
    assert wiring([one, other], TWO) == {"b": "b", "q": "a"}
    assert wiring([one], TWO, apart=("b",)) == {"b": "b"}


def test_shape_and_type_decide_where_they_leave_one_way() -> None:
    assert wiring([IMAGE, WORDS], FEATURES) == {"image": "pixels", "words": "caption"}
    whole = Declared("n", (None, 6), "int32")
    real = Declared("x", (None, 6), "float32")
    features = {"ids": ((6,), "int64"), "values": VEC}
    assert wiring([real, whole], features) == {"x": "values", "n": "ids"}


def test_more_than_one_way_is_asked_for_with_a_line_to_paste() -> None:
    one, other = (Declared(name, (None, 6), "float32") for name in ("p", "ä q"))
    text = refused([one, other], {**TWO, **FEATURES})
    assert "'a' float32 [6]" in text
    assert "'p' float32 [batch, 6]" in text
    assert 'give inputs = { p = "a", "ä q" = "b" }' in text
    assert wiring([one, other], TWO, {"p": "a", "ä q": "b"}) == {"p": "a", "ä q": "b"}
    assert 'give inputs = "a"' in refused([one], TWO)


def test_the_line_to_paste_gives_each_input_a_feature_that_fits() -> None:
    wide = Declared("wide", (None, None), "float32")
    narrow = Declared("narrow", (None, 6), "float32")
    third = Declared("third", (None, None), "float32")
    features = {"a": VEC, "b": ((3,), "float32"), "c": ((4,), "float32")}
    text = refused([wide, third, Declared("six", (None, 6), "float32")], {**features})
    found = dict(re.findall(r'(\w+) = "(\w+)"', text))
    assert found["six"] == "a"
    assert {found["wide"], found["third"]} == {"b", "c"}
    assert "none fits 'narrow'" in refused([narrow, wide], FEATURES)


def test_automatic_names_are_never_asked_for() -> None:
    unnamed = [Declared(str(n), (None, 6), "float32") for n in range(2)]
    stored = [Declared(f"keras_tensor_{n}", (None, 6), "float32") for n in (9, 10)]
    for declared in (unnamed, stored):
        text = refused(declared, TWO)
        assert "keras_tensor" not in text
        assert 'give inputs = ["a", "b"]' in text
        assert "keras_tensor" not in refused(declared, TWO, {"other": "a"})
        assert list(wiring(declared, TWO, ["b", "a"]).values()) == ["b", "a"]
    assert wiring(unnamed[:1], TWO, {"keras_tensor_4": "b"}) == {"0": "b"}
    assert "keras_tensor" not in input_text("keras_tensor_4")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"imag": "pixels"}, "must name inputs of the model, got 'imag'; nearest is"),
        (["pixels"], "must list a feature for each of 2 inputs"),
        ({"image": "pixel"}, "must name a feature, got 'pixel' for input 'image'"),
        ({"image": "caption"}, "input 'image' must have shape"),
    ],
)
def test_what_is_said_must_fit(inputs: Any, message: str) -> None:
    assert message in refused([IMAGE, WORDS], FEATURES, inputs)


@pytest.mark.parametrize("inputs", [3, {"a": 1}, ["a", 1]])
def test_inputs_that_are_no_text_are_refused(inputs: Any) -> None:
    with pytest.raises(ValueError, match=r'should be "feature", \["feature"'):
        ModelSpec(build="m:f", inputs=inputs)


class Calls(keras.Model):
    """A model whose `call` is given."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.call = function


def one_tensor(image: Any, training: bool = False) -> Any:
    return image * 2


def two_arguments(one: Any, other: Any) -> Any:
    return one - other


def a_list(both: Any) -> Any:
    assert isinstance(both, list)
    return both[0] - both[1]


def a_dict(both: Any) -> Any:
    return both["one"] - both["other"]


@pytest.mark.parametrize("make", [FunctionForm, Calls])
@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (one_tensor, "a"),
        (two_arguments, ["a", "b"]),
        (a_list, ["a", "b"]),
        (a_dict, {"one": "a", "other": "b"}),
    ],
)
def test_functions_and_calls_take_what_is_said(
    make: Any, function: Any, inputs: Any
) -> None:
    form: ModelForm = make(function)
    form = LayerForm(form) if isinstance(form, keras.Model) else form
    wired = wire(ModelSpec(build="m:f", inputs=inputs), form.declared(), TWO)
    form.build(wired)
    given = {"a": tf.ones((1, 6)), "b": tf.zeros((1, 6))}
    tensors = {i.name: given[i.feature] for i in wired}
    expected = 2.0 if function is one_tensor else 1.0
    *_, last = form.record(tensors)
    assert last.value[0, 0].numpy() == expected


def test_a_signature_of_structure_declares_its_leaves() -> None:
    spec = tf.TensorSpec([None, 6])
    for function, structure in (
        (a_list, [spec, spec]),
        (a_dict, {"one": spec, "other": spec}),
    ):
        form = FunctionForm(tf.function(function, input_signature=[structure]))
        wired = wire(ModelSpec(build="m:f", inputs=["a", "b"]), form.declared(), TWO)
        form.build(wired)
        tensors = {i.name: tf.fill((1, 6), float(i.feature == "a")) for i in wired}
        *_, last = form.record(tensors)
        assert last.value[0, 0].numpy() == 1.0


def test_parameters_with_a_default_are_inputs_only_if_named() -> None:
    declared = parameters(lambda x, scale=1, training=False: x)
    assert wiring(declared, {"scale": VEC, "a": VEC}, apart=("scale",)) == {"x": "a"}
    both = {"x": "a", "scale": "b"}
    assert wiring(declared, TWO, both) == both


def test_unnamed_inputs_go_by_their_position() -> None:
    given = [keras.Input((6,)), keras.Input((6,))]
    form = LayerForm(keras.Model(given, keras.layers.subtract(given)))
    assert [one.name for one in form.declared()] == ["0", "1"]
    positional, _ = form.arrange({"1": "other", "0": "one"})
    assert positional == [["one", "other"]]


def test_exported_inputs_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    module = tf.Module()
    spec = tf.TensorSpec([None, 6])

    @tf.function(input_signature=[spec, spec])
    def serve(keras_tensor_9: Any, keras_tensor_10: Any) -> Any:
        return {"y": keras_tensor_9 - keras_tensor_10}

    module.serve = serve
    path = str(tmp_path / "saved")
    tf.saved_model.save(module, path, signatures={"serving_default": serve})
    model = load_model(ModelSpec(path=path, inputs=["a", "b"]), TWO)
    assert {i.name: i.feature for i in model.inputs} == {
        "keras_tensor_9": "a",
        "keras_tensor_10": "b",
    }


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_the_unbuilt_sequential_of_the_articles_is_explained_at_once(kind: str) -> None:
    spec = ModelSpec(build=f"toolbox:{kind}_sequential_unbuilt")
    with pytest.raises(ConfigError, match="'head' comes after it; choose what goes on"):
        load_model(spec, {"vec": VEC})
    with pytest.raises(ConfigError, match="'head' comes after it; choose what goes on"):
        load_model(spec, {**FEATURES, **TWO}, apart=["pixels"])


def test_a_sequential_of_several_ways_in_whose_layers_can_follow_is_asked_about() -> (
    None
):
    spec = ModelSpec(build="toolbox:pair_sequential_unbuilt")
    with pytest.raises(ConfigError, match=r'more than one way fits.*inputs = "a"'):
        load_model(spec, TWO)
    assert (
        load_model(spec.model_copy(update={"inputs": ["a"]}), TWO).form.stock is False
    )


def found_in(job: Job, inputs: Any) -> Config:
    """A config of a model that declares no input; all else is kept."""
    return job.config(
        source={"keep": ["text", "unused/a"]},
        model={"build": "toolbox:Subclassed", "inputs": inputs},
        taps=[{"path": ":logits", "column": "y"}],
    )


def test_a_wiring_that_was_found_is_the_same_table_as_one_written_out(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ({}, "vec", ["vec"], {"inputs": "vec"}, {"x": "vec"})
    plans = [make_plan(found_in(job, inputs)) for inputs in written]
    assert len({plan.fingerprint for plan in plans}) == 1
    assert len({plan.seal for plan in plans}) == 1
    print_plan(plans[0], {})
    assert "model input 'inputs' takes feature 'vec'" in capsys.readouterr().out
    assert plan_json(plans[0], {})["inputs"] == {"inputs": "vec"}


def test_a_table_whose_wiring_was_found_is_certified(job: Job) -> None:
    config = found_in(job, {})
    run_plan(make_plan(config))
    assert check_parity(str(job.table), config, 5).passed
    with pytest.raises(ConfigError, match=r"model\.inputs"):
        check_parity(str(job.table), found_in(job, "other"), 5)
