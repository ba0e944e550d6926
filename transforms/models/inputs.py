"""Find the feature that goes into each input of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transforms.config import ModelSpec
from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """An input as the model declares it.

    Attributes:
      name: name of the input.
      shape: shape with the batch as first axis; None if the model does not declare it.
      dtype: type of the input; empty if the model does not declare it.
    """

    name: str
    shape: Shape | None
    dtype: str


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model, and the feature that goes into it.

    Attributes:
      name: name of the model's input.
      feature: name of the example's feature that goes in.
      shape: shape without the batch axis; None for lengths that differ between rows.
      dtype: type that the model takes; the feature is cast to it on the device.
      feature_dtype: type that the feature has.
    """

    name: str
    feature: str
    shape: Shape
    dtype: str
    feature_dtype: str


def wire(
    spec: ModelSpec,
    declared: Sequence[Declared],
    features: Mapping[str, tuple[Shape, str]],
) -> tuple[Input, ...]:
    """Find the feature for each input: as `model.inputs` says, else by its name.

    Args:
      spec: the config's `[model]`.
      declared: the inputs that the model declares; if it declares none, `model.inputs`
        must name them.
      features: features after preprocessing, `{name: (shape without batch, dtype)}`.

    Raises:
      ConfigError: an input has no feature, or one whose shape or type does not fit.
    """
    names = [one.name for one in declared] or list(spec.inputs)
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
    only = len(names) == len(features) == 1
    return tuple(
        _wired(one, _feature_for(one.name, spec, features, only=only), features)
        for one in declared or [Declared(name, None, "") for name in names]
    )


def _feature_for(
    name: str,
    spec: ModelSpec,
    features: Mapping[str, tuple[Shape, str]],
    *,
    only: bool,
) -> str:
    """Find the feature of an input: as the config says, by name, or the only one."""
    feature = spec.inputs.get(name, name)
    if name not in spec.inputs and name not in features:
        if only:
            return next(iter(features))
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
    return feature


def _wired(
    declared: Declared, feature: str, features: Mapping[str, tuple[Shape, str]]
) -> Input:
    """Connect an input with a feature, if they fit."""
    shape, dtype = features[feature]
    expected = shape if declared.shape is None else declared.shape[1:]
    merged = _merge(declared.name, feature, expected, shape)
    wired = Input(declared.name, feature, merged, declared.dtype or dtype, dtype)
    _check_type(wired)
    return wired


def input_types(inputs: Sequence[Input]) -> dict[str, list[str]]:
    """List the types that features are cast to on their way into a model, by feature.

    Features that no input casts are left out.
    """
    types: dict[str, list[str]] = {}
    for one in inputs:
        if one.dtype != one.feature_dtype:
            types.setdefault(one.feature, []).append(one.dtype)
    return types


def declared_features(
    spec: ModelSpec, declared: Sequence[Declared]
) -> dict[str, tuple[Shape, str]]:
    """Give the features that fit the inputs which a model declares.

    Raises:
      ConfigError: the model declares no inputs, or not their whole shapes.
    """
    if not declared or any(d.shape is None or None in d.shape[1:] for d in declared):
        raise ConfigError(
            "features are required for a model that does not declare the shapes of its"
            " inputs; give {name: (shape without batch, dtype)}"
        )
    return {
        spec.inputs.get(one.name, one.name): ((one.shape or ())[1:], one.dtype)
        for one in declared
    }


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
    expected: Shape,
    found: Shape,
) -> Shape:
    fits = len(expected) == len(found) and all(
        e is None or f is None or e == f for e, f in zip(expected, found, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"model input {name!r} must have shape {shape_text(expected)}, feature"
            f" {feature!r} has {shape_text(found)}; reshape or resize it in"
            " source.preprocess"
        )
    return tuple(e or f for e, f in zip(expected, found, strict=True))
