"""What a SavedModel may do: computing, and nothing else unless it is trusted."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models import operations
from transforms.models.load import load_model
from transforms.models.saved_runs import unsafe_operations

VEC = tf.TensorSpec([None, 6], name="vec")
TEXT = tf.TensorSpec([None], tf.string, name="text")
FEATURES = {"vec": ((6,), "float32")}
v1 = tf.compat.v1


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("red\ngreen\nblue\n")
    return tmp_path


def stored(directory: str) -> Any:
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((Path(directory) / "saved_model.pb").read_bytes())
    return message


def save(function: Callable[..., Any], spec: Any = VEC, **parts: Any) -> None:
    module = tf.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    module.serve = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, "saved", signatures=module.serve)


def load(*, trusted: bool = False, path: str = "saved") -> Any:
    return load_model(ModelSpec(path=path, trusted=trusted), None)


# What people have, and must not be refused.


def keras_net(*body: Any, shape: tuple[int, ...], dtype: str = "float32") -> None:
    inputs = keras.Input(shape, dtype=dtype, name="x")
    value = inputs
    for layer in body:
        value = layer(value)
    keras.Model(inputs, value).export("saved", verbose=False)


def attention() -> None:
    inputs = keras.Input((4, 8), name="x")
    value = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    value = layers.LayerNormalization()(layers.Dropout(0.5)(value) + inputs)
    keras.Model(inputs, value).export("saved", verbose=False)


def normalized() -> None:
    norm = layers.Normalization()
    norm.adapt(np.random.rand(9, 6).astype("f4"))
    keras_net(norm, layers.Dense(2), shape=(6,))


def table_from_file() -> None:
    source = tf.lookup.TextFileInitializer(
        *("words.txt", tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
        *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
    )
    table = tf.lookup.StaticVocabularyTable(source, 2)
    save(lambda text: {"out": table.lookup(text)}, TEXT, table=table)


def table_saved_twice() -> None:
    table_from_file()
    again = tf.saved_model.load("saved")
    tf.saved_model.save(again, "again", signatures=again.signatures["serving_default"])
    shutil.rmtree("saved")
    Path("again").rename("saved")


def changing_table() -> None:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    table.insert(tf.constant(["red"]), tf.constant([1], tf.int64))
    save(lambda text: {"out": table.lookup(text)}, TEXT, table=table)


def labels_read_from_an_asset() -> None:
    asset = tf.saved_model.Asset("words.txt")

    def serve(vec: Any) -> Any:
        labels = tf.strings.split([tf.io.read_file(asset)], "\n").values
        return {"out": tf.gather(labels, tf.argmax(vec[:, :3], 1))}

    save(serve, asset=asset)


def decoded_images() -> None:
    def one(data: Any) -> Any:
        image = tf.io.decode_jpeg(data, channels=3)
        image = tf.image.resize(tf.image.adjust_contrast(image, 0.9), (8, 8))
        return tf.image.per_image_standardization(image)

    def serve(text: Any) -> Any:
        return {"out": tf.map_fn(one, text, fn_output_signature=tf.float32)}

    save(serve, TEXT)


def parsed_examples() -> None:
    features = {
        "a": tf.io.FixedLenFeature([2], tf.float32),
        "b": tf.io.VarLenFeature(tf.int64),
    }

    def serve(text: Any) -> Any:
        parsed = tf.io.parse_example(text, features)
        return {"out": parsed["a"], "b": tf.sparse.to_dense(parsed["b"])}

    save(serve, TEXT)


def ragged_words() -> None:
    def serve(text: Any) -> Any:
        words = tf.strings.split(text)
        return {"out": tf.cast(words.row_lengths(), tf.float32), "w": words.to_tensor()}

    save(serve, TEXT)


def loops_and_datasets() -> None:
    def serve(vec: Any) -> Any:
        total = tf.zeros([], tf.int64)
        for value in tf.data.Dataset.range(3).map(lambda i: i * 2).batch(2):
            total += tf.reduce_sum(value)
        for _ in tf.range(2):
            vec = tf.cond(tf.reduce_sum(vec) > 0, lambda v=vec: v * 2, lambda v=vec: v)
        tf.print("seen", tf.shape(vec))
        tf.debugging.assert_less(vec, 1e9)
        return {"out": vec + tf.cast(total, tf.float32) + tf.random.normal([6])}

    save(serve)


def reads_the_files_that_it_is_given() -> None:
    """Beside its signature, a function that nobody calls here."""
    module = tf.Module()
    module.serve = tf.function(lambda vec: {"out": vec + 1}, input_signature=[VEC])
    module.open = tf.function(
        tf.io.read_file, input_signature=[tf.TensorSpec([], tf.string)]
    )
    tf.saved_model.save(module, "saved", signatures=module.serve)


def version_1(
    serve: Callable[[Any], Any] = lambda vec: vec + v1.get_variable("w", [6]),
    main_op: Callable[[], Any] = v1.tables_initializer,
) -> None:
    """As TensorFlow 1 saves: a graph, an operation that initializes, and a saver."""
    with tf.Graph().as_default(), v1.Session() as session:
        vec = v1.placeholder(tf.float32, [None, 6], "vec")
        inputs, outputs = {"vec": vec}, {"out": serve(vec)}
        signature = v1.saved_model.predict_signature_def(inputs, outputs)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder("saved")
        builder.add_meta_graph_and_variables(
            *(session, ["serve"], {"serving_default": signature}),
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=main_op(),
        )
        builder.save()


def looked_up_in_version_1(vec: Any) -> Any:
    table = v1.lookup.StaticHashTable(
        v1.lookup.TextFileInitializer(
            *("words.txt", tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
        ),
        -1,
    )
    number = tf.cast(table.lookup(tf.constant(["blue"])), tf.float32)
    return vec + number


HARMLESS: dict[str, Callable[[], None]] = {
    "convolutions": lambda: keras_net(
        *(layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()),
        *(layers.MaxPool2D(), layers.Resizing(4, 4), layers.RandomFlip()),
        shape=(9, 9, 3),
    ),
    "LSTM": lambda: keras_net(
        layers.Masking(), layers.Bidirectional(layers.LSTM(3)), shape=(4, 2)
    ),
    "attention": attention,
    "normalization": normalized,
    "text": lambda: keras_net(
        layers.TextVectorization(vocabulary=["red", "green"]),
        *(layers.Embedding(9, 4), layers.GlobalAveragePooling1D()),
        **{"shape": (1,), "dtype": "string"},
    ),
    "words of a file": lambda: keras_net(
        layers.StringLookup(vocabulary="words.txt"), shape=(1,), dtype="string"
    ),
    "hashing": lambda: keras_net(layers.Hashing(5), shape=(1,), dtype="string"),
    "table from a file": table_from_file,
    "table, saved twice": table_saved_twice,
    "changing table": changing_table,
    "labels of an asset": labels_read_from_an_asset,
    "decoded images": decoded_images,
    "parsed examples": parsed_examples,
    "ragged words": ragged_words,
    "loops and datasets": loops_and_datasets,
    "reads given files": reads_the_files_that_it_is_given,
    "TensorFlow 1": version_1,
    "TensorFlow 1, no init": lambda: version_1(main_op=lambda: None),
    "TensorFlow 1, table": lambda: version_1(looked_up_in_version_1),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_models_that_only_compute_are_loaded(name: str) -> None:
    HARMLESS[name]()
    assert list(unsafe_operations(stored("saved"), None)) == []
    assert load().form.model.structured_outputs


# What strangers may try.


def write() -> Any:
    return tf.raw_ops.WriteFile(filename="escaped", contents="x")


def after(operation: Any, value: Any) -> Any:
    with tf.control_dependencies([operation]):
        return tf.identity(value)


def unused(vec: Any) -> Any:
    write()
    return {"out": vec + 1}


def in_a_loop(vec: Any) -> Any:
    for _ in tf.range(2):
        vec = after(write(), vec)
    return {"out": vec}


def in_a_branch(vec: Any) -> Any:
    yes = tf.reduce_sum(vec) > 1e9
    return {"out": tf.cond(yes, lambda: after(write(), vec), lambda: vec)}


def in_a_dataset(vec: Any) -> Any:
    rows = tf.data.Dataset.range(3).map(lambda i: after(write(), i))
    total = rows.reduce(tf.constant(0, tf.int64), lambda a, b: a + b)
    return {"out": vec + tf.cast(total, tf.float32)}


def cached(vec: Any) -> Any:
    rows = tf.data.Dataset.range(3).cache("escaped")
    total = rows.reduce(tf.constant(0, tf.int64), lambda a, b: a + b)
    return {"out": vec + tf.cast(total, tf.float32)}


def printed(vec: Any) -> Any:
    tf.print(vec, output_stream="file://escaped")
    return {"out": vec}


def saved(vec: Any) -> Any:
    tf.raw_ops.SaveV2(
        prefix="escaped", tensor_names=["a"], shape_and_slices=[""], tensors=[vec]
    )
    return {"out": vec}


def restored(vec: Any) -> Any:
    names = {"tensor_names": ["a"], "shape_and_slices": [""], "dtypes": [tf.float32]}
    return {"out": vec + tf.raw_ops.RestoreV2(prefix="escaped", **names)[0]}


def from_memory(vec: Any) -> Any:
    region = {"dtype": tf.float32, "shape": [6], "memory_region_name": "words.txt"}
    return {"out": vec + tf.raw_ops.ImmutableConst(**region)}


def described_by_a_file(vec: Any) -> Any:
    text = tf.raw_ops.EncodeProto(
        sizes=tf.ones([1, 1], tf.int32), values=[tf.ones([1, 1])], field_names=["a"],
        message_type="M", descriptor_source="words.txt",
    )  # fmt: skip
    return {"out": vec + tf.cast(tf.strings.length(text[0]), tf.float32)}


def reads_other_files(vec: Any) -> Any:
    return {"out": vec, "text": tf.fill([tf.shape(vec)[0]], tf.io.read_file("w"))}


def graph_as_value(vec: Any) -> Any:
    rows = tf.raw_ops.DatasetFromGraph(graph_def="")
    size = tf.raw_ops.DatasetCardinality(input_dataset=rows)
    return {"out": vec + tf.cast(size, tf.float32)}


UNSAFE = {
    "WriteFile": (unused, in_a_loop, in_a_branch, in_a_dataset),
    "DummyMemoryCache": (cached,),
    "PrintV2": (printed,),
    "SaveV2": (saved,),
    "RestoreV2 of a file that is none": (restored,),
    "ImmutableConst": (from_memory,),
    "EncodeProto": (described_by_a_file,),
    "ReadFile of a file that is none": (reads_other_files,),
    "DatasetFromGraph": (graph_as_value,),
}


@pytest.mark.parametrize(
    ("why", "serve"), [(why, serve) for why, all_ in UNSAFE.items() for serve in all_]
)
def test_a_signature_that_reaches_outside_is_refused(
    why: str, serve: Callable[..., Any]
) -> None:
    save(serve)
    with pytest.raises(ConfigError, match=rf"is a {why}.*set model\.trusted = true"):
        load()
    assert not [name for name in os.listdir() if name.startswith("escaped")]


class Resource(tf.saved_model.experimental.TrackableResource):
    """Writes a file when it is made, initialized, or thrown away."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self._when = when
        assert self.resource_handle is not None

    def _create_resource(self) -> Any:
        table = tf.raw_ops.HashTableV2(
            key_dtype=tf.string, value_dtype=tf.float32, shared_name="stowaway"
        )
        return after(write(), table) if self._when == "create" else table

    def _initialize(self) -> None:
        if self._when == "initialize":
            write()

    def _destroy_resource(self) -> None:
        if self._when == "destroy":
            write()


