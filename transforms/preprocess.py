"""Turn read features into model inputs: the table of preprocessing steps.

A step is a function from the features of a batch, `{name: tensor [batch, ...]}`, or of
one example, `{name: tensor [...]}`, to new features. It runs in a tf.data graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready to run.

    Attributes:
      function: from features to features.
      batched: whether the function sees a batch; if not, one example.
      feature: the one feature it reads and replaces; None: possibly any.
    """

    function: Callable[[Features], Features]
    batched: bool
    feature: str | None


def decode_image(image: Any, *, channels: int = 0) -> Any:
    """Decode JPEG, PNG, GIF (first frame) or BMP: string `[]` to uint8 `[h, w, c]`.

    Args:
      image: one encoded image.
      channels: 1 grey, 3 RGB, 4 RGBA; 0 takes what the file has, which differs between
        files and so seldom fits a model.
    """
    import tensorflow as tf

    decoded = tf.io.decode_image(image, channels=channels, expand_animations=False)
    decoded.set_shape([None, None, channels or None])
    return decoded


def resize(
    image: Any, *, size: tuple[int, int], method: ResizeMethod = "bilinear"
) -> Any:
    """Resize `[h, w, c]` to float32 `[*size, c]`, aspect ratio not kept.

    Args:
      image: one image.
      size: height and width in pixels.
      method: as `tf.image.resize` names it.
    """
    import tensorflow as tf

    return tf.cast(tf.image.resize(image, size, method=method), tf.float32)


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

    return tf.cast(values, tf.float32) * scale + offset


def cast(values: Any, *, dtype: str) -> Any:
    """Convert to another type, such as `float32`."""
    import tensorflow as tf

    return tf.cast(values, tf.as_dtype(dtype))


EXAMPLE_STEPS: dict[str, Callable[..., Any]] = {
    "decode_image": decode_image,
    "resize": resize,
}
BATCH_STEPS: dict[str, Callable[..., Any]] = {
    "cast": cast,
    "decode_raw": decode_raw,
    "rescale": rescale,
    "reshape": reshape,
}
PREPROCESSORS = EXAMPLE_STEPS | BATCH_STEPS


def make_steps(specs: Sequence[StepSpec]) -> list[Step]:
    """Make the steps that a config lists.

    Raises:
      ConfigError: an unknown step, or options that it does not take.
    """
    return [_step(spec, f"source.preprocess[{i}]") for i, spec in enumerate(specs)]


def split_steps(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Split into what must run example by example and what can run on batches.

    Everything up to the last step that sees one example runs example by example.
    """
    last = max((i for i, step in enumerate(steps) if not step.batched), default=-1)
    return list(steps[: last + 1]), list(steps[last + 1 :])


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
    if any(step.feature is None for step in steps):
        return dict(features)
    wanted = {*used, *(step.feature for step in steps)}
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
    checked = bind(functools.partial(function, None), options, where)

    def on_one_feature(features: Features) -> Features:
        if feature not in features:
            raise ConfigError(
                f"{where}.feature must name a feature, got {feature!r}"
                f"{nearest(feature, features)} (known: {', '.join(sorted(features))})"
            )
        return {**features, feature: function(features[feature], **checked)}

    return Step(on_one_feature, spec.step in BATCH_STEPS, feature)


def _traced(function: Any, options: dict[str, Any]) -> Callable[[Features], Features]:
    """Make a user's function a graph function of its own, where autograph applies."""
    import tensorflow as tf

    graph_function = tf.function(functools.partial(function, **options))
    return lambda features: dict(graph_function(features))
