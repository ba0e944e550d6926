"""Storage, verify and status."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, worker_of

from pipeline import run_plan, table_status, verify_table
from pipeline.run import prepare_table
from transforms import storage
from transforms.extract import extract_shard
from transforms.table import commit
from transforms.table.commit import commit_table
from transforms.table.directory import Table


@pytest.fixture(params=["local", "memory"])
def root(request: Any, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_create_never_replaces_and_has_one_winner(root: str) -> None:
    uri = storage.join(root, "a", "record.json")
    data = [str(i).encode() * 1000 for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda d: storage.create(uri, d), data))
    assert sum(won) == 1
    assert storage.read(uri) == data[won.index(True)]
    assert storage.list_names(storage.join(root, "a")) == ["record.json"]


def test_replace_and_publish_put_whole_files(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "b", "file")
    storage.replace(uri, b"one")
    storage.replace(uri, b"two")
    assert storage.read(uri) == b"two"
    source = tmp_path / "source"
    source.write_bytes(b"three")
    storage.publish(source, uri)
    assert storage.read(uri) == b"three"
    assert not source.exists()


def test_listing_and_removing_what_is_not_there_is_fine(root: str) -> None:
    assert storage.list_names(storage.join(root, "none")) == []
    storage.remove(storage.join(root, "none"))
    assert not storage.exists(storage.join(root, "none"))


def test_many_files_are_read_in_order_and_only_as_they_are_asked_for(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_FILES_AT_A_TIME", 3)
    uris = [storage.join(root, f"{i}") for i in range(8)]
    for i, uri in enumerate(uris[:7]):
        storage.replace(uri, str(i).encode())
    found = storage.read_many(uris)
    assert [next(found) for _ in range(6)] == [str(i).encode() for i in range(6)]
    with pytest.raises(FileNotFoundError):
        list(found)


def test_the_manifest_does_not_depend_on_how_many_records_are_held(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run()
    manifest = job.table / "_featuretap" / "manifest.parquet"
    summary, before = (job.table / "_SUCCESS").read_text(), manifest.read_bytes()
    (job.table / "_SUCCESS").unlink()
    monkeypatch.setattr(commit, "_RECORDS_AT_A_TIME", 2)
    commit_table(Table(str(job.table)), 0.0)
    assert manifest.read_bytes() == before
    assert (job.table / "_SUCCESS").read_text() == summary


def part(job: Job, index: int = 0) -> Path:
    return sorted((job.table / "data").glob("part-*"))[index]


def flip(job: Job) -> str:
    data = bytearray(part(job).read_bytes())
    data[len(data) // 3] ^= 1
    part(job).write_bytes(data)
    return "another content than was committed"


def delete(job: Job) -> str:
    name = part(job).name
    part(job).unlink()
    return f"{name} is missing"


def truncate(job: Job) -> str:
    part(job).write_bytes(part(job).read_bytes()[:-20])
    return "cannot be read"


def add(job: Job) -> str:
    name = "data/part-00000-00000000.parquet"
    (job.table / name).write_bytes(part(job).read_bytes())
    return f"{name} is not in the manifest"


def _rewrite(job: Job, change: Callable[[pa.Table], pa.Table]) -> None:
    path = part(job)
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def shorten_a_vector(job: Job) -> str:
    def change(table: pa.Table) -> pa.Table:
        values = table["hidden"].to_pylist()
        values[3] = values[3][:-1]
        field = table.schema.field("hidden")
        index = table.schema.get_field_index("hidden")
        return table.set_column(index, field, pa.array(values, field.type))

    _rewrite(job, change)
    return r"column hidden has vectors of lengths \[4, 3\], the plan 4"


def drop_rows(job: Job) -> str:
    rows = pq.read_table(part(job)).num_rows
    _rewrite(job, lambda table: table.slice(1))
    return f"has {rows - 1} rows, {rows} were committed"


def rename_column(job: Job) -> str:
    _rewrite(job, lambda table: table.rename_columns(["example_id", "other", "head"]))
    return "has another schema than the plan"


def repeat_a_key(job: Job) -> str:
    def change(table: pa.Table) -> pa.Table:
        keys = table["example_id"].to_pylist()
        keys[1] = keys[0]
        return table.set_column(
            0, table.schema.field(0), pa.array(keys, table.schema.field(0).type)
        )

    _rewrite(job, change)
    return "has 1 repeated keys"


def change_the_sum(job: Job) -> str:
    summary = json.loads((job.table / "_SUCCESS").read_text())
    summary["rows"] += 1
    (job.table / "_SUCCESS").write_text(json.dumps(summary))
    return "_SUCCESS has 101 rows, the manifest 100"


def lose_a_commit(job: Job) -> str:
    (job.table / "_featuretap" / "commits" / "00002.json").unlink()
    return "commits/00002.json is missing"


def change_a_commit(job: Job) -> str:
    record = job.table / "_featuretap" / "commits" / "00001.json"
    document = json.loads(record.read_text())
    document["part"]["bytes"] += 1
    record.write_text(json.dumps(document))
    return "commits/00001.json differs from the manifest"


def misname_in_a_commit(job: Job) -> str:
    record = job.table / "_featuretap" / "commits" / "00001.json"
    document = json.loads(record.read_text())
    document["part"]["path"] = "../" + document["part"]["path"]
    record.write_text(json.dumps(document))
    return r"record of shard 1 must name its own files, it names '\.\./data/part"


def break_a_commit(job: Job) -> str:
    (job.table / "_featuretap" / "commits" / "00001.json").write_text("{")
    return "the commit record of shard 1 cannot be read"


def break_success(job: Job) -> str:
    (job.table / "_SUCCESS").write_text("{")
    return "_SUCCESS cannot be read"


def add_errors(job: Job) -> str:
    directory = job.table / "_featuretap" / "errors"
    directory.mkdir()
    (directory / "00000-00000000.parquet").write_text("?")
    return "errors/00000-00000000.parquet is in no commit record"


def lose_the_manifest(job: Job) -> str:
    (job.table / "_featuretap" / "manifest.parquet").unlink()
    return "manifest.parquet cannot be read"


def lose_success(job: Job) -> str:
    (job.table / "_SUCCESS").unlink()
    return "_SUCCESS is missing"


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        delete,
        truncate,
        add,
        shorten_a_vector,
        drop_rows,
        rename_column,
        repeat_a_key,
        change_the_sum,
        lose_a_commit,
        change_a_commit,
        misname_in_a_commit,
        break_a_commit,
        break_success,
        add_errors,
        lose_the_manifest,
        lose_success,
    ],
)
def test_verify_names_each_difference(job: Job, damage: Callable[[Job], str]) -> None:
    job.run()
    assert verify_table(str(job.table)) == []
    expected = damage(job)
    differences = "\n".join(verify_table(str(job.table)))
    import re

    assert re.search(expected, differences), differences


def test_verify_checks_the_errors_table(job: Job) -> None:
    bad = {"preprocess": ["toolbox:refuse_thirteen"]}
    job.run(source=bad, errors={"max_fraction": 0.5})
    assert verify_table(str(job.table)) == []
    (errors,) = (job.table / "_featuretap" / "errors").iterdir()
    errors.write_bytes(b"changed")
    assert "another content than was committed" in verify_table(str(job.table))[0]
    errors.unlink()
    assert "is missing" in verify_table(str(job.table))[0]


def test_status_tells_progress_from_commit_records(job: Job) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"found none in .*start the table with"
    ):
        table_status(str(job.table))
    plan = job.plan()
    prepare_table(plan)
    status = table_status(str(job.table))
    assert (status.committed, status.rows, status.finished) == (0, 0, False)
    worker = worker_of(job.table)
    extract_shard(worker, plan.shards[0])
    extract_shard(worker, plan.shards[3])
    status = table_status(str(job.table))
    done = (plan.shards[0].rows or 0) + (plan.shards[3].rows or 0)
    assert (status.committed, status.rows, status.finished) == (2, done, False)
    assert (status.shards, status.planned_rows) == (len(plan.shards), 100)
    parts = status.seconds["read"] + status.seconds["compute"] + status.seconds["write"]
    assert 0 < parts <= status.seconds["total"] + 0.01
    run_plan(plan)
    status = table_status(str(job.table))
    assert (status.committed, status.rows, status.finished) == (
        status.shards,
        100,
        True,
    )


def test_a_table_with_missing_shards_is_not_finished(job: Job) -> None:
    plan = job.plan()
    prepare_table(plan)
    extract_shard(worker_of(job.table), plan.shards[0])
    with pytest.raises(RuntimeError, match=r"\d+ are not \(first: 1\); run the same"):
        commit_table(Table(str(job.table)), 0.0)


def test_rows_that_do_not_add_up_are_noticed(job: Job) -> None:
    plan = job.plan()
    run_plan(plan)
    (job.table / "_SUCCESS").unlink()
    record = job.table / "_featuretap" / "commits" / "00000.json"
    document = json.loads(record.read_text())
    document["part"]["rows"] -= 1
    record.write_text(json.dumps(document))
    with pytest.raises(RuntimeError, match="shard 0 must account for 16 planned rows"):
        commit_table(Table(str(job.table)), 0.0)
