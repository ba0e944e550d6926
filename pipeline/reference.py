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
from dataclasses import replace
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
from transforms.shard import Piece, position
from transforms.sources import Feature, make_source
from transforms.sources.staging import readable
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
        self._cut: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
        self.precision = "float32"
        self.magnitudes: dict[str, float] = {}

    def read(self, places: Sequence[tuple[Piece, int]]) -> Iterator[Example]:
        """Read single examples, `{feature: array or scalar}`.

        Args:
          places: of each the piece and the row within its file.

        Raises:
          RuntimeError: one is not there.
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
            example = _step(spec.step, spec.batched, spec.options, example)
        return example

    def values(self, prepared: Example) -> dict[str, np.ndarray]:
        """Compute the feature columns of one example, each with its own shape."""
        model = self._load(prepared)
        addresses = list(dict.fromkeys(column.source for column in self._columns))
        activations = dict(
            zip(addresses, self._activations(model, prepared, addresses), strict=True)
        )
        values = {}
        for column in self._columns:
            value = activations[column.source]
            computed = value.dtype
            self._measure(column.name, value)
            for text in column.reduce:
                value = _reduced(text, value, computed)
            values[column.name] = _dense(value)[0]
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
            name: (np.shape(value), _dtype(value)) for name, value in example.items()
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

        A model of a fixed batch size gets copies, and gives as many.
        """
        import tensorflow as tf

        tensors = {}
        for i in model.inputs:
            one = tf.constant(example[i.feature])[None]
            one = one if i.dtype == "string" else tf.cast(one, i.dtype)
            tensors[i.name] = tf.repeat(one, model.batch_rows or 1, 0)
        if isinstance(model.form, LayerForm):
            return _of_layers(model.form, tensors, addresses)
        if isinstance(model.form, SavedForm):
            if self._cut is None:
                self._cut = _cut(model.form, [a for a in addresses if a[:1] != ":"])
            operations = self._cut(tensors)
            outputs = model.form.model(**tensors)
            return [
                outputs[a[1:]] if a.startswith(":") else operations[a]
                for a in addresses
            ]
        assert isinstance(model.form, FunctionForm)
        entries = dict(_entries(model.form.run(tensors)))
        return [entries[address.removeprefix(":")] for address in addresses]


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
    if name in ("pad", "stack"):
        return {**given, **STEPS[name](given, feature, **options)}
    return {**given, feature: STEPS[name](given[feature], **options)}


def _decode_image(
    data: Any, channels: int = 0, max_pixels: int | None = None
) -> np.ndarray:
    import tensorflow as tf

    data = data if isinstance(data, bytes) else np.asarray(data).item()
    if data[:4] == b"\x89PNG" or (data[:2] == b"\xff\xd8" and channels != 4):
        decoded = tf.io.decode_image(data, channels, expand_animations=False)
        return np.asarray(decoded)
    image = np.asarray(tf.io.decode_image(data, expand_animations=False))
    if channels in (3, 4) and image.shape[-1] < 3:
        image = np.repeat(image[..., :1], 3, -1)
    if channels == 1 and image.shape[-1] >= 3:
        return np.asarray(tf.image.rgb_to_grayscale(image[..., :3]))
    if channels == 4 and image.shape[-1] == 3:
        return np.pad(image, [[0, 0], [0, 0], [0, 1]], constant_values=255)
    return image[..., : channels or None]


def _resize(
    image: Any,
    size: Sequence[int],
    method: str = "bilinear",
    antialias: bool = False,
    fit: str = "stretch",
) -> np.ndarray:
    import tensorflow as tf

    image = np.asarray(image)
    if fit != "stretch":
        image = _to_ratio(image, *size, crop=fit == "crop")
    resized = tf.image.resize(image[None], size, method=method, antialias=antialias)[0]
    return np.asarray(resized, np.float32)


def _to_ratio(image: np.ndarray, tall: int, wide: int, *, crop: bool) -> np.ndarray:
    """Cut or fill up an image until its sides are as `tall` to `wide`."""
    height, width = image.shape[:2]
    turned_height = int(np.float32(width * tall) / np.float32(wide))
    turned_width = int(np.float32(height * wide) / np.float32(tall))
    if crop:
        return _center_crop(
            image, [min(height, turned_height), min(width, turned_width)]
        )
    rows = max(turned_height - height, 0) // 2
    columns = max(turned_width - width, 0) // 2
    return np.pad(image, [[rows, rows], [columns, columns], [0, 0]])


