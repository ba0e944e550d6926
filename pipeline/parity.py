"""Certify a table: draw rows, compute them a second way, compare every value."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reference import Reference
from transforms import storage
from transforms.planned import read_planned
from transforms.schema import Column
from transforms.shard import Piece, Shard
from transforms.table import Table, to_json

TOLERANCES = {
    "float32": (1e-3, 1e-5),
    "float16": (2e-2, 1e-3),
    "bfloat16": (1e-1, 1e-2),
}
"""Largest relative deviation and largest cosine deviation, by the shortest type on the
way from model to column. Those of float32 leave room for the TF32 of GPUs; on CPUs,
deviations of 1e-6 are usual (docs/models.md)."""


@dataclass(frozen=True, slots=True)
class ColumnParity:
    """How far one column lies from the reference, over all rows drawn.

    Attributes:
      dtype: the shortest type on the way from model to column; names the tolerance.
      max_abs: largest absolute deviation; None for what is no floating-point number.
      relative: the same over the largest absolute value of the reference.
      cosine: largest of 1 - cos between a row's vectors; None for scalars.
      mismatched: values that should be equal and are not: whole numbers, text, lengths
        of lists, keys, and what is finite on one side only.
      passed: whether all that lies within the tolerance.
    """

    dtype: str
    max_abs: float | None
    relative: float | None
    cosine: float | None
    mismatched: int
    passed: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """A certificate: `rows` drawn rows of a table against the reference.

    Attributes:
      rows: how many were drawn.
      seed: of the draw.
      fingerprint: of the table.
      tolerances: `{type: [relative, cosine]}`.
      columns: the key and every feature column.
    """

    rows: int
    seed: int
    fingerprint: str
    tolerances: Mapping[str, Sequence[float]]
    columns: Mapping[str, ColumnParity]

    @property
    def passed(self) -> bool:
        """Whether every column is within its tolerance."""
        return all(column.passed for column in self.columns.values())

    def to_json(self) -> dict[str, Any]:
        """The certificate as a JSON document."""
        return {"passed": self.passed, **asdict(self)}


def check_parity(table: str, rows: int, seed: int = 0) -> Parity:
    """Recompute some rows of a finished table independently, and store how far it is.

    The certificate goes to `_featuretap/parity.json`, its verdict into `_SUCCESS`.
    Source, model and the user's code must be where they were.

    Args:
      table: its URI.
      rows: how many to draw, all if there are fewer.
      seed: of the draw.

    Raises:
      FileNotFoundError: there is no finished table.
      RuntimeError: model or source are not what they were.
    """
    place = Table(table)
    plan = read_planned(place)
    summary = place.read_success()
    if summary is None:
        raise FileNotFoundError(
            f"a table must be finished to be checked, {table!r} has no _SUCCESS;"
            " go on with featuretap run CONFIG"
        )
    reference = Reference(plan.config, plan.features, plan.columns, plan.model_digest)
    checked = [c for c in plan.columns if c.role in ("key", "feature")]
    tallies = {column.name: _Tally(column) for column in checked}
    drawn = 0
    for stored, places in _draw(place, rows, seed):
        examples = reference.read(places)
        for values, where, example in zip(stored, places, examples, strict=True):
            expected: dict[str, Any] = dict(reference.values(example))
            expected[checked[0].name] = _key(checked[0], example, *where)
            for name, tally in tallies.items():
                tally.add(values[name], expected[name])
            drawn += 1
    parity = Parity(
        rows=drawn,
        seed=seed,
        fingerprint=plan.fingerprint,
        tolerances=TOLERANCES,
        columns={n: t.result(reference.precision) for n, t in tallies.items()},
    )
    storage.replace(place.internal("parity.json"), to_json(parity.to_json()))
    deviations = [c.relative for c in parity.columns.values() if c.relative is not None]
    verdict = {
        "rows": drawn,
        "seed": seed,
        "passed": parity.passed,
        "worst_relative": max(deviations, default=0.0),
    }
    storage.replace(place.path("_SUCCESS"), to_json({**summary, "parity": verdict}))
    return parity


class _Tally:
    """Adds up how far one column is off."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._kinds = {column.dtype}
        self._max_abs = self._scale = self._cosine = 0.0
        self._mismatched = 0

    def add(self, stored: Any, expected: Any) -> None:
        if self._column.role == "key":
            self._mismatched += stored != expected
            return
        self._kinds.add(getattr(getattr(expected, "dtype", None), "name", ""))
        wanted = np.asarray(expected).reshape(-1)
        found = np.asarray(stored if isinstance(stored, list) else [stored])
        if len(found) != len(wanted):
            self._mismatched += max(len(found), len(wanted))
            return
        if not self._is_float:
            wanted = np.array([_plain(value) for value in wanted])
            self._mismatched += int((found != wanted).sum())
            return
        one, other = found.astype(np.float64), wanted.astype(np.float64)
        finite = np.isfinite(one) & np.isfinite(other)
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        self._mismatched += int((~finite & ~same).sum())
        one, other = np.where(finite, one, 0), np.where(finite, other, 0)
        self._max_abs = max(self._max_abs, np.abs(one - other).max(initial=0))
        self._scale = max(self._scale, np.abs(other).max(initial=0))
        if len(one) > 1:
            self._cosine = max(self._cosine, _cosine_deviation(one, other))

    def result(self, precision: str) -> ColumnParity:
        if not self._is_float:
            kind = self._column.dtype
            exact = self._mismatched == 0
            return ColumnParity(kind, None, None, None, self._mismatched, exact)
        relative = self._max_abs / self._scale if self._scale else self._max_abs
        kinds = {*self._kinds, precision}
        kind = next((k for k in ("bfloat16", "float16") if k in kinds), "float32")
        vector = self._column.width != 1
        largest_relative, largest_cosine = TOLERANCES[kind]
        passed = (
            self._mismatched == 0
            and relative <= largest_relative
            and self._cosine <= largest_cosine
        )
        return ColumnParity(
            dtype=kind,
            max_abs=float(self._max_abs),
            relative=float(relative),
            cosine=float(self._cosine) if vector else None,
            mismatched=self._mismatched,
            passed=bool(passed),
        )

    @property
    def _is_float(self) -> bool:
        return self._column.dtype.startswith("float") and self._column.role != "key"


