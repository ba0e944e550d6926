"""Turn read features into model inputs: the table of preprocessing steps.

A step is a function from the features of a batch, `{name: tensor [batch, ...]}`, or of
one example, `{name: tensor [...]}`, to new features. It runs in a tf.data graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from transforms.lookup import ConfigError, bind, nearest, resolve
from transforms.sources import Feature
from transforms.spec import StepSpec

Features = dict[str, Any]
ResizeMethod = Literal[
    "bilinear",
    "bicubic",
    "nearest",
    "area",
    "lanczos3",
    "lanczos5",
    "gaussian",
    "mitchellcubic",
]


_JPEG = b"\xff\xd8"


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready to run.

    Attributes:
      function: from features to features.
      batched: whether the function sees a batch; if not, one example.
      reads: the features it works on; None: possibly any.
    """

    function: Callable[[Features], Features]
    batched: bool
    reads: frozenset[str] | None


def decode_image(image: Any, *, channels: int = 0, max_pixels: int = 1 << 28) -> Any:
    """Decode JPEG, PNG, GIF (first frame), BMP or WebP to uint8 `[h, w, c]`.

    Args:
      image: one encoded image, string `[]`.
      channels: 1 grey, 3 RGB, 4 RGBA; 0 takes what the file has, which differs between
        files and so seldom fits a model. Grey is the luma that `tf.image` computes.
      max_pixels: an image that claims to have more makes its row a bad row before
        anything is decoded: a few bytes can claim to be gigabytes.
    """
    import tensorflow as tf

    def checked(size: tuple[Any, Any]) -> Any:
        height, width = size
        what = ["image has more pixels than max_pixels", height, width, max_pixels]
        small = tf.raw_ops.Assert(condition=height * width <= max_pixels, data=what)
        with tf.control_dependencies([small]):
            return tf.identity(image)

    def jpeg() -> Any:
        data = checked(_jpeg_size(image))
        if channels == 4:
            return _with_channels(tf.io.decode_jpeg(data, 3), 4)
        return tf.io.decode_jpeg(data, channels)

    def other() -> Any:
        data = checked(_other_size(image))
        return tf.cond(
            _starts(image, b"\x89PNG"),
            lambda: tf.io.decode_png(data, channels),
            lambda: _with_channels(
                tf.io.decode_image(data, expand_animations=False), channels
            ),
        )

    decoded = tf.cond(_starts(image, _JPEG), jpeg, other)
    decoded.set_shape([None, None, channels or None])
    return decoded


