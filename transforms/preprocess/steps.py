"""Turn `source.preprocess` into steps: the table of steps, and how they run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transforms.config import StepSpec
from transforms.dtypes import Feature, tensor_specs
from transforms.lookup import ConfigError, bind, nearest, resolve
from transforms.preprocess.arrays import decode_npy
from transforms.preprocess.images import center_crop, decode_image, resize
from transforms.preprocess.tensors import (
    Features,
    cast,
    decode_raw,
    fill,
    keras_application,
    lower,
    one_hot,
    pad,
    rescale,
    reshape,
    reverse_channels,
    stack,
    standardize,
    strip,
    transpose,
)


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is ready to run.

    Attributes:
      function: turns features into features, `{name: tensor}` both times.
      batched: whether the function takes a batch; if False, one example.
      reads: names of the features that the function needs; None if it may need any.
      fill: what it puts in place of nulls; None if it has no say in them.
    """

    function: Callable[[Features], Features]
    batched: bool
    reads: frozenset[str] | None
    fill: int | float | str | None = None


EXAMPLE_STEPS: dict[str, Callable[..., Any]] = {
    "center_crop": center_crop,
    "decode_image": decode_image,
    "decode_npy": decode_npy,
    "pad": pad,
    "resize": resize,
}
BATCH_STEPS: dict[str, Callable[..., Any]] = {
    "cast": cast,
    "decode_raw": decode_raw,
    "fill": fill,
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
_OF_ALL_FEATURES = ("cast", "pad", "stack")
"""Steps that take all features, to make others than the one that they are for, or to
name it."""


def make_steps(specs: Sequence[StepSpec]) -> list[Step]:
    """Make the steps that a config lists.

    Raises:
      ConfigError: a step is unknown, or does not take its options.
    """
    return [_step(spec, f"source.preprocess[{i}]") for i, spec in enumerate(specs)]


def split_steps(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Split steps into those that run on single examples and those that run on batches.

    All steps up to the last one that takes single examples run on single examples, and
    so do the built-in steps right after it: one image fits into the processor's cache,
    a batch does not (benchmarks/decode.py).
    """
    cut = max((i + 1 for i, step in enumerate(steps) if not step.batched), default=0)
    while 0 < cut < len(steps) and steps[cut].reads is not None:
        cut += 1
    return list(steps[:cut]), list(steps[cut:])


def trace_steps(
    steps: Sequence[Step], features: Mapping[str, Feature]
) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Tell which features the steps make of an example, without running them.

    Args:
      steps: the steps, in order.
      features: the features that are read.

    Returns:
      `{feature: (shape without batch, TensorFlow dtype)}`.

    Raises:
      ConfigError: a step does not fit the features that it gets.
    """
    import tensorflow as tf

    # A feature that a step uses is planned as not nullable, so it has no flag of nulls.
    seen = {
        name: replace(feature, nullable=False) for name, feature in features.items()
    }
    specs = tensor_specs(seen)

    @tf.autograph.experimental.do_not_convert
    def body(example: Features) -> Features:
        return apply_to_example(steps, example)

    try:
        made = tf.function(body).get_concrete_function(specs).structured_outputs
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
    """Choose the features that must be read.

    Args:
      steps: the steps; one of the user's may need any feature, so that all are read.
      features: the features that the source has.
      used: names of the features that the model and the table take.
    """
    wanted = set(used)
    for step in steps:
        if step.reads is None:
            return dict(features)
        wanted |= step.reads
    return {name: feature for name, feature in features.items() if name in wanted}


def fills(steps: Sequence[Step]) -> dict[str, int | float | str]:
    """Give what the reader puts in place of nulls, by feature.

    It does so for the features that a step fills before any other step reads them.
    """
    found: dict[str, int | float | str] = {}
    seen: set[str] = set()
    for step in steps:
        if step.reads is None:
            break
        if step.fill is not None:
            found |= dict.fromkeys(step.reads - seen, step.fill)
        seen |= step.reads
    return found


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
    takes_all = spec.step in _OF_ALL_FEATURES
    taken: tuple[Any, ...] = ({}, feature) if takes_all else (None,)
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
        if takes_all:
            return dict(function(features, feature, **checked))
        return {**features, feature: function(features[feature], **checked)}

    value = checked["value"] if spec.step == "fill" else None
    return Step(on_features, spec.step in BATCH_STEPS, reads, value)


def _traced(function: Any, options: dict[str, Any]) -> Callable[[Features], Features]:
    """Make a user's function a tf.function, so that autograph converts its `if`s."""
    import tensorflow as tf

    graph_function = tf.function(functools.partial(function, **options))
    return lambda features: dict(graph_function(features))