def _center_crop(image: Any, size: Sequence[int]) -> np.ndarray:
    image = np.asarray(image)
    top, left = ((n - m) // 2 for n, m in zip(image.shape, size, strict=False))
    return np.asarray(image[top : top + size[0], left : left + size[1]])


def _standardize(value: Any, mean: Any = None, std: Any = None) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if mean is None:
        least = np.float32(1 / np.sqrt(value.size))
        return np.asarray((value - value.mean()) / max(value.std(), least))
    return np.asarray((value - np.float32(mean)) / np.float32(std))


def _keras_application(value: Any, name: str) -> np.ndarray:
    import keras

    module = getattr(keras.applications, name)
    given = np.array(value, np.float32)  # it may work in place
    made = module.preprocess_input(given[None], data_format="channels_last")[0]
    return np.asarray(made, np.float32)


def _text(function: Callable[[str], str]) -> Callable[[Any], Any]:
    def on_all(value: Any) -> Any:
        changed = [function(one.decode()).encode() for one in np.ravel(value)]
        return np.array(changed, object).reshape(np.shape(value))

    return on_all


def _pad(
    given: Example,
    feature: str,
    lengths: Sequence[int],
    value: Any = 0,
    truncate: str | None = None,
    at: str = "end",
    mask: str | None = None,
) -> Example:
    own = np.asarray(given[feature])
    if truncate:
        own = own[: max(lengths)] if truncate == "end" else own[-max(lengths) :]
    length = min(n for n in lengths if n >= len(own))
    is_text = own.dtype.kind in "OS"
    fill = (value or "").encode() if is_text else value
    filled = np.full([length, *own.shape[1:]], fill, object if is_text else own.dtype)
    place = slice(length - len(own), None) if at == "start" else slice(len(own))
    filled[place] = own
    made = {feature: filled}
    if mask:
        made[mask] = np.zeros(length, bool)
        made[mask][place] = True
    return made


def _stack(given: Example, feature: str, of: Sequence[str]) -> Example:
    return {feature: np.stack([np.float32(given[name]) for name in of], -1)}


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
    "center_crop": _center_crop,
    "decode_image": _decode_image,
    "decode_raw": _decode_raw,
    "keras_application": _keras_application,
    "lower": _text(str.lower),
    "one_hot": lambda value, depth: np.eye(depth, dtype=np.float32)[np.asarray(value)],
    "pad": _pad,
    "rescale": _rescale,
    "reshape": lambda value, shape: np.reshape(value, shape),
    "resize": _resize,
    "reverse_channels": lambda value: np.flip(value, -1),
    "stack": _stack,
    "standardize": _standardize,
    "strip": _text(str.strip),
    "transpose": lambda value, order: np.transpose(value, order),
}


def _of_layers(
    form: LayerForm, tensors: Mapping[str, Any], addresses: Sequence[str]
) -> list[Any]:
    places = []
    for address in addresses:
        head, _, leaf = address.partition(":")
        path, _, call = head.partition("@")
        layer = _layer(form.model, path) if path else None
        places.append((layer, int(call or 0), leaf))
    with _listening([layer for layer, _, _ in places if layer is not None]) as heard:
        positional, named = form.arrange(tensors)
        result = form.model(*positional, **named, training=False)
    found = []
    for layer, number, leaf in places:
        returned = [value for who, value in heard if who is layer]
        entries = dict(_entries(returned[number] if layer is not None else result))
        found.append(entries[leaf])
    return found


