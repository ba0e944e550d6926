"""Lay out the manifest: one row for each part of a finished table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from transforms.table.columns import METADATA_KEY
from transforms.table.commit_record import Commit
from transforms.table.directory import FORMAT_VERSION, REPAIR, Table
from transforms.table.names import INTERNAL
from transforms.table.plan_file import TablePlan

_MANIFEST = f"{INTERNAL}/manifest.parquet"
MANIFEST_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("quarantined", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)


def manifest_table(commits: Sequence[Commit]) -> pa.Table:
    """Lay out what a finished table consists of, one row a part (`MANIFEST_SCHEMA`)."""
    return pa.table(
        {
            "shard": [c.shard for c in commits],
            "path": [c.part.path for c in commits],
            "rows": [c.part.rows for c in commits],
            "quarantined": [c.quarantined for c in commits],
            "bytes": [c.part.bytes for c in commits],
            "sha256": [c.part.sha256 for c in commits],
        },
        schema=MANIFEST_SCHEMA,
    )


def made_by(plan: TablePlan) -> dict[str, Any]:
    """Say what a table is made by, in the same words in `_SUCCESS` and manifest."""
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": plan.fingerprint,
        "versions": dict(plan.versions),
    }


def with_plan(manifest: pa.Table, plan: TablePlan) -> pa.Table:
    """Add what the table is made by to a manifest, as metadata of its schema."""
    text = json.dumps(made_by(plan), sort_keys=True).encode()
    return manifest.replace_schema_metadata({METADATA_KEY: text})


def read_made_by(manifest: pa.Table) -> Any:
    """Undo `with_plan`; None where a manifest says nothing that can be read."""
    text = (manifest.schema.metadata or {}).get(METADATA_KEY)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def read_manifest(table: Table) -> pa.Table:
    """Read the manifest of a finished table (`MANIFEST_SCHEMA`).

    Raises:
      FileNotFoundError: there is none.
      TableError: it is damaged.
    """
    names = MANIFEST_SCHEMA.names
    return table.read_parquet(_MANIFEST, MANIFEST_SCHEMA, REPAIR, filled=names)
