"""Large row groups are read a few megabytes at a time, from any row to any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job

from transforms.shard import Piece
from transforms.sources import row_groups
from transforms.sources.parquet import Parquet
from transforms.sources.row_groups import open_groups

ROWS, WIDTH, STEP = 3000, 4, 7
AT_A_TIME = 98  # rows of one 'vec', in the multiple of STEP that fits


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "_DECODED_BYTES", 100 * WIDTH * 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One row group of many pages."""
    path = tmp_path / "data" / "0.parquet"
    path.parent.mkdir()
    store(path, pa.list_(pa.float32()))
    return path


def store(path: Path, kind: pa.DataType, nulls: tuple[int, ...] = ()) -> None:
    rows: list[Any] = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    rows = [None if i in nulls else row.tolist() for i, row in enumerate(rows)]
    table = pa.table({"id": range(ROWS), "vec": pa.array(rows, kind)})
    pq.write_table(
        table,
        path,
        use_dictionary=False,
        compression="none",
        data_page_size=800,
        write_batch_size=10,
        write_page_checksum=True,
    )


def break_page(path: Path, row: int) -> None:
    """Flip a bit of a row's vector, which its page's checksum tells."""
    data = bytearray(path.read_bytes())
    at = data.index(np.float32(row * WIDTH).tobytes() + np.float32(row * WIDTH + 1))
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, ROWS), (0, 1), (97, 99), (98, 196), (1234, 2345), (2999, ROWS)],
)
def test_rows_come_in_tables_of_whole_steps(path: Path, first: int, last: int) -> None:
    opened = open_groups(str(path))
    tables = list(opened.read(0, ["vec", "id"], first, last, STEP))
    assert all(0 < len(table) <= AT_A_TIME for table in tables)
    ends = first + np.cumsum([len(table) for table in tables])
    assert not (ends[:-1] % STEP).any()
    whole = pq.read_table(path)[first:last]
    assert pa.concat_tables(tables).select(["id", "vec"]).equals(whole)
    opened.close()


@pytest.mark.usefixtures("small_steps")
def test_rows_behind_those_asked_for_are_not_read(path: Path) -> None:
    break_page(path, 2000)
    opened = open_groups(str(path))
    tables = opened.read(0, ["vec"], 0, 1500, STEP)
    assert sum(len(table) for table in tables) == 1500
    with pytest.raises(ValueError, match="row group 0 is damaged"):
        list(opened.read(0, ["vec"], 0, ROWS, STEP))
    with pytest.raises(ValueError, match="row group 0 is damaged"):
        next(opened.read(0, ["vec"], 2500, ROWS, STEP))
    assert len(pa.concat_tables(opened.read(0, ["id"]))) == ROWS
    opened.close()


@pytest.mark.usefixtures("small_steps")
def test_rows_are_counted_where_no_column_is_there(path: Path) -> None:
    opened = open_groups(str(path))
    assert sum(len(table) for table in opened.read(0, ["absent"], 10, 2000)) == 1990


@pytest.mark.usefixtures("small_steps")
def test_null_lists_of_fixed_size_lose_no_row_wherever_they_come(path: Path) -> None:
    store(path, pa.list_(pa.float32(), WIDTH), nulls=(2000, 2900))
    opened = open_groups(str(path))
    found = [
        row for table in opened.read(0, ["vec"], 5) for row in table["vec"].to_pylist()
    ]
    assert [i for i, row in enumerate(found, 5) if row is None] == [2000, 2900]
    assert [row[0] for row in found if row] == [
        i * WIDTH for i in range(5, ROWS) if i not in (2000, 2900)
    ]


@pytest.mark.usefixtures("small_steps")
def test_the_first_rows_tell_lengths_also_if_a_null_list_comes_late(path: Path) -> None:
    fixed = [None if i == 700 else [1.0, 2.0] for i in range(ROWS)]
    columns = {"open": [[i, i, i] for i in range(ROWS)]}
    kind = pa.list_(pa.float32(), 2)
    pq.write_table(pa.table({**columns, "fixed": pa.array(fixed, kind)}), path)
    opened = open_groups(str(path))
    assert len(opened.head(1000)) == 1000
    opened.close()
    assert Parquet(str(path)).describe()["open"].shape == (3,)


@pytest.mark.usefixtures("small_steps")
def test_damage_behind_a_null_list_is_damage(path: Path) -> None:
    store(path, pa.list_(pa.float32(), WIDTH), nulls=(700,))
    break_page(path, 2000)
    opened = open_groups(str(path))
    found: list[pa.Table] = []
    with pytest.raises(ValueError, match="row group 0 is damaged"):
        found.extend(opened.read(0, ["vec"]))
    assert 1800 < sum(map(len, found)) <= 2000
    opened.close()


def test_a_row_group_of_fewer_rows_than_its_footer_says_is_damaged(path: Path) -> None:
    opened = open_groups(str(path))
    opened.groups = [ROWS + 1]
    with pytest.raises(ValueError, match=f"must hold {ROWS + 1} rows, has {ROWS}"):
        list(opened.read(0, ["vec"]))
    opened.close()


def test_steps_are_of_a_few_megabytes_of_the_columns_that_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "_DECODED_BYTES", 8000)
    opened = open_groups(str(path))
    first = [len(next(opened.read(0, names))) for names in (["id"], ["vec"])]
    assert 900 <= first[0] <= 1000
    assert 250 <= first[1] <= 500
    assert len(next(opened.read(0, ["vec"], step=2000))) == 2000
    opened.close()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(("start", "rows"), [(0, None), (0, 120), (100, 1), (130, 20)])
def test_a_filter_counts_what_it_keeps_of_all_steps(
    path: Path, start: int, rows: int | None
) -> None:
    reader = Parquet(str(path), filter=[["id", ">=", 90], ["id", "<", 240]])
    features = {name: reader.describe()[name] for name in ("id", "row_id")}
    piece = Piece(str(path), "0.parquet", start, rows, (0, ROWS))
    kept = [
        (int(at), int(row["id"]), row["row_id"].numpy().decode())
        for at, row in reader.read([piece], features, None)
    ]
    wanted = range(90, 240)[start : None if rows is None else start + rows]
    assert kept == [(n, i, f"0.parquet#{i}") for n, i in enumerate(wanted)]


@pytest.mark.usefixtures("small_steps")
def test_a_damaged_page_takes_no_rows_of_earlier_steps(
    tmp_path: Path, sources: dict[str, dict[str, Any]]
) -> None:
    """And which ones it takes does not depend on how rows are cut into parts."""
    path = tmp_path / "a.parquet"
    values = np.arange(ROWS * 6, dtype=np.float32).reshape(-1, 6) / 1000
    table = {"id": range(ROWS), "vec": values.tolist()}
    options = {"use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table(table), path, data_page_size=800, **options)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    lost = []
    for parts in (ROWS, 1000, 208):
        job = Job(tmp_path / str(parts), {"reader": "parquet", "path": str(path)})
        made = job.run(errors={"max_fraction": 1.0}, table={"rows_per_part": parts})
        lost.append([error["row"] for error in job.errors()])
        assert made["example_id"].to_pylist() == [*range(lost[0][0])]
    assert lost[0] == [*range(lost[0][0], ROWS)]
    assert ROWS // 3 < lost[0][0] < ROWS // 2 + 100
    assert lost[1] == lost[2] == lost[0]


def test_names_of_any_bytes_can_be_opened(path: Path) -> None:
    other = path.with_name(os.fsdecode(b"\xff .parquet"))
    path.rename(other)
    opened = open_groups(str(other))
    assert opened.groups == [ROWS]
    opened.close()
