"""Models, steps and readers that tests name in their configs."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import keras
import numpy as np
import tensorflow as tf

from transforms.dtypes import Feature, is_null_name
from transforms.shard import Piece, position
from transforms.sources.parquet import Parquet
from transforms.sources.source import File

if TYPE_CHECKING:
    from elsewhere import NotImported


@keras.saving.register_keras_serializable("tests")
class Intermediates(keras.layers.Layer):
    """Returns a nested structure of what it computes."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.first = keras.layers.Dense(units, activation="relu", name="first")
        self.second = keras.layers.Dense(3, name="second")

    def build(self, input_shape: Any) -> None:
        self.first.build(input_shape)
        self.second.build((None, self.units))
        super().build(input_shape)

    def call(self, inputs: Any) -> dict[str, Any]:
        first = self.first(inputs)
        second = self.second(first)
        return {
            "output": second,
            "activation_1": first,
            "nested": {"pair": (first, second)},
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class RaisesWhenRun(keras.layers.Layer):
    """Fails on execution, not on tracing."""

    def call(self, inputs: Any) -> Any:
        return tf.debugging.check_numerics(inputs + np.nan, "this layer was run")


@keras.saving.register_keras_serializable("tests")
class RefusesNegative(keras.layers.Layer):
    """Fails for a batch that holds a negative first value."""

    def call(self, inputs: Any) -> Any:
        sound = tf.debugging.Assert(tf.reduce_all(inputs[:, 0] >= 0), ["negative"])
        with tf.control_dependencies([sound]):
            return tf.identity(inputs)


def dict_model() -> keras.Model:
    """vec [6] -> layers that return dicts; 10 classes."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    scaled = keras.layers.Dense(5, activation="tanh", name="stem")(vec)
    made = Intermediates(name="features")(scaled)
    head = keras.layers.Dense(2, activation="softmax", name="head")
    return keras.Model(vec, head(made["output"]), name="dict_model")


def other_dict_model() -> keras.Model:
    """The same as `dict_model`, with other weights."""
    model = dict_model()
    for variable in model.trainable_variables:
        variable.assign(variable + 0.5)
    return model


def heavy_model() -> keras.Model:
    """vec [6] -> much arithmetic for few values."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    x = keras.layers.Dense(4000, activation="relu", name="wide")(vec)
    x = keras.layers.Dense(4000, activation="relu")(x)
    return keras.Model(vec, keras.layers.Dense(2, name="head")(x))


def plain_number() -> keras.Model:
    """x [] -> twice x."""
    x = keras.Input((), name="x")
    return keras.Model(x, keras.layers.Rescaling(2.0, name="head")(x))


def half_picky_model() -> keras.Model:
    """vec [6] -> a head that is NaN for negative values, a stem that is not."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    stem = keras.layers.Dense(3, name="stem")(vec)
    head = keras.layers.Dense(2, name="head")(keras.ops.log(vec))
    return keras.Model(vec, [head, stem])


def picky_model() -> keras.Model:
    """vec [6] -> a model that fails for rows with a negative first value."""
    vec = keras.Input((6,), name="vec")
    checked = RefusesNegative(name="checked")(vec)
    return keras.Model(vec, keras.layers.Dense(2, name="head")(checked))


def image_model() -> keras.Model:
    """image [8, 8, 1] -> convolution and pooling."""
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    return keras.Model(image, keras.layers.Dense(2, name="head")(x))


class Subclassed(keras.Model):
    """Declares no inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = keras.layers.Dense(4, name="stem")
        self.head = keras.layers.Dense(2, name="head")

    def call(self, inputs: Any) -> dict[str, Any]:
        stem = self.stem(inputs)
        return {"stem": stem, "logits": self.head(stem)}


def no_model() -> keras.Model:
    """Fails."""
    raise KeyError("no model")


def unseeded_model() -> keras.Model:
    """Comes out differently each time."""
    seed = int.from_bytes(os.urandom(4))
    vec = keras.Input((6,), name="vec")
    kernel = keras.initializers.RandomNormal(seed=seed)
    return keras.Model(vec, keras.layers.Dense(2, kernel_initializer=kernel)(vec))


def double(features: Mapping[str, Any], *, factor: float = 2.0) -> dict[str, Any]:
    """Works per example and per batch."""
    return {**features, "vec": features["vec"] * factor}


def lazily_typed(
    features: dict[str, NotImported], *, factor: float, other: NotImported = None
) -> dict[str, Any]:
    """Has annotations that only a type checker can resolve."""
    return {**features, "vec": features["vec"] * factor}


def center(features: Mapping[str, Any]) -> dict[str, Any]:
    """Subtracts the mean of the batch: per example that is the vector itself."""
    return {**features, "vec": features["vec"] - tf.reduce_mean(features["vec"], 0)}


def refuse_thirteen(features: Mapping[str, Any]) -> dict[str, Any]:
    """Fails for the row with id 13."""
    sound = tf.debugging.Assert(features["id"] != 13, ["thirteen"])
    with tf.control_dependencies([sound]):
        return {**features, "vec": tf.identity(features["vec"])}


def refuse_text(features: Mapping[str, Any], *, text: str) -> dict[str, Any]:
    """Fails for rows whose text matches a pattern, and repeats it."""
    found = tf.strings.regex_full_match(features["text"], text)
    sound = tf.debugging.Assert(~found, [features["text"]])
    with tf.control_dependencies([sound]):
        return {**features, "vec": tf.identity(features["vec"])}


def shorten(features: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps three values."""
    return {**features, "vec": features["vec"][:3]}


def with_uid(features: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a key of its own."""
    return {
        **features,
        "uid": tf.strings.join(["u", tf.strings.as_string(features["id"])]),
    }


def refuse_all(features: Mapping[str, Any]) -> dict[str, Any]:
    """Fails for every row."""
    sound = tf.debugging.Assert(features["id"] < 0, ["no row will do"])
    with tf.control_dependencies([sound]):
        return {**features, "vec": tf.identity(features["vec"])}


def die_half_way(features: Mapping[str, Any]) -> dict[str, Any]:
    """Kills the process, or waits for ever, at id 60 if the environment asks for it."""

    def check(number: np.ndarray) -> np.ndarray:
        wanted = os.environ.get("TEST_SIGNAL")
        if number == 60 and wanted:
            if wanted == "KILL":
                os.kill(os.getpid(), signal.SIGKILL)
            Path(os.environ["TEST_READY"]).touch()
            threading.Event().wait()
        return number

    number = tf.numpy_function(check, [features["id"]], tf.int64)
    with tf.control_dependencies([number]):
        return {**features, "vec": tf.identity(features["vec"])}


def sleep(features: Mapping[str, Any], *, seconds: float = 0.02) -> dict[str, Any]:
    """Waits at each example for something outside."""

    def wait(vec: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return vec

    vec = tf.numpy_function(wait, [features["vec"]], tf.float32, stateful=False)
    return {**features, "vec": tf.ensure_shape(vec, features["vec"].shape)}


def scaled_sum(values: Any, *, scale: float = 1.0) -> Any:
    """A user's reduction."""
    return tf.reduce_sum(values, -1, keepdims=True) * scale


def normal(values: Any) -> Any:
    """A user's reduction that minds its type."""
    return values * tf.ones([], tf.float32)


def drop_rows(values: Any) -> Any:
    """A reduction that breaks the rule."""
    return values[1:]


class CountingReader:
    """A user's reader: one file for each entry of `sizes`, rows count up."""

    default_key: ClassVar[str | None] = None

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def files(self) -> Sequence[File]:
        return [
            File(str(i), f"f{i}", size, "1", (size,))
            for i, size in enumerate(self.sizes)
        ]

    def describe(self) -> Mapping[str, Feature]:
        return {"id": Feature("int64"), "vec": Feature("float32", (6,))}

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        first = np.cumsum([0, *self.sizes])
        ids = np.concatenate(
            [
                first[int(p.file)] + np.arange(p.start, p.start + (p.rows or 0))
                for p in pieces
            ]
        ).astype(np.int64)
        vec = (ids[:, None] + np.arange(6)).astype(np.float32)
        example = {"id": ids, "vec": vec}
        chosen = {name: example[name] for name in features}
        at = [position(i, r) for i, p in enumerate(pieces) for r in range(p.rows or 0)]
        rows = tf.data.Dataset.from_tensor_slices((np.array(at, np.int64), chosen))
        return rows if batch_rows is None else rows.batch(batch_rows)


SEEN_SHAPES: set[tuple[int, ...]] = set()


@keras.saving.register_keras_serializable("tests")
class Watched(keras.layers.Layer):
    """Remembers the shapes that it is run on."""

    def call(self, inputs: Any) -> Any:
        def see(shape: np.ndarray) -> np.ndarray:
            SEEN_SHAPES.add(tuple(shape.tolist()))
            return shape

        seen = tf.numpy_function(see, [tf.shape(inputs)], tf.int32)
        with tf.control_dependencies([seen]):
            return tf.identity(inputs)


CALLS: Counter[str] = Counter()


@keras.saving.register_keras_serializable("tests")
class Counted(keras.layers.Layer):
    """Counts the batches that it is run on; is left out where nothing needs it."""

    def call(self, inputs: Any) -> Any:
        def count(values: np.ndarray) -> np.ndarray:
            CALLS[self.name.removeprefix("counted_")] += 1
            return values

        seen = tf.numpy_function(count, [inputs], inputs.dtype, stateful=False)
        return tf.ensure_shape(seen, inputs.shape)


def counting_model() -> keras.Model:
    """vec [6] -> stem -> left, right; each counts its calls."""
    keras.utils.set_random_seed(7)

    def layer(name: str, inputs: Any) -> Any:
        return keras.layers.Dense(4, name=name)(Counted(name=f"counted_{name}")(inputs))

    vec = keras.Input((6,), name="vec")
    stem = layer("stem", vec)
    return keras.Model(vec, [layer("left", stem), layer("right", stem)])


def token_model() -> keras.Model:
    """tokens [length], mask [length] -> a vector a token, and their masked mean."""
    keras.utils.set_random_seed(7)
    tokens = keras.Input((None,), name="tokens", dtype="int32")
    mask = keras.Input((None,), name="mask", dtype="bool")
    embedded = keras.layers.Embedding(50, 4, name="embed")(Watched()(tokens))
    hidden = keras.layers.Dense(3, activation="tanh", name="hidden")(embedded)
    pooled = keras.layers.GlobalAveragePooling1D(name="pooled")(hidden, mask=mask)
    return keras.Model({"tokens": tokens, "mask": mask}, pooled)


def word_model() -> keras.Model:
    """words, text [length] -> a vector a word."""
    keras.utils.set_random_seed(7)
    words = keras.Input((None,), name="words", dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["ab", "cd"], name="lookup")
    embedded = keras.layers.Embedding(3, 2, name="embed")(lookup(words))
    return keras.Model(words, embedded)


class Elsewhere(fsspec.AbstractFileSystem):
    """Files that TensorFlow cannot open: `elsewhere:///path` is the local `/path`.

    Not memory://, whose open files share one position between threads.
    """

    protocol = "elsewhere"
    _local = fsspec.filesystem("file")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return self._local.ls(self._strip_protocol(path), detail, **options)

    def info(self, path: str, **options: Any) -> Any:
        return self._local.info(self._strip_protocol(path), **options)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._local.makedirs(self._strip_protocol(path), exist_ok)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return open(self._strip_protocol(path), mode)


fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)


class Sluggish(Elsewhere):
    """Files behind a slow line: `sluggish:///path` is the local `/path`."""

    protocol = "sluggish"
    seconds = 0.3
    puts: ClassVar[list[str]] = []

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(self.seconds)
        return super()._open(path, mode, **options)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        time.sleep(self.seconds)
        target = Path(str(self._strip_protocol(rpath)))
        self.puts.append(target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lpath, target)

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> None:
        shutil.rmtree(self._strip_protocol(path))


fsspec.register_implementation("sluggish", Sluggish, clobber=True)


class VectorReader:
    """A user's reader of an .npy file, as if it were several files."""

    def __init__(self, path: str, sizes: list[int]) -> None:
        self.path = path
        self.starts = np.cumsum([0, *sizes])

    default_key: ClassVar[str | None] = None

    def files(self) -> Sequence[File]:
        bounds = itertools.pairwise(self.starts.tolist())
        return [
            File(str(i), f"f{i}", 0, "1", (stop - start,))
            for i, (start, stop) in enumerate(bounds)
        ]

    def describe(self) -> Mapping[str, Feature]:
        return {"id": Feature("int64"), "vec": Feature("float32", (6,))}

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        at, ids = [], []
        for index, piece in enumerate(pieces):
            for row in range(piece.rows or 0):
                at.append(position(index, row))
                ids.append(self.starts[int(piece.file)] + piece.start + row)
        with fsspec.open(self.path, "rb") as stream:
            vec = np.load(io.BytesIO(stream.read()))[ids]
        example = {"id": np.array(ids, np.int64), "vec": vec}
        chosen = {name: example[name] for name in features}
        rows = tf.data.Dataset.from_tensor_slices((np.array(at, np.int64), chosen))
        return rows if batch_rows is None else rows.batch(batch_rows)


def no_tensor(values: Any) -> Any:
    """A reduction that returns a number."""
    return 1.0


class Pairing(keras.layers.Layer):
    """Returns a tuple."""

    def call(self, inputs: Any) -> tuple[Any, Any]:
        return inputs, inputs + 1


def _sequential(layer: Any, *start: Any) -> keras.Model:
    return keras.Sequential([*start, layer, keras.layers.Dense(2, name="head")])


def dict_sequential_built() -> keras.Model:
    """A dict-returning layer before another, as articles show it."""
    return _sequential(Intermediates(name="features"), keras.Input((6,), name="vec"))


def dict_sequential_unbuilt() -> keras.Model:
    """The same without an input."""
    return _sequential(Intermediates(name="features"))


def tuple_sequential_built() -> keras.Model:
    """A tuple-returning layer before another, as articles show it."""
    return _sequential(Pairing(name="features"), keras.Input((6,), name="vec"))


def tuple_sequential_unbuilt() -> keras.Model:
    """The same without an input."""
    return _sequential(Pairing(name="features"))


def pair_sequential_unbuilt() -> keras.Model:
    """One whose layers can follow each other: the second takes a tuple."""
    return keras.Sequential([Pairing(name="pair"), keras.layers.Add(name="sum")])


def no_function() -> Any:
    """Returns nothing that can be called."""
    return 3


def no_parameter() -> Any:
    """Returns a function of nothing."""
    return lambda: 1


def die_of_thirteen(features: Mapping[str, Any]) -> dict[str, Any]:
    """Ends the process at the row with id 13, as a fault in native code would."""

    def look(number: np.ndarray) -> np.ndarray:
        if number == 13:
            os.kill(os.getpid(), signal.SIGSEGV)
            threading.Event().wait()
        return number

    number = tf.numpy_function(look, [features["id"]], tf.int64)
    with tf.control_dependencies([number]):
        return {**features, "vec": tf.identity(features["vec"])}


@keras.saving.register_keras_serializable("tests")
class Deadly(keras.layers.Layer):
    """Ends the process for a row whose first value is 13."""

    def call(self, inputs: Any) -> Any:
        def look(values: np.ndarray) -> np.ndarray:
            if (values[:, 0] == 13).any():
                os.kill(os.getpid(), signal.SIGSEGV)
                threading.Event().wait()
            return values

        return tf.ensure_shape(tf.numpy_function(look, [inputs], tf.float32), [None, 6])


def deadly_model() -> keras.Model:
    """vec [6] -> a model that ends the process for one row."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    return keras.Model(vec, keras.layers.Dense(2, name="head")(Deadly()(vec)))


HUNGRY_ROWS: list[int] = []


@keras.saving.register_keras_serializable("tests")
class Hungry(keras.layers.Layer):
    """Takes 64 TiB for batches of more than four rows, next to nothing for others."""

    def call(self, inputs: Any) -> Any:
        def see(rows: np.ndarray) -> np.ndarray:
            HUNGRY_ROWS.append(int(rows))
            return rows

        rows = tf.numpy_function(see, [tf.shape(inputs)[0]], tf.int32)
        large = tf.cast(tf.minimum(rows // 5, 1), tf.int64)
        size = tf.bitwise.left_shift(tf.constant(1, tf.int64), large * 44)
        taken = tf.tile(inputs[:1, 0], tf.reshape(size, [1]))
        return inputs + 0 * taken[-1]


def hungry_model() -> keras.Model:
    """vec [6] -> a model that runs out of memory with more than four rows."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    return keras.Model(vec, keras.layers.Dense(3, name="head")(Hungry()(vec)))


def sated_model() -> keras.Model:
    """The same without the hunger."""
    keras.utils.set_random_seed(7)
    vec = keras.Input((6,), name="vec")
    return keras.Model(vec, keras.layers.Dense(3, name="head")(vec))


def starved_model() -> keras.Model:
    """Runs out of memory with any row."""
    vec = keras.Input((6,), name="vec")

    def starve(values: Any) -> Any:
        size = tf.cast(tf.shape(values)[0], tf.int64) * (1 << 44)
        return values + 0 * tf.tile(values[:1, 0], tf.reshape(size, [1]))[-1]

    return keras.Model(vec, keras.layers.Lambda(starve, name="head")(vec))


def wide_model() -> keras.Model:
    """vec [1024] -> as wide a vector."""
    vec = keras.Input((1024,), name="vec")
    return keras.Model(vec, keras.layers.Rescaling(2.0, name="head")(vec))


def plain_model() -> keras.Model:
    """vec [6] -> the same."""
    vec = keras.Input((6,), name="vec")
    return keras.Model(vec, keras.layers.Rescaling(1.0, name="head")(vec))


def twelve_model() -> keras.Model:
    """vec [12] -> the same."""
    vec = keras.Input((12,), name="vec")
    return keras.Model(vec, keras.layers.Rescaling(1.0, name="head")(vec))


def root_from_five(values: Any) -> Any:
    """A reduction that gives NaN for rows whose first value is less than five."""
    return tf.sqrt(values[:, :1] - 5)


def talkative(features: Mapping[str, Any]) -> dict[str, Any]:
    """Fails for the row with id 13, in words that hold credentials."""

    def look(number: np.ndarray) -> np.ndarray:
        if number == 13:
            secret = os.environ.get("MY_STORE_SECRET", "")
            uri = "https://host/x?X-Amz-Signature=sig-in-the-query"
            raise ValueError(f"cannot open {uri} with {secret}")
        return number

    number = tf.numpy_function(look, [features["id"]], tf.int64)
    with tf.control_dependencies([number]):
        return {**features, "vec": tf.identity(features["vec"])}


def indiscreet() -> keras.Model:
    """Fails in words that hold credentials."""
    secret = os.environ.get("MY_STORE_SECRET", "")
    raise OSError(f"no model at https://host/m?sig=sig-in-the-query with {secret}")


class SignedReader(CountingReader):
    """Names its files by signed addresses."""

    def __init__(self, sizes: list[int], path: str | None = None) -> None:
        super().__init__(sizes)

    def files(self) -> Sequence[File]:
        return [File("https://host/x?sig=abcdef", "x", 1, "1", (3,))]


def wait_until(
    holds: Callable[[], Any], say: Callable[[], str] = str, seconds: float = 120
) -> None:
    """Wait for a condition; `say` tells what stands if it does not come about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, say()
        time.sleep(0.05)


class LaggingReader(CountingReader):
    """Keeps back the first file until `others` shards are committed in `table`."""

    def __init__(self, sizes: list[int], table: str, others: int) -> None:
        super().__init__(sizes)
        self.commits = Path(table, "_featuretap", "commits")
        self.others = others

    def read(self, pieces: Sequence[Piece], *args: Any) -> tf.data.Dataset:
        if pieces[0].file == "0":
            wait_until(lambda: len([*self.commits.glob("*")]) >= self.others)
        return super().read(pieces, *args)


class UnluckyReader(CountingReader):
    """Fails as the environment asks, in the first attempts at file 1."""

    def read(self, pieces: Sequence[Piece], *args: Any) -> tf.data.Dataset:
        if pieces[0].file == "1":
            tries = Path(os.environ["TEST_TRIES"])
            with tries.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if len(tries.read_text().split()) <= int(os.environ["TEST_FAILURES"]):
                how = os.environ["TEST_FAILURE"]
                if how == "storage":
                    raise OSError("the store is busy")
                if how == "exit":
                    sys.exit("a library gave up")
                if how == "forked" and os.fork() == 0:
                    time.sleep(60)  # holds whatever its parent had open
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(pieces, *args)


def _is_worker() -> bool:
    """One of featuretap's own; those of pytest-xdist are started by -c, too."""
    return sys.argv[0] == "-c" and "pytest" not in sys.modules


def fatal_model() -> keras.Model:
    """Ends the process that builds it, unless that is a launcher."""
    if _is_worker():
        os._exit(3)
    return dict_model()


def single_model() -> keras.Model:
    """Refuses to be built by a second worker process."""
    if _is_worker():
        with Path(os.environ["TEST_PLACES"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        if Path(os.environ["TEST_PLACES"]).read_text().split()[0] != str(os.getpid()):
            raise RuntimeError("somebody else has the only place")
    return dict_model()


class GatedReader(CountingReader):
    """Lets nobody read, once `free` shards of `table` are committed, without `gate`.

    Whichever shards those are: engines take them in an order of their own.
    """

    def __init__(
        self, sizes: list[int], gate: str, table: str, free: int, seconds: float = 0.0
    ) -> None:
        super().__init__(sizes)
        self.gate, self.free, self.seconds = Path(gate), free, seconds
        self.commits = Path(table, "_featuretap", "commits")

    def read(self, pieces: Sequence[Piece], *args: Any) -> tf.data.Dataset:
        if len([*self.commits.glob("*")]) >= self.free:
            wait_until(self.gate.exists, seconds=300)
        time.sleep(self.seconds)
        return super().read(pieces, *args)


class KeyedParquet(Parquet):
    """Parquet files whose rows are known by their id."""

    default_key = "id"  # type: ignore[assignment]


class ForgetfulParquet(Parquet):
    """Parquet files, without the flags that say where nulls are."""

    def read(self, *args: Any) -> tf.data.Dataset:
        """Leave out the flags."""
        return (
            super()
            .read(*args)
            .map(
                lambda at, example: (
                    at,
                    {n: v for n, v in example.items() if not is_null_name(n)},
                )
            )
        )


class SlowReader(CountingReader):
    """Takes `seconds` for each batch, until the file `go` is there."""

    def __init__(self, sizes: list[int], go: str, seconds: float) -> None:
        super().__init__(sizes)
        self.go, self.seconds = Path(go), seconds

    def read(self, pieces: Sequence[Piece], *args: Any) -> tf.data.Dataset:
        def linger(at: np.ndarray) -> np.ndarray:
            if not self.go.exists():
                time.sleep(self.seconds)
            return at

        def slowly(at: Any, features: Any) -> Any:
            late = tf.numpy_function(linger, [at], tf.int64)
            return tf.ensure_shape(late, at.shape), features

        return super().read(pieces, *args).map(slowly)
