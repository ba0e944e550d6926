"""The job that children run, and the table that it should make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zygote import Zygote

from pipeline import verify_table


def job_document(table: Path | str) -> dict[str, Any]:
    """A small job of three shards, without files."""
    return {
        "source": {"reader": "toolbox:CountingReader", "sizes": [30, 10], "key": "id"},
        "model": {"build": "toolbox:dict_model", "batch_rows": 8},
        "taps": [{"path": "features:activation_1", "column": "hidden"}],
        "table": {"path": str(table), "rows_per_part": 16},
    }


def outcome(table: Path) -> dict[str, bytes]:
    """Manifest and parts of a table, which must be sound."""
    assert verify_table(str(table)) == []
    parts = {
        path.name: path.read_bytes() for path in (table / "data").glob("*.parquet")
    }
    return {**parts, "m": (table / "_featuretap" / "manifest.parquet").read_bytes()}


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="session")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run makes."""
    table = tmp_path_factory.mktemp("whole") / "table"
    log = table.parent / "log"
    assert zygote.run("run", log, config=job_document(table)) == 0, log.read_text()
    return outcome(table)
