"""Publish a finished table: check, write, read back, note."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.publish.columns import Columns
from pipeline.publish.finished import FinishedTable, open_finished
from pipeline.publish.sample import Sampling, smallest_hashes
from pipeline.publish.target import Target, make_target, refuse_others
from transforms import storage
from transforms.column_names import KEY
from transforms.config import Config
from transforms.key_hashes import hash_keys
from transforms.lookup import ConfigError, TableError
from transforms.table.directory import Table, check_says, to_json
from transforms.table.plan_file import read_plan

PUBLISHED = "published"
_SAYS: dict[str, type] = {
    **dict.fromkeys(("target", "location"), str),
    **dict.fromkeys(("rows", "sampled"), int),
    "was_there": bool,
}
_SAMPLES = 8
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Publication:
    """A table in a store, as `_featuretap/published/<target>.json` notes it.

    Attributes:
      target: which kind of store.
      location: where in there.
      fingerprint: of the table's plan.
      model_digest: of the model.
      rows: that were read back.
      sample_of: rows of the table, where a sample of them was published; else None.
      key_sum: sum of hashes of the keys that were read back, modulo 2^64.
      sampled: how many rows were compared, value by value.
      seconds: that it took.
      was_there: whether it had been published there before.
    """

    target: str
    location: str
    fingerprint: str
    model_digest: str
    rows: int
    sample_of: int | None
    key_sum: int
    sampled: int
    seconds: float
    was_there: bool

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON document."""
        return asdict(self)


def publish_table(
    table: str, target: str, options: Mapping[str, Any] | None = None
) -> Publication:
    """Publish a finished table to a store, and read back what arrived.

    Publishing again does nothing if the same table is there. A table that grew, or one
    made anew with the same model, takes the place of the one before, at once.

    Args:
      table: URI of the table.
      target: a built-in target, or `package.module:callable`.
      options: of the target.

    Raises:
      FileNotFoundError: there is no such table.
      ConfigError: the table is not finished, the target's package is missing, it does
        not have these options or take these columns, or something else is there.
      RuntimeError: what arrived is not what was sent, or that it has arrived cannot be
        noted.
    """
    began = time.perf_counter()
    finished = replace(open_finished(table), options=_hash(options or {}))
    made = make_target(table, target, options or {})
    made.check(finished.columns)
    was_there = refuse_others(made, finished)
    if not was_there:
        made.write(finished)
    rows, key_sum, sampled = _read_back(made, finished, was_there=was_there)
    made.remove_older(finished)
    publication = Publication(
        target=target,
        location=made.location,
        fingerprint=finished.plan.fingerprint,
        model_digest=finished.plan.model_digest,
        rows=rows,
        sample_of=finished.rows if rows < finished.rows else None,
        key_sum=key_sum,
        sampled=sampled,
        seconds=round(time.perf_counter() - began, 3),
        was_there=was_there,
    )
    _write_note(finished.table, publication)
    return publication


def publish_as_configured(config: Config) -> list[Publication]:
    """Publish a finished table wherever `[publish]` of its config says, in that order.

    Raises:
      RuntimeError: some publications failed; the others are done.
    """
    done, failed = [], []
    for name, spec in config.publish.items():
        try:
            done.append(publish_table(config.table.path, spec.to or name, spec.options))
        except Exception as error:
            failed.append(f"publish.{name}: {type(error).__name__}: {error}")
    if failed:
        raise RuntimeError(
            "\n  ".join(
                [
                    f"{config.table.path!r} is finished, but not published everywhere;"
                    " run the same command again when this is mended:",
                    *failed,
                ]
            )
        )
    return done


def check_targets(config: Config, columns: Columns) -> None:
    """See that the targets of a config can be made, before there is a table.

    Args:
      config: that names them.
      columns: that the table will have.

    Raises:
      ConfigError: one is unknown, has other options, or its package is missing; or it
        does not take these columns.
    """
    for name, spec in config.publish.items():
        try:
            made = make_target(config.table.path, spec.to or name, spec.options)
            made.check(columns)
        except ConfigError as error:
            raise ConfigError(f"publish.{name}: {error}") from None


def publications(table: str) -> list[dict[str, Any]]:
    """Read where a table has gone: the documents of `Publication`.

    Raises:
      FileNotFoundError: there is no such table.
      TableError: one is damaged.
    """
    place = Table(table)
    read_plan(place)
    found = []
    for name in storage.list_names(place.internal(PUBLISHED)):
        document = place.read_json(f"{PUBLISHED}/{name}")
        uri = place.internal(f"{PUBLISHED}/{name}")
        check_says(document, _SAYS, uri, "remove it, and publish the table again")
        found.append(document)
    return found


