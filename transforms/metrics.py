"""Name the counters of a run, and what each counts of a commit record.

Beam shows them in the namespace `featuretap`. To add one, add it here.
"""

from __future__ import annotations

from collections.abc import Callable

from transforms.table.commit_record import Commit

COUNTERS: dict[str, Callable[[Commit], int]] = {
    "shards": lambda commit: 1,
    "rows": lambda commit: commit.part.rows,
    "quarantined_rows": lambda commit: commit.quarantined,
    "part_bytes": lambda commit: commit.part.bytes,
}
