"""Load a model once per process, whatever form it comes in."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms import device, storage
from transforms.lookup import (
    ConfigError,
    import_module,
    nearest,
    resolve,
    shape_text,
    source_digest,
)
from transforms.spec import ModelSpec

_SEED = 0
_models: dict[str, Model] = {}


@dataclass(frozen=True, slots=True)
class Input:
    """What the model takes under one name.

    Attributes:
      name: of the model's input.
      feature: the example feature that goes in.
      shape: without the batch axis.
      dtype: that the model wants; the feature is cast to it on the device.
      feature_dtype: that the feature has.
    """

    name: str
    feature: str
    shape: tuple[int, ...]
    dtype: str
    feature_dtype: str


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded Keras model that is built and knows its inputs.

    Attributes:
      keras: the model.
      inputs: what it takes, in its own order.
      batch_rows: the one batch size it takes, None if it takes any.
      digest: of all that decides what it computes, 64 hex digits.
    """

    keras: Any
    inputs: tuple[Input, ...]
    batch_rows: int | None
    digest: str = ""

    def call(self, features: Mapping[str, Any]) -> Any:
        """Run inference (never training) on `{feature: tensor [batch, ...]}`."""
        import tensorflow as tf

        tensors = {
            i.name: tf.cast(features[i.feature], i.dtype)
            if features[i.feature].dtype != i.dtype
            else features[i.feature]
            for i in self.inputs
        }
        return self.keras(_arrange(self.keras, tensors), training=False)


def load_model(
    spec: ModelSpec, features: Mapping[str, tuple[tuple[int | None, ...], str]]
) -> Model:
    """Load or build the model, wire its inputs to features, and set its precision.

    Args:
      spec: the config's `[model]`.
      features: what preprocessing makes, `{name: (shape without batch, dtype)}`.

    Raises:
      ConfigError: the model cannot be had as asked for, or does not fit the features.
    """
    device.configure()
    for module in spec.imports:
        import_module(module, "model.imports")
    if (spec.path is None) == (spec.build is None):
        raise ConfigError(
            "model must have either path (a saved model) or build (a function), got"
            f" {'both' if spec.path else 'neither'}"
        )
    keras_model = _from_path(spec.path) if spec.path else _build(spec)
    declared = _declared_inputs(keras_model)
    inputs = _wire(spec, declared, features)
    if not declared:
        _build_from(keras_model, inputs)
    if spec.weights:
        with _local(spec.weights, "model.weights") as path:
            try:
                keras_model.load_weights(str(path))
            except Exception as error:
                raise ConfigError(
                    f"model.weights must fit the model that {spec.build or spec.path!r}"
                    f" gives, got {spec.weights!r}: {error}"
                ) from error
    if spec.precision != "float32":
        for layer in keras_model._flatten_layers():
            layer.dtype_policy = f"mixed_{spec.precision}"
    batch = {shape[0] for _, shape, _ in declared} - {None}
    return Model(
        keras_model, inputs, batch.pop() if batch else None, _digest(spec, keras_model)
    )


def cached_model(
    spec: ModelSpec,
    features: Mapping[str, tuple[tuple[int | None, ...], str]],
    digest: str | None = None,
) -> Model:
    """Load a model, or give the one that this process holds already.

    Args:
      spec: the config's `[model]`.
      features: what preprocessing makes.
      digest: that the model must have, as planned; None takes any.

    Raises:
      RuntimeError: the model here has another digest.
    """
    held = _models.get(f"{digest} {spec.model_dump_json()}")
    if held is not None:
        declared = _declared_inputs(held.keras)
        if _wire(spec, declared, features) == held.inputs:
            return held
    model = load_model(spec, features)
    if digest not in (None, model.digest):
        raise RuntimeError(
            "this worker must load the planned model\n"
            f"  planned: {digest}\n  here:    {model.digest}\n"
            "give all workers the same model files and code; a model.build function"
            " must give the same weights each time, or take them from model.weights"
        )
    _models.clear()
    _models[f"{model.digest} {spec.model_dump_json()}"] = model
    return model


def _digest(spec: ModelSpec, model: Any) -> str:
    """Hash what decides what a model computes: code, files, weights.

    A model that `build` makes is hashed with the values of its weights, so that a build
    that comes out differently elsewhere is noticed rather than mixed in.
    """
    digest = hashlib.sha256()
    names = list(spec.imports) + ([spec.build] if spec.build else [])
    digest.update(source_digest(names).encode())
    for option, uri in (("model.path", spec.path), ("model.weights", spec.weights)):
        if uri:
            with _local(uri, option) as path, path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    if spec.build:
        for weight in model.weights:
            digest.update(f"{weight.path} {weight.shape} {weight.dtype}".encode())
            digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def _from_path(uri: str) -> Any:
    import keras

    if not uri.endswith(".keras"):
        raise ConfigError(
            f"model.path must be a .keras file, got {uri!r}; save the model with"
            " model.save('name.keras'), or use model.build and model.weights"
        )
    with _local(uri, "model.path") as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return keras.saving.load_model(str(path), compile=False)
        except Exception as error:
            raise ConfigError(
                f"model.path must be a model that Keras can load, got {uri!r}:"
                f" {_cause(error)}; list the modules that register custom layers in"
                " model.imports"
            ) from error


def _cause(error: Exception) -> str:
    """The part of a Keras loading error that says why, without whole configs."""
    text = str(error).rpartition("Exception encountered: ")[2]
    return text.partition(" Full object config")[0].strip().rstrip(".")