def _hash(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if options else ""


def _write_note(table: Table, done: Publication) -> None:
    try:
        place = table.internal(_note(table, done.target, done.location))
        storage.replace(place, to_json(done.to_json()))
    except OSError as error:
        raise RuntimeError(
            f"{table.uri!r} has been published to {done.location}, but that cannot be"
            f" noted in the table: {error}"
        ) from error


def _note(table: Table, target: str, location: str) -> str:
    """Name the document of a publication by target; of a second place also by place."""
    kind = target.replace(":", ".")
    name = f"{PUBLISHED}/{kind}.json"
    try:
        noted = table.read_json(name).get("location", location)
    except (FileNotFoundError, TableError):  # none, or a damaged one
        return name
    if noted == location:
        return name
    place = hashlib.sha256(location.encode()).hexdigest()[:8]
    return f"{PUBLISHED}/{kind}-{place}.json"


def _read_back(
    target: Target, table: FinishedTable, *, was_there: bool
) -> tuple[int, int, int]:
    """Prove that a table is in a store: rows, sum of keys, how many were compared."""
    try:
        return *_compare_keys(target, table), _compare_rows(target, table)
    except ConfigError:
        raise
    except Exception as error:
        if not was_there:
            raise
        raise RuntimeError(
            f"{target.location} is not what was published there before:"
            f" {type(error).__name__}: {error}\n"
            "remove what is there, and publish the table again"
        ) from error


def _compare_keys(target: Target, table: FinishedTable) -> tuple[int, int]:
    """See that a store has the keys of a table, or of its sample, each once."""
    batches = table.batches([KEY])
    if isinstance(target, Sampling):
        batches = iter([smallest_hashes(batches, target.sample)])
    sent = _sum(batch[KEY] for batch in batches)
    arrived = _sum(target.keys(table))
    if sent != arrived:
        raise RuntimeError(
            f"{target.location} must hold the rows of {table.table.uri!r}, it does not"
            f"\n  sent:    {sent[0]} rows, sum of keys {sent[1]:016x}"
            f"\n  arrived: {arrived[0]} rows, sum of keys {arrived[1]:016x}"
        )
    return arrived


def _sum(batches: Iterable[pa.Array | pa.ChunkedArray]) -> tuple[int, int]:
    rows = total = 0
    for keys in batches:
        rows += len(keys)
        hashes = [hash_keys(chunk) for chunk in getattr(keys, "chunks", [keys])]
        total += sum(int(one.sum(dtype=np.uint64)) for one in hashes)
    return rows, total % 2**64


def _compare_rows(target: Target, table: FinishedTable) -> int:
    """Compare some rows, value by value; count those that have vectors."""
    names = table.columns.compared()
    sent = _some_rows(target, table, names)
    found = target.look_up(table, sent[KEY].combine_chunks())
    rows = {row[KEY]: row for row in found.to_pylist()}
    for row in sent.to_pylist():
        there = rows.get(row[KEY])
        if there is None:
            raise RuntimeError(f"{target.location} has no row {row[KEY]!r}")
        for name in [name for name in names[1:] if name in found.column_names]:
            if not _agree(row[name], there[name], normalized=target.normalizes):
                raise RuntimeError(
                    f"{target.location} has other values than were sent in column"
                    f" {name!r} of row {row[KEY]!r}"
                )
    return len(sent) if names[1:] else 0


def _some_rows(target: Target, table: FinishedTable, names: list[str]) -> pa.Table:
    """Take the first rows of some parts, or of the sample that a target holds."""
    if isinstance(target, Sampling):
        return smallest_hashes(table.batches(names), min(_SAMPLES, target.sample))
    step = max(1, len(table.parts) // _SAMPLES)
    chosen = table.parts[::step][:_SAMPLES]
    return pa.concat_tables(
        next(table.batches(names, [part])).slice(0, 1) for part in chosen
    )


def _agree(sent: Sequence[float], found: Sequence[float], *, normalized: bool) -> bool:
    one, other = (np.asarray(values, np.float64) for values in (sent, found))
    finite = np.isfinite(one).all() and np.isfinite(other).all()
    if normalized and finite and one.any() and other.any():
        one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    size = max(float(np.abs(one[np.isfinite(one)]).max(initial=0.0)), 1e-30)
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=0, atol=_TOLERANCE * size, equal_nan=True)
    )
