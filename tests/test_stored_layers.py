"""What a stored Keras model may make Keras load, call and read."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models.keras_files import load_layers
from transforms.models.load import load_model
from transforms.models.pure_functions import is_pure_function
from transforms.models.stored_layers import find_fault

tf_keras = pytest.importorskip("tf_keras")
cell_wrappers = pytest.importorskip("tf_keras.src.layers.rnn.cell_wrappers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def small(package: Any) -> Any:
    vec = package.Input((6,), name="vec")
    return package.Model(vec, package.layers.Dense(2, name="head")(vec))


def saved(
    package: Any, name: str, change: Callable[[Any], Any], version: str = ""
) -> str:
    """Save a small model, with another description or version of Keras."""
    small(package).save(name)
    if name.endswith(".h5"):
        with h5py.File(name, "r+") as file:
            config = change(json.loads(file.attrs["model_config"]))
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = version or file.attrs["keras_version"]
        return name
    shutil.move(name, "before.zip")
    with zipfile.ZipFile("before.zip") as before, zipfile.ZipFile(name, "w") as after:
        for member in before.namelist():
            data = before.read(member)
            if member == "config.json":
                data = json.dumps(change(json.loads(data))).encode()
            if member == "metadata.json" and version:
                data = json.dumps({"keras_version": version}).encode()
            after.writestr(member, data)
    return name


def with_layer(layer: dict[str, Any]) -> Callable[[Any], Any]:
    """Add a layer that is called as soon as the model is loaded."""

    def change(config: Any) -> Any:
        node = [[["vec", 0, 0, {}]]]
        config["config"]["layers"].append({**layer, "inbound_nodes": node})
        return config

    return change


def layer(
    kind: str, module: str | None = "keras.layers", **config: Any
) -> dict[str, Any]:
    described = {"class_name": kind, "config": {"name": "guest", **config}}
    return {**described, "module": module, "registered_name": None, "name": "guest"}


def function(module: str | None, name: str) -> dict[str, Any]:
    described = {"class_name": "function", "config": name, "registered_name": name}
    return {**described, "module": module}


def lambda_of(module: str | None, name: str, **config: Any) -> dict[str, Any]:
    called = {"function": function(module, name), "function_type": "function"}
    shape = {"output_shape": None, "output_shape_type": "raw", "arguments": {}}
    return layer("Lambda", **{**called, **shape, **config})


BYTES = ["4wEAAAAAAAAAAAAAAA==", None, None]
OP = "tf_keras.src.layers.core.tf_op_layer"
WRAPPER = "tf_keras.src.layers.rnn.cell_wrappers"
NODE = {"name": "n", "op": "WriteFile", "input": ["a", "b"], "attr": {}}
TEXT_NODE = "\n\x01n\x12\tWriteFile"

ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "a function of os": (lambda_of("os", "system"), "calls os.system"),
    "its other name": (lambda_of("posix", "system"), "calls posix.system"),
    "a built-in function": (lambda_of("builtins", "exec"), "calls builtins.exec"),
    "no module": (lambda_of(None, "system"), "calls system"),
    "a download": (lambda_of("keras.utils", "get_file"), "keras.utils.get_file"),
    "a loader": (lambda_of("keras.models", "load_model"), "load_model"),
    "a look-up": (lambda_of("keras.layers", "deserialize"), "keras.layers.deserialize"),
    "what a module of Keras imports": (
        lambda_of("keras.src.utils.generic_utils", "func_load"),
        "func_load",
    ),
    "two names": (
        lambda_of(
            "os", "relu", function={**function("os", "x"), "registered_name": "y"}
        ),
        "calls os.x",
    ),
    "a function as activation": (
        layer("Dense", units=1, activation=function("os", "getenv")),
        "calls os.getenv",
    ),
    "a function as initializer": (
        layer("Dense", units=1, kernel_initializer=function("subprocess", "run")),
        "calls subprocess.run",
    ),
    "a class of another module": (layer("Popen", "subprocess"), "subprocess.Popen"),
    "a module that begins alike": (layer("Dense", "keras_evil"), "keras_evil.Dense"),
    "a function as class": (layer("load_model", "keras.models"), "load_model"),
    "a class without a name": (layer(["Dense"]), "is of class"),  # type: ignore[arg-type]
    "a module without a name": (layer("Dense", ["os"]), "is of class"),  # type: ignore[arg-type]
    "byte code of Lambda": (
        layer("Lambda", function=BYTES, function_type="lambda"),
        "'guest' is a Lambda layer that holds a Python function",
    ),
    "byte code without type": (layer("Lambda", function=BYTES), "holds a Python"),
    "byte code of a mask": (
        lambda_of("builtins", "relu", mask=BYTES, mask_type="lambda"),
        "holds a Python function",
    ),
    "byte code of a shape": (
        lambda_of("builtins", "relu", output_shape=BYTES, output_shape_type="lambda"),
        "holds a Python function",
    ),
    "byte code of a wrapper": (
        layer("ResidualWrapper", WRAPPER, residual_fn=BYTES, residual_fn_type="lambda"),
        "'guest' holds a Python function",
    ),
    "byte code beside a class": (
        layer("Dropout", class_name="Dense", any_fn=BYTES, any_fn_type="lambda"),
        "holds a Python function",
    ),
    "byte code as activation": (
        layer("Dense", activation={"class_name": "__lambda__", "config": {}}),
        "holds a Python function",
    ),
    "byte code in constants": (
        layer("Dense", kernel_initializer={"a": [{"class_name": "__lambda__"}]}),
        "holds a Python function",
    ),
    "byte code of an inner layer": (
        layer("TimeDistributed", layer=layer("Lambda", function=BYTES)),
        "holds a Python function",
    ),
    "training of an inner model": (
        {
            **layer("Sequential", layers=[]),
            "compile_config": {"loss": function("os", "x")},
        },
        "calls os.x",
    ),
    "a spec": (
        layer("InputLayer", spec={"class_name": "__typespec__", "module": "os"}),
        "is of type os.None",
    ),
    "an attribute": (layer("InstanceProperty", OP, attr_name="__class__"), "__class__"),
    "a method": (layer("InstanceMethod", OP, attr_name="__init__"), "__init__"),
    "a class method": (
        layer("ClassMethod", OP, cls_symbol="io.TFRecordWriter", method_name="write"),
        "calls io.TFRecordWriter.write",
    ),
    "an operation": (layer("TensorFlowOpLayer", None, node_def=NODE), "is a WriteFile"),
    "an operation as text": (
        layer("TensorFlowOpLayer", None, node_def=TEXT_NODE),
        "is a WriteFile",
    ),
    "no operation": (layer("TensorFlowOpLayer", None, node_def=7), "broken operation"),
    "a vocabulary": (
        layer("StringLookup", vocabulary="/etc/passwd"),
        "reads the file '/etc/passwd'",
    ),
    "a vocabulary of text": (
        layer("TextVectorization", vocabulary="../secret"),
        "reads the file '../secret'",
    ),
    "a vocabulary of numbers": (layer("IntegerLookup", vocabulary="x"), "file 'x'"),
    "a vocabulary of columns": (
        layer("DenseFeatures", None, c=layer("VocabularyFileCategoricalColumn", None)),
        "VocabularyFileCategoricalColumn",
    ),
    "weights of columns": (
        layer("EmbeddingColumn", None, ckpt_to_load_from="/home"),
        "reads the file '/home'",
    ),
    **{
        symbol: (layer("TFOpLambda", OP, function=symbol), f"calls {symbol}")
        for symbol in (
            *("io.write_file", "io.read_file", "compat.v1.write_file", "py_function"),
            *("numpy_function", "compat.v1.py_func", "raw_ops.WriteFile", "print"),
            *("keras.utils.get_file", "keras.models.load_model", "load_library"),
            *(
                "nn.fixed_unigram_candidate_sampler",
                "io.decode_proto",
                "saved_model.load",
            ),
            *("RaggedTensor", "keras.losses.deserialize", "nn.RNNCellDropoutWrapper"),
        )
    },
    "a call under a registered name": (
        {**layer("TFOpLambda", OP, function="print"), "registered_name": "Custom>Adam"},
        "calls print",
    ),
    "a call that is registered as a Lambda": (
        {**layer("TFOpLambda", OP, function="print"), "registered_name": "Lambda"},
        "calls print",
    ),
    "a value of another module": (layer("TypeSpec", "os"), "is of class os.TypeSpec"),
    "a tensor of another module": (
        layer("CompositeTensor", "os"),
        "is of class os.CompositeTensor",
    ),
    "a column of another module": (
        {**layer("NumericColumn", "subprocess"), "registered_name": "getoutput"},
        "is of class subprocess.NumericColumn",
    ),
    "a value under another name": (
        {**layer("TypeSpec", None), "registered_name": "getoutput"},
        "is of class TypeSpec",
    ),
    "a name with a way through a module": (
        {**layer("os.popen", "keras.src.utils.io_utils"), "registered_name": "Dense"},
        "is of class keras.src.utils.io_utils.os.popen",
    ),
    "a name that goes on after its module": (
        layer("utils.get_file", "keras"),
        "is of class keras.utils.get_file",
    ),
    "a second name": (
        {**layer("Dense", "keras.utils"), "registered_name": "get_file"},
        "is of class keras.utils.Dense",
    ),
    "a module of Keras that nobody has loaded": (
        layer("Dense", "keras.src.nowhere"),
        "is of class keras.src.nowhere.Dense",
    ),
    "a function with a way through a module": (
        lambda_of("keras.src.activations", "sys.exit"),
        "calls keras.src.activations.sys.exit",
    ),
    "a call without a module": (
        layer("SlicingOpLambda", None, function="io.read_file"),
        "calls io.read_file",
    ),
}
KERAS_3: dict[str, tuple[dict[str, Any], str]] = {
    "another model": (layer("TFSMLayer", filepath="x"), "loads another model"),
    "a pickle": (layer("TorchModuleWrapper", torch="x"), "loads another model"),
    "a package that Keras imports": (
        layer("X", "keras_hub.layers"),
        "keras_hub.layers.X",
    ),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_what_does_more_than_compute_is_a_fault_by_layer(what: str) -> None:
    stored, said = ATTACKS[what]
    config = with_layer(stored)({"class_name": "Functional", "config": {"layers": []}})
    fault = find_fault(config, tf_keras, ())
    assert fault is not None
    assert said in fault[1]
    assert "'guest'" in fault[1]
    assert find_fault(config, keras, ()) is not None


@pytest.mark.parametrize("what", KERAS_3)
def test_layers_of_keras_3_that_load_something_are_faults(what: str) -> None:
    stored, said = KERAS_3[what]
    assert said in str(find_fault(stored, keras, ()))


@pytest.mark.parametrize("package", [keras, tf_keras])
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("version", ["2.15.0", "3.15.1", "9", ""])
@pytest.mark.parametrize("called", ["os", "stowaway"])
def test_no_version_lets_a_stored_model_run_code(
    package: Any, name: str, version: str, called: str, here: Path
) -> None:
    """Also one that says to be of the other Keras."""
    Path("stowaway.py").write_text("open('executed', 'w').close()\nsystem = print\n")
    guest = lambda_of(called, "system")
    path = saved(package, name, with_layer(guest), version)
    said = rf"layer 'guest' calls {called}\.system"
    if package is tf_keras and version[:1] in ("3", "9") and name == "m.keras":
        said = "Functional, which is not built in"  # in Keras 3
    with pytest.raises(ConfigError, match=said):
        load_model(ModelSpec(path=path), None)
    assert not Path("executed").exists()
    assert "stowaway" not in sys.modules


@pytest.mark.parametrize("package", [keras, tf_keras])
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_a_sound_model_may_say_to_be_of_the_other_keras(
    package: Any, name: str, version: str, here: Path
) -> None:
    path = saved(package, name, lambda config: config, version)
    if package is tf_keras and version[0] == "3" and name == "m.keras":
        with pytest.raises(ConfigError, match="Functional, which is not built in"):
            load_model(ModelSpec(path=path), None)
    else:
        model = load_model(ModelSpec(path=path), None)
        assert model.form.model.get_layer("head").units == 2


def operations() -> Any:
    vec = tf_keras.Input((5, 4), name="vec")
    x = tf.math.add(vec, 1.0)[:, :3]
    x = tf.concat([tf.nn.relu(x), -x * 2.0], 1)
    x = tf.clip_by_value(tf.reshape(x, [-1, 24]), 0.0, 9.0)
    x = tf_keras.layers.Dense(3, activation=tf.nn.gelu, name="head")(x)
    x = tf_keras.backend.l2_normalize(x) + tf.cast(x > 0, tf.float32)
    model = tf_keras.Model(vec, tf.math.top_k(x, 2)[0])
    model.compile("adam", loss=lambda true, guess: true - guess)
    return model


def recurrent() -> Any:
    layers = tf_keras.layers
    vec = tf_keras.Input((5, 4), name="vec")
    x = (
        layers.RNN(tf.nn.RNNCellResidualWrapper(layers.LSTMCell(4)), True)(vec)
        if ("tf_keras" in tf.nn.RNNCellResidualWrapper.__module__)
        else layers.LSTM(4, return_sequences=True)(vec)
    )
    x = layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(4)], True)(x)
    x = layers.TimeDistributed(layers.Dense(4, activation=tf_keras.activations.swish))(
        x
    )
    x = layers.Bidirectional(layers.LSTM(3))(x)
    x = layers.Dense(
        2,
        name="head",
        kernel_regularizer="l2",
        kernel_constraint=tf_keras.constraints.MaxNorm(1),
        kernel_initializer=tf_keras.initializers.RandomNormal(),
        activation=layers.LeakyReLU(),
    )(x)
    model = tf_keras.Model(vec, x)
    model.compile(
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(0.1, 5)),
        loss=[tf_keras.losses.Huber()],
        metrics=["mae", tf_keras.metrics.AUC()],
    )
    return model


def images() -> Any:
    layers = tf_keras.layers
    pixels = tf_keras.Input((16, 16, 3), name="pixels")
    x = tf.image.rgb_to_grayscale(tf.image.resize(pixels, [8, 8]))
    x = layers.BatchNormalization()(layers.Rescaling(1 / 255)(layers.RandomFlip()(x)))
    x = tf.nn.depth_to_space(
        layers.Conv2D(4, 1)(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])), 2
    )
    head = layers.Dense(2, name="head")
    return tf_keras.Model(pixels, tf_keras.Sequential([layers.Flatten(), head])(x))


def ragged() -> Any:
    rows = tf_keras.Input((None,), ragged=True, name="rows")
    dense = rows.to_tensor(shape=[None, 5])
    return tf_keras.Model(rows, tf_keras.layers.Dense(2, name="head")(dense))


def words() -> Any:
    text = tf_keras.Input((), dtype="string", name="text")
    lookup = tf_keras.layers.StringLookup(vocabulary=["a", "b"])
    numbers = tf_keras.layers.CategoryEncoding(3, name="head")(lookup(text)[:, None])
    return tf_keras.Model(text, numbers)


def normalized() -> Any:
    layers = tf_keras.layers
    scaled = layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4)
    last = layers.Dense(3, activation="gelu", dtype="mixed_float16", name="head")
    return tf_keras.Sequential([tf_keras.Input((4,), name="vec"), scaled, last])


SOUND = (operations, recurrent, images, ragged, words, normalized)


@pytest.mark.parametrize("make", SOUND)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_models_of_keras_2_that_only_compute_are_loaded(
    make: Callable[[], Any], suffix: str, here: Path
) -> None:
    make().save(f"model{suffix}")
    name = f"model{suffix}"
    form = load_layers(Path(name), name, ModelSpec(path=name))
    assert type(form.model).__module__.startswith("tf_keras.")


def test_vectorized_text_of_keras_2_is_loaded(here: Path) -> None:
    text = tf_keras.Input((), dtype="string", name="text")
    words = tf_keras.layers.TextVectorization(output_sequence_length=4, name="head")
    words.adapt(["a b c"])
    tf_keras.Model(text, words(text)).save("model.keras")
    form = load_model(ModelSpec(path="model.keras"), None).form
    assert form.model.get_layer("head").get_vocabulary() == ["", "[UNK]", "c", "b", "a"]


def test_models_of_keras_3_that_only_compute_are_loaded(here: Path) -> None:
    pixels = keras.Input((4, 4, 3), name="pixels")
    x = keras.ops.relu(keras.ops.image.resize(pixels, (8, 8)) + 1)[:, 1:, ...]
    x = keras.layers.Dense(
        3,
        activation=keras.ops.tanh,
        dtype=keras.DTypePolicy("mixed_bfloat16"),
        kernel_regularizer=keras.regularizers.L1L2(0.1),
    )(keras.ops.mean(x, axis=(1, 2)))
    x = keras.layers.Lambda(keras.activations.relu, name="head")(x)
    model = keras.Model(pixels, x)
    model.compile(keras.optimizers.AdamW(), loss=lambda true, guess: true - guess)
    model.save("model.keras")
    assert load_model(ModelSpec(path="model.keras"), None).form.model.get_layer("head")


def test_an_operation_that_only_computes_is_loaded() -> None:
    node = {"name": "n", "op": "AddV2", "input": ["a", "b"], "attr": {}}
    stored = layer("TensorFlowOpLayer", None, node_def=node, constants={"1": 2.0})
    assert find_fault(stored, tf_keras, ()) is None
    columns = [layer("NumericColumn", None, key="a"), layer("EmbeddingColumn", None)]
    assert find_fault(layer("DenseFeatures", None, c=columns), tf_keras, ()) is None


MINE = """
import tf_keras
open('executed', 'w').close()
@tf_keras.saving.register_keras_serializable("mine")
class Shifted(tf_keras.layers.Layer):
    def call(self, x):
        return x + 1
