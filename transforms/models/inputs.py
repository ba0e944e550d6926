"""Find the feature that goes into each input of a model."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.config import ModelSpec
from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text

Shape = tuple[int | None, ...]
Features = Mapping[str, tuple[Shape, str]]

_AUTOMATIC = re.compile(r"keras_tensor(?:_(\d+))?")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Declared:
    """An input as the model declares it.

    Attributes:
      name: name of the input; its position, from "0", if nobody has named it.
      shape: shape with the batch as first axis; None if the model does not declare it.
      dtype: type of the input; empty if the model does not declare it.
      optional: whether it is an input only if `model.inputs` names it.
      is_open: whether it is the one parameter of a function, which takes a tensor under
        any name, or several of them as a dict or a list.
    """

    name: str
    shape: Shape | None
    dtype: str
    optional: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model, and the feature that goes into it.

    Attributes:
      name: name of the model's input; its position, from "0", if nobody has named it.
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


def parameters(function: Callable[..., Any]) -> list[Declared]:
    """Give the inputs of a function: its parameters, but for `training`.

    Those that have a default are optional, unless all have one: then the first is not.
    """
    found = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in ("self", "training")
    ]
    required = [p for p in found if p.default is p.empty] or found[:1]
    optional = [p for p in found if p not in required]
    sole = len(required) == 1
    return [
        *(Declared(p.name, None, "", is_open=sole) for p in required),
        *(Declared(p.name, None, "", optional=True) for p in optional),
    ]


def wire(
    spec: ModelSpec,
    declared: Sequence[Declared],
    features: Features,
    apart: Collection[str] = (),
) -> tuple[Input, ...]:
    """Find the feature for each input.

    It is the one that `model.inputs` says, else the one of the input's name, else the
    only one that is left, else the only one whose shape and type fit.

    Args:
      spec: the config's `[model]`.
      declared: the inputs that the model declares.
      features: features after preprocessing, `{name: (shape without batch, dtype)}`.
      apart: features that the table takes for something else, such as its key; they go
        into an input only by name, if `model.inputs` says so, or if there is no other.

    Raises:
      ConfigError: an input has no feature, or one whose shape or type does not fit, or
        there is more than one way.
    """
    said, wanted = _said(spec, declared)
    for name, feature in said.items():
        if feature not in features:
            raise ConfigError(
                f"model.inputs must name a feature, got {feature!r} for"
                f" {input_text(name)}{nearest(feature, features)}"
                f" (features: {', '.join(sorted(features))})"
            )
    found = {one.name: one.name for one in wanted if one.name in features} | said
    for one in wanted:
        if one.name in found:
            _wired(one, found[one.name], features)
    missing = [one for one in wanted if one.name not in found]
    left = {name: features[name] for name in features if name not in found.values()}
    alone = len(features) == 1  # then it is the one, whatever else it is for
    free = {name: left[name] for name in left if alone or name not in apart}
    try:
        found |= _only_way(missing, free)
    except LookupError:
        raise ConfigError(_unclear(wanted, found, free or left)) from None
    return tuple(_wired(one, found[one.name], features) for one in wanted)


def wired_spec(spec: ModelSpec, inputs: Sequence[Input]) -> ModelSpec:
    """Give the `[model]` that says of each input which feature goes in."""
    return spec.model_copy(update={"inputs": {i.name: i.feature for i in inputs}})


def agree(given: ModelSpec, wired: ModelSpec) -> bool:
    """Tell whether a wiring may have come of what a user has written.

    Args:
      given: as the user writes it; what it leaves out may have been found.
      wired: as `wired_spec` gives it.
    """
    there, written = wired.inputs, given.inputs
    assert isinstance(there, dict)
    if not isinstance(written, dict):
        return list(written) == list(there.values())
    if len(written) == len(there) == 1:  # one input may go by any name
        return list(written.values()) == list(there.values())
    return written.items() <= there.items()


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
      ConfigError: the model does not declare the whole shapes of its inputs.
    """
    said, wanted = _said(spec, declared)
    if any(one.shape is None or None in one.shape[1:] for one in wanted):
        raise ConfigError(
            "features are required for a model that does not declare the shapes of its"
            " inputs; give {name: (shape without batch, dtype)}"
        )
    return {
        said.get(one.name, one.name): ((one.shape or ())[1:], one.dtype)
        for one in wanted
    }


