"""Statistics and samples of whole tables, whatever their cut and their history."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import Job, vectors

from pipeline.forget.table import forget_rows
from pipeline.plan import make_plan
from pipeline.run import run_plan
from pipeline.verify import verify_table
from transforms import storage
from transforms.lookup import TableError
from transforms.statistics.collect import sample_hashes
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.sample import ALL, HASH, ROWS
from transforms.statistics.stored import to_table
from transforms.table import statistics
from transforms.table.commit_record import Commit
from transforms.table.directory import Table
from transforms.table.plan_file import read_plan
from transforms.table.statistics import (
    described,
    read_sample,
    read_statistics,
    sample_files,
)

HIDDEN = {"path": "features:activation_1", "column": "hidden"}
HEAD = {"path": "head"}
SUMS = ("mean", "m2", "least", "most")


class Files(Job):
    """Makes tables of files that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "files"
        self.files.mkdir()
        source = {"reader": "parquet", "path": str(self.files), "keep": ["text"]}
        super().__init__(directory, source)

    def put(self, name: str, ids: range) -> None:
        """Write rows; those of one id are alike in all files."""
        values = vectors(20_000)[list(ids)]
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
        table = pa.table(
            {
                "id": pa.array(list(ids), pa.int64()),
                "vec": lists,
                "text": [f"row {i}" for i in ids],
            }
        )
        pq.write_table(table, self.files / f"{name}.parquet", row_group_size=500)

    def make(self, name: str, *earlier: str, **sections: Any) -> Table:
        uri = str(self.directory / name)
        table = {"path": uri, **sections.pop("table", {})}
        config = self.config(table=table, **sections)
        places = [str(self.directory / one) for one in earlier]
        run_plan(make_plan(config, places))
        return Table(uri)


@pytest.fixture
def made(tmp_path: Path) -> Files:
    return Files(tmp_path)


def commits_of(table: Table) -> list[Commit]:
    return list(table.read_commits(range(read_plan(table).shard_count)))


def sample_of(table: Table) -> pa.Table:
    return read_sample(table, read_plan(table), sample_files(commits_of(table)))


