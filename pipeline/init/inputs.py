"""Find the features that go into a model's inputs, and the steps in between."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.init.head import Head
from pipeline.init.pixels import Steps, image_steps, is_image, scaled
from pipeline.init.questions import Questions
from transforms.dtypes import Feature
from transforms.messages import shape_text
from transforms.models.inputs import Declared
from transforms.models.model import ModelForm

_RAW = {1: "uint8", 2: "float16", 4: "float32", 8: "float64"}
_NOT_INPUTS = ("training", "mask", "self", "args", "kwargs")


@dataclass(slots=True)
class Wiring:
    """How features reach the inputs of a model.

    Attributes:
      inputs: `{model input: feature}`; an input that no feature fits is left out.
      steps: preprocessing, each step with a comment.
      used: features that go in, as they were read.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    steps: Steps = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def wire_inputs(
    form: ModelForm, given: Mapping[str, str], head: Head, questions: Questions
) -> Wiring:
    """Find a feature for each input of a model.

    A feature of the input's own name comes first, then one that fits as it is, then one
    that steps can make fit; keys and labels come last.

    Args:
      form: the model.
      given: `{model input: feature}` for inputs whose feature is known.
      head: the features, and what they hold.
      questions: asked where several features fit equally well.
    """
    wiring = Wiring()
    required = [one for one in form.declared() if not one.optional]
    for declared in required or _undeclared(form, given):
        wanted = _Wanted(declared, form, head)
        names = wanted.candidates(wiring.used)
        if declared.name in given:
            names = [given[declared.name]]
        if names:
            name = questions.choose(f"feature for input {declared.name!r}", names)
            wiring.inputs[declared.name] = name
            wiring.steps += wanted.steps(name, questions)
            wiring.used.add(name)
        elif parts := wanted.parts(wiring.used):
            made = _unused_name("features", head.features)
            wiring.inputs[declared.name] = made
            step = {"step": "stack", "feature": made, "of": parts}
            text = "one vector of several columns, whose order must be that of training"
            if doubtful := [part for part in parts if part in head.labels()]:
                text += f"; {', '.join(doubtful)} may be what the model was to tell"
            wiring.steps.append((step, questions.guess(text)))
            wiring.used.update(parts)
        else:
            kind = f"{declared.dtype} {shape_text((declared.shape or (None,))[1:])}"
            questions.miss(f"which feature goes into input {declared.name!r}, {kind}")
    return wiring


def _undeclared(form: ModelForm, given: Mapping[str, str]) -> list[Declared]:
    """Name the arguments of a model that declares no inputs."""
    if given:
        return [Declared(name, None, "") for name in given]
    try:
        parameters = inspect.signature(form.model.call).parameters.values()
    except (AttributeError, ValueError):
        return [Declared("inputs", None, "")]
    names = [
        one.name
        for one in parameters
        if one.name not in _NOT_INPUTS and one.default is one.empty
    ]
    return [Declared(name, None, "") for name in names or ["inputs"]]


