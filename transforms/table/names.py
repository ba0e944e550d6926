"""Name the files of a table, and recognize them."""

from __future__ import annotations

import re

INTERNAL = "_featuretap"
DATA = "data"
NOTICE = "first_bad_row.json"
POINTER = "current.json"
FOLLOWS = "follows.json"
REMOVING = "removing"
PART = re.compile(r"part-\d{5,}-[0-9a-f]{8}\.parquet")
OF_SHARD = re.compile(r"\d{5,}-[0-9a-f]{8}\.parquet")
"""Of a shard's errors, statistics and sample."""
BESIDE_PARTS = ("errors", "statistics", "samples")
"""Directories of files of single shards, other than parts."""
GATES = "gates.json"
REPORT = "report.html"
STATISTICS = "statistics/table.parquet"
COMMIT = re.compile(r"(\d{5,})\.json")
ATTEMPT = re.compile(r"(\d{5,})-[0-9a-f]{8}\.json")


def part_name(shard: int, sha256: str) -> str:
    """Name a part by its shard and content, relative to the table.

    >>> part_name(12, "1f9c44d2" * 8)
    'data/part-00012-1f9c44d2.parquet'
    """
    return f"{DATA}/part-{shard:05d}-{sha256[:8]}.parquet"


def errors_name(shard: int, sha256: str) -> str:
    """Name the file of a shard's quarantined rows, relative to the table."""
    return f"{INTERNAL}/errors/{shard:05d}-{sha256[:8]}.parquet"


def statistics_name(shard: int, sha256: str) -> str:
    """Name the file that says what a part's columns are like, relative to the table."""
    return f"{INTERNAL}/statistics/{shard:05d}-{sha256[:8]}.parquet"


def sample_name(shard: int, sha256: str) -> str:
    """Name the file of a part's sampled rows, relative to the table."""
    return f"{INTERNAL}/samples/{shard:05d}-{sha256[:8]}.parquet"


def commit_name(shard: int) -> str:
    """Name a shard's commit record, relative to the table."""
    return f"{INTERNAL}/commits/{shard:05d}.json"
