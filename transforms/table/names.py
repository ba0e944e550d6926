"""Name the files of a table, and recognize them."""

from __future__ import annotations

import re

INTERNAL = "_featuretap"
PART = re.compile(r"part-\d{5,}-of-(\d{5,})-[0-9a-f]{8}\.parquet")
ERRORS = re.compile(r"\d{5,}-[0-9a-f]{8}\.parquet")


def part_name(shard: int, shards: int, sha256: str) -> str:
    """Name of a part, relative to the table."""
    return f"part-{shard:05d}-of-{shards:05d}-{sha256[:8]}.parquet"


def errors_name(shard: int, sha256: str) -> str:
    """Name of a shard's quarantined rows, relative to the table."""
    return f"{INTERNAL}/errors/{shard:05d}-{sha256[:8]}.parquet"
