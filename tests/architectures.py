"""Small models of many kinds, all over `vec` [6] or `text`."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


class Pair(NamedTuple):
    """What a layer may return."""

    left: Any
    right: Any


@keras.saving.register_keras_serializable("tests")
class Everything(layers.Layer):
    """Returns tuples, lists, dicts, namedtuples, nothing, and types of all kinds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, name="dense")

    def call(self, inputs: Any) -> dict[str, Any]:
        made = self.dense(inputs)
        return {
            "out": made,
            "pair": Pair(made * 2, [made * 3, {"deep": made * 4}]),
            "whole": tf.cast(inputs * 100, tf.int32),
            "flag": inputs > 0.5,
            "text": tf.strings.as_string(tf.cast(inputs[:, :2] * 10, tf.int32)),
            "scalar": tf.reduce_sum(inputs, 1),
        }


class WithoutSome(keras.Model):
    """Subclassed; returns nested dicts with None leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Everything(name="block")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs: Any) -> dict[str, Any]:
        made = self.block(inputs)
        logits = self.head(made["pair"].left)
        return {"logits": logits, "aux": {"none": None, "pair": (made["out"], None)}}


class Words(keras.Model):
    """Rows of differing length: ragged, in one axis and with vectors inside."""

    def __init__(self) -> None:
        super().__init__()
        self.split = Split(name="split")

    def call(self, inputs: Any) -> Any:
        words = self.split(inputs)
        hashed = words.with_values(tf.strings.to_hash_bucket_fast(words.values, 50))
        vectors = words.with_values(
            tf.one_hot(hashed.values, 4) + tf.cast(hashed.values, tf.float32)[:, None]
        )
        return {
            "hashed": hashed,
            "vectors": vectors,
            "mean": tf.reduce_mean(vectors, 1),
        }


class Split(layers.Layer):
    """Text `[batch]` to words, ragged."""

    def call(self, inputs: Any) -> Any:
        return tf.strings.split(tf.strings.join([inputs, " and more"]))


class Cut(layers.Layer):
    """A dense tensor whose length is only known when running."""

    def call(self, inputs: Any) -> Any:
        length = tf.cast(tf.numpy_function(lambda: np.int64(4), [], tf.int64), tf.int32)
        length.set_shape([])
        return tf.stack([inputs[:, :length]] * 2, 2)


def _vec() -> Any:
    keras.utils.set_random_seed(3)
    return keras.Input((6,), name="vec")


def _steps(vec: Any) -> Any:
    return layers.Reshape((3, 2), name="steps")(vec)


def everything() -> keras.Model:
    """Every kind of structure and type."""
    vec = _vec()
    made = Everything(name="every")(vec)
    return keras.Model(vec, layers.Dense(2, name="head")(made["pair"].right[1]["deep"]))


def without_some() -> keras.Model:
    """Subclassed, None leaves."""
    return WithoutSome()


def operations() -> keras.Model:
    """keras.ops nodes that are no layers, several outputs."""
    vec = _vec()
    scaled = ops.add(ops.multiply(vec, 2.0), 1.0)
    left, right = ops.split(ops.tanh(scaled), 2, axis=1)
    return keras.Model(vec, {"left": left[:, :2], "right": right})


def shared() -> keras.Model:
    """A layer called three times, a nested model called twice, an unnamed layer."""
    vec = _vec()
    inside = keras.Input((6,))
    nested = keras.Model(inside, layers.Dense(6, activation="tanh")(inside), name="net")
    again = layers.Dense(6, name="again")
    once = again(nested(vec))
    twice = again(nested(once))
    return keras.Model(vec, layers.Add(name="sum")([once, again(twice)]))


def several_inputs() -> keras.Model:
    """A dict of inputs."""
    keras.utils.set_random_seed(3)
    one, other = keras.Input((6,), name="one"), keras.Input((6,), name="other")
    joined = layers.Concatenate(name="joined")([one, layers.Rescaling(2.0)(other)])
    return keras.Model(
        {"one": one, "other": other}, [joined, layers.Dense(2, name="head")(joined)]
    )


def lstm() -> keras.Model:
    """LSTM over steps."""
    vec = _vec()
    sequence = layers.LSTM(4, return_sequences=True, name="lstm")(_steps(vec))
    return keras.Model(vec, layers.LSTM(3, return_state=True, name="last")(sequence))


def gru() -> keras.Model:
    """GRU, both ways, and a layer at every step."""
    vec = _vec()
    steps = layers.TimeDistributed(layers.Dense(4, name="each"), name="td")(_steps(vec))
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(
        steps
    )
    return keras.Model(vec, layers.GlobalMaxPooling1D(name="pool")(both))


def attention() -> keras.Model:
    """Attention, with its scores."""
    vec = _vec()
    tokens = layers.Dense(8, name="embed")(_steps(vec))
    attended, scores = layers.MultiHeadAttention(2, 4, name="attend")(
        tokens, tokens, return_attention_scores=True
    )
    normed = layers.LayerNormalization(name="norm")(attended + tokens)
    return keras.Model(vec, [normed, scores])


def training_matters() -> keras.Model:
    """Batch normalization with moved averages, dropout, noise."""
    vec = _vec()
    x = layers.BatchNormalization(name="bn")(vec)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.GaussianNoise(0.5, name="noise")(x)
    model = keras.Model(vec, layers.Dense(3, name="head")(x))
    bn = model.get_layer("bn")
    bn.moving_mean.assign(np.linspace(-1, 1, 6))
    bn.moving_variance.assign(np.linspace(0.5, 2, 6))
    return model


def mixed() -> keras.Model:
    """Computes in bfloat16 by its own policy."""
    vec = _vec()
    x = layers.Dense(8, dtype="mixed_bfloat16", activation="relu", name="half")(vec)
    return keras.Model(vec, layers.Dense(3, dtype="mixed_bfloat16", name="head")(x))


def quantized() -> keras.Model:
    """Dense layers in int8."""
    vec = _vec()
    x = layers.Dense(8, activation="relu", name="hidden")(vec)
    model = keras.Model(vec, layers.Dense(3, name="head")(x))
    model.quantize("int8", filters=["hidden", "head"])
    return model


def lookup() -> keras.Model:
    """Text in: lookup and embedding."""
    keras.utils.set_random_seed(3)
    text = keras.Input((), dtype="string", name="text")
    words = [f"row {i}" for i in range(40)]
    index = layers.StringLookup(vocabulary=words, name="index")(text)
    return keras.Model(text, layers.Embedding(41, 5, name="embed")(index))


def vectorized() -> keras.Model:
    """Text in: words, padded to one length."""
    keras.utils.set_random_seed(3)
    text = keras.Input((1,), dtype="string", name="text")
    words = layers.TextVectorization(
        vocabulary=["row", "1", "2", "3"], output_sequence_length=4, name="words"
    )(text)
    x = layers.Embedding(8, 5, mask_zero=True, name="embed")(words)
    return keras.Model(text, layers.LSTM(3, name="lstm")(x))


def words() -> keras.Model:
    """Rows of differing length."""
    return Words()


def cut() -> keras.Model:
    """A length that only running tells."""
    vec = _vec()
    return keras.Model(vec, Cut(name="cut")(vec))


def stateful() -> keras.Model:
    """Keeps its state from batch to batch."""
    keras.utils.set_random_seed(3)
    steps = keras.Input((3, 2), batch_size=4, name="vec")
    return keras.Model(steps, layers.GRU(3, stateful=True, name="gru")(steps))


class Odd(layers.Layer):
    """Returns what no column can hold."""

    def call(self, inputs: Any) -> Any:
        counts = tf.cast(inputs * 3, tf.int32)
        rows = tf.ragged.range(counts[:, 0])
        return {
            "complex": tf.cast(inputs, tf.complex64),
            "sparse": tf.sparse.from_dense(inputs),
            "table": tf.ones([6, 6]),
            "deep": tf.ragged.stack([rows, rows], 1),
            "unknown": tf.py_function(lambda x: x, [inputs], tf.float32),
            "masked": tf.boolean_mask(inputs, inputs[:, 0] > 0.5),
            "branch": tf.cond(
                tf.reduce_sum(inputs) > 0, lambda: inputs + 1, lambda: inputs
            ),
            "number": 3,
            "fine": inputs * 1,
        }


class WithOddities(keras.Model):
    """What must be refused, and one thing that need not."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = Odd(name="odd")

    def call(self, inputs: Any) -> Any:
        return self.odd(inputs)["fine"]