def input_text(name: str) -> str:
    """Write an input as who made the model knows it: by its name, or its position."""
    if automatic_number(name) is not None:
        return "an input without a name"
    return f"input {name}" if name.isdigit() else f"input {name!r}"


def automatic_number(name: str) -> int | None:
    """Give the number of a name that Keras has made by counting; None for others.

    >>> automatic_number("keras_tensor_12"), automatic_number("image")
    (12, None)
    """
    match = _AUTOMATIC.fullmatch(name)
    return None if match is None else int(match[1] or 0)


def _said(
    spec: ModelSpec, declared: Sequence[Declared]
) -> tuple[dict[str, str], list[Declared]]:
    """Give what `model.inputs` says, `{input: feature}`, and all inputs to be wired."""
    required = [one for one in declared if not one.optional]
    sole = required[0] if len(required) == 1 else None
    given = spec.inputs
    if not isinstance(given, dict):
        given = _in_order(given, required)
    names = [one.name for one in declared]
    unknown = [name for name in given if name not in names]
    if unknown and sole and len(given) == 1 and (sole.is_open or _is_unnamed(sole)):
        return {sole.name: given[unknown[0]]}, [sole]
    if unknown and sole and sole.is_open:
        return given, [Declared(name, None, "") for name in given]
    if unknown:
        raise ConfigError(
            f"model.inputs must name inputs of the model, got {unknown[0]!r}"
            f"{nearest(unknown[0], names)} (the model has"
            f" {', '.join(map(_described, declared))}); or list a feature for each,"
            " in this order"
        )
    return given, [one for one in declared if not one.optional or one.name in given]


def _in_order(listed: Sequence[str], required: Sequence[Declared]) -> dict[str, str]:
    """Read a list of features as the inputs' in their order."""
    if len(listed) == len(required):
        return {one.name: name for one, name in zip(required, listed, strict=True)}
    if len(required) == 1 and required[0].is_open and listed:
        return {str(position): name for position, name in enumerate(listed)}
    raise ConfigError(
        f"model.inputs must list a feature for each of {len(required)} inputs"
        f" ({', '.join(map(_described, required))}), got {len(listed)}:"
        f" {', '.join(listed)}"
    )


def _only_way(missing: Sequence[Declared], free: Features) -> dict[str, str]:
    """Give inputs the features that fit, if there is only one way.

    Where there is only one way, some input has only one feature that fits; and so on
    for the rest.

    Raises:
      LookupError: there is none, or more than one.
    """
    if len(missing) == len(free) == 1:
        return {missing[0].name: next(iter(free))}
    found: dict[str, str] = {}
    while len(found) < len(missing):
        rest = {name: free[name] for name in free if name not in found.values()}
        fits = _fits([one for one in missing if one.name not in found], rest)
        sure = [(name, some[0]) for name, some in fits.items() if len(some) == 1]
        if not sure:
            raise LookupError
        found.update(sure[:1])
    return found


def _fits(inputs: Sequence[Declared], features: Features) -> dict[str, list[str]]:
    """List the features that each input can take."""
    return {
        one.name: [
            name
            for name, (shape, dtype) in features.items()
            if _takes_type(one.dtype or dtype, dtype)
            and (one.shape is None or _takes_shape(one.shape[1:], shape))
        ]
        for one in inputs
    }


