"""Lay out the manifest: one row for each part of a finished table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from transforms.table.commit_record import Commit

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
