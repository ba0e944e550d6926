"""Choose two or three activations that are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transforms.dtypes import column_dtype
from transforms.messages import shape_text
from transforms.taps.language import Activation

_HALF = (0.2, 0.6)  # shares of the arithmetic
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tap that is proposed.

    Attributes:
      path: address of the activation.
      reduce: reductions, none of them if it is stored as it is.
      column: name for the column; empty if the address gives a good one.
      comment: why, and how much it is.
    """

    path: str
    reduce: tuple[str, ...]
    column: str
    comment: str


def propose_taps(activations: Sequence[Activation]) -> list[Proposal]:
    """Propose taps: what the last layer sees, something half-way, and the result.

    Entries of dicts and tuples that layers return come before plain outputs, since
    somebody has named them.
    """
    open_ = [a for a in activations if a.refusal is None and _is_number(a)]
    results = [a for a in open_ if a.address[:1] in ("", ":")]
    inner = [a for a in open_ if a not in results]
    named = [a for a in inner if ":" in a.address]
    shapes = [a.shape for a in results[-1:]]
    while len(inner) > 1 and inner[-1].shape in shapes:
        inner.pop()  # the head, and what is only scaled after it
    found: list[Proposal] = []
    if inner:
        last = _seen_by_the_head(inner)
        found.append(_proposal(last, "what the last layers see"))
        middle = [a for a in inner if a != last and _HALF[0] <= _share(a) <= _HALF[1]]
        if others := [a for a in named if a != last]:
            found.append(_proposal(others[-1], "what a layer returns by name"))
        elif middle:
            found.append(_proposal(middle[-1], "half-way through the model"))
    for result in results[-1:]:
        if len(inner) == 1 and inner[0].flops == result.flops:
            found.clear()  # its only layer makes the result
        column = "" if result.address else "output"
        found.append(_proposal(result, "the model's result", column))
    return found


def _seen_by_the_head(inner: Sequence[Activation]) -> Activation:
    """Find the last vector, or what makes a shorter one if that is very long."""
    vectors = [a for a in inner if len(a.shape) == 1]
    last = vectors[-1] if vectors else inner[-1]
    others = [a for a in inner if len(a.shape) > 1]
    too_long = len(last.shape) == 1 and (last.shape[0] or 0) > _LONGEST
    return others[-1] if too_long and others else last


def _is_number(activation: Activation) -> bool:
    dtype = column_dtype(activation.dtype)
    return dtype is not None and "float" in dtype


def _share(activation: Activation) -> float:
    return activation.flops_share or 0.0


def _proposal(activation: Activation, why: str, column: str = "") -> Proposal:
    reduce = ("global_average_pool",) if len(activation.shape) > 1 else ()
    kept = f"{why}: {activation.dtype} {shape_text(activation.shape)}"
    return Proposal(activation.address, reduce, column, kept)