def _some_way(fits: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    """Give each input a feature of its own that fits; None if that is impossible."""
    taken: dict[str, str] = {}

    def place(name: str, tried: set[str]) -> bool:
        for feature in sorted(fits[name], key=taken.__contains__):
            if feature not in tried:
                tried.add(feature)
                if feature not in taken or place(taken[feature], tried):
                    taken[feature] = name
                    return True
        return False

    if not all(place(name, set()) for name in fits):
        return None
    return {name: feature for feature, name in taken.items()}


def _unclear(
    wanted: Sequence[Declared], found: Mapping[str, str], free: Features
) -> str:
    """Say which features and inputs there are, and how to say what goes where."""
    fits = _fits([one for one in wanted if one.name not in found], free)
    some = _some_way(fits)
    none = [one for one in wanted if fits.get(one.name) == []]
    listed = [
        f"{n!r} {dtype} {shape_text(shape)}" for n, (shape, dtype) in free.items()
    ]
    if len(listed) > _SHOWN:
        listed = [*listed[:_SHOWN], f"{len(listed) - _SHOWN} more"]
    if some is not None:
        why, cure = "more than one way fits", f"give {_line(wanted, {**found, **some})}"
    else:
        name = f"none fits {_described(none[0])}" if none else "they are too few to fit"
        why, cure = name, "make a feature that fits in source.preprocess"
    into = ", ".join(_described(one) for one in wanted if one.name not in found)
    return (
        f"model.inputs must say which feature goes into {into}: {why} (features:"
        f" {', '.join(listed) or 'none'}); {cure}"
    )


def _line(wanted: Sequence[Declared], found: Mapping[str, str]) -> str:
    """Write a wiring as a line of a config."""
    features = [json.dumps(found[one.name], ensure_ascii=False) for one in wanted]
    if len(wanted) == 1:
        return f"inputs = {features[0]}"
    if any(map(_is_unnamed, wanted)):
        return f"inputs = [{', '.join(features)}]"
    names = [
        one.name
        if _BARE.fullmatch(one.name)
        else json.dumps(one.name, ensure_ascii=False)
        for one in wanted
    ]
    pairs = [f"{n} = {feature}" for n, feature in zip(names, features, strict=True)]
    return f"inputs = {{ {', '.join(pairs)} }}"


def _is_unnamed(one: Declared) -> bool:
    return one.name.isdigit() or automatic_number(one.name) is not None


def _described(one: Declared) -> str:
    """Name an input, if it has a name, with its type and shape as far as declared."""
    shape = None if one.shape is None else shape_text(("batch", *one.shape[1:]))
    name = "an input" if _is_unnamed(one) else repr(one.name)
    return " ".join(filter(None, (name, one.dtype, shape)))


def _wired(declared: Declared, feature: str, features: Features) -> Input:
    """Connect an input with a feature, if they fit."""
    shape, feature_dtype = features[feature]
    expected = shape if declared.shape is None else declared.shape[1:]
    dtype = declared.dtype or feature_dtype
    where = f"model {input_text(declared.name)}"
    if not _takes_shape(expected, shape):
        raise ConfigError(
            f"{where} must have shape {shape_text(expected)}, feature {feature!r} has"
            f" {shape_text(shape)}; reshape or resize it in source.preprocess"
        )
    if not _takes_type(dtype, feature_dtype):
        raise ConfigError(
            f"{where} must be {dtype}, feature {feature!r} is {feature_dtype}; decode"
            " or cast it in source.preprocess"
        )
    merged = tuple(e or f for e, f in zip(expected, shape, strict=True))
    return Input(declared.name, feature, merged, dtype, feature_dtype)


def _takes_type(dtype: str, feature_dtype: str) -> bool:
    """Whether an input of one type can take another: no text, and nothing cut off."""
    text = (dtype == "string") != (feature_dtype == "string")
    return not text and not ("int" in dtype and "float" in feature_dtype)


def _takes_shape(expected: Shape, found: Shape) -> bool:
    return len(expected) == len(found) and all(
        e is None or f is None or e == f for e, f in zip(expected, found, strict=True)
    )
