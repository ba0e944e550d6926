"""Damaged and hostile data: what is lost is named, and nothing else is lost."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import readers
import soundfile
from conftest import Job
from readers import CASES, add_member, placed

from transforms.lookup import ConfigError

Damage = Callable[[Path], None]


def flipped(path: Path, at: float) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x55
    path.write_bytes(data)


def cut(path: Path, at: float) -> None:
    """Leave the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * at)])


def replaced(path: Path, old: str, new: bytes) -> None:
    """Replace text in a file, once."""
    data = path.read_bytes()
    assert data.count(old.encode()) == 1
    path.write_bytes(data.replace(old.encode(), new))


def job_on(name: str, directory: Path, damage: Damage) -> Job:
    """A job over the rows of a case, some of which are damaged."""
    data = directory / "data"
    data.mkdir()
    CASES[name].write(data)
    damage(data)
    source = placed(CASES[name].source, str(data))
    return Job(directory / "out", {**source, "key": CASES[name].key})


def outcome(name: str, job: Job, **sections: Any) -> tuple[set[int], list[Any]]:
    """Run, and give the numbers of the rows that are missing, and the errors."""
    case = CASES[name]
    keep = [case.text] if case.text else []
    source = {"key": case.key, "keep": keep, **sections.pop("source", {})}
    table = job.run(
        source=source,
        model={"inputs": {"vec": case.feature}},
        taps=[{"path": "stem"}],
        errors={"max_fraction": 1.0},
        **sections,
    )
    keys = table["example_id"].to_pylist()
    numbers = keys if case.key else [case.number(key) for key in keys]  # type: ignore
    assert len(set(numbers)) == len(numbers)
    bad = (job.table / "_featuretap" / "errors").exists()
    return set(range(100)) - set(numbers), job.errors() if bad else []


def rewritten(part: str, change: Callable[[pa.Table], pa.Table]) -> Damage:
    """Change the table in a Parquet file."""

    def damage(data: Path) -> None:
        table = pq.read_table(data / part)
        pq.write_table(change(table), data / part, row_group_size=16)

    return damage


def tar_with(name: str, data: bytes = b"evil") -> Damage:
    """Put a member between two examples of the first tar file."""

    def damage(directory: Path) -> None:
        with tarfile.open(directory / "d-000.tar", "w") as tar:
            for row in readers.rows(readers.PARTS[0]):
                if row["id"] == 10:
                    add_member(tar, name, data)
                head = f"dir/{row['id']:04d}"
                add_member(tar, f"{head}.id", str(row["id"]).encode())
                add_member(tar, f"{head}.txt", b"")
                add_member(tar, f"{head}.vec.bin", row["vec"].tobytes())

    return damage


