"""One suite over every reader: the same rows, whatever the format and the shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toolbox
from conftest import Job, parity_of, stacked, worker_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import CASES, ROWS, Case, placed, vectors
from tensorflow.python.autograph.impl import api as autograph
from tensorflow.python.framework.func_graph import FuncGraph

from pipeline import prepare_table, run_plan
from pipeline.cut import cut_shards
from transforms.config import SourceSpec
from transforms.extract import extract_shard
from transforms.shard import Piece, position, split_positions
from transforms.sources.readers import READERS, make_source
from transforms.sources.staging import readable

FILES_CHANGE = [name for name in CASES if name != "user"]
TRACED = [
    name
    for name, case in CASES.items()
    if case.source["reader"] in {"tfrecord", "images", "audio"}
] + ["tfds, tfrecord"]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory with the rows for each case, written when first asked for."""
    root = tmp_path_factory.mktemp("readers")

    class Written(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = root / f"case{len(self)}"
            self[name].mkdir()
            CASES[name].write(self[name])
            return self[name]

    return Written()


def job_of(case: Case, directory: Path, data: str) -> Job:
    source = placed(case.source, data)
    return Job(directory, source)


def sections(case: Case, **source: Any) -> dict[str, Any]:
    """A config for a case: its key, its input, one tap."""
    return {
        "source": {"key": case.key, **source},
        "model": {"inputs": {"vec": case.feature}},
        "taps": [{"path": "stem"}],
    }


def without_key(case: Case, rows: int) -> dict[str, Any]:
    """The same with the reader's own keys, and so many rows in a part."""
    config = sections(case) | {"table": {"rows_per_part": rows}}
    config["source"]["key"] = None
    return config


Local = Callable[[str], pa.Table]


@pytest.fixture(scope="session")
def local(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Local:
    """The table `without_key` of each case, made when first asked for."""

    @cache
    def made(name: str) -> pa.Table:
        directory = tmp_path_factory.mktemp("local")
        job = job_of(CASES[name], directory, str(written[name]))
        return job.run(**without_key(CASES[name], 1000)).sort_by("example_id")

    return made


def by_number(case: Case, table: pa.Table) -> pa.Table:
    """Sort a table by the rows' numbers."""
    keys = table["example_id"].to_pylist()
    numbers = keys if case.key else [case.number(key) for key in keys]  # type: ignore
    assert sorted(numbers) == list(range(ROWS))
    return table.take(np.argsort(numbers))


def expected_stem() -> np.ndarray:
    return np.asarray(toolbox.dict_model().get_layer("stem")(vectors()))


def test_every_reader_is_in_the_suite() -> None:
    assert {case.source["reader"] for case in CASES.values()} == {
        *READERS,
        "toolbox:VectorReader",
    }


@pytest.mark.parametrize("name", CASES)
def test_every_row_comes_once_with_its_own_values(
    name: str, written: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[name]
    job = job_of(case, tmp_path, str(written[name]))
    keep = [case.text] if case.text else []
    table = by_number(case, job.run(**sections(case, keep=keep)))
    np.testing.assert_allclose(stacked(table["stem"]), expected_stem(), atol=1e-6)
    if case.text:
        texts = table[case.text].to_pylist()
        assert texts == [f"row {i}" for i in range(ROWS)]
    certificate = parity_of(str(job.table), 7)
    assert certificate.passed
    assert converted_by_autograph() == []


def converted_by_autograph() -> list[Any]:
    """What autograph has converted of the readers, which takes longer than a trace."""
    cache = autograph._TRANSPILER._cache._cache
    return [code for code in cache if "transforms/sources/" in code.co_filename]


@pytest.mark.parametrize("name", CASES)
def test_keys_and_values_do_not_depend_on_the_parts(
    name: str, written: dict[str, Path], local: Local, tmp_path: Path
) -> None:
    case = CASES[name]
    job = job_of(case, tmp_path, str(written[name]))
    tables = [job.run(**without_key(case, 7)).sort_by("example_id"), local(name)]
    assert len(set(tables[0]["example_id"].to_pylist())) == ROWS
    assert tables[0]["example_id"].equals(tables[1]["example_id"])
    np.testing.assert_array_equal(
        stacked(tables[0]["stem"]), stacked(tables[1]["stem"])
    )


@pytest.mark.parametrize("name", CASES)
def test_what_was_interrupted_ends_in_the_same_bytes(
    name: str, written: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[name]
    config = sections(case) | {"table": {"rows_per_part": 20}}
    manifests = []
    for interrupted in (True, False):
        job = job_of(case, tmp_path / str(interrupted), str(written[name]))
        plan = job.plan(**config)
        if interrupted:
            prepare_table(plan)
            extract_shard(worker_of(job.table), plan.shards[0])
        run_plan(job.plan(**config))
        manifest = pq.read_table(job.table / "_featuretap" / "manifest.parquet")
        manifests.append(manifest)
    assert manifests[0].equals(manifests[1])


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(11, 120), batch=st.one_of(st.none(), st.integers(1, 40)))
def test_shards_of_any_size_hold_every_row_once(
    name: str, written: dict[str, Path], size: int, batch: int | None
) -> None:
    case = CASES[name]
    spec = placed(case.source, str(written[name]))
    source = make_source(SourceSpec(**{**spec, "preprocess": ()}))
    key = case.key or source.default_key
    described = source.describe()
    features = {key: described[key]} if key else {}
    found = []
    for shard in cut_shards(source.files(), size):
        with readable(source, shard.pieces) as pieces:
            elements = list(source.read(pieces, features, batch).as_numpy_iterator())
        at = np.concatenate([np.atleast_1d(at) for at, _ in elements] or [[]])
        assert (np.diff(at) > 0).all()
        if shard.rows is not None:
            assert len(at) == shard.rows <= max(size, 1)
        if key:
            found += [
                k for _, one in elements for k in np.atleast_1d(one[key]).tolist()
            ]
            continue
        for index, row in zip(*split_positions(at.astype(np.int64)), strict=True):
            piece = shard.pieces[index]
            found.append(f"{piece.name}#{piece.start + row}".encode())
    numbers = found if case.key else [case.number(one.decode()) for one in found]  # type: ignore
    assert sorted(numbers) == list(range(ROWS))


@pytest.mark.parametrize("name", CASES)
def test_reading_in_batches_equals_reading_examples(
    name: str, written: dict[str, Path]
) -> None:
    spec = placed(CASES[name].source, str(written[name]))
    source = make_source(SourceSpec(**{**spec, "preprocess": ()}))
    features = {n: f for n, f in source.describe().items() if None not in f.shape}
    (shard, *_) = cut_shards(source.files(), 1000)
    with readable(source, shard.pieces) as pieces:
        examples = list(source.read(pieces, features, None).as_numpy_iterator())
        batches = list(source.read(pieces, features, 8).as_numpy_iterator())
    assert {len(at) for at, _ in batches[:-1]} == {8}
    np.testing.assert_array_equal(
        np.concatenate([at for at, _ in batches]), [at for at, _ in examples]
    )
    for feature in features:
        together = [row for _, batch in batches for row in batch[feature]]
        for one, (_, example) in zip(together, examples, strict=True):
            np.testing.assert_array_equal(one, example[feature])


@pytest.mark.parametrize("name", CASES)
def test_reading_goes_on_in_the_middle_of_a_piece(
    name: str, written: dict[str, Path]
) -> None:
    """As it does behind a bad row."""
    spec = placed(CASES[name].source, str(written[name]))
    source = make_source(SourceSpec(**{**spec, "preprocess": ()}))
    described = source.describe()
    key = CASES[name].key or source.default_key
    features = {key: described[key]} if key else {}
    (shard, *_) = cut_shards(source.files(), 1000)
    piece = shard.pieces[0]
    cut = Piece(
        piece.file,
        piece.name,
        piece.start + 3,
        None if piece.rows is None else max(piece.rows - 3, 0),
        piece.span,
        piece.version,
    )

    def rows(one: Piece) -> list[Any]:
        with readable(source, [one]) as pieces:
            return list(source.read(pieces, features, None).as_numpy_iterator())

    if piece.rows == 1:
        return
    whole, rest = rows(piece), rows(cut)
    assert [at for at, _ in rest] == [at - 3 for at, _ in whole[3:]]
    assert [one for _, one in rest] == [one for _, one in whole[3:]]


def copy_to(data: Path, target: str) -> None:
    fs, path = fsspec.core.url_to_fs(target)
    for file in data.rglob("*"):
        if file.is_file():
            copy = f"{path}/{file.relative_to(data)}"
            fs.makedirs(copy.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(copy, file.read_bytes())


def is_the_same_elsewhere(
    name: str, data: Path, local: Local, target: str, directory: Path
) -> None:
    """Run over a copy of the data elsewhere, and compare with the local table."""
    case = CASES[name]
    shutil.rmtree(data / "_index", ignore_errors=True)
    copy_to(data, target)
    remote = job_of(case, directory / "remote", target).run(**without_key(case, 40))
    assert remote.sort_by("example_id").equals(local(name))


@pytest.mark.parametrize("name", CASES)
def test_rows_elsewhere_are_the_same_as_local_ones(
    name: str, written: dict[str, Path], local: Local, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    target = f"elsewhere://{tmp_path}/data"
    is_the_same_elsewhere(name, written[name], local, target, tmp_path)


@pytest.mark.parametrize("name", FILES_CHANGE)
def test_a_file_that_changes_after_planning_is_refused_by_name(
    name: str, written: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[name]
    data = tmp_path / "data"
    shutil.copytree(written[name], data)
    job = job_of(case, tmp_path / "out", str(data))
    plan = job.plan(**sections(case))
    prepare_table(plan)
    changed = Path(plan.shards[0].pieces[0].file)
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content)  # the same bytes, at another time
    with pytest.raises(RuntimeError, match=f"as they were planned.*{changed.name}"):
        extract_shard(worker_of(job.table), plan.shards[0])
    with pytest.raises(ValueError, match=f"changed: .*{changed.name}"):
        run_plan(job.plan(**sections(case)))
    changed.unlink()
    with pytest.raises(RuntimeError, match=f"as they were planned.*{changed.name}"):
        extract_shard(worker_of(job.table), plan.shards[0])


@pytest.mark.parametrize("name", TRACED)
def test_shards_after_the_first_are_not_traced(
    name: str, written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever files, rows and numbers of pieces they have."""
    case = CASES[name]
    job = job_of(case, tmp_path, str(written[name]))
    plan = job.plan(**sections(case, keep=[case.text] if case.text else []))
    prepare_table(plan)
    pipeline = worker_of(job.table).pipeline
    traced: list[str] = []
    begin = FuncGraph.__init__

    def counted(self: Any, name: str, *args: Any, **kwargs: Any) -> None:
        traced.append(name)
        begin(self, name, *args, **kwargs)

    monkeypatch.setattr(FuncGraph, "__init__", counted)
    pieces = [piece for shard in plan.shards for piece in shard.pieces]

    def read(some: list[Piece]) -> int:
        return sum(len(batch) for batch in pipeline.batches(some, fail))

    def fail(failure: Any) -> None:
        raise AssertionError(failure.message)

    assert len(pieces) > 2
    assert read(pieces[:1]) + read(pieces[1:]) == ROWS
    assert traced
    traced.clear()
    assert read(pieces[-1:]) + read(pieces[:-1]) == ROWS
    assert read(pieces) == ROWS
    assert traced == []


def test_positions_tell_piece_and_row() -> None:
    found = split_positions(np.array([position(3, 5), position(0, 7)]))
    assert [array.tolist() for array in found] == [[3, 0], [5, 7]]
