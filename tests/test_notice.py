"""The first bad row of a run: told of once, at once, with what it will mean."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors

from transforms.errors.failure import Failure
from transforms.errors.notice import notice
from transforms.errors.quarantine import BadRow, Quarantine
from transforms.shard import Piece, Shard

BAD = BadRow("7", 0, "/data/a.jpg", 3, "preprocess", "ValueError", "not a JPEG")


def said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    max_fraction: float,
    rows: int | None,
) -> str:
    notice(str(tmp_path / "first.json"), BAD, max_fraction, rows)
    (record,) = caplog.records
    return record.getMessage()


@pytest.mark.parametrize(
    ("max_fraction", "rows", "consequence"),
    [
        (0, 600, "but will fail at its end, since errors.max_fraction = 0 accepts no"),
        (0, None, "but will fail at its end, since errors.max_fraction = 0 accepts no"),
        (0.01, 650, "but will fail at its end if more than 6 of 650 rows are bad"),
        (0.01, None, "if more rows are bad than errors.max_fraction = 0.01 accepts"),
        (1, 600, "and sets such rows apart, as errors.max_fraction = 1 says"),
    ],
)
def test_a_bad_row_is_told_of_with_what_it_will_mean(
    max_fraction: float,
    rows: int | None,
    consequence: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = said(tmp_path, caplog, max_fraction, rows)
    assert text.startswith("row 3 of /data/a.jpg is bad (preprocess: not a JPEG). The")
    assert consequence in text


@pytest.mark.parametrize(("given", "more"), [(0, "0.01"), (0.01, "0.1"), (0.6, "1")])
def test_it_is_said_how_to_accept_more(
    given: float, more: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = said(tmp_path, caplog, given, None)
    assert text.endswith(
        f"--set errors.max_fraction={more}: nothing that is done is computed twice"
    )


def test_only_the_first_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "first.json"
    for _ in range(3):
        notice(str(place), BAD, 0, None)
    assert len(caplog.records) == 1
    assert json.loads(place.read_text())["row"] == 3


def test_a_row_is_told_of_where_nothing_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    notice(str(tmp_path / "file" / "first.json"), BAD, 0, None)
    assert len(caplog.records) == 1


def bad(row: int) -> Failure:
    return Failure.of(row, "read", ValueError("it is bad"))


@pytest.mark.parametrize("judges", [True, False])
def test_what_may_stop_the_run_is_told_of_when_it_does_not(judges: bool) -> None:
    told: list[int] = []
    shard = Shard(0, (Piece("/a", "a", 0, 9),))
    kept = Quarantine(shard, "", 3, judges=judges, notice=lambda b: told.append(b.row))
    kept.add(bad(2))
    assert told == ([] if judges else [2])
    kept.passed(1, np.array([3]))
    assert told == [2]
    kept.add(bad(4))
    assert told == [2]


def test_rows_that_stop_the_run_are_not_told_of_before() -> None:
    told: list[BadRow] = []
    shard = Shard(0, (Piece("/a", "a", 0, 9),))
    kept = Quarantine(shard, "", 3, judges=True, notice=told.append)
    kept.add(bad(0))
    kept.add(bad(1))
    with pytest.raises(RuntimeError, match="all 3 rows of the first batch failed"):
        kept.add(bad(2))
    assert told == []


def test_a_run_tells_of_one_bad_row_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [None if i in (5, 45) else row for i, row in enumerate(vectors(60).tolist())]
    vec = pa.array(rows, pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": range(60), "vec": vec}), tmp_path / "rows.parquet")
    job = Job(tmp_path, {"reader": "parquet", "path": str(tmp_path / "rows.parquet")})
    with caplog.at_level(logging.WARNING, "featuretap"):
        with pytest.raises(
            RuntimeError, match=r"2 of 60 are .* to 0\.0334 and run again"
        ):
            job.run()
        texts = [r.getMessage() for r in caplog.records if r.name == "featuretap"]
        assert len(texts) == 1
        assert "row 5 of" in texts[0] or "row 45 of" in texts[0]
        assert "max_fraction = 0 accepts no bad row" in texts[0]
        assert "--set errors.max_fraction=0.1:" in texts[0]  # 0.01 of 60 is no row
        caplog.clear()
        assert len(job.run(errors={"max_fraction": 0.1})) == 58
    assert not [r for r in caplog.records if r.name == "featuretap"]
    assert not (job.table / "_featuretap" / "first_bad_row.json").exists()