@pytest.mark.parametrize("when", ["create", "initialize", "destroy"])
def test_what_runs_as_a_model_is_loaded_is_refused(when: str) -> None:
    thing = Resource(when)

    def serve(vec: Any) -> Any:
        size = tf.raw_ops.LookupTableSizeV2(table_handle=thing.resource_handle)
        return {"out": vec + tf.cast(size, tf.float32)}

    save(serve, thing=thing)
    Path("escaped").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="is a WriteFile"):
        load()
    assert not Path("escaped").exists()


def edit(change: Callable[[Any], None]) -> None:
    """Change the message of the model, as no exporter would."""
    message = stored("saved")
    change(message.meta_graphs[0])
    Path("saved/saved_model.pb").write_bytes(message.SerializeToString())


def with_stowaway() -> None:
    """A model with a function that writes, and that nobody calls."""
    module = tf.Module()
    module.part = tf.Module()
    module.part.stowaway = tf.function(
        lambda: after(write(), tf.constant(1.0)), input_signature=[]
    )
    module.serve = tf.function(lambda vec: {"out": vec + 1}, input_signature=[VEC])
    tf.saved_model.save(module, "saved", signatures=module.serve)


def test_a_method_of_tensorflow_cannot_be_replaced() -> None:
    with_stowaway()
    load()

    def rename(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            for edge in node.children:
                if edge.local_name == "stowaway":
                    edge.local_name = "_restore_from_tensors"

    edit(rename)
    with pytest.raises(ConfigError, match="is a WriteFile"):
        load()


def test_a_function_that_restores_is_checked() -> None:
    with_stowaway()

    def restore(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        (edge,) = [e for n in nodes for e in n.children if e.local_name == "stowaway"]
        saveable = nodes[0].saveable_objects["x"]
        saveable.save_function = saveable.restore_function = edge.node_id

    edit(restore)
    with pytest.raises(ConfigError, match="is a WriteFile"):
        load()


def test_a_function_that_tensorflow_swaps_in_is_checked() -> None:
    with_stowaway()

    def swap(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            operations = {node.op for node in function.node_def}
            if not operations & {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}:
                function.attr["api_implements"].s = b"any"

    edit(swap)
    with pytest.raises(ConfigError, match="is a WriteFile"):
        load()


def test_constants_are_computed_while_loading_and_checked() -> None:
    Path("length.txt").write_text("3")

    def never(vec: Any) -> Any:
        read = tf.io.read_file("length.txt")
        return tf.reshape(vec, [tf.strings.to_number(read, tf.int32), -1])

    module = tf.Module()
    module.serve = tf.function(lambda vec: {"out": vec + 1}, input_signature=[VEC])
    module.never = tf.function(never, input_signature=[VEC])
    tf.saved_model.save(module, "saved", signatures=module.serve)
    with pytest.raises(ConfigError, match="is a ReadFile of a file that is none"):
        load()
    Path("length.txt").write_text("2")
    with pytest.raises(Exception, match="inconsistent"):  # TensorFlow has read it
        load(trusted=True)


def test_only_the_signature_that_is_asked_for_is_checked() -> None:
    module = tf.Module()
    module.serve = tf.function(lambda vec: {"out": vec + 1}, input_signature=[VEC])
    module.log = tf.function(unused, input_signature=[VEC])
    signatures = {"embed": module.serve, "log": module.log}
    tf.saved_model.save(module, "saved", signatures=signatures)
    load_model(ModelSpec(path="saved", signature="embed"), FEATURES)
    with pytest.raises(ConfigError, match="is a WriteFile"):
        load_model(ModelSpec(path="saved", signature="log"), FEATURES)


@pytest.mark.parametrize("where", ["init", "signature", "restore"])
def test_graphs_of_tensorflow_1_are_checked_too(where: str) -> None:
    def serve(vec: Any) -> Any:
        kept = v1.get_variable("w", [6])
        return after(write(), vec) + kept if where == "signature" else vec + kept

    version_1(serve, main_op=write if where == "init" else v1.tables_initializer)
    if where == "restore":
        edit(lambda graph: setattr(graph.saver_def, "filename_tensor_name", "w:0"))
    why = "RestoreV2 of a file that" if where == "restore" else "WriteFile"
    with pytest.raises(ConfigError, match=f"is a {why}"):
        load()
    assert not Path("escaped").exists()


def test_a_table_is_filled_from_files_of_the_model_only() -> None:
    version_1(looked_up_in_version_1)
    load()
    edit(lambda graph: graph.ClearField("asset_file_def"))
    edit(lambda graph: graph.collection_def.pop("saved_model_assets"))
    with pytest.raises(ConfigError, match="TextFileV2 of a file that is none of the"):
        load()


@pytest.mark.parametrize("name", ["../../words.txt", "/etc/passwd"])
def test_assets_lie_in_the_model(name: str) -> None:
    table_from_file()

    def move(graph: Any) -> None:
        graph.asset_file_def[0].filename = name

    edit(move)
    with pytest.raises(ConfigError, match=f"leads outside with 'assets/{name}'; copy"):
        load()


@pytest.mark.parametrize("name", ["assets/words.txt", "variables"])
def test_links_that_leave_the_model_are_refused(name: str) -> None:
    table_from_file()
    (Path("saved") / name).rename("elsewhere")
    (Path("saved") / name).symlink_to(Path("elsewhere").resolve())
    with pytest.raises(ConfigError, match=f"outside with '{name}'.*model.trusted"):
        load()
    load(trusted=True)


def test_a_linked_model_directory_and_links_in_it_are_followed() -> None:
    table_from_file()
    Path("saved/assets/words.txt").rename("saved/assets/w")
    Path("saved/assets/words.txt").symlink_to("w")
    Path("link").symlink_to("saved")
    load(path="link")


# The list itself, held against all that TensorFlow has.


def registered() -> list[Any]:
    buffer = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    message = op_def_pb2.OpList()
    message.ParseFromString(buffer)
    return list(message.op)


def allowed(name: str) -> bool:
    return operations.is_harmless(tf.compat.v1.NodeDef(op=name))


NAMED_ALIKE = {
    *("ShardedFilename", "ShardedFilespec"),  # only compose text
    *("AudioSummary", "AudioSummaryV2", "ImageSummary", "HistogramSummary"),
    *("MergeSummary", "ScalarSummary", "TensorSummary", "TensorSummaryV2"),
    *("TensorArrayWrite", "TensorArrayWriteV2", "TensorArrayWriteV3"),
    "Snapshot",  # a copy of a tensor
}
"""Operations that compute, with names as of some that do not."""


def test_no_operation_that_reaches_outside_is_allowed() -> None:
    outside = re.compile(
        r"File|Save[^r]|Restore|Record|Reader$|Write|Summary|Snapshot|Sql|LMDB|CSVData"
        r"|DataService|PyFunc|Rpc|Send|Recv|Remote|TextLine|Debug|Dump|Checkpoint|Cache"
    )
    wrong = {
        op.name
        for op in registered()
        if outside.search(op.name)
        and allowed(op.name)
        and not re.match("Xla|_|BoostedTrees", op.name)
    }
    assert wrong - NAMED_ALIKE == set()


def test_no_operation_that_takes_the_name_of_a_place_is_allowed() -> None:
    place = re.compile(r"file(name)?s?$|(^|_)path|address|uri|director|dir$|prefix$")
    taking = []
    for op in registered():
        texts = [attr for attr in op.attr if attr.type == "string"]
        if any(place.search(argument.name) for argument in [*op.input_arg, *texts]):
            taking.append(op.name)
    assert len(taking) > 30
    assert [name for name in taking if allowed(name)] == []


def test_each_allowed_operation_with_state_exists_and_few_are() -> None:
    with_state = [op.name for op in registered() if op.is_stateful]
    assert 150 < len([name for name in with_state if allowed(name)]) < 220
    assert allowed("MatMul")
    assert allowed("VarHandleOp")
    assert not allowed("NoSuchOperation")


def test_an_operation_of_another_package_is_named() -> None:
    save(lambda vec: {"out": tf.nn.relu(vec)})

    def rename(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                node.op = {"Relu": "SentencepieceOp"}.get(node.op, node.op)

    edit(rename)
    with pytest.raises(ConfigError, match="a SentencepieceOp, of a package that model"):
        load()


def test_without_the_check_a_model_writes_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(in_a_loop)
    monkeypatch.setattr("transforms.models.saved_runs.is_harmless", lambda _: True)
    loaded = load()
    loaded.form.model(vec=tf.zeros([1, 6]))
    assert Path("escaped").exists()


def test_another_output_of_an_assets_node_is_no_asset() -> None:
    """Loading feeds the path of an asset into one output of a node only."""

    def serve(vec: Any) -> Any:
        paths = v1.unstack(tf.constant(["words.txt", "/etc/passwd"]), name="paths")
        source = v1.lookup.TextFileInitializer(
            *(paths[1], tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
        )
        table = v1.lookup.StaticHashTable(source, -1)
        return vec + tf.cast(table.lookup(tf.constant(["blue"])), tf.float32)

    version_1(serve)

    def claim(graph: Any) -> None:
        graph.collection_def.pop("saved_model_assets", None)
        graph.ClearField("asset_file_def")
        asset = graph.asset_file_def.add(filename="words.txt")
        asset.tensor_info.name = "paths:0"

    edit(claim)
    with pytest.raises(ConfigError, match="TextFileV2 of a file that is none of the"):
        load()