def _cosine_deviation(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        return float(np.any(one != other))
    return max(0.0, 1.0 - float(one @ other) / lengths)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _key(column: Column, example: Mapping[str, Any], piece: Piece, row: int) -> Any:
    if not column.source:
        return f"{piece.name}#{row}"
    return _plain(np.asarray(example[column.source]).item())


def _draw(
    table: Table, rows: int, seed: int
) -> Iterator[tuple[list[dict[str, Any]], list[tuple[Piece, int]]]]:
    """Draw rows of the table without repetition.

    Yields:
      For each part that has some: the stored rows, and where they came from: the piece
      and the row within its file.
    """
    manifest = table.read_parquet("_featuretap/manifest.parquet").to_pylist()
    ends = np.cumsum([part["rows"] for part in manifest])
    total = int(ends[-1]) if len(ends) else 0
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.choice(total, min(rows, total), replace=False))
    shards = table.shards()
    for index in np.unique(np.searchsorted(ends, chosen, side="right")):
        start = int(ends[index]) - manifest[index]["rows"]
        inside = chosen[(chosen >= start) & (chosen < ends[index])] - start
        places = _sound_rows(table, shards[index], manifest[index])
        stored = _read_rows(table, manifest[index]["path"], inside)
        yield stored, [places[int(row)] for row in inside]


def _sound_rows(
    table: Table, shard: Shard, part: Mapping[str, Any]
) -> list[tuple[Piece, int]]:
    """Where each row of a part came from: the shard's rows without the bad ones."""
    commit = table.read_commits([shard.index])[0]
    bad: set[tuple[str, int]] = set()
    if commit.errors:
        errors = table.read_parquet(commit.errors.path).select(["file", "row"])
        bad = {(row["file"], row["row"]) for row in errors.to_pylist()}
    planned = part["rows"] + part["quarantined"]
    places = [shard.locate(position) for position in range(planned)]
    return [(piece, row) for piece, row in places if (piece.file, row) not in bad]


def _read_rows(table: Table, name: str, rows: np.ndarray) -> list[dict[str, Any]]:
    """Read some rows of a part, one row group at a time."""
    found: list[dict[str, Any]] = []
    data = io.BytesIO(storage.read(table.path(name)))
    with pq.ParquetFile(data) as file:
        counts = [
            file.metadata.row_group(group).num_rows
            for group in range(file.metadata.num_row_groups)
        ]
        starts = np.cumsum([0, *counts])
        for group, (start, end) in enumerate(itertools.pairwise(starts)):
            inside = rows[(rows >= start) & (rows < end)] - start
            if len(inside):
                found += file.read_row_group(group).take(pa.array(inside)).to_pylist()
    return found


def describe(parity: Parity) -> list[tuple[str, ...]]:
    """Lay a certificate out in rows of text, one a column."""
    return [
        (
            name,
            column.dtype,
            _number(column.max_abs),
            _number(column.relative),
            _number(column.cosine),
            str(column.mismatched),
            "yes" if column.passed else "NO",
        )
        for name, column in parity.columns.items()
    ]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1e}"
