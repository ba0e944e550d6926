"""Compute a row's columns a second way, to hold the table against.

Nothing here shares code with what workers run but the loading of rows and models:
preprocessing and reductions are written again, one example at a time, in numpy or
with single operations of TensorFlow; the model runs eagerly, untouched, in float32,
with one row in the batch; and activations are overheard where layers are called, not
inside of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from transforms import device
from transforms.lookup import ConfigError, resolve
from transforms.models import Model, load_model
from transforms.models.function import FunctionForm
from transforms.models.layers import LayerForm
from transforms.models.saved import SavedForm
from transforms.reductions import AXES, projection, split_reduction
from transforms.schema import Column
from transforms.shard import Piece
from transforms.sources import Feature, make_source
from transforms.spec import Config

_FREEZABLE_BYTES = 2 << 30
Example = dict[str, Any]


class Reference:
    """Recomputes single rows of one table.

    Args:
      config: of the table.
      features: what is read of each example.
      columns: of the table.
      digest: that the model must have.
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
        self.precision = "float32"

    def read(self, places: Sequence[tuple[Piece, int]]) -> Iterator[Example]:
        """Read single examples, `{feature: array or scalar}`.

        Args:
          places: of each the piece and the row within its file.

        Raises:
          RuntimeError: one is not there.
        """
        pieces = [Piece(piece.file, piece.name, row, 1) for piece, row in places]
        found = iter(self._source.read(pieces, self._features, None))
        for index, (piece, row) in enumerate(places):
            position, example = next(found, (None, {}))
            if position is None or int(position) != index:
                raise RuntimeError(
                    f"row {row} of {piece.file} must still be there, found none; the"
                    " source has changed since the table was made"
                )
            yield {name: value.numpy() for name, value in example.items()}

    def values(self, example: Example) -> dict[str, np.ndarray]:
        """Compute the feature columns of one example, each with its own shape."""
        for spec in self._config.source.preprocess:
            example = _step(spec.step, spec.batched, spec.options, example)
        model = self._load(example)
        addresses = list(dict.fromkeys(column.source for column in self._columns))
        activations = dict(
            zip(addresses, _activations(model, example, addresses), strict=True)
        )
        values = {}
        for column in self._columns:
            value = activations[column.source]
            for text in column.reduce:
                value = _reduced(text, value)
            values[column.name] = np.asarray(value[0])
        return values

    def _load(self, example: Example) -> Model:
        if self._model is not None:
            return self._model
        shapes = {
            name: (np.shape(value), _dtype(value)) for name, value in example.items()
        }
        model = load_model(self._config.model, shapes)
        if model.digest != self._digest:
            raise RuntimeError(
                "the model must be the one that the table was made with\n"
                f"  table: {self._digest}\n  here:  {model.digest}\n"
                "put its files and code back as they were"
            )
        if isinstance(model.form, LayerForm):
            self.precision = _weakest(model.form)
            if self.precision != "float32":
                with suppress(ConfigError):  # Keras 2 and quantized layers stay as is
                    model.form.set_precision("float32")
        self._model = model
        return model


def _weakest(form: LayerForm) -> str:
    """The shortest type in which a layer computes."""
    kinds = {str(layer.compute_dtype) for layer in form.model._flatten_layers()}
    return next((k for k in ("bfloat16", "float16") if k in kinds), "float32")


def _dtype(value: Any) -> str:
    kind = np.asarray(value).dtype
    return "string" if kind.kind in "OSU" else kind.name


def _step(name: str, batched: bool, options: dict[str, Any], given: Example) -> Example:
    """Run one preprocessing step on one example."""
    import tensorflow as tf

    if ":" in name:
        tensors = {key: tf.constant(value) for key, value in given.items()}
        if batched:
            tensors = {key: value[None] for key, value in tensors.items()}
        made = dict(resolve(name, {}, "step")(tensors, **options))
        if batched:
            made = {key: value[0] for key, value in made.items()}
        return {key: np.asarray(value) for key, value in made.items()}
    feature = options.pop("feature")
    return {**given, feature: STEPS[name](given[feature], **options)}


def _decode_image(data: Any, channels: int = 0) -> np.ndarray:
    import tensorflow as tf

    decoded = tf.io.decode_image(data, channels=channels, expand_animations=False)
    return np.asarray(decoded)