def odd() -> keras.Model:
    """Returns what no column can hold."""
    return WithOddities()


class Twins(layers.Layer):
    """Two sublayers of one name, called differently often."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = layers.Dense(3, name="a")
        self.other = layers.Dense(3, name="a")
        self.fine = layers.Dense(3, name="b")

    def call(self, inputs: Any) -> Any:
        both = self.one(inputs) + self.one(inputs * 2)
        return self.fine(both + 100 * self.other(inputs))


def twins() -> keras.Model:
    """A layer whose sublayers cannot be told apart by name."""
    vec = _vec()
    return keras.Model(vec, Twins(name="c")(vec))


def masked() -> keras.Model:
    """An LSTM with a mask: its first round's leftover reaches into the loop."""
    vec = _vec()
    steps = layers.Masking(name="mask")(_steps(vec))
    return keras.Model(vec, layers.LSTM(4, name="lstm")(steps), name="net")


def fixed_batch() -> keras.Model:
    """Of a fixed batch size that another axis shares."""
    keras.utils.set_random_seed(3)
    vec = keras.Input(batch_shape=(3, 6), name="vec")
    steps = layers.Reshape((3, 2), name="steps")(vec)
    turned = ops.transpose(steps, (1, 0, 2))
    return keras.Model(vec, layers.Dense(2, name="head")(turned))


