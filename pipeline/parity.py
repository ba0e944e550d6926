"""Certify a table: draw rows, compute them a second way, compare every value."""

from __future__ import annotations

import io
import itertools
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
    "float32": (1e-2, 1e-4, 0.0),
    "float16": (5e-2, 1e-3, 0.05),
    "bfloat16": (2e-1, 1e-2, 0.05),
}
"""Largest relative deviation, largest cosine deviation, and largest share of whole
numbers that differ (such as the place of a maximum), by the shortest type on the way
from model to column. Those of float32 leave room for the TF32 of GPUs; on CPUs
deviations of 1e-6 are usual (docs/models.md)."""
_TYPICAL = 1e-3
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class ColumnParity:
    """How far one column lies from the reference, over all rows drawn.

    Attributes:
      precision: the shortest type on the way from model to column; names the tolerance.
      max_abs: largest absolute deviation; None for what is no floating-point number.
      relative: largest deviation of a value in terms of that value plus a typical one,
        so that a few large values do not hide what happens to the others.
      cosine: largest of 1 - cos between a row's vectors; None for scalars.
      mismatched: values that should be equal and are not: whole numbers, text, keys,
        kept features, shapes, and what is finite on one side only.
      passed: whether all that lies within the tolerance.
    """

    precision: str
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
    if summary["rows"] == 0:
        raise RuntimeError(f"a table must have rows to be checked, {table!r} has none")
    reference = Reference(plan.config, plan.features, plan.columns, plan.model_digest)
    checked = [c for c in plan.columns if c.role != "shape" and c.dtype != "timestamp"]
    tallies = {column.name: _Tally(column) for column in checked}
    drawn = 0
    for stored, places in _draw(place, rows, seed):
        examples = reference.read(places)
        for values, where, example in zip(stored, places, examples, strict=True):
            prepared = reference.prepare(example)
            expected = dict(reference.values(prepared))
            for column in checked:
                if column.role != "feature":
                    expected[column.name] = _passed(column, example, prepared, where)
                shape = values.get(f"{column.name}_shape")
                tally = tallies[column.name]
                tally.add(values[column.name], expected[column.name], shape)
            drawn += 1
    parity = Parity(
        rows=drawn,
        seed=seed,
        fingerprint=plan.fingerprint,
        tolerances=TOLERANCES,
        columns={
            name: tally.result(reference.precision, reference.magnitudes.get(name, 0.0))
            for name, tally in tallies.items()
        },
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


def _passed(
    column: Column,
    example: Mapping[str, Any],
    prepared: Mapping[str, Any],
    where: tuple[Piece, int],
) -> Any:
    """What a key or kept feature should be: as read, else as preprocessing made it."""
    if not column.source:
        return f"{where[0].name}#{where[1]}"
    return example.get(column.source, prepared.get(column.source))


class _Tally:
    """Gathers one column of the rows drawn, and tells how far it is off."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._kinds = {column.dtype}
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._misshapen = 0

    def add(self, stored: Any, expected: Any, shape: list[int] | None) -> None:
        """Take a row: what the table holds, and what it should hold."""
        column = self._column
        wanted = np.asarray(expected)
        fits = shape is None or tuple(shape) == wanted.shape
        if column.width is not None:
            fits = column.shape == wanted.shape
        found = np.asarray(stored if isinstance(stored, list) else [stored])
        if not fits or len(found) != wanted.size:
            self._misshapen += 1
            return
        self._kinds.add(wanted.dtype.name)
        wanted = wanted.reshape(-1)
        if column.dtype == "string":
            wanted = np.array([_plain(value) for value in wanted.tolist()])
        elif column.dtype == "bytes":
            found, wanted = found.astype(object), wanted.astype(object)
        self._rows.append((found, wanted))

    def result(self, precision: str, magnitude: float = 0.0) -> ColumnParity:
        """Compare all rows taken.

        Args:
          precision: the shortest type in which the model computes.
          magnitude: the largest value before reductions, whose float error is left
            where reductions cancel the rest out.
        """
        kinds = {*self._kinds, precision if self._column.role == "feature" else ""}
        kind = next((k for k in ("bfloat16", "float16") if k in kinds), "float32")
        if self._column.dtype.startswith("float"):
            return self._deviations(kind, magnitude)
        unequal = sum(int((a != b).sum()) for a, b in self._rows) + self._misshapen
        values = sum(len(a) for a, _ in self._rows)
        whole = self._column.dtype not in ("string", "bytes")
        allowed = TOLERANCES[kind][2] * values if whole else 0
        passed = self._misshapen == 0 and unequal <= allowed
        return ColumnParity(kind, None, None, None, unequal, passed)

    def _deviations(self, kind: str, magnitude: float) -> ColumnParity:
        mismatched = self._misshapen
        pairs = []
        for stored, expected in self._rows:
            one, other = stored.astype(np.float64), expected.astype(np.float64)
            finite = np.isfinite(one) & np.isfinite(other)
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            mismatched += int((~finite & ~same).sum())
            pairs.append((np.where(finite, one, 0), np.where(finite, other, 0)))
        typical = _typical([other for _, other in pairs])
        typical = max(typical, _ROUNDING * magnitude)
        max_abs = relative = cosine = 0.0
        for one, other in pairs:
            apart = np.abs(one / 2 - other / 2)  # halves do not overflow
            scale = np.abs(other) / 2 + typical / 2
            max_abs = max(max_abs, 2 * float(apart.max(initial=0)))
            relative = max(relative, float((apart / scale).max(initial=0)))
            cosine = max(cosine, _cosine_deviation(one, other, typical))
        relative_most, cosine_most, _ = TOLERANCES[kind]
        within = relative <= relative_most and cosine <= cosine_most
        largest = float(np.finfo(np.float64).max)
        return ColumnParity(
            precision=kind,
            max_abs=min(max_abs, largest),
            relative=min(relative, largest),
            cosine=cosine if self._column.width != 1 else None,
            mismatched=mismatched,
            passed=mismatched == 0 and within,
        )


def _typical(rows: Sequence[np.ndarray]) -> float:
    """The median of what is not zero, but no less than a share of the largest values.

    The share keeps float error of large values from counting against tiny ones.
    """
    values = np.abs(np.concatenate([row[row != 0] for row in rows] or [np.zeros(0)]))
    if not len(values):
        return float(np.finfo(np.float32).tiny)
    largest = float(values.max())
    spread = largest * float(np.sqrt(np.mean((values / largest) ** 2)))
    return max(float(np.median(values)), _TYPICAL * spread)


def _cosine_deviation(one: np.ndarray, other: np.ndarray, typical: float) -> float:
    """Give 1 - cos; 0 where both are next to nothing."""
    largest = max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))
    if len(one) < 2 or largest <= _TYPICAL * typical:
        return 0.0
    one, other = one / largest, other / largest
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return max(0.0, 1.0 - float(one @ other) / lengths) if lengths else 1.0


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


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
        places = _sound_rows(table, shards[int(index)])
        stored = _read_rows(table, manifest[index]["path"], inside)
        yield stored, [places[int(row)] for row in inside]


def _sound_rows(table: Table, shard: Shard) -> list[tuple[Piece, int]]:
    """Where each row of a part came from: the shard's rows without the bad ones."""
    (commit,) = table.read_commits([shard.index])
    bad: set[tuple[str, int]] = set()
    if commit.errors:
        errors = table.read_parquet(commit.errors.path).select(["file", "row"])
        bad = {(row["file"], row["row"]) for row in errors.to_pylist()}
    found = commit.piece_rows or [piece.rows or 0 for piece in shard.pieces]
    places = [
        (piece, piece.start + row)
        for piece, rows in zip(shard.pieces, found, strict=True)
        for row in range(rows)
    ]
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


PARITY_HEAD = ("column", "precision", "max abs", "relative", "1-cos", "unequal", "ok")


def describe(parity: Parity) -> list[tuple[str, ...]]:
    """Lay a certificate out in rows of text, a row a column (`PARITY_HEAD`)."""
    return [
        (
            name,
            column.precision if _has_error(column) else "exact",
            _number(column.max_abs),
            _number(column.relative),
            _number(column.cosine),
            str(column.mismatched),
            "yes" if column.passed else "NO",
        )
        for name, column in parity.columns.items()
    ]


def _has_error(column: ColumnParity) -> bool:
    return column.relative is not None or column.precision != "float32"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
