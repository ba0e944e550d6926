"""The tap language: match patterns against activation addresses, name columns.

An address is `<layer path>[@call][:<leaf>]`. In a pattern `*` matches within one
segment and `**` across segments; everything else stands for itself.
"""

from __future__ import annotations

import difflib
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transforms.column_names import RESERVED, is_column_name, snake, words
from transforms.config import TapSpec
from transforms.dtypes import DTYPES, column_dtype
from transforms.lookup import ConfigError

_NEAR = 5
_WILDCARD = re.compile(r"(\*\*/|\*\*|\*)")


@dataclass(frozen=True, slots=True)
class Activation:
    """One address of a model.

    Attributes:
      address: `<layer path>[@call][:<leaf>]`.
      shape: shape of one row; None for lengths that differ between rows or batches.
      dtype: type of the tensor; empty if there is none.
      refusal: why it cannot be tapped; None if it can.
      flops: estimate of the arithmetic operations that this activation needs for a row;
        None if there is no estimate.
      flops_share: `flops` as a share of the operations that the model's result needs.
      alone: whether the graph proves that a row's values depend on that row alone.
    """

    address: str
    shape: tuple[int | None, ...]
    dtype: str
    refusal: str | None = None
    flops: int | None = None
    flops_share: float | None = None
    alone: bool = False

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes of a row if it is stored without reductions; None if they differ."""
        dtype = column_dtype(self.dtype)
        if self.refusal or dtype in (None, "string") or None in self.shape:
            return None
        return DTYPES[dtype].bytes * math.prod(n for n in self.shape if n is not None)


@dataclass(frozen=True, slots=True)
class Tap:
    """One activation that a config chooses, and the column that it becomes.

    Attributes:
      address: address of the activation.
      reduce: reductions as the config writes them, applied from left to right.
      column: name of the column in the table.
      dtype: type of the column if the config asks for one, else None.
      place: where the config asks for it, such as `taps[0]`, for error messages.
    """

    address: str
    reduce: tuple[str, ...]
    column: str
    dtype: str | None
    place: str


def match(pattern: str, address: str) -> tuple[str, ...] | None:
    """Match a pattern against an address.

    Earlier wildcards take as much as they can. The time grows with the number of
    wildcards times the address's length; that of a regular expression would grow
    exponentially.

    Returns:
      The text that each wildcard stood for; None if the pattern does not match.

    >>> match("block_*:attn", "block_3:attn")
    ('3',)
    """
    tokens = _WILDCARD.split(pattern)
    if not (address.startswith(tokens[0]) and address.endswith(tokens[-1])):
        return None
    ends, steps = [len(address)], []  # where the tokens from here on match the rest
    stops = _segment_ends(address)
    for token in reversed(tokens):
        steps.append(_step(token, address, ends, stops))
        ends = [at for at in range(len(address) + 1) if steps[-1](at) is not None]
    taken: list[str] = []
    at = 0
    for token, step in zip(tokens, reversed(steps), strict=True):
        end = step(at)
        if end is None:
            return None
        if "*" in token:
            taken.append(address[at:end].removesuffix("/" if token == "**/" else ""))
        at = end
    return tuple(taken)


def _segment_ends(address: str) -> list[int]:
    """Give for each place in an address where the segment ends that it is in."""
    ends = [len(address)]
    for at in reversed(range(len(address))):
        ends.append(at if address[at] in "/:@" else ends[-1])
    return ends[::-1]


def _step(
    token: str, address: str, ends: Sequence[int], stops: Sequence[int]
) -> Callable[[int], int | None]:
    """Make a function from a place to the last of `ends` up to which a token matches.

    Args:
      token: a wildcard, or text that stands for itself.
      address: in which it is to match.
      ends: places at which it may end, rising.
      stops: where the segment of each place ends.
    """
    known = set(ends)
    if "*" not in token:

        def literal(start: int) -> int | None:
            end = start + len(token)
            return end if end in known and address.startswith(token, start) else None

        return literal
    wanted = ends
    if token == "**/":
        wanted = [end for end in ends if address[end - 1 : end] == "/"]

    def wildcard(start: int) -> int | None:
        last = stops[start] if token == "*" else len(address)
        before = bisect_right(wanted, last)
        if before and wanted[before - 1] >= start:
            return wanted[before - 1]
        return start if start in known else None

    return wildcard


def choose(specs: Sequence[TapSpec], activations: Sequence[Activation]) -> list[Tap]:
    """Find the activations that the taps of a config name.

    A pattern with wildcards passes over addresses that cannot be tapped, as long as it
    matches one that can.

    Raises:
      ConfigError: a tap matches nothing, or only what cannot be tapped; or two taps
        name one column.
    """
    taps: list[Tap] = []
    for index, spec in enumerate(specs):
        taps += choose_one(spec, f"taps[{index}]", activations)
    by_column: dict[str, Tap] = {}
    for tap in taps:
        other = by_column.setdefault(tap.column, tap)
        if other is not tap:
            raise ConfigError(
                f"{tap.place}.column must be unique, got {tap.column!r} for both"
                f" {other.address!r} and {tap.address!r}; give a column, with {{1}} for"
                " what the first wildcard matched"
            )
    return taps


def flops_of(taps: Sequence[Tap], activations: Sequence[Activation]) -> int:
    """Estimate the arithmetic operations that a row's taps need together.

    Taps of one model share most of their work, so that of the costliest one stands for
    all; 0 where there is no estimate.
    """
    flops = {a.address: a.flops or 0 for a in activations}
    return max((flops[tap.address] for tap in taps), default=0)


def filter_activations(
    pattern: str, activations: Sequence[Activation]
) -> list[Activation]:
    """Keep the activations that a pattern matches.

    A pattern without a leaf also matches all leaves of the same layer.

    Raises:
      ConfigError: it matches nothing.
    """
    kept = [
        a
        for a in activations
        if match(pattern, a.address) is not None
        or match(pattern, a.address.partition(":")[0]) is not None
    ]
    if not kept:
        raise ConfigError(_no_match("--filter", pattern, activations))
    return kept


def _no_match(place: str, pattern: str, activations: Sequence[Activation]) -> str:
    known = [activation.address for activation in activations]
    near = difflib.get_close_matches(pattern, known, _NEAR, cutoff=0.0)
    called = [a for a in known if a.partition(":")[0].partition("@")[0] == pattern]
    return (
        f"{place} must match an activation, got {pattern!r}; nearest"
        f" {_listed((called or near)[:_NEAR])} (featuretap taps CONFIG lists all)"
    )


def choose_one(
    spec: TapSpec, place: str, activations: Sequence[Activation]
) -> list[Tap]:
    """Find the activations that one tap of a config names.

    Args:
      spec: the tap.
      place: where it stands in the config, such as `taps[0]`, for error messages.
      activations: all activations of the model.

    Raises:
      ConfigError: the tap matches nothing, or only what cannot be tapped; or its column
        is no valid name.
    """
    matches = [
        (activation, wildcards)
        for activation in activations
        if (wildcards := match(spec.path, activation.address)) is not None
    ]
    if not matches:
        raise ConfigError(_no_match(f"{place}.path", spec.path, activations))
    open_to_taps = [pair for pair in matches if pair[0].refusal is None]
    if not open_to_taps:
        refused = matches[0][0]
        raise ConfigError(
            f"{place}.path must match an activation that can be tapped, got"
            f" {spec.path!r}: {refused.address!r} {refused.refusal}"
        )
    return [
        Tap(
            address=activation.address,
            reduce=spec.reduce,
            column=_column(spec, place, activation.address, wildcards),
            dtype=spec.dtype,
            place=place,
        )
        for activation, wildcards in open_to_taps
    ]


def _listed(names: Sequence[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(map(repr, names))}"


def _column(spec: TapSpec, place: str, address: str, wildcards: tuple[str, ...]) -> str:
    if spec.column is None:
        return snake(address)

    def fill(found: re.Match[str]) -> str:
        number = int(found[1])
        if not 1 <= number <= len(wildcards):
            raise ConfigError(
                f"{place}.column must number wildcards of the path, which has"
                f" {len(wildcards) or 'none'}, got {found[0]!r} in {spec.column!r}"
            )
        return words(wildcards[number - 1])

    name = re.sub(r"\{(\d{1,9})\}", fill, spec.column)
    if not is_column_name(name) or name in RESERVED:
        suggested = f"{name}_" if name in RESERVED else snake(name)
        raise ConfigError(
            f"{place}.column must be lower_snake and not one of {', '.join(RESERVED)},"
            f" got {name!r}; {suggested!r} would do"
        )
    return name