@tf_keras.saving.register_keras_serializable("mine")
class Net(tf_keras.Model):
    pass
class Free(tf_keras.layers.Layer):
    pass
"""


def test_layers_of_the_imports_are_loaded_and_no_others(
    here: Path, request: pytest.FixtureRequest
) -> None:
    Path("my_layers.py").write_text(MINE)
    import my_layers

    request.addfinalizer(lambda: sys.modules.pop("my_layers", None))
    vec = tf_keras.Input((6,), name="vec")
    x = my_layers.Shifted(name="shifted")(vec)
    my_layers.Net(vec, tf_keras.layers.Dense(2, name="head")(x)).save("model.keras")
    model = load_model(ModelSpec(path="model.keras", imports=("my_layers",)), None)
    assert isinstance(model.form.model, my_layers.Net)
    assert isinstance(model.form.model.get_layer("shifted"), my_layers.Shifted)
    free = layer("Free", "my_layers")
    assert find_fault(free, tf_keras, ("my_layers",)) is None
    assert find_fault(free, tf_keras, ("my_layer",)) is not None
    registry = tf_keras.saving.get_custom_objects()
    del registry["mine>Shifted"], registry["mine>Net"], sys.modules["my_layers"]
    Path("executed").unlink()
    with pytest.raises(ConfigError, match=r"is of class my_layers\.Net.*list the mod"):
        load_model(ModelSpec(path="model.keras"), None)
    assert not Path("executed").exists()


def test_a_lambda_may_not_call_functions_of_the_imports(here: Path) -> None:
    """It calls them with any arguments."""
    called = lambda_of(__name__, "small")
    assert "calls" in str(find_fault(called, tf_keras, (__name__,)))
    activation = layer("Dense", activation=function(__name__, "small"))
    assert find_fault(activation, tf_keras, (__name__,)) is None


def test_a_directory_of_keras_is_no_saved_model_of_keras_2(here: Path) -> None:
    """It would be loaded with operations that nobody has looked at."""
    keras.saving.save_model(small(keras), "model", zipped=False)
    Path("model/metadata.json").write_text('{"keras_version": "2.15.0"}')
    Path("model/saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    form = load_model(ModelSpec(path="model"), None).form
    assert type(form.model).__module__.startswith("keras.")


def test_trust_lets_a_stored_function_run(here: Path) -> None:
    vec = tf_keras.Input((6,), name="vec")
    doubled = tf_keras.layers.Lambda(lambda x: x * 2, name="head")(vec)
    tf_keras.Model(vec, doubled).save("model.h5")
    with pytest.raises(ConfigError, match="'head' is a Lambda layer that holds"):
        load_model(ModelSpec(path="model.h5"), None)
    form = load_model(ModelSpec(path="model.h5", trusted=True), None).form
    assert np.all(form.model(np.ones((1, 6))) == 2)


def test_a_version_stored_as_bytes_is_read(here: Path) -> None:
    """As h5py did until 2020."""
    operations().save("model.h5")
    with h5py.File("model.h5", "r+") as file:
        for name in ("keras_version", "model_config"):
            text = file.attrs[name]
            file.attrs[name] = np.bytes_(text)
    assert load_model(ModelSpec(path="model.h5"), None).form.model.get_layer("head")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":', "[]", "1" * 5000])
def test_a_description_that_nobody_can_read_is_no_model(text: str, here: Path) -> None:
    with zipfile.ZipFile("model.keras", "w") as archive:
        archive.writestr("config.json", text)
    with pytest.raises(ConfigError, match=r"got 'model\.keras'"):
        load_model(ModelSpec(path="model.keras"), None)


@pytest.mark.parametrize(
    ("symbol", "pure"),
    [
        ("math.add", True),
        ("__operators__.getitem", True),
        ("compat.v1.transpose", True),
        ("keras.backend.mean", True),
        ("keras.activations.relu", True),
        ("keras.backend.set_value", False),
        ("compat.v1.compat.v1.transpose", False),
        ("data.Dataset", False),
        ("", False),
    ],
)
def test_functions_of_tensorflow_are_pure_by_name(symbol: str, pure: bool) -> None:
    assert is_pure_function(symbol) == pure


def test_all_pure_functions_exist() -> None:
    from tensorflow.python.util import tf_export

    from transforms.models import pure_functions

    for name in pure_functions._NAMES:
        places = (name, f"compat.v1.{name}")
        assert any(tf_export.get_symbol_from_name(place) for place in places), name