def _resize(image: Any, size: Sequence[int], method: str = "bilinear") -> np.ndarray:
    import tensorflow as tf

    resized = tf.image.resize(np.asarray(image)[None], size, method=method)[0]
    return np.asarray(resized, np.float32)


def _decode_raw(data: Any, dtype: str, shape: Sequence[int]) -> np.ndarray:
    import tensorflow as tf

    kind = np.dtype(tf.as_dtype(dtype).as_numpy_dtype).newbyteorder("<")
    return np.frombuffer(data, kind).reshape(shape)


def _cast(value: Any, dtype: str) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(value).astype(tf.as_dtype(dtype).as_numpy_dtype)


def _rescale(value: Any, scale: float, offset: float = 0.0) -> np.ndarray:
    return np.float32(offset) + np.float32(scale) * np.asarray(value, np.float32)


STEPS: dict[str, Callable[..., Any]] = {
    "cast": _cast,
    "decode_image": _decode_image,
    "decode_raw": _decode_raw,
    "rescale": _rescale,
    "reshape": lambda value, shape: np.reshape(value, shape),
    "resize": _resize,
}


def _activations(
    model: Model, example: Example, addresses: Sequence[str]
) -> list[np.ndarray]:
    """Run the model on one example; give `[1, ...]` for each address."""
    import tensorflow as tf

    tensors = {
        i.name: tf.cast(tf.constant(example[i.feature])[None], i.dtype)
        if i.dtype != "string"
        else tf.constant(example[i.feature])[None]
        for i in model.inputs
    }
    if isinstance(model.form, SavedForm):
        found = [_of_saved(model.form, tensors, address) for address in addresses]
    elif isinstance(model.form, LayerForm):
        found = _of_layers(model.form, tensors, addresses)
    else:
        assert isinstance(model.form, FunctionForm)
        result = model.form.call(tensors)
        found = [_entry(result, address.removeprefix(":")) for address in addresses]
    return [
        np.asarray(v[0])[None] if isinstance(v, tf.RaggedTensor) else np.asarray(v)
        for v in found
    ]


def _of_layers(
    form: LayerForm, tensors: Mapping[str, Any], addresses: Sequence[str]
) -> list[Any]:
    model = form.model
    places = [_place(model, address) for address in addresses]
    wanted = {id(layer) for layer, _, _ in places if layer is not None}
    kinds = {
        kind: "__call__"
        for kind in type(model).__mro__
        if kind.__name__ in ("Operation", "Layer")
    }
    with _listening(kinds) as heard:
        result = model(form.arrange(tensors), training=False)
    unheard = wanted - {id(layer) for layer, _ in heard}
    if unheard:  # TimeDistributed goes to `call` directly
        kinds = {type(layer): "call" for layer, _, _ in places if id(layer) in unheard}
        with _listening(kinds) as more:
            model(form.arrange(tensors), training=False)
        heard += [(layer, value) for layer, value in more if id(layer) in unheard]
    found = []
    for layer, call, leaf in places:
        returned = [value for who, value in heard if who is layer]
        found.append(_entry(returned[call] if layer is not None else result, leaf))
    return found


def _place(model: Any, address: str) -> tuple[Any, int, str]:
    """Split an address into the layer, None for the model itself, call, and leaf."""
    head, _, leaf = address.partition(":")
    path, _, call = head.partition("@")
    return _layer(model, path) if path else None, int(call or 0), leaf