def assert_alike(one: ColumnStatistics, other: ColumnStatistics) -> None:
    """See that statistics say the same, but for the rounding of sums."""
    assert (one.name, one.width, one.rows) == (other.name, other.width, other.rows)
    assert one.zero_rows == other.zero_rows
    assert one.non_finite_rows == other.non_finite_rows
    assert one.moments is not None
    assert other.moments is not None
    for name in SUMS:
        found, expected = getattr(one.moments, name), getattr(other.moments, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.array_equal(one.norms.histogram, other.norms.histogram)
    assert np.array_equal(one.repeats.hashes, other.repeats.hashes)
    assert np.array_equal(one.repeats.counts, other.repeats.counts)
    assert one.zeros == other.zeros
    assert one.non_finite == other.non_finite


def assert_same_health(one: Table, other: Table) -> None:
    found, expected = read_statistics(one), read_statistics(other)
    assert found.keys() == expected.keys()
    for name, column in found.items():
        assert_alike(column, expected[name])
    assert sample_of(one).sort_by(HASH).equals(sample_of(other).sort_by(HASH))


@pytest.mark.parametrize("rows_per_part", [70, 333, 10_000])
def test_a_cut_changes_nothing(rows_per_part: int, made: Files) -> None:
    made.put("a", range(400))
    made.put("b", range(400, 1000))
    whole = made.make("whole", table={"rows_per_part": 1000})
    cut = made.make("cut", table={"rows_per_part": rows_per_part})
    assert_same_health(cut, whole)


def test_large_statistics_are_put_together_few_at_a_time(
    made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.put("a", range(400))
    whole = made.make("whole", table={"rows_per_part": 1000})
    read, seen = storage.read_many, []

    def noted(uris: list[str], **given: Any) -> Any:
        seen.append(given.get("at_a_time"))
        return read(uris, **given)

    sizes = [commit.statistics.columns.bytes for commit in commits_of(whole)]
    monkeypatch.setattr(storage, "read_many", noted)
    monkeypatch.setattr(statistics, "_BYTES_AT_A_TIME", 3 * max(sizes))
    cut = made.make("cut", table={"rows_per_part": 50})
    # Shards of fewer rows have no larger files.
    assert 3 <= min(some for some in seen if some) < 40
    assert_same_health(cut, whole)


def test_batches_change_nothing(made: Files) -> None:
    made.put("a", range(500))
    one = made.make("one", model={"batch_rows": 500})
    other = made.make("other", model={"batch_rows": 500}, table={"rows_per_part": 99})
    assert_same_health(one, other)


def test_numbers_are_those_of_all_rows(made: Files) -> None:
    made.put("a", range(1000))
    table = made.make("one")
    rows = pq.read_table(str(made.directory / "one"))
    for name, column in read_statistics(table).items():
        values = np.stack(rows[name].to_numpy(zero_copy_only=False)).astype(np.float64)
        assert column.moments is not None
        np.testing.assert_allclose(column.moments.mean, values.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(column.moments.std, values.std(axis=0), rtol=1e-9)
        lengths = np.linalg.norm(values, axis=1)
        assert column.zero_rows == (lengths == 0).sum()
        low, high = lengths[lengths > 0].min(), lengths.max()
        assert column.norms.moments.least[0] == pytest.approx(low)
        assert column.norms.moments.most[0] == pytest.approx(high)


def test_only_computed_numbers_are_described(made: Files) -> None:
    made.put("a", range(50))
    made.source["keep"] = ["text", "vec"]
    table = made.make("one", taps=[HEAD, {**HEAD, "reduce": ["sum"], "column": "s"}])
    assert described(read_plan(table)) == {"head": 2, "s": 1}
    assert {*read_statistics(table)} == {"head", "s"}


def test_a_day_more_has_the_health_of_a_fresh_table(made: Files) -> None:
    made.put("a", range(300))
    made.make("one")
    made.put("b", range(300, 450))
    grown = made.make("two", "one")
    assert {commit.made for commit in commits_of(grown)} == {"carried", "computed"}
    assert_same_health(grown, made.make("fresh"))


def test_other_columns_have_the_health_of_a_fresh_table(made: Files) -> None:
    made.put("a", range(300))
    made.make("one", taps=[HEAD])
    more = made.make("more", "one", taps=[HEAD, HIDDEN])
    assert {commit.made for commit in commits_of(more)} == {"extended"}
    assert_same_health(more, made.make("fresh", taps=[HEAD, HIDDEN]))
    less = made.make("less", "more", taps=[HIDDEN])
    assert {commit.made for commit in commits_of(less)} == {"projected"}
    assert_same_health(less, made.make("alone", taps=[HIDDEN]))


def test_what_is_forgotten_is_in_no_statistics(made: Files) -> None:
    made.put("a", range(200))
    made.put("b", range(200, 300))
    one = made.make("one", table={"rows_per_part": 100})
    gone = [int(key) for key in sample_of(one)["example_id"].to_pylist()[:5]]
    keys = made.directory / "keys.csv"
    keys.write_text("\n".join(["id", *map(str, gone)]))
    forget_rows(one.uri, str(keys), str(made.directory / "two"))
    two = Table(str(made.directory / "two"))
    assert verify_table(two.uri) == []
    assert read_statistics(two)["head"].rows == 295
    kept = pc.invert(pc.is_in(sample_of(one)["example_id"], pa.array(gone)))
    assert sample_of(two)["example_id"].equals(
        sample_of(one).filter(kept)["example_id"]
    )
    for path in (made.directory / "two" / "_featuretap" / "statistics").iterdir():
        text = json.dumps(pq.read_table(path).to_pylist())
        for key in gone:
            assert f'"{key}"' not in text


def test_carried_parts_bring_their_files_along(made: Files) -> None:
    made.put("a", range(11_000))
    one = made.make("one", table={"rows_per_part": 4000})
    made.put("b", range(11_000, 11_100))
    two = made.make("two", "one", table={"rows_per_part": 4000})
    before, after = commits_of(one), commits_of(two)
    for old, new in zip(before, after, strict=False):
        assert new.made == "carried"
        assert old.statistics.sample is not None
        assert new.statistics == old.statistics
        for file in new.files:
            there, here = (Path(table.path(file.path)) for table in (one, two))
            assert os.path.samefile(there, here)
    assert len(sample_of(two)) == ROWS


def test_samples_of_large_tables_are_the_smallest_hashes(made: Files) -> None:
    made.put("a", range(12_000))
    table = made.make("one", table={"rows_per_part": 5000})
    rows = pq.read_table(str(made.directory / "one"))
    hashes = sample_hashes(rows["example_id"].combine_chunks())
    order = np.argsort(hashes)[:ROWS]
    sample = sample_of(table)
    assert np.array_equal(sample[HASH].to_numpy(), hashes[order])
    expected = rows.take(pa.array(order))
    for name in ("example_id", "text", "head", "hidden"):
        assert (
            sample[name]
            .combine_chunks()
            .equals(expected[name].combine_chunks().cast(sample[name].type))
        )
    stored = sum(
        c.statistics.sample.rows for c in commits_of(table) if c.statistics.sample
    )
    assert ROWS <= stored <= 1.4 * ROWS


def test_small_tables_store_no_row_twice(made: Files) -> None:
    made.put("a", range(900))
    table = made.make("one", table={"rows_per_part": 300})
    for commit in commits_of(table):
        assert commit.statistics.sample is None
        assert commit.statistics.sample_below == ALL
    assert not (made.directory / "one" / "_featuretap" / "samples").exists()
    assert len(sample_of(table)) == 900


def test_a_smaller_table_has_a_full_sample_again(made: Files) -> None:
    made.put("a", range(9000))
    made.put("b", range(9000, 20_000))
    made.make("one", table={"rows_per_part": 3000})
    (made.files / "b.parquet").unlink()
    two = made.make("two", "one", table={"rows_per_part": 3000})
    assert {commit.made for commit in commits_of(two)} == {"carried"}
    assert len(sample_of(two)) == ROWS
    assert_same_health(two, made.make("fresh", table={"rows_per_part": 3000}))


def test_columns_of_a_sample_can_be_chosen(made: Files) -> None:
    made.put("a", range(60))
    table = made.make("one")
    plan, files = read_plan(table), sample_files(commits_of(table))
    some = read_sample(table, plan, files, ["head"])
    assert some.column_names == [HASH, "example_id", "head"]
    assert some["head"].equals(sample_of(table)["head"])
    nothing = read_sample(table, plan, sample_files([]), ["head"])
    assert (len(nothing), nothing.column_names) == (0, some.column_names)


def test_lines_of_text_are_sampled_without_knowing_how_many(tmp_path: Path) -> None:
    for name, ids in (("a", range(3000)), ("b", range(3000, 9000))):
        lines = [json.dumps({"id": i, "vec": [i / 9000] * 6}) for i in ids]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    job = Job(tmp_path, {"reader": "jsonl", "path": str(tmp_path / "*.jsonl")})
    job.run(taps=[HEAD], gates={"effective_rank": False})
    table = Table(str(job.table))
    assert read_plan(table).rows is None
    sample = sample_of(table)
    ids = sample["example_id"].combine_chunks()
    expected = np.sort(sample_hashes(pa.array(np.arange(9000))))[: len(sample)]
    assert np.array_equal(np.sort(sample_hashes(ids)), expected)
    assert len(sample) >= ROWS // 2


def test_damaged_statistics_are_told_by_name(made: Files) -> None:
    made.put("a", range(60))
    table = made.make("one")
    stored = Path(table.internal("statistics/table.parquet"))
    (column,) = (c for c in read_statistics(table).values() if c.name == "head")
    broken = to_table([column]).drop_columns(["mean"])
    for data in (b"", b"no Parquet"):
        stored.write_bytes(data)
        with pytest.raises(TableError, match=r"table\.parquet must be a Parquet file"):
            read_statistics(table)
    pq.write_table(broken, stored)
    with pytest.raises(TableError, match="must be a Parquet file with the columns"):
        read_statistics(table)
    stored.unlink()
    with pytest.raises(FileNotFoundError, match=r"table\.parquet must be there"):
        read_statistics(table)
