"""Small plans, shards and commit records, made by hand."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline.plan import Plan
from transforms.config import Config
from transforms.dtypes import Feature
from transforms.shard import Piece, Shard, Shards
from transforms.table.columns import Column
from transforms.table.commit_record import Commit, StoredFile, StoredStatistics
from transforms.table.names import (
    errors_name,
    part_name,
    sample_name,
    statistics_name,
)
from transforms.table.plan_file import Earlier, TablePlan
from transforms.taps.language import Tap

ROOTS = ("local", "memory")


def root_of(kind: str, directory: Any) -> str:
    """A directory of a test's own, on the local disk or in memory."""
    return str(directory) if kind == "local" else f"memory://direct/{directory.name}"


def config(**sections: Any) -> Config:
    """A config that names no model that exists."""
    document: dict[str, Any] = {
        "source": {"reader": "parquet", "path": "in", "key": "id"},
        "model": {"build": "nowhere:model"},
        "taps": [{"path": "head", "reduce": ["mean(axis=1)"], "column": "h"}],
        "table": {"path": "out"},
    }
    for name, section in sections.items():
        inside = isinstance(section, dict)
        document[name] = {**document.get(name, {}), **section} if inside else section
    return Config.model_validate(document)


def shards(count: int = 3, rows: int | None = 4, version: str = "v") -> Shards:
    """Shards of one piece each, of a file each."""
    return Shards.of(
        Shard(i, (Piece(f"in/{i}", str(i), 0, rows, version=version),))
        for i in range(count)
    )


def table_plan(**changes: Any) -> TablePlan:
    """A plan with columns of every role and features of every shape."""
    columns = (
        Column("example_id", "key", "int64", source="id"),
        Column("at", "timestamp", "timestamp", source="when", unit="ms"),
        Column("word", "keep", "string", source="Word", nullable=True),
        Column("h", "feature", "float32", (None, 2), "head", ("mean(axis=1)", "n:f")),
        Column("h_shape", "shape", "int64", (2,), "head"),
    )
    values: dict[str, Any] = {
        "config": config(),
        "fingerprint": "f" * 64,
        "ingredients": {"taps": "0" * 16, "model": "1" * 16},
        "model_digest": "d" * 64,
        "versions": {"numpy": "2.0", "keras": "3.15"},
        "shard_count": 3,
        "rows": 12,
        "columns": columns,
        "taps": (
            Tap("head", ("mean(axis=1)", "n:f"), "h", None, "taps[0]"),
            Tap("body:x/0", (), "b", "float16", "taps[1]"),
        ),
        "features": {
            "id": Feature("int64"),
            "Word": Feature("string", nullable=True),
            "tokens": Feature("uint8", (None, 3)),
        },
        "rows_made_by": "2" * 16,
        "earlier": (Earlier("before", "e" * 64, "b" * 32),),
    }
    return TablePlan(**{**values, **changes})


def planned(**changes: Any) -> Plan:
    """The same as it is before it is written."""
    made = table_plan(**changes)
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    return Plan(**values, shards=shards(), activations=(), inputs=())


def commit(shard: int = 0, bad: int = 0, **changes: Any) -> Commit:
    """A record of ten rows."""
    digest = f"{shard:08x}" * 8
    values: dict[str, Any] = {
        "shard": shard,
        "fingerprint": "f" * 64,
        "claim": "c" * 32,
        "versions": {"numpy": "2.0"},
        "planned_rows": 10,
        "part": StoredFile(part_name(shard, digest), 10 - bad, 100, digest),
        "errors": StoredFile(errors_name(shard, digest), bad, 50, digest)
        if bad
        else None,
        "statistics": StoredStatistics(
            StoredFile(statistics_name(shard, digest), 1, 70, digest),
            StoredFile(sample_name(shard, digest), 2, 80, digest),
            sample_below=2**62,
        ),
    }
    return Commit(**{**values, **changes})
