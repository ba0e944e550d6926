"""Sources on real object stores: S3 and GCS servers on loopback, real clients.

Heavy tests; fake-gcs-server must be on the path, or FAKE_GCS_SERVER name it. With
REQUIRE_STORES set they fail where they would be skipped.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from conftest import Job, worker_of
from readers import CASES
from stores import WARNINGS, gcs, s3
from test_readers import (
    Local,
    is_the_same_elsewhere,
    job_of,
    local,
    sections,
    written,
)

from pipeline import forget_rows, make_plan, prepare_table, run_plan, verify_table
from pipeline.versions import place, point_at, prune_tables, resolve
from transforms.extract import extract_shard

__all__ = ["gcs", "local", "s3", "written"]  # fixtures
pytestmark = [pytest.mark.heavy, *WARNINGS]


def stored(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_")


@pytest.mark.parametrize("name", CASES)
def test_rows_on_s3_are_the_same_as_local_ones(
    name: str, written: dict[str, Path], local: Local, s3: str, tmp_path: Path
) -> None:
    target = f"{s3}/{stored(name)}"
    is_the_same_elsewhere(name, written[name], local, target, tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_rows_on_gcs_are_the_same_as_local_ones(
    name: str, written: dict[str, Path], local: Local, gcs: str, tmp_path: Path
) -> None:
    target = f"{gcs}/{stored(name)}"
    is_the_same_elsewhere(name, written[name], local, target, tmp_path)


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_source_and_table_in_one_store(
    store: str, written: dict[str, Path], tmp_path: Path, request: Any
) -> None:
    bucket = request.getfixturevalue(store)
    fs, path = fsspec.core.url_to_fs(f"{bucket}/whole/in")
    for file in written["tfrecord"].glob("*.tfrecord"):
        fs.put_file(str(file), f"{path}/{file.name}")
    job = Job(tmp_path, {"reader": "tfrecord", "path": f"{bucket}/whole/in"})
    table = {"path": f"{bucket}/whole/out"}
    run_plan(job.plan(table=table))
    run_plan(job.plan(table=table))  # finished already
    assert verify_table(table["path"]) == []
    files, out = fsspec.core.url_to_fs(table["path"])
    ids = pq.read_table(files.glob(f"{out}/data/*.parquet"), filesystem=files)[
        "example_id"
    ]
    assert sorted(ids.to_pylist()) == list(range(100))


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_an_object_that_changes_after_planning_is_refused_by_name(
    store: str, written: dict[str, Path], tmp_path: Path, request: Any
) -> None:
    bucket = request.getfixturevalue(store)
    fs, path = fsspec.core.url_to_fs(f"{bucket}/changing")
    for file in written["tfrecord"].glob("*.tfrecord"):
        fs.put_file(str(file), f"{path}/{file.name}")
    case = CASES["tfrecord"]
    job = job_of(case, tmp_path, f"{bucket}/changing")
    plan = job.plan(**sections(case))
    prepare_table(plan)
    content = fs.cat_file(f"{path}/1.tfrecord")
    fs.pipe_file(f"{path}/1.tfrecord", content[: len(content) // 2])
    with pytest.raises(RuntimeError, match=r"as they were planned.*1\.tfrecord"):
        extract_shard(worker_of(job.table), plan.shards[0])
    with pytest.raises(ValueError, match=r"changed: .*1\.tfrecord"):
        run_plan(job.plan(**sections(case)))


@pytest.mark.parametrize("store", ["s3", "gcs"])
@pytest.mark.parametrize("where", ["same store", "from local", "to local"])
def test_tables_grow_in_stores(
    store: str, where: str, data: Path, tmp_path: Path, request: Any
) -> None:
    """Parts are carried by the store itself or through this machine; the old stay."""
    bucket = request.getfixturevalue(store)
    place = f"{bucket}/grow-{where.replace(' ', '-')}"
    old = str(tmp_path / "old") if where == "from local" else f"{place}/old"
    new = str(tmp_path / "new") if where == "to local" else f"{place}/new"
    job = Job(tmp_path, {"reader": "parquet", "path": str(data / "parquet")})
    head = [{"path": "head"}]
    run_plan(job.plan(table={"path": old}, taps=head))

    def versions(table: str) -> dict[str, Any]:
        fs, path = fsspec.core.url_to_fs(table, use_listings_cache=False)
        found = fs.find(f"{path}/data", detail=True)
        names = ("ETag", "etag", "generation", "ino")
        return {
            name.rpartition("-")[2]: [info.get(n) for n in names]
            for name, info in found.items()
        }

    before = versions(old)
    summary = run_plan(make_plan(job.config(table={"path": new}, taps=head), [old]))
    assert set(summary["made"]) == {"carried"}
    assert versions(old) == before
    assert set(versions(new)) == set(before)
    assert verify_table(new) == []
    more = [*head, {"path": "stem"}]
    wider = f"{new}-wider"
    summary = run_plan(make_plan(job.config(table={"path": wider}, taps=more), [new]))
    assert set(summary["made"]) == {"extended"}
    assert verify_table(wider) == []


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_tables_follow_each_other_in_stores(
    store: str, data: Path, tmp_path: Path, request: Any
) -> None:
    """One of many becomes current; rows are forgotten; what is old is pruned."""
    root = f"{request.getfixturevalue(store)}/days"
    job = Job(tmp_path, {"reader": "parquet", "path": str(data / "parquet")})
    config = job.config(table={"path": root}, taps=[{"path": "head"}])
    for day in ("monday", "tuesday", "wednesday"):
        put = place(config, day)
        made = run_plan(make_plan(put.config, put.earlier))["made"]
        point_at(root, day, put.after)
    assert set(made) == {"carried"}
    keys = tmp_path / "keys.txt"
    keys.write_text("7\n75\n")
    less = f"{root}/less"
    done = forget_rows(resolve(root), str(keys), less)
    assert (done.rows, done.summary["rows"]) == (2, 98)
    assert set(done.summary["made"]) == {"carried", "projected"}
    assert verify_table(less) == []
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(point_at, root, n, 3) for n in ("less", "monday") * 2]
    won = {call.result().table for call in calls if not call.exception()}
    assert len(won) == 1
    point_at(root, "less")
    assert set(prune_tables(root, 1).removed) == {"monday", "tuesday", "wednesday"}
    fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
    assert {f.removeprefix(f"{path}/").split("/")[0] for f in fs.find(path)} == {
        *("_versions", "current.json", "less"),
    }
    assert json.loads(fs.cat_file(f"{path}/current.json"))["table"] == "less"
    assert verify_table(less) == []
