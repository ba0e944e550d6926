"""Lay out the manifest: one row for each part of a finished table."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from transforms.table.columns import METADATA_KEY
from transforms.table.commit_record import Commit
from transforms.table.directory import FORMAT_VERSION
from transforms.table.plan_file import TablePlan

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


def with_plan(manifest: pa.Table, plan: TablePlan) -> pa.Table:
    """Add what the table was made by to a manifest, as metadata of its schema."""
    about = {
        "format_version": FORMAT_VERSION,
        "fingerprint": plan.fingerprint,
        "versions": dict(plan.versions),
    }
    text = json.dumps(about, sort_keys=True).encode()
    return manifest.replace_schema_metadata({METADATA_KEY: text})