@contextmanager
def _listening(layers: Sequence[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Collect what some layers compute, as `(layer, result)`, by way of their classes.

    A layer with a `call` of its own is listened to itself.
    """
    heard: list[tuple[Any, Any]] = []
    places: dict[tuple[int, str], tuple[Any, str]] = {}
    for layer in layers:
        name = "quantized_call" if getattr(layer, "quantization_mode", 0) else "call"
        owner = layer if name in vars(layer) else type(layer)
        places[id(owner), name] = (owner, name)
    own = {key: vars(owner).get(name) for key, (owner, name) in places.items()}

    def listener(owner: Any, name: str, original: Any) -> Any:
        def listening(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            who = args[0] if isinstance(owner, type) else owner
            # A class whose subclass is listened to hears that through super() too.
            kinds = [kind for kind in type(who).__mro__ if (id(kind), name) in places]
            if not isinstance(owner, type) or kinds[:1] == [owner]:
                heard.append((who, result))
            return result

        return listening

    for owner, name in places.values():
        _set(owner, name, listener(owner, name, getattr(owner, name)))
    try:
        yield heard
    finally:
        for key, (owner, name) in places.items():
            if own[key] is None:
                delattr(owner, name)
            else:
                _set(owner, name, own[key])


def _set(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a class, or of a layer behind its own bookkeeping."""
    if isinstance(owner, type):
        setattr(owner, name, value)
    else:
        object.__setattr__(owner, name, value)


def _layer(model: Any, path: str) -> Any:
    """Go down from the model by the names in a path, which may hold slashes."""
    below = model._flatten_layers(recursive=False, include_self=False)
    found: dict[int, Any] = {}
    for child in [*below, *getattr(model, "operations", ())]:
        if path == child.name:
            found[id(child)] = child
        elif path.startswith(f"{child.name}/") and hasattr(child, "_flatten_layers"):
            with suppress(LookupError):
                deeper = _layer(child, path[len(child.name) + 1 :])
                found[id(deeper)] = deeper
    if len(found) != 1:
        raise LookupError(f"{len(found)} layers are called {path!r}")
    return next(iter(found.values()))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Take a structure apart into leaves, `path/of/keys` and values."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, list | tuple):
        value = {str(index): entry for index, entry in enumerate(value)}
    if not isinstance(value, Mapping):
        yield "", value
        return
    for key, entry in value.items():
        for leaf, inner in _entries(entry):
            yield f"{key}/{leaf}" if leaf else str(key), inner


def _cut(
    form: SavedForm, addresses: Sequence[str]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Freeze a signature and cut it off at some operations."""
    from tensorflow.python.framework import convert_to_constants

    if not addresses:
        return lambda tensors: {}
    size = sum(v.dtype.size * v.shape.num_elements() for v in form.variables())
    if size >= _FREEZABLE_BYTES:
        raise RuntimeError(
            "operations of a SavedModel can be checked up to 2 GB of weights, it has"
            f" {size}; check a table of the signature's outputs instead"
        )
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        form.model, lower_control_flow=False, aggressive_inlining=True
    )
    by_name: dict[str, str] = {}
    for op in frozen.graph.get_operations():
        by_name[op.name] = op.name
        short = re.sub(r"^((Stateful)?PartitionedCall/)+", "", op.name)
        by_name.setdefault(short, op.name)
    fetched = []
    for address in addresses:
        head, _, index = address.partition(":")
        name = f"{by_name[head]}:{index or 0}"
        fetched.append(frozen.graph.get_tensor_by_name(name))
    pruned = frozen.prune(frozen.inputs, fetched)
    names = sorted(form.model.structured_input_signature[1])
    inputs = {t.op.name: n for t, n in zip(form.model.inputs, names, strict=False)}
    handles = {p.op.name: handle for handle, p in form.model.graph.captures}  # tables

    def run(tensors: Mapping[str, Any]) -> dict[str, Any]:
        nodes = [tensor.op.name for tensor in frozen.inputs]
        fed = [tensors[inputs[n]] if n in inputs else handles[n] for n in nodes]
        return dict(zip(addresses, pruned(*fed), strict=True))

    return run


def _dense(value: Any) -> np.ndarray:
    """Turn one row into an array, `[1, ...]`."""
    import tensorflow as tf

    if isinstance(value, tf.RaggedTensor):
        return np.asarray(value[0])[None]
    return np.asarray(value)


def _reduced(text: str, value: Any, computed: Any) -> Any:
    """Apply a reduction to `[1, ...]`; a user's sees the type that was computed."""
    import tensorflow as tf

    name, options = split_reduction(text)
    if ":" not in name:
        return REDUCTIONS[name](_dense(value), **options)
    if isinstance(value, np.ndarray):
        exact = value.dtype == np.float64 and computed != tf.float64
        value = tf.constant(value.astype(np.float32) if exact else value)
    return resolve(name, {}, "reduce")(value, **options)


def _axes(value: np.ndarray, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(1, value.ndim))
    axes = axis if isinstance(axis, list) else [axis]
    return tuple(AXES[one] if isinstance(one, str) else one for one in axes)


def _over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(value: np.ndarray, axis: Any = None, keepdims: bool = False) -> Any:
        return function(value, axis=_axes(value, axis), keepdims=keepdims)

    return reduce


def _extreme(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    def reduce(value: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> Any:
        if value.size:
            return function(value, axis=axis, keepdims=keepdims)
        # Of nothing: what TensorFlow gives.
        if value.dtype.kind in "fb":
            start: Any = sign * np.inf if value.dtype.kind == "f" else sign > 0
        else:
            limits = np.iinfo(value.dtype)
            start = limits.max if sign > 0 else limits.min
        return function(value, axis=axis, keepdims=keepdims, initial=start)

    return _over_axes(reduce)


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
    "max": _extreme(np.max, -1),
    "mean": _over_axes(lambda value, **options: np.mean(_exact(value), **options)),
    "min": _extreme(np.min, 1),
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
