"""Find features that lack values in the first rows, and fill those that go in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.init.head import Head, read_head
from pipeline.init.pixels import Steps
from pipeline.init.questions import Questions
from transforms.dtypes import Feature
from transforms.sources.source import Source


def fill_nulls(
    source: Source, head: Head, used: Mapping[str, Feature]
) -> dict[str, Feature]:
    """Fill the features of which some row, or an element of its list, has no value.

    Features of bytes are not filled: no bytes are no image.

    Args:
      source: read again where only that tells why rows are bad.
      head: its first rows.
      used: the features that go into the model.

    Returns:
      The features that lack values, with 0 or empty text as their fill.
    """
    found: dict[str, Feature] = {}
    for name, feature in used.items():
        filled = replace(feature, fill="" if feature.family == "text" else 0)
        may_lack = feature.dtype != "bytes" and feature.fill is None
        if may_lack and (
            head.nulls(name) or _is_bad_of_nulls(source, head, name, filled)
        ):
            found[name] = filled
    return found


def fill_steps(
    filled: Mapping[str, Feature], head: Head, questions: Questions
) -> Steps:
    """Write the steps that fill features; what stands there is a guess."""
    steps: Steps = []
    read = len(head.rows) + head.bad
    for name, feature in filled.items():
        step = {"step": "fill", "feature": name, "value": feature.fill}
        text = f"{head.nulls(name) or 'some'} of the first {read} rows lack {name!r}"
        comment = questions.guess(f"{text}; write here what stood there in training")
        steps.append((step, comment))
    return steps


def bad_share(source: Source, head: Head, used: Mapping[str, Feature]) -> float:
    """Give the share of the first rows that are bad for what goes into the model.

    Rows that are bad only for other features are not counted; those that lack a value
    that goes in, and that nothing fills, are.
    """
    if not head.bad and not any(map(head.nulls, used)):
        return 0.0
    strict = read_head(source, _strict(used))
    return strict.bad / max(len(strict.rows) + strict.bad, 1)


def _is_bad_of_nulls(source: Source, head: Head, name: str, filled: Feature) -> bool:
    """Tell by reading again whether rows are bad of nulls, which a fill would mend."""
    if not head.bad or (filled.nullable and not filled.shape):  # then nulls are sound
        return False
    strict = [_strict({name: one}) for one in (replace(filled, fill=None), filled)]
    bad, others = (read_head(source, features).bad for features in strict)
    return bad > others


def _strict(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Give features as they go into a model, where nulls are filled or bad rows."""
    return {name: replace(one, nullable=False) for name, one in features.items()}