class Sink(layers.Layer):
    """One huge value beside others, and the same with the others negated."""

    def call(self, inputs: Any) -> dict[str, Any]:
        huge = tf.cast(tf.fill([tf.shape(inputs)[0], 1], 5000.0), inputs.dtype)
        return {
            "a": tf.concat([huge, inputs], 1),
            "b": tf.concat([huge, -inputs], 1),
        }


def sink() -> keras.Model:
    """One value outweighs all others."""
    vec = _vec()
    return keras.Model(vec, Sink(name="sink")(vec)["a"])


def timed() -> keras.Model:
    """A layer that is called directly and by TimeDistributed."""
    vec = _vec()
    steps = _steps(vec)
    dense = layers.Dense(2, name="dense")
    spread = layers.TimeDistributed(dense, name="td")(steps)
    return keras.Model(vec, layers.Add(name="sum")([spread, dense(steps)]))


class Lazy(tf.Module):
    """Makes its variable when first called."""

    def __call__(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        if not hasattr(self, "w"):
            self.w = tf.Variable(tf.random.normal([6, 2]), name="w")
        return {"o": vec @ self.w}


def lazy() -> tf.Module:
    """A module without variables as yet."""
    return Lazy()


class Counter(tf.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function
    def __call__(self, vec: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"counted": vec + self.calls.assign_add(1.0), "plain": vec * 2.0}


def counter() -> tf.Module:
    """Changes as it runs."""
    return Counter()


def branching() -> Any:
    """A function with an `if` on a tensor, and a training flag that must be off."""

    def compute(vec: tf.Tensor, training: bool = True) -> tf.Tensor:
        if tf.reduce_sum(vec) > -1e9:
            vec = vec * 3.0
        return vec * 0.0 if training else vec

    return compute


def unusual() -> Any:
    """Computes what XLA has no operation for."""

    @tf.function(input_signature=[tf.TensorSpec([None, 6], name="vec")])
    def compute(vec: tf.Tensor) -> tf.Tensor:
        return tf.math.bessel_i0(vec)

    return compute


def optional_inputs() -> Any:
    """A function with an input that need not be given."""

    def compute(a: tf.Tensor, b: tf.Tensor | None = None) -> tf.Tensor:
        return a if b is None else a + 10.0 * b

    return compute


def doubled() -> Any:
    """A function like another in this module."""
    return lambda vec: vec * 2.0


def tripled() -> Any:
    """A function like another in this module."""
    return lambda vec: vec * 3.0


class TwoArguments(keras.Model):
    """Takes its inputs one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2, name="dense")

    def call(self, one: Any, other: Any) -> Any:
        return self.dense(one - 2 * other)


def two_arguments() -> keras.Model:
    """Takes its inputs one by one."""
    return TwoArguments()


class DictArgument(keras.Model):
    """Takes its inputs as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2, name="dense")

    def call(self, features: Any) -> Any:
        return self.dense(features["a"] - 2 * features["b"])


def dict_argument() -> keras.Model:
    """Takes its inputs as a dict."""
    return DictArgument()


def turned() -> Any:
    """Turns its fixed batch of 3 away from the front, in ways that hide it."""

    @tf.function(input_signature=[tf.TensorSpec([3, 3], name="vec")])
    def compute(vec: tf.Tensor) -> dict[str, tf.Tensor]:
        centred = vec - tf.reduce_mean(vec, 1, keepdims=True)
        return {
            "relu": tf.transpose(tf.nn.relu(vec - 1.0)),
            "normed": tf.transpose(tf.math.l2_normalize(centred, 1)),
            "log": tf.transpose(tf.math.log(vec)),
            "plain": tf.transpose(vec),
            "constant": tf.ones([3, 3]),
            "fine": vec * 2.0,
        }

    return compute


def partly_quantized() -> keras.Model:
    """One layer in int8, another of the same class in floats."""
    vec = _vec()
    x = layers.Dense(8, activation="relu", name="a")(vec)
    model = keras.Model(vec, layers.Dense(8, name="b")(x))
    model.get_layer("a").quantize("int8")
    return model


def echo() -> Any:
    """Gives back what it gets."""
    return lambda text: tf.identity(text)


class Positive(layers.Layer):
    """Wants positive numbers."""

    def call(self, inputs: Any) -> Any:
        return tf.debugging.check_numerics(tf.math.log(inputs), "positive")


def half_failing() -> keras.Model:
    """Of a fixed batch, and the last layer fails for most inputs."""
    keras.utils.set_random_seed(3)
    vec = keras.Input(batch_shape=(3, 6), name="vec")
    one = layers.Rescaling(2.0, name="one")(vec)
    two = layers.Rescaling(3.0, name="two")(one)
    return keras.Model(vec, Positive(name="bad")(two))