def _build(spec: ModelSpec) -> Any:
    import keras

    assert spec.build is not None
    if ":" not in spec.build:
        raise ConfigError(
            f"model.build must be 'package.module:function', got {spec.build!r}"
        )
    function = resolve(spec.build, {}, "model.build")
    keras.utils.set_random_seed(_SEED)
    try:
        built = function()
    except Exception as error:
        raise ConfigError(
            f"model.build must give a model, {spec.build!r} failed with"
            f" {type(error).__name__}: {error}"
        ) from error
    if not isinstance(built, keras.Model):
        raise ConfigError(
            f"model.build must return a keras.Model, {spec.build!r} returned"
            f" {type(built).__name__}"
        )
    return built


@contextlib.contextmanager
def _local(uri: str, option: str) -> Iterator[Path]:
    """Give a local path to a file that may lie elsewhere."""
    if not storage.exists(uri):
        raise ConfigError(f"{option} must be an existing file, got {uri!r}")
    path = storage.local_path(uri)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="featuretap-") as directory:
        copy = Path(directory) / uri.rpartition("/")[2]
        copy.write_bytes(storage.read(uri))
        yield copy


def _declared_inputs(model: Any) -> list[tuple[str, tuple[int | None, ...], str]]:
    """Names, shapes with batch and types of inputs; none if the model is subclassed."""
    try:
        tensors = model.inputs
    except (AttributeError, ValueError):
        return []
    struct = getattr(model, "input", None) if tensors else None
    if isinstance(struct, dict):
        return [(name, tuple(t.shape), t.dtype) for name, t in struct.items()]
    return [(t.name, tuple(t.shape), t.dtype) for t in tensors or []]


def _wire(
    spec: ModelSpec,
    declared: list[tuple[str, tuple[int | None, ...], str]],
    features: Mapping[str, tuple[tuple[int | None, ...], str]],
) -> tuple[Input, ...]:
    """Find the feature for each input."""
    names = [name for name, _, _ in declared] or list(spec.inputs)
    for name in spec.inputs:
        if name not in names:
            raise ConfigError(
                f"model.inputs must name inputs of the model, got {name!r}"
                f"{nearest(name, names)} (the model has {', '.join(names)})"
            )
    if not names:
        raise ConfigError(
            "model.inputs is required for a model that does not declare its inputs;"
            ' give inputs = { inputs = "<feature>" }'
        )
    wired = []
    for name, shape, dtype in declared or [(n, (None,), "") for n in names]:
        feature = spec.inputs.get(name, name)
        if name not in spec.inputs and name not in features:
            if len(names) == len(features) == 1:
                (feature,) = features
            else:
                raise ConfigError(
                    f"model.inputs must say which feature goes into {name!r}, since no"
                    f" feature has that name (features: {', '.join(sorted(features))});"
                    f' give inputs = {{ "{name}" = "<feature>" }}'
                )
        if feature not in features:
            raise ConfigError(
                f"model.inputs.{name} must name a feature, got {feature!r}"
                f"{nearest(feature, features)}"
                f" (features: {', '.join(sorted(features))})"
            )
        found_shape, found_dtype = features[feature]
        expected = shape[1:] if declared else found_shape
        wired.append(
            Input(
                name,
                feature,
                _merge(name, feature, expected, found_shape),
                dtype or found_dtype,
                found_dtype,
            )
        )
        _check_type(wired[-1])
    return tuple(wired)


def _check_type(wired: Input) -> None:
    text = (wired.dtype == "string") != (wired.feature_dtype == "string")
    truncated = "int" in wired.dtype and "float" in wired.feature_dtype
    if text or truncated:
        raise ConfigError(
            f"model input {wired.name!r} must be {wired.dtype}, feature"
            f" {wired.feature!r} is {wired.feature_dtype}; decode or cast it in"
            " source.preprocess"
        )


def _merge(
    name: str,
    feature: str,
    expected: tuple[int | None, ...],
    found: tuple[int | None, ...],
) -> tuple[int, ...]:
    fits = len(expected) == len(found) and all(
        e is None or f is None or e == f for e, f in zip(expected, found, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"model input {name!r} must have shape {shape_text(expected)}, feature"
            f" {feature!r} has {shape_text(found)}; reshape or resize it in"
            " source.preprocess"
        )
    merged = tuple(e or f for e, f in zip(expected, found, strict=True))
    if None in merged:
        raise ConfigError(
            f"model input {name!r} must have one shape for all examples, feature"
            f" {feature!r} has {shape_text(merged)}; resize it in source.preprocess"
        )
    return tuple(length for length in merged if length is not None)


def _build_from(model: Any, inputs: tuple[Input, ...]) -> None:
    """Build a subclassed model and all its sublayers, symbolically."""
    import keras

    tensors = {i.name: keras.KerasTensor((None, *i.shape), i.dtype) for i in inputs}
    try:
        model(_arrange(model, tensors))
    except Exception as error:
        shapes = {i.name: shape_text(("batch", *i.shape)) for i in inputs}
        raise ConfigError(
            f"the model must take its inputs {shapes}: {type(error).__name__}: {error};"
            " change model.inputs or source.preprocess"
        ) from error


def _arrange(model: Any, tensors: dict[str, Any]) -> Any:
    """Put inputs into the structure that the model's call takes."""
    declared = _declared_inputs(model)
    if isinstance(getattr(model, "input", None) if declared else None, dict):
        return tensors
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    return [tensors[name] for name, _, _ in declared] if declared else tensors