@contextmanager
def _listening(kinds: Mapping[type, str]) -> Iterator[list[tuple[Any, Any]]]:
    """Collect what a method of some classes returns, as `(layer, result)`."""
    heard: list[tuple[Any, Any]] = []
    own = {kind: vars(kind).get(name) for kind, name in kinds.items()}

    def listener(kind: type, original: Any) -> Any:
        def listening(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if next(k for k in type(self).__mro__ if k in kinds) is kind:
                heard.append((self, result))
            return result

        return listening

    for kind, name in kinds.items():
        setattr(kind, name, listener(kind, getattr(kind, name)))
    try:
        yield heard
    finally:
        for kind, name in kinds.items():
            if own[kind] is None:
                delattr(kind, name)
            else:
                setattr(kind, name, own[kind])


def _layer(model: Any, path: str) -> Any:
    """Go down from the model by the names in a path."""
    for name in path.split("/"):
        below = model._flatten_layers(recursive=False, include_self=False)
        below = [*below, *getattr(model, "operations", ())]
        model = next(layer for layer in below if layer.name == name)
    return model


def _entry(value: Any, leaf: str) -> Any:
    """Go into what a layer returned, along a leaf."""
    if not leaf:
        return value
    if isinstance(value, Mapping):
        for key in value:
            if leaf == str(key) or leaf.startswith(f"{key}/"):
                return _entry(value[key], leaf[len(str(key)) + 1 :])
    head, _, rest = leaf.partition("/")
    return _entry(value[int(head)] if head.isdigit() else getattr(value, head), rest)


def _of_saved(form: SavedForm, tensors: Mapping[str, Any], address: str) -> Any:
    """Call the signature, or the signature frozen and cut off at an operation."""
    from tensorflow.python.framework import convert_to_constants

    if address.startswith(":"):
        return form.model(**tensors)[address[1:]]
    size = sum(v.dtype.size * v.shape.num_elements() for v in form.variables())
    if size >= _FREEZABLE_BYTES:
        raise RuntimeError(
            "operations of a SavedModel can be checked up to 2 GB of weights, it has"
            f" {size}; check a table of the signature's outputs instead"
        )
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        form.model, lower_control_flow=False, aggressive_inlining=True
    )
    head, _, index = address.partition(":")
    (name,) = {
        op.name
        for op in frozen.graph.get_operations()
        if head in (op.name, re.sub(r"^((Stateful)?PartitionedCall/)+", "", op.name))
    }
    cut = frozen.prune(
        frozen.inputs, frozen.graph.get_tensor_by_name(f"{name}:{index or 0}")
    )
    names = [tensor.op.name for tensor in frozen.inputs]
    given = dict(zip(names, [tensors[name] for name in sorted(tensors)], strict=False))
    return cut(*[given[name] for name in names])


def _reduced(text: str, value: np.ndarray) -> np.ndarray:
    """Apply a reduction to `[1, ...]`."""
    import tensorflow as tf

    name, options = split_reduction(text)
    if ":" in name:
        return np.asarray(resolve(name, {}, "reduce")(tf.constant(value), **options))
    return np.asarray(REDUCTIONS[name](value, **options))


def _axes(value: np.ndarray, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(1, value.ndim))
    axes = axis if isinstance(axis, list) else [axis]
    return tuple(AXES[one] if isinstance(one, str) else one for one in axes)


def _over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(value: np.ndarray, axis: Any = None, keepdims: bool = False) -> Any:
        return function(value, axis=_axes(value, axis), keepdims=keepdims)

    return reduce


def _exact(value: np.ndarray) -> np.ndarray:
    """Double precision, so that the reference adds no error of its own."""
    return value.astype(np.float64)


def _unit(value: np.ndarray, axis: Any = -1, epsilon: float = 1e-12) -> np.ndarray:
    squares = np.sum(_exact(value) ** 2, axis=_axes(value, axis), keepdims=True)
    unit: np.ndarray = _exact(value) / np.sqrt(np.maximum(squares, epsilon))
    return unit


def _top_k(value: np.ndarray, k: int, indices: bool = False) -> np.ndarray:
    order = np.argsort(-_exact(value), axis=-1, kind="stable")[..., :k]
    if indices:
        return order.astype(np.int32)
    largest: np.ndarray = np.take_along_axis(value, order, axis=-1)
    return largest


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "first": lambda value, axis=1: np.take(value, 0, _axes(value, axis)[0]),
    "flatten": lambda value: value.reshape(len(value), -1),
    "global_average_pool": lambda value: _exact(value).mean(
        tuple(range(1, value.ndim - 1))
    ),
    "l2_normalize": _unit,
    "last": lambda value, axis=1: np.take(value, -1, _axes(value, axis)[0]),
    "max": _over_axes(np.max),
    "mean": _over_axes(lambda value, **options: np.mean(_exact(value), **options)),
    "min": _over_axes(np.min),
    "random_projection": lambda value, dim, seed=0: (
        _exact(value) @ projection(value.shape[-1], dim, seed)
    ),
    "std": _over_axes(lambda value, **options: np.std(_exact(value), **options)),
    "sum": _over_axes(
        lambda value, **options: np.sum(
            _exact(value) if value.dtype.kind == "f" else value, **options
        )
    ),
    "top_k": _top_k,
}