def link_in_tar(directory: Path) -> None:
    with tarfile.open(directory / "d-001.tar", "a") as tar:
        info = tarfile.TarInfo("dir/link.vec.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)


def damaged_group(data: Path) -> None:
    """Damage the second row group of a file, as page checksums notice."""
    path = data / "1.parquet"
    pq.write_table(
        pq.read_table(path), path, row_group_size=16, write_page_checksum=True
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


def endless_audio(data: Path) -> None:
    """A FLAC file whose header claims 2^35 frames."""
    soundfile.write(data / "0004.flac", np.zeros(600), 8000)
    content = bytearray((data / "0004.flac").read_bytes())
    content[21] |= 0x0F
    (data / "0004.wav").write_bytes(content)
    (data / "0004.flac").unlink()


def png_bomb(data: Path) -> None:
    image = io.BytesIO()
    PIL.Image.new("L", (20_000, 20_000)).save(image, "PNG")
    (data / "even" / "0004.png").write_bytes(image.getvalue())


# name of the case, damage, rows lost, what the errors say of them
ROWS_LOST: dict[str, tuple[str, Damage, set[int], str]] = {
    "TFRecord: checksum": (
        "tfrecord",
        lambda d: flipped(d / "2.tfrecord", 0.99),
        {99},
        "corrupted record",
    ),
    "TFRecord: cut in a record": (
        "tfrecord",
        lambda d: cut(d / "0.tfrecord", 0.98),
        {29},
        "truncated record",
    ),
    "TFRecord: cut in the head of a record": (
        "tfrecord",
        lambda d: (d / "0.tfrecord").write_bytes(
            (d / "0.tfrecord").read_bytes() + b"\x05"
        ),
        set(),
        "ends in the head of a record",
    ),
    "TFRecord: gzip cut": (
        "tfrecord, gzip",
        lambda d: cut(d / "2.tfrecord.gz", 0.99),
        set(),
        "",
    ),
    "Parquet: a column is missing": (
        "parquet",
        rewritten("1.parquet", lambda t: t.drop_columns(["vec"])),
        set(range(30, 75)),
        "the file lacks column 'vec'",
    ),
    "Parquet: a column has another type": (
        "parquet",
        rewritten(
            "1.parquet",
            lambda t: t.set_column(1, "vec", pa.array(["x"] * len(t))),
        ),
        set(range(30, 75)),
        "column 'vec' is string, planned was list",
    ),
    "Parquet: a null key": (
        "parquet",
        rewritten(
            "1.parquet",
            lambda t: t.set_column(
                0, "id", pa.array([None, *t["id"].to_pylist()[1:]], pa.int64())
            ),
        ),
        {30},
        "id is null",
    ),
    "Parquet: a damaged row group, filtered": (
        "parquet, filtered",
        damaged_group,
        set(range(38, 46)),
        "row group 1 is damaged",
    ),
    "audio: a header that lies": (
        "audio",
        endless_audio,
        {4},
        "at most source.max_frames",
    ),
    "CSV: too few fields": (
        "csv",
        lambda d: replaced(d / "1.csv", "row 50", b"row 50,more"),
        {50},
        "Expected 8 columns, got 9",
    ),
    "CSV: no number": (
        "csv",
        lambda d: replaced(d / "1.csv", "\r\n50,", b"\r\n5o,"),
        {50},
        "invalid value '5o'",
    ),
    "CSV: an open quote": (
        "csv",
        lambda d: replaced(d / "1.csv", "row 50", b'"row 50'),
        {50},
        "opening quote without",
    ),
    "CSV: not UTF-8": (
        "csv",
        lambda d: replaced(d / "1.csv", "row 50", b"row \xff"),
        {50},
        "UTF8",
    ),
    "CSV: another header": (
        "csv",
        lambda d: replaced(d / "1.csv", "v3", b"w3"),
        set(range(30, 75)),
        "lacks column 'v3'",
    ),
    "CSV: an empty file": (
        "csv",
        lambda d: cut(d / "1.csv", 0),
        set(range(30, 75)),
        "",
    ),
    "CSV: gzip cut": (
        "csv, gzip",
        lambda d: cut(d / "1.csv.gz", 0.9),
        set(),
        "the rest of the file cannot be read",
    ),
    "JSONL: no JSON": (
        "jsonl",
        lambda d: replaced(d / "1.jsonl", '{"id": 50', b'{"id": 50, {'),
        {50},
        "JSON parse error",
    ),
    "JSONL: another type": (
        "jsonl",
        lambda d: replaced(d / "1.jsonl", '"id": 50', b'"id": "fifty"'),
        {50},
        "changed from number to string",
    ),
    "JSONL: two on a line": (
        "jsonl",
        lambda d: replaced(d / "1.jsonl", '{"id": 50', b'{} {"id": 50'),
        {50},
        "holds 2 values",
    ),
    "JSONL: a key is missing": (
        "jsonl",
        lambda d: replaced(d / "1.jsonl", '"id": 50', b'"ident": 50'),
        {50},
        "id is null",
    ),
    "JSONL: not UTF-8": (
        "jsonl",
        lambda d: replaced(d / "1.jsonl", "row 50", b"row \xff"),
        {50},
        "UTF8",
    ),
    "NumPy: an array is missing": (
        "numpy",
        lambda d: np.savez(d / "1.npz", id=np.arange(30, 75)),
        set(range(30, 75)),
        "no array 'vec'",
    ),
    "NumPy: another shape": (
        "numpy",
        lambda d: np.savez(
            d / "1.npz", id=np.arange(30, 75), vec=np.zeros((45, 5), np.float32)
        ),
        set(range(30, 75)),
        "planned was",
    ),
    "tar: a member above its directory": (
        "webdataset",
        tar_with("../../etc/cron.d/evil.bin"),
        set(),
        "leaves its directory",
    ),
    "tar: an absolute member": (
        "webdataset",
        tar_with("/etc/evil.bin"),
        set(),
        "leaves its directory",
    ),
    "tar: a link": ("webdataset", link_in_tar, set(), "is no regular file"),
    "tar: an example without an input": (
        "webdataset",
        tar_with("dir/a.txt"),
        set(),
        "no member with extension",
    ),
    "tar: cut": (
        "webdataset",
        lambda d: cut(d / "d-002.tar", 0.5),
        set(range(90, 100)),
        "",
    ),
    "tar: an empty file": (
        "webdataset",
        lambda d: cut(d / "d-001.tar", 0),
        set(range(30, 75)),
        "",
    ),
    "images: half a file": (
        "images",
        lambda d: cut(d / "even" / "0004.png", 0.5),
        {4},
        "",
    ),
    "images: an empty file": (
        "images",
        lambda d: cut(d / "even" / "0004.png", 0),
        {4},
        "",
    ),
    "images: a decompression bomb": ("images", png_bomb, {4}, "more pixels than"),
    "audio: another rate": (
        "audio",
        lambda d: soundfile.write(d / "0004.wav", np.zeros(6), 16000),
        {4},
        "must have 8000 Hz and 1 channel",
    ),
    "audio: stereo": (
        "audio",
        lambda d: soundfile.write(d / "0004.wav", np.zeros((6, 2)), 8000),
        {4},
        "got 8000 Hz and 2",
    ),
    "audio: no audio": (
        "audio",
        lambda d: (d / "0004.wav").write_bytes(b"RIFF, but no more"),
        {4},
        "cannot be decoded",
    ),
    "ArrayRecord: a damaged record": (
        "array_record",
        lambda d: flipped(d / "1.array_record", 0.001),
        set(),
        "",
    ),
}


def flipped_batch(path: Path) -> None:
    """Write nonsense over the metadata of the first record batch."""
    data = bytearray(path.read_bytes())
    first = data.index(b"\xff\xff\xff\xff", 16)  # the schema's; then the batch's
    at = data.index(b"\xff\xff\xff\xff", first + 8)
    data[at + 12 : at + 40] = b"\x7f" * 28
    path.write_bytes(data)


@pytest.mark.parametrize("name", ROWS_LOST)
def test_bad_rows_are_named_and_their_neighbours_kept(
    name: str, tmp_path: Path
) -> None:
    case, damage, lost, message = ROWS_LOST[name]
    missing, errors = outcome(case, job_on(case, tmp_path, damage))
    if "cut" in name or "empty file" in name or "ArrayRecord" in name:
        assert lost <= missing
        assert len(missing) < 60
    else:
        assert missing == lost
    if lost and "empty file" not in name:
        assert errors
    assert {e["message"] for e in errors if message not in e["message"]} == set()
    files = {Path(error["file"]).parent.name for error in errors}
    assert files <= {"data", "even", "odd"}


# name of the case, damage, what the refusal says
REFUSED: dict[str, tuple[str, Damage, str]] = {
    "half a Parquet file": (
        "parquet",
        lambda d: cut(d / "1.parquet", 0.5),
        r"cannot read the footer of .*1\.parquet.*remove or replace",
    ),
    "an empty Parquet file": (
        "parquet",
        lambda d: cut(d / "1.parquet", 0),
        r"cannot read the footer of .*1\.parquet",
    ),
    "half an Arrow file": (
        "arrow",
        lambda d: cut(d / "1.arrow", 0.5),
        r"cannot read the head of .*1\.arrow",
    ),
    "an Arrow file with a damaged record batch": (
        "arrow",
        lambda d: flipped_batch(d / "1.arrow"),
        r"cannot read the head of .*1\.arrow",
    ),
    "half an ArrayRecord file": (
        "array_record",
        lambda d: cut(d / "1.array_record", 0.5),
        r"cannot read .*1\.array_record",
    ),
    "half an .npz file": (
        "numpy",
        lambda d: cut(d / "1.npz", 0.5),
        r"cannot read .*1\.npz",
    ),
    "pickled objects": (
        "numpy",
        lambda d: np.savez(d / "0.npz", id=np.array([{}, 1], object)),
        r"cannot read .*0\.npz.*pickled",
    ),
    "arrays of different rows": (
        "numpy",
        lambda d: np.savez(d / "1.npz", id=np.arange(3), vec=np.zeros((2, 6))),
        r"same number of rows, those of .*1\.npz",
    ),
    "audio without a header": (
        "audio, windows",
        lambda d: cut(d / "0005.wav", 0.1),
        r"cannot read the header of .*0005\.wav",
    ),
    "a broken TFRecord file to be indexed": (
        "tfrecord, indexed",
        lambda d: cut(d / "1.tfrecord", 0.5),
        r"must hold whole files, .*1\.tfrecord",
    ),
    "columns of one name": (
        "csv",
        lambda d: replaced(d / "0.csv", "v3", b"v2"),
        "columns must have names of their own|lacks column|must name",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_planned_is_refused_by_the_name_of_its_file(
    name: str, tmp_path: Path
) -> None:
    case, damage, message = REFUSED[name]
    job = job_on(case, tmp_path, damage)
    with pytest.raises(ConfigError, match=message):
        job.plan(
            source={"key": CASES[case].key},
            model={"inputs": {"vec": CASES[case].feature}},
            taps=[{"path": "stem"}],
        )


@pytest.mark.parametrize("name", ["csv", "tfrecord", "webdataset", "jsonl"])
def test_a_source_that_turns_out_to_have_no_rows_is_refused(
    name: str, tmp_path: Path
) -> None:
    def empty(data: Path) -> None:
        for file in data.iterdir():
            cut(file, 0)
            if name == "csv":
                file.write_text("id,v0,v1,v2,v3,v4,v5,text\n")

    features: dict[str, Any] = {
        "csv": {"id": "int64", **{f"v{i}": "float32" for i in range(6)}},
        "webdataset": {"id": "int64", "vec.bin": "bytes"},
    }.get(name, {"id": "int64", "vec": {"dtype": "float32", "shape": [6]}})
    job = job_on(name, tmp_path, empty)
    with pytest.raises(RuntimeError, match="must hold at least one row"):
        outcome(name, job, source={"features": features, "keep": []})
    assert not (job.table / "_SUCCESS").exists()


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    job = job_on("tfds, tfrecord", tmp_path, lambda _: None)
    with pytest.raises(ConfigError, match="must hold at least one row"):
        job.plan(source={"split": "train[:0]"})


def test_text_that_is_not_utf8_is_refused_only_where_it_is_kept(tmp_path: Path) -> None:
    def damage(table: pa.Table) -> pa.Table:
        texts = [one.encode() for one in table["text"].to_pylist()]
        texts[5] = b"\xff"
        binary = pa.array(texts, pa.binary())
        column = pa.StringArray.from_buffers(
            len(texts), binary.buffers()[1], binary.buffers()[2]
        )
        return table.set_column(2, "text", column)

    job = job_on("parquet", tmp_path, rewritten("1.parquet", damage))
    assert outcome("parquet", job, source={"keep": []}) == (set(), [])
    other = Job(tmp_path / "other", job.source)
    missing, errors = outcome("parquet", other)
    assert missing == {35}
    assert [error["stage"] for error in errors] == ["encode"]


def test_a_line_too_long_is_a_bad_row(tmp_path: Path) -> None:
    job = job_on(
        "csv",
        tmp_path,
        lambda d: replaced(d / "1.csv", "row 50", b"row 50" + b"x" * (20 << 20)),
    )
    missing, errors = outcome("csv", job, source={"max_line_bytes": 1 << 20})
    assert missing == {50}
    assert "longer than source.max_line_bytes = 1048576" in errors[0]["message"]


def test_a_member_too_large_is_a_bad_row(tmp_path: Path) -> None:
    job = job_on("webdataset", tmp_path, tar_with("dir/0010.vec.bin", b"x" * 5000))
    missing, errors = outcome("webdataset", job, source={"max_member_bytes": 1000})
    assert missing == {10}
    assert "5000 bytes, more than source.max_member_bytes" in errors[0]["message"]


def test_a_gzip_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    def bomb(data: Path) -> None:
        text = gzip.decompress((data / "1.csv.gz").read_bytes())
        with gzip.open(data / "1.csv.gz", "wb", 1) as stream:
            stream.write(text)
            for _ in range(64):
                stream.write(b"0" * (1 << 20))

    job = job_on("csv, gzip", tmp_path, bomb)
    missing, errors = outcome("csv, gzip", job, source={"max_line_bytes": 1 << 20})
    assert missing == set()
    (error,) = errors
    assert "longer than source.max_line_bytes" in error["message"]
