"""Compute a row's columns a second way, to compare the table with.

This shares no code with workers except that which reads rows and loads models.
Preprocessing and reductions are written a second time, for one example, in numpy or
with single operations of TensorFlow. The model runs eagerly, unchanged, in float32,
with one row in the batch; its activations are recorded by wrapping the classes of
layers, not the layers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.parity.reference_models import cut_signature, layer_activations, leaves_of
from pipeline.parity.reference_reductions import REDUCTIONS, goes_over_steps
from pipeline.parity.reference_steps import Example, run_step
from transforms import device
from transforms.config import Config
from transforms.dtypes import Feature, is_null_name
from transforms.lookup import ConfigError, resolve
from transforms.models.function import FunctionForm
from transforms.models.keras_layers import LayerForm
from transforms.models.load import load_model
from transforms.models.model import Model
from transforms.models.saved_model import SavedForm
from transforms.shard import Piece, position
from transforms.sources.readers import make_source
from transforms.sources.staging import readable
from transforms.table.columns import Column
from transforms.taps.chains import split_reduction


class Reference:
    """Recomputes single rows of one table.

    Args:
      config: config of the table.
      features: the features that are read of each example.
      columns: all columns of the table.
      digest: digest of the model that the table was made with.

    Attributes:
      precision: the shortest type in which the table's model computes; known after the
        first call of `values`.
      magnitudes: `{column: largest value before reductions}` of all rows so far.
    """

    def __init__(
        self,
        config: Config,
        features: Mapping[str, Feature],
        columns: Sequence[Column],
        digest: str,
    ) -> None:
        device.configure()
        self._config = config
        self._features = features
        self._columns = [column for column in columns if column.role == "feature"]
        self._digest = digest
        self._source = make_source(config.source)
        self._model: Model | None = None
        self._cut: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
        self.precision = "float32"
        self.magnitudes: dict[str, float] = {}

    def read(self, places: Sequence[tuple[Piece, int]]) -> Iterator[Example]:
        """Read single examples, `{feature: array or scalar}`.

        Args:
          places: for each example its piece and its row in the piece's file.

        Raises:
          RuntimeError: an example is not in the source any more.
        """
        single = [replace(piece, start=row, rows=1) for piece, row in places]
        with readable(self._source, single) as pieces:
            found = iter(self._source.read(pieces, self._features, None))
            for index, (piece, row) in enumerate(places):
                at, example = next(found, (None, {}))
                if at is None or int(at) != position(index):
                    raise RuntimeError(
                        f"row {row} of {piece.file} must still be there, found none;"
                        " the source has changed since the table was made"
                    )
                yield {name: value.numpy() for name, value in example.items()}

    def prepare(self, example: Example) -> Example:
        """Preprocess one example."""
        for spec in self._config.source.preprocess:
            example = run_step(spec.step, spec.batched, spec.options, example)
        return example

    def values(self, prepared: Example) -> dict[str, np.ndarray]:
        """Compute the feature columns of one example.

        Args:
          prepared: the example after preprocessing.

        Returns:
          `{column: value}`, each with its own shape.

        Raises:
          RuntimeError: the model is not the one that the table was made with.
        """
        model = self._load(prepared)
        addresses = list(dict.fromkeys(column.source for column in self._columns))
        activations = dict(
            zip(addresses, self._activations(model, prepared, addresses), strict=True)
        )
        values = {}
        for column in self._columns:
            value = activations[column.source]
            self._measure(column.name, value)
            values[column.name] = dense(_reduced(column.reduce, value))[0]
        return values

    def _measure(self, name: str, value: Any) -> None:
        """Remember the largest value before any reduction."""
        flat = np.asarray(getattr(value, "flat_values", value))
        if flat.dtype.kind == "f" and np.isfinite(flat).any():
            largest = float(np.abs(flat[np.isfinite(flat)]).max())
            self.magnitudes[name] = max(self.magnitudes.get(name, 0.0), largest)

    def _load(self, example: Example) -> Model:
        if self._model is not None:
            return self._model
        shapes = {
            name: (np.shape(value), _dtype(value))
            for name, value in example.items()
            if not is_null_name(name)
        }
        model = load_model(self._config.model, shapes)
        if model.digest != self._digest:
            raise RuntimeError(
                "the model must be the one that the table was made with\n"
                f"  table: {self._digest}\n  here:  {model.digest}\n"
                "put back as they were its files, weights, and the modules that"
                " model.build and model.imports name"
            )
        if isinstance(model.form, LayerForm):
            self.precision = _weakest(model.form)
            if self.precision != "float32":
                with suppress(ConfigError):  # Keras 2 and quantized layers stay as is
                    model.form.set_precision("float32")
        self._model = model
        return model

    def _activations(
        self, model: Model, example: Example, addresses: Sequence[str]
    ) -> list[Any]:
        """Run the model on one example; give `[1, ...]` for each address.

        A model of fixed batch size gets as many copies of the example, and gives as
        many results.
        """
        import tensorflow as tf

        tensors = {}
        for i in model.inputs:
            one = tf.constant(example[i.feature])[None]
            one = one if i.dtype == "string" else tf.cast(one, i.dtype)
            tensors[i.name] = tf.repeat(one, model.batch_rows or 1, 0)
        if isinstance(model.form, LayerForm):
            return layer_activations(model.form, tensors, addresses)
        if isinstance(model.form, SavedForm):
            if self._cut is None:
                self._cut = cut_signature(
                    model.form, [a for a in addresses if a[:1] != ":"]
                )
            operations = self._cut(tensors)
            outputs = model.form.model(**tensors)
            return [
                outputs[a[1:]] if a.startswith(":") else operations[a]
                for a in addresses
            ]
        assert isinstance(model.form, FunctionForm)
        entries = dict(leaves_of(model.form.run(tensors)))
        return [entries[address.removeprefix(":")] for address in addresses]


def _weakest(form: LayerForm) -> str:
    """Name the shortest type in which a layer of the model computes."""
    kinds = {str(layer.compute_dtype) for layer in form.model._flatten_layers()}
    return next((k for k in ("bfloat16", "float16") if k in kinds), "float32")


def _dtype(value: Any) -> str:
    kind = np.asarray(value).dtype
    return "string" if kind.kind in "OSU" else kind.name


def dense(value: Any) -> np.ndarray:
    """Turn a tensor of one row, ragged or not, into an array `[1, ...]`."""
    import tensorflow as tf

    if isinstance(value, tf.RaggedTensor):
        return np.asarray(value[0])[None]
    return np.asarray(value)


def _reduced(reduce: Sequence[str], value: Any) -> Any:
    """Apply reductions to `[1, ...]`; over the steps, to those that Keras masks not."""
    computed = value.dtype
    mask = getattr(value, "_keras_mask", None)
    for text in reduce:
        name, options = split_reduction(text)
        if mask is not None and goes_over_steps(name, options, value.ndim):
            value = dense(value)[:, np.asarray(mask)[0].astype(bool)]
        if goes_over_steps(name, options, value.ndim) or ":" in name:
            mask = None
        value = _reduced_once(name, options, value, computed)
    return value


def _reduced_once(name: str, options: dict[str, Any], value: Any, computed: Any) -> Any:
    """Apply a reduction to `[1, ...]`; the user's own get the model's own type."""
    import tensorflow as tf

    if ":" not in name:
        return REDUCTIONS[name](dense(value), **options)
    if isinstance(value, np.ndarray):
        exact = value.dtype == np.float64 and computed != tf.float64
        value = tf.constant(value.astype(np.float32) if exact else value)
    return resolve(name, {}, "reduce")(value, **options)