def _unused_name(name: str, used: Mapping[str, Any]) -> str:
    while name in used:
        name += "_"
    return name


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An input of a model, and the features that could go into it."""

    declared: Declared
    form: ModelForm
    head: Head

    def candidates(self, used: set[str]) -> list[str]:
        """Name the features that could go in, the likeliest first.

        If some fit better than others, only these.
        """
        ranks = {
            name: rank
            for name in self.head.features
            if name not in used and (rank := self._rank(name)) is not None
        }
        best = min(ranks.values(), default=0)
        alike = [name for name, rank in ranks.items() if rank == best]
        return sorted(alike, key=self._unlike)

    def parts(self, used: set[str]) -> list[str]:
        """Name the single numbers that make a vector of the length that goes in."""
        aside = {*self.head.labels(), *self.head.keys()[:1], *used}
        numbers = [
            name
            for name, one in self.head.features.items()
            if not one.shape and one.family in ("float", "integer", "flag")
        ]
        chosen = [name for name in numbers if name not in aside]
        shape = self.declared.shape
        if shape is None:
            return chosen
        return next((c for c in (chosen, numbers) if shape[1:] == (len(c),)), [])

    def steps(self, name: str, questions: Questions) -> Steps:
        """Give the steps that make a candidate fit."""
        if name not in self.head.features:
            return []
        feature, values = self.head.features[name], self.head.values(name)
        if self._is_image(feature, values):
            stored = [] if feature.shape else self.head.images(name)
            declared, form = self.declared, self.form
            return image_steps(name, feature, stored, declared, form, questions)
        if feature.shape[:1] == (None,):
            return [self._padded(name, values, questions)]
        shape = [] if self.declared.shape is None else [*self.declared.shape[1:]]
        if feature.family == "text" and self.declared.dtype not in ("string", ""):
            kind = self._raw_type(values)
            step = {"step": "decode_raw", "feature": name, "dtype": kind}
            text = f"its {len(values[0])} bytes are numbers of {shape_text(shape)}"
            return [({**step, "shape": shape}, questions.guess(text))]
        if self.declared.shape is None or _fits(feature.shape, self.declared.shape[1:]):
            return []
        reshape = ({"step": "reshape", "feature": name, "shape": shape}, "")
        is_pixels = feature.dtype == "uint8" and len(shape) == 3
        return [reshape, *(scaled(name, self.form, questions) if is_pixels else [])]

    def _unlike(self, name: str) -> float:
        """Say how unlike the input's name a feature's name is, from -1 to 0."""
        return -difflib.SequenceMatcher(None, name, self.declared.name).ratio()

    def _rank(self, name: str) -> int | None:
        """Say how well a feature fits; less is better, None not at all."""
        feature = self.head.features[name]
        if feature.dtype == "timestamp" or not self._can(name, feature):
            return None
        aside = name in (*self.head.labels(), *self.head.keys()[:1], "path")
        if name == self.declared.name:
            return 0
        direct = self.declared.shape is None or _fits(
            feature.shape, self.declared.shape[1:]
        )
        return (1 if direct else 2) + (2 if aside else 0)

    def _can(self, name: str, feature: Feature) -> bool:
        """Whether a feature can be made what goes in."""
        values, dtype = self.head.values(name), self.declared.dtype
        if self.declared.shape is None:
            is_vector = bool(feature.shape) and feature.family != "text"
            return is_vector or self._is_image(feature, values)
        shape = self.declared.shape[1:]
        if dtype == "string":
            alike = _count(feature.shape) == _count(shape) is not None
            return feature.family == "text" and (alike or _fits(feature.shape, shape))
        if feature.family == "text":
            is_raw = feature.dtype == "bytes" and self._raw_type(values) is not None
            return not feature.shape and (is_raw or self._is_image(feature, values))
        if feature.family == "float" and "int" in dtype:
            return False
        if feature.shape[:1] == (None,):
            return len(feature.shape) == len(shape)
        if self._is_image(feature, values) or _fits(feature.shape, shape):
            return True
        return _count(feature.shape) == _count(shape) is not None

    def _is_image(self, feature: Feature, values: Sequence[Any]) -> bool:
        """Whether a feature is images, and the input takes some."""
        shape = self.declared.shape
        if shape is not None and len(shape) != 4:
            return False
        if feature.dtype == "bytes" and not feature.shape:
            return is_image(values)
        pixels = feature.dtype == "uint8" and len(feature.shape) == 3
        return pixels and (shape is None or feature.shape[2] in (None, shape[3]))

    def _raw_type(self, values: Sequence[Any]) -> str | None:
        """Tell the type of numbers whose bytes are all that a value holds."""
        shape = (self.declared.shape or (None, None))[1:]
        sizes = {len(value) for value in values if isinstance(value, bytes)}
        if None in shape or not shape or len(sizes) != 1:
            return None
        each, rest = divmod(sizes.pop(), math.prod(n or 1 for n in shape))
        return None if rest else _RAW.get(each)

    def _padded(
        self, name: str, values: Sequence[Any], questions: Questions
    ) -> tuple[dict[str, Any], str]:
        """Give rows of differing length the length that the model takes, or some."""
        step: dict[str, Any] = {"step": "pad", "feature": name}
        wanted = None if self.declared.shape is None else self.declared.shape[1]
        if wanted is not None:
            text = f"longer rows lose their end, since the model takes {wanted}"
            cut = {"lengths": [wanted], "truncate": "end"}
            return {**step, **cut}, questions.guess(text)
        longest = max((len(value) for value in values), default=1)
        last = 1 << math.ceil(math.log2(max(longest, 1)))
        lengths = sorted({max(last // 4, 1), max(last // 2, 1), last, last * 2})
        text = f"{longest} is the longest {name!r} of the first {len(values)} rows"
        return {**step, "lengths": lengths}, questions.guess(text)


def _count(shape: Sequence[int | None]) -> int | None:
    """Count the numbers of a shape; None if a length is open."""
    known = [length for length in shape if length is not None]
    return math.prod(known) if len(known) == len(shape) else None


def _fits(found: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(
        w is None or f == w for f, w in zip(found, wanted, strict=True)
    )
