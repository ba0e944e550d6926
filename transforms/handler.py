"""Tap a model inside somebody else's Beam pipeline, through RunInference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic
from apache_beam.ml.inference.base import ModelHandler

from transforms.casts import fitting
from transforms.config import ModelSpec, TapSpec
from transforms.errors.failure import clean_message
from transforms.lookup import ConfigError, explain
from transforms.messages import shape_text
from transforms.models.inputs import Input, Shape
from transforms.models.load import load_model
from transforms.taps.compile import CompiledTaps, compile_taps
from transforms.taps.language import choose
from transforms.taps.survey import list_activations
from transforms.values import Values

Example = Mapping[str, Any]


class ActivationModelHandler(ModelHandler[Example, dict[str, Any], CompiledTaps]):
    """Compute chosen activations in a pipeline of your own.

    An element is an example, `{feature: array without batch}`, and gives
    `{column: array}`. With `with_no_batching()` an element is either a list of such
    examples, or `{feature: array [rows, ...]}`, which gives one `{column: array
    [rows, ...]}` (list arrays of Arrow where rows differ in length).

    There are no keys, no table, no quarantine and no resuming here, and elements
    between Beam's stages cost more than most models: to make a table, run featuretap.

    Args:
      model: the config's `[model]`, a `ModelSpec` or the same as a dict.
      taps: the config's `[[taps]]`, each a `TapSpec` or the same as a dict.
      features: what examples hold, `{name: (shape without batch, dtype)}`; taken from
        the model where it declares its inputs.
      **batching: as `ModelHandler` takes it; `max_batch_size` is `model.batch_rows`
        unless given.

    Raises:
      ConfigError: model or taps are no such sections.

    Example:
      >>> handler = ActivationModelHandler(
      ...     model={"path": "model.keras", "batch_rows": 64},
      ...     taps=[{"path": "encoder/*", "reduce": "mean(axis=1)"}],
      ... )
      >>> handler.batch_elements_kwargs()
      {'max_batch_size': 64}
    """

    def __init__(
        self,
        model: ModelSpec | Mapping[str, Any],
        taps: Sequence[TapSpec | Mapping[str, Any]],
        features: Mapping[str, tuple[Shape, str]] | None = None,
        **batching: Any,
    ) -> None:
        try:
            self._model = ModelSpec.model_validate(model)
            self._taps = [TapSpec.model_validate(tap) for tap in taps]
        except pydantic.ValidationError as error:
            raise ConfigError("; ".join(explain(error, "handler"))) from None
        self._features = features
        super().__init__(**{"max_batch_size": self._model.batch_rows, **batching})

    def load_model(self) -> CompiledTaps:
        """Load the model and compile the taps.

        Raises:
          ConfigError: the model cannot be had, or a tap does not fit it.
        """
        model = load_model(self._model, self._features)
        taps = choose(self._taps, list_activations(model))
        return compile_taps(model, taps, self._model.batch_rows)

    def run_inference(
        self,
        batch: Sequence[Example] | Example,
        model: CompiledTaps,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[dict[str, Any]]:
        """Compute columns.

        Args:
          batch: examples, or one mapping of features with a batch axis.
          model: what `load_model` gave.
          inference_args: must be empty.

        Returns:
          A dict for each example, or one for the mapping.

        Raises:
          ConfigError: an example lacks a feature that the model takes.
        """
        self.validate_inference_args(inference_args)
        names = [i.feature for i in model.inputs]
        if isinstance(batch, Mapping):
            _check(batch, names)
            return [_compute(model, {name: batch[name] for name in names})]
        if not batch:
            return []
        for example in batch:
            _check(example, names)
        columns = _compute(model, {n: [one[n] for one in batch] for n in names})
        return [
            {name: _row(values, index) for name, values in columns.items()}
            for index in range(len(batch))
        ]

    def get_num_bytes(self, batch: Sequence[Example] | Example) -> int:
        """Bytes of the features in a batch."""
        examples = [batch] if isinstance(batch, Mapping) else batch
        return sum(np.asarray(v).nbytes for one in examples for v in one.values())

    def get_metrics_namespace(self) -> str:
        """Namespace of RunInference's metrics."""
        return "featuretap"

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuse arguments: there are none."""
        if inference_args:
            raise ValueError(f"there are no inference_args, got {inference_args!r}")


def _check(example: Example, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in example]
    if missing:
        raise ConfigError(
            f"an example must hold the features {', '.join(names)}, one lacks"
            f" {', '.join(missing)} (it has {', '.join(example)})"
        )


def _compute(model: CompiledTaps, features: Mapping[str, Any]) -> dict[str, Values]:
    """Compute any number of rows but none."""
    tensors = {i.feature: _tensor(i, features[i.feature]) for i in model.inputs}
    return model(tensors)


def _tensor(wanted: Input, values: Any) -> Any:
    """Make a tensor `[rows, *shape]` of the wanted type, if that loses nothing."""
    import tensorflow as tf

    text = wanted.feature_dtype == "string"
    given = np.asarray(values, object if text else None)  # keeps zero bytes at the end
    if given.ndim != len(wanted.shape) + 1 or given.shape[1:] != wanted.shape:
        raise ConfigError(
            f"feature {wanted.feature!r} must have shape {shape_text(wanted.shape)}, an"
            f" example has {shape_text(given.shape[1:])}"
        )
    if not len(given):
        raise ConfigError("a batch must hold at least one row, got none")
    if text:
        return tf.constant(given)
    kind = np.dtype(tf.as_dtype(wanted.feature_dtype).as_numpy_dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        made = given.astype(kind)
    whole = kind.kind in "iu"
    if (whole and (made != given).any()) or given.dtype.kind in "OSU":
        raise ConfigError(
            f"feature {wanted.feature!r} must be {kind}, an example holds"
            f" {given.dtype} values that are not"
        )
    what = f"feature {wanted.feature!r}"
    try:
        fitting(given, wanted.feature_dtype, what)
        return fitting(made, wanted.dtype, what)
    except tf.errors.InvalidArgumentError as error:
        raise ConfigError(clean_message(error)) from None


def _row(values: Values, index: int) -> Any:
    if isinstance(values, pa.Array):
        return values[index].values.to_numpy(zero_copy_only=False)
    return values[index]