def _jpeg_size(image: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    shape = tf.image.extract_jpeg_shape(image, tf.int32)
    height, width, _ = tf.unstack(tf.cast(shape, tf.int64))
    return height, width


def _other_size(image: Any) -> tuple[Any, Any]:
    """Read the size in Python.

    As operations of a graph it would cost JPEG images more than their own: those of a
    branch not taken are passed over one by one.
    """
    import tensorflow as tf

    def size(data: Any) -> np.ndarray:  # bytes in a graph, an array outside of one
        data = data if isinstance(data, bytes) else data.item()
        return np.array(image_size(data), np.int64)

    height, width = tf.unstack(
        tf.ensure_shape(tf.numpy_function(size, [image], tf.int64), [2])
    )
    return height, width


def image_size(data: bytes) -> tuple[int, int]:
    """Read height and width out of the header of a PNG, GIF, BMP or WebP image.

    The places are those of the formats' specifications; WebP has three kinds of header.
    What is none of them has size 0, 0: decoding says what is wrong with it.
    """

    def number(
        start: int, size: int, order: Literal["little", "big"] = "little"
    ) -> int:
        return int.from_bytes(data[start : start + size], order)

    if data[:4] == b"\x89PNG":
        return number(20, 4, "big"), number(16, 4, "big")
    if data[:4] == b"GIF8":
        return number(8, 2), number(6, 2)
    if data[:2] == b"BM":  # rows count from the top where the height is negative
        return min(number(22, 4), 2**32 - number(22, 4)), number(18, 4)
    if data[:4] == b"RIFF" and data[12:16] == b"VP8 ":
        return number(28, 2) % 2**14, number(26, 2) % 2**14
    if data[:4] == b"RIFF" and data[12:16] == b"VP8L":
        return number(21, 4) // 2**14 % 2**14 + 1, number(21, 4) % 2**14 + 1
    if data[:4] == b"RIFF" and data[12:16] == b"VP8X":
        return number(27, 3) + 1, number(24, 3) + 1
    return 0, 0


def resize(
    image: Any,
    *,
    size: tuple[int, int],
    method: ResizeMethod = "bilinear",
    antialias: bool = False,
    fit: Literal["stretch", "crop", "pad"] = "stretch",
) -> Any:
    """Resize `[h, w, c]` to float32 `[*size, c]`.

    Args:
      image: one image.
      size: height and width in pixels.
      method: as `tf.image.resize` names it.
      antialias: whether to smooth where the image becomes smaller; PyTorch's and PIL's
        resizing does, TensorFlow's and Keras's does not.
      fit: what becomes of the aspect ratio. `stretch` does not keep it; `crop` keeps
        it and cuts off what is too much, the same on both sides; `pad` keeps it and
        fills up with zeros. As `keras.layers.Resizing` does both.
    """
    import tensorflow as tf

    if fit != "stretch":
        whole = tf.shape(image)[:2]
        # What each side would be if the other stayed, as Keras rounds it.
        product = tf.cast(whole[::-1] * tf.constant(size), tf.float32)
        turned = tf.cast(product / tf.cast(size[::-1], tf.float32), tf.int32)
        if fit == "crop":
            cut = tf.minimum(whole, turned)
            start = (whole - cut) // 2
            image = tf.slice(image, [*tf.unstack(start), 0], [*tf.unstack(cut), -1])
        else:
            margin = tf.maximum(turned - whole, 0) // 2
            margins = tf.stack([margin, margin], 1)
            image = tf.pad(image, tf.concat([margins, [[0, 0]]], 0))
    resized = tf.image.resize(image, size, method=method, antialias=antialias)
    return tf.cast(resized, tf.float32)


def center_crop(image: Any, *, size: tuple[int, int]) -> Any:
    """Cut the middle out of `[h, w, c]`: `[*size, c]`.

    An image that is smaller than that makes its row a bad row.

    Args:
      image: one image.
      size: height and width in pixels.
    """
    import tensorflow as tf

    start = (tf.shape(image)[:2] - tf.constant(size)) // 2
    fits = tf.debugging.Assert(
        tf.reduce_all(start >= 0),
        ["image is smaller than its crop", tf.shape(image)],
    )
    with tf.control_dependencies([fits]):
        return tf.slice(image, [start[0], start[1], 0], [*size, -1])


def decode_raw(data: Any, *, dtype: str, shape: tuple[int, ...]) -> Any:
    """Decode little-endian bytes: string `[batch]` to `[batch, *shape]`.

    Args:
      data: one string an example, of exactly the bytes that `shape` needs.
      dtype: type of the values, such as `uint8`.
      shape: of one example.
    """
    import tensorflow as tf

    values = tf.io.decode_raw(data, tf.as_dtype(dtype))
    return tf.reshape(values, [tf.shape(data)[0], *shape])


def reshape(values: Any, *, shape: tuple[int, ...]) -> Any:
    """Reshape `[batch, ...]` to `[batch, *shape]`; one length may be -1."""
    import tensorflow as tf

    return tf.reshape(values, [tf.shape(values)[0], *shape])


def rescale(values: Any, *, scale: float, offset: float = 0.0) -> Any:
    """Compute `values * scale + offset` in float32."""
    import tensorflow as tf

    scaled = tf.cast(values, tf.float32) * scale
    return scaled + offset if offset else scaled


def cast(values: Any, *, dtype: str) -> Any:
    """Convert to another type, such as `float32`."""
    import tensorflow as tf

    return tf.cast(values, tf.as_dtype(dtype))


def standardize(
    values: Any,
    *,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
) -> Any:
    """Compute `(values - mean) / std` in float32.

    Args:
      values: `[batch, ...]`.
      mean: one number, or one for each channel (the last axis). Without `mean` and
        `std` each example gets mean 0 and deviation 1, as
        `tf.image.per_image_standardization` does it.
      std: likewise.
    """
    import tensorflow as tf

    values = tf.cast(values, tf.float32)
    if (mean is None) != (std is None):
        raise ConfigError("step standardize needs both mean and std, or none of them")
    if mean is not None:
        return (values - tf.constant(mean)) / tf.constant(std)
    axes = list(range(1, values.shape.rank))
    count = tf.cast(tf.reduce_prod(tf.shape(values)[1:]), tf.float32)
    deviation = tf.math.reduce_std(values, axes, keepdims=True)
    middle = tf.reduce_mean(values, axes, keepdims=True)
    return (values - middle) / tf.maximum(deviation, tf.math.rsqrt(count))


def reverse_channels(values: Any) -> Any:
    """Turn RGB into BGR and back: the last axis of `[batch, ...]` in reverse."""
    return values[..., ::-1]


def transpose(values: Any, *, order: tuple[int, ...]) -> Any:
    """Order axes anew, such as `[2, 0, 1]` for channels first.

    Args:
      values: `[batch, ...]`.
      order: axes of one example, counted from 0.
    """
    import tensorflow as tf

    return tf.transpose(values, [0, *(axis + 1 for axis in order)])


def one_hot(values: Any, *, depth: int) -> Any:
    """Turn whole numbers `[batch, ...]` into float32 `[batch, ..., depth]`.

    A number below 0 or from `depth` on makes its row a bad row.

    Args:
      values: from 0 to below `depth`.
      depth: how many classes there are.
    """
    import tensorflow as tf

    inside = tf.debugging.Assert(
        tf.reduce_all((values >= 0) & (values < depth)),
        ["one_hot needs numbers from 0 to below depth", values],
    )
    with tf.control_dependencies([inside]):
        return tf.one_hot(values, depth)


def keras_application(values: Any, *, name: str) -> Any:
    """Preprocess images `[batch, h, w, 3]`, RGB from 0 to 255, for a well-known model.

    Args:
      values: pixels.
      name: module of `keras.applications` whose `preprocess_input` it is, such as
        `resnet50` or `mobilenet_v2`.
    """
    import keras
    import tensorflow as tf

    module = getattr(keras.applications, name, None)
    function = getattr(module, "preprocess_input", None)
    if function is None:
        known = [
            one
            for one in dir(keras.applications)
            if hasattr(getattr(keras.applications, one), "preprocess_input")
        ]
        raise ConfigError(
            f"step keras_application must name a module of keras.applications, got"
            f" {name!r}{nearest(name, known)} (known: {', '.join(known)})"
        )
    return function(tf.cast(values, tf.float32), data_format="channels_last")


def lower(text: Any) -> Any:
    """Turn UTF-8 text `[batch, ...]` into lower case."""
    import tensorflow as tf

    return tf.strings.lower(text, encoding="utf-8")


def strip(text: Any) -> Any:
    """Cut white space off both ends of text `[batch, ...]`."""
    import tensorflow as tf

    return tf.strings.strip(text)


def pad(
    features: Features,
    feature: str,
    *,
    lengths: tuple[int, ...],
    value: float | str = 0,
    truncate: Literal["start", "end"] | None = None,
    at: Literal["start", "end"] = "end",
    mask: str | None = None,
) -> Features:
    """Fill the first axis of an example up to the least of some lengths that holds it.

    One length makes all rows alike. With several, rows of one length are computed
    together, so their number is that of the shapes that the model sees, and what comes
    out for a row still depends on that row alone.

    Args:
      features: of one example.
      feature: `[length, ...]`.
      lengths: to fill up to.
      value: to fill with.
      truncate: which end of a row is cut off that is longer than all lengths; without
        it that is a bad row.
      at: which end is filled up.
      mask: name of a new feature, bool `[length]`, true where the row's own values are.
    """
    import tensorflow as tf

    values, longest = features[feature], max(lengths)
    if values.dtype == tf.string and value == 0:
        value = ""
    if truncate:
        kept = slice(None, longest) if truncate == "end" else slice(-longest, None)
        values = values[kept]
    count = tf.shape(values)[0]
    fits = tf.debugging.Assert(
        count <= longest, ["pad: the row is longer than all lengths", count, longest]
    )
    with tf.control_dependencies([fits]):
        known = tf.constant(sorted(lengths))
        missing = tf.reduce_min(tf.boolean_mask(known, known >= count)) - count
    margin = [missing, 0] if at == "start" else [0, missing]
    shape = [longest if len(lengths) == 1 else None]

    def filled(what: Any, value: Any) -> Any:
        margins = [margin, *([0, 0] for _ in what.shape[1:])]
        made = tf.pad(what, margins, constant_values=tf.cast(value, what.dtype))
        return tf.ensure_shape(made, [*shape, *what.shape[1:]])

    made = {feature: filled(values, value)}
    if mask:
        own = tf.ones([count], tf.int32)
        made[mask] = tf.cast(filled(own, 0), tf.bool)
    return {**features, **made}


def stack(features: Features, feature: str, *, of: tuple[str, ...]) -> Features:
    """Make one feature of several of the same shape: float32 `[batch, ..., len(of)]`.

    Args:
      features: of a batch.
      feature: name of the new one.
      of: what it is made of, in order.
    """
    import tensorflow as tf

    parts = [tf.cast(features[name], tf.float32) for name in of]
    return {**features, feature: tf.stack(parts, -1)}


EXAMPLE_STEPS: dict[str, Callable[..., Any]] = {
    "center_crop": center_crop,
    "decode_image": decode_image,
    "pad": pad,
    "resize": resize,
}
BATCH_STEPS: dict[str, Callable[..., Any]] = {
    "cast": cast,
    "decode_raw": decode_raw,
    "keras_application": keras_application,
    "lower": lower,
    "one_hot": one_hot,
    "rescale": rescale,
    "reshape": reshape,
    "reverse_channels": reverse_channels,
    "stack": stack,
    "standardize": standardize,
    "strip": strip,
    "transpose": transpose,
}
PREPROCESSORS = EXAMPLE_STEPS | BATCH_STEPS
_OF_ALL_FEATURES = ("pad", "stack")  # they make other features than the one they take


def make_steps(specs: Sequence[StepSpec]) -> list[Step]:
    """Make the steps that a config lists.

    Raises:
      ConfigError: an unknown step, or options that it does not take.
    """
    return [_step(spec, f"source.preprocess[{i}]") for i, spec in enumerate(specs)]


def split_steps(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Split into what runs example by example and what runs on batches.

    Everything up to the last step that sees one example runs example by example, and so
    do the built-in steps right behind it: one image is in the cache, a batch is not
    (benchmarks/decode.py).
    """
    cut = max((i + 1 for i, step in enumerate(steps) if not step.batched), default=0)
    while 0 < cut < len(steps) and steps[cut].reads is not None:
        cut += 1
    return list(steps[:cut]), list(steps[cut:])


def trace_steps(
    steps: Sequence[Step], features: Mapping[str, Feature]
) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Tell what the steps make of an example, without running them.

    Returns:
      `{feature: (shape without batch, TensorFlow dtype)}`.

    Raises:
      ConfigError: a step does not fit what it gets.
    """
    import tensorflow as tf

    spec = {
        name: tf.TensorSpec(feature.shape, feature.tensor_dtype)
        for name, feature in features.items()
    }

    @tf.autograph.experimental.do_not_convert
    def body(example: Features) -> Features:
        return apply_to_example(steps, example)

    try:
        made = tf.function(body).get_concrete_function(spec).structured_outputs
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"source.preprocess must fit the features, it fails with"
            f" {type(error).__name__}: {error}"
        ) from error
    return {
        name: (
            tuple(value.shape.as_list()) if value.shape.rank is not None else (None,),
            value.dtype.name,
        )
        for name, value in made.items()
    }


def needed_features(
    steps: Sequence[Step], features: Mapping[str, Feature], used: Iterable[str]
) -> dict[str, Feature]:
    """Choose what must be read: what is used in the end, and what steps work on.

    A user's step may look at anything, so with one of those nothing is left out.
    """
    wanted = set(used)
    for step in steps:
        if step.reads is None:
            return dict(features)
        wanted |= step.reads
    return {name: feature for name, feature in features.items() if name in wanted}


def apply_to_example(steps: Sequence[Step], features: Features) -> Features:
    """Run steps on one example; a batched step sees a batch of one."""
    import tensorflow as tf

    for step in steps:
        if step.batched:
            one = {name: tf.expand_dims(value, 0) for name, value in features.items()}
            many = step.function(one)
            features = {name: tf.squeeze(value, 0) for name, value in many.items()}
        else:
            features = step.function(features)
    return features


def apply_to_batch(steps: Sequence[Step], features: Features) -> Features:
    """Run batched steps on a batch."""
    for step in steps:
        features = step.function(features)
    return features


def _step(spec: StepSpec, where: str) -> Step:
    function = resolve(spec.step, PREPROCESSORS, f"{where}.step")
    options = spec.options
    if ":" in spec.step:
        checked = bind(functools.partial(function, {}), options, where)
        return Step(_traced(function, checked), spec.batched, None)
    if spec.batched:
        raise ConfigError(
            f"{where}.batched is for functions of your own, not for {spec.step!r}"
        )
    feature = options.pop("feature", None)
    if not isinstance(feature, str):
        raise ConfigError(
            f"{where}.feature is required: the name of the feature to {spec.step}"
        )
    makes_more = spec.step in _OF_ALL_FEATURES
    taken: tuple[Any, ...] = ({}, feature) if makes_more else (None,)
    checked = bind(functools.partial(function, *taken), options, where)
    reads = frozenset(checked.get("of", [feature]))

    def on_features(features: Features) -> Features:
        for name in reads:
            if name not in features:
                raise ConfigError(
                    f"{where}.{'of' if 'of' in checked else 'feature'} must name a"
                    f" feature, got {name!r}{nearest(name, features)} (known:"
                    f" {', '.join(sorted(features))})"
                )
        if makes_more:
            return dict(function(features, feature, **checked))
        return {**features, feature: function(features[feature], **checked)}

    return Step(on_features, spec.step in BATCH_STEPS, reads)


def _starts(text: Any, head: bytes) -> Any:
    import tensorflow as tf

    return tf.strings.substr(text, 0, len(head)) == head


def _with_channels(image: Any, channels: int) -> Any:
    """Convert `[h, w, c]` between grey, RGB and RGBA; alpha is cut off, or opaque."""
    import tensorflow as tf

    if not channels:
        return image
    colors = image[..., :3]
    if channels == 1:
        grey = tf.shape(image)[-1] < 3
        return tf.cond(
            grey, lambda: image[..., :1], lambda: tf.image.rgb_to_grayscale(colors)
        )
    few = tf.shape(image)[-1] < 3
    colors = tf.cond(few, lambda: tf.repeat(image[..., :1], 3, -1), lambda: colors)
    if channels == 3:
        return colors
    opaque = tf.fill(tf.shape(colors[..., :1]), tf.constant(255, tf.uint8))
    has_alpha = tf.shape(image)[-1] == 4
    return tf.concat(
        [colors, tf.cond(has_alpha, lambda: image[..., 3:4], lambda: opaque)], -1
    )


def _traced(function: Any, options: dict[str, Any]) -> Callable[[Features], Features]:
    """Make a user's function a graph function of its own, where autograph applies."""
    import tensorflow as tf

    graph_function = tf.function(functools.partial(function, **options))
    return lambda features: dict(graph_function(features))
