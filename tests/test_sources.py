"""One suite over every reader, and what each has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import tensorflow as tf
from conftest import ROWS, Job, stacked, vectors, write_parquet, write_tfrecord

from pipeline import make_plan
from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.shard import Piece, position
from transforms.sources.readers import make_source
from transforms.sources.source import File, numbered_records, traced_once
from transforms.sources.staging import readable

READERS = ["tfrecord", "gzip", "parquet", "tfds", "user"]


class Prefixed:
    """Puts its own prefix before each line."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def open(self, uri: Any) -> Any:
        return tf.data.TextLineDataset(uri).map(lambda line: self.prefix + line)

    def all_of(self, lines: Any) -> Any:
        def build(lines: Any) -> Any:
            return lines.map(lambda line: self.prefix + line)

        return traced_once(self, "lines", build)(lines)


def lines_of(
    directory: Path, open_file: Any, owner: object = None, pieces: int = 2
) -> list[bytes]:
    """Read files of two lines each with `numbered_records`."""
    for number in range(pieces):
        (directory / str(number)).write_text(f"{number}a\n{number}b\n")
    given = [Piece(str(directory / str(n)), str(n)) for n in range(pieces)]
    found = list(numbered_records(given, open_file, owner).as_numpy_iterator())
    expected = [position(n, row) for n in range(pieces) for row in (0, 1)]
    assert [at for at, _ in found] == expected
    return [line for _, line in found]


@pytest.mark.parametrize("pieces", [1, 2])
def test_readers_of_one_class_read_their_own(tmp_path: Path, pieces: int) -> None:
    """Whoever opens their files: methods, classes, or functions that are kept."""
    for prefix in ("X", "Y"):
        reader = Prefixed(prefix)
        for owner in (None, reader):
            lines = lines_of(tmp_path, reader.open, owner, pieces)
            assert {line[:1] for line in lines} == {prefix.encode()}
        some = tf.data.Dataset.from_tensors("line")
        assert list(reader.all_of(some)) == [f"{prefix}line".encode()]
    lines = lines_of(tmp_path, tf.data.TextLineDataset, None, pieces)
    assert lines[:2] == [b"0a", b"0b"]


def test_many_owners_trace_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        Prefixed(str(number)).all_of(tf.data.Dataset.from_tensors("line"))
    assert "retracing" not in caplog.text


@pytest.fixture(params=READERS)
def any_job(request: Any, tmp_path: Path, sources: dict[str, Any]) -> Job:
    return Job(tmp_path, sources[request.param])


def test_every_row_is_extracted_once_with_its_own_values(any_job: Job) -> None:
    table = any_job.run(source={"keep": ["vec"]}, taps=[{"path": "stem"}]).sort_by(
        "example_id"
    )
    assert table["example_id"].to_pylist() == list(range(ROWS))
    if any_job.source["reader"] == "toolbox:CountingReader":
        expected = np.arange(ROWS)[:, None] + np.arange(6)
    else:
        expected = vectors()
    np.testing.assert_array_equal(stacked(table["vec"]), expected.astype(np.float32))
    model = make_plan(any_job.config()).config.model
    assert model.build == "toolbox:dict_model"
    import toolbox

    stem = toolbox.dict_model().get_layer("stem")
    np.testing.assert_allclose(
        stacked(table["stem"]), stem(expected.astype(np.float32)), atol=1e-5
    )


def test_the_same_rows_come_out_whatever_the_parts(any_job: Job) -> None:
    tables = []
    for rows in (7, 33, 1000):
        path = str(any_job.directory / f"table{rows}")
        table = any_job.run(
            source={"key": None}, table={"path": path, "rows_per_part": rows}
        )
        tables.append(table.sort_by("example_id"))
    assert len(set(tables[0]["example_id"].to_pylist())) == ROWS
    for other in tables[1:]:
        assert other["example_id"].equals(tables[0]["example_id"])
        for column in ("hidden", "head"):
            np.testing.assert_array_equal(
                stacked(other[column]), stacked(tables[0][column])
            )


def test_reading_in_batches_equals_reading_examples(any_job: Job) -> None:
    source = make_source(any_job.config().source)
    features = {n: f for n, f in source.describe().items() if n in ("id", "vec")}
    files = [
        Piece(f.uri, f.name, 0, sum(f.blocks or ()) or None) for f in source.files()
    ]
    pieces = files[:1] if files[0].rows is None else files
    examples = list(source.read(pieces, features, None).as_numpy_iterator())
    batches = list(source.read(pieces, features, 8).as_numpy_iterator())
    positions = [at for at, _ in examples]
    if pieces[0].rows is not None:
        numbers = [(i, r) for i, p in enumerate(pieces) for r in range(p.rows or 0)]
        assert positions == [position(index, row) for index, row in numbers]
    for name in features:
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for _, batch in batches]),
            np.stack([example[name] for _, example in examples]),
        )
    np.testing.assert_array_equal(np.concatenate([at for at, _ in batches]), positions)


def test_default_keys_are_file_and_row(job: Job) -> None:
    keys = job.run(source={"key": None})["example_id"].to_pylist()
    assert keys[0] == "0.parquet#0"
    assert keys[30] == "1.parquet#0"
    assert keys[-1] == "2.parquet#24"


def test_tfds_id_is_the_default_key_of_tfds(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    keys = Job(tmp_path, sources["tfds"]).run(source={"key": None})["example_id"]
    assert keys[0].as_py().startswith("vectors-train.tfrecord-00000-of-00003__0")


def test_tfrecord_features_are_inferred_from_the_first_record(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    source = make_source(SourceSpec(**sources["tfrecord"]))
    described = {n: (f.dtype, f.shape) for n, f in source.describe().items()}
    assert described == {
        "id": ("int64", ()),
        "vec": ("float32", (6,)),
        "text": ("string", ()),
        "record": ("bytes", ()),
    }


def test_tfrecord_features_can_be_given(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    given = {"id": "int32", "vec": {"dtype": "float32", "shape": [6]}, "text": "bytes"}
    table = Job(tmp_path, sources["tfrecord"]).run(
        source={"features": given, "keep": ["text"]}
    )
    assert table.schema.field("example_id").type == pa.int32()
    assert table.schema.field("text").type == pa.binary()
    assert table["text"][3].as_py() == b"row 3"


def test_tfrecord_plans_small_files_of_unknown_length_together(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    plan = Job(tmp_path, sources["tfrecord"]).plan()
    assert [len(shard.pieces) for shard in plan.shards] == [3]
    assert plan.rows is None


def test_parquet_shards_are_made_of_row_groups(job: Job) -> None:
    plan = job.plan(table={"rows_per_part": 20})
    starts = {(p.name, p.start) for s in plan.shards for p in s.pieces}
    assert {(n, s) for n, s in starts if s % 16} == set()
    assert plan.rows == ROWS


def test_parquet_reads_only_the_columns_it_needs(job: Job) -> None:
    assert set(job.plan().features) == {"id", "vec"}
    assert set(job.plan(source={"keep": ["text"]}).features) == {"id", "vec", "text"}


def test_parquet_types_become_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "vec": pa.array([[1.0] * 6] * 2, pa.list_(pa.float32())),
            "raw": pa.array([b"\xff", b"\x00"], pa.binary()),
            "word": pa.array(["x", "y"]).dictionary_encode(),
            "flag": [True, False],
            "small": pa.array([1, 2], pa.uint16()),
            "when": pa.array([0, 10**9 + 1], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "types.parquet")
    source = {
        "reader": "parquet",
        "path": str(tmp_path / "*.parquet"),
        "lengths": {"vec": 6},
    }
    kept = ["raw", "word", "flag", "small", "when"]
    job = Job(tmp_path / "out", source)
    result = job.run(source={"keep": kept}, table={"event_timestamp": "when"})
    assert result["example_id"].to_pylist() == ["a", "b"]
    assert result["raw"].to_pylist() == [b"\xff", b"\x00"]
    assert result["word"].to_pylist() == ["x", "y"]
    assert result["flag"].to_pylist() == [True, False]
    assert result.schema.field("small").type == pa.uint16()
    assert result["event_timestamp"].cast(pa.int64()).to_pylist() == [0, 10**6]


def test_lists_of_one_length_at_the_head_are_vectors(tmp_path: Path) -> None:
    rows = [[i / 1000] * 6 for i in range(1000)] + [[0.5] * 5]
    vec = pa.array(rows, pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"id": list(range(1001)), "vec": vec}), tmp_path / "l.parquet"
    )
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "l.*")})
    assert job.plan().features["vec"].shape == (6,)
    table = job.run(errors={"max_fraction": 0.5})
    assert table["example_id"].to_pylist() == list(range(1000))
    assert job.errors()[0]["stage"] == "read"


def test_parquet_rows_with_nulls_are_quarantined_and_neighbours_kept(
    tmp_path: Path,
) -> None:
    values = vectors()
    write_parquet(tmp_path / "good.parquet", range(20), values, 8)
    vec: list[Any] = [list(v) for v in values[20:40]]
    vec[3], vec[5], vec[7] = None, [1.0] * 5, [None] * 6
    ids = pa.array([None if i == 30 else i for i in range(20, 40)], pa.int64())
    bad = pa.table({"id": ids, "vec": pa.array(vec, pa.list_(pa.float32()))})
    pq.write_table(bad, tmp_path / "bad.parquet", row_group_size=8)
    paths = [str(tmp_path / "bad.parquet"), str(tmp_path / "good.parquet")]
    source = {"reader": "parquet", "path": paths, "lengths": {"vec": 6}}
    job = Job(tmp_path / "out", source)
    table = job.run(errors={"max_fraction": 0.2})
    lost = {23, 25, 27, 30}
    assert set(table["example_id"].to_pylist()) == set(range(40)) - lost
    errors = job.errors()
    assert [error["row"] for error in errors] == [3, 5, 7, 10]
    assert {error["stage"] for error in errors} == {"read"}
    faults = ["vec is null", "vec has length 5, planned was 6", "vec holds a null"]
    for error, fault in zip(errors, [*faults, "id is null"], strict=True):
        assert fault in error["message"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"reader": "parket"}, "source.reader must be one of .* nearest is 'parquet'"),
        ({"reader": "parquet"}, "source.path is required"),
        ({"reader": "parquet", "path": "nowhere/*.parquet"}, "match at least one file"),
        ({"reader": "parquet", "path": 3}, "source.path"),
        ({"reader": "parquet", "pth": "x"}, "nearest is 'path'"),
        ({"reader": "parquet", "path": "PARQUET", "lengths": {"no": 3}}, "got 'no'"),
        ({"reader": "parquet", "path": "TFRECORD"}, "must hold Parquet files"),
        ({"reader": "tfrecord", "path": "PARQUET"}, "cannot read the first record"),
        ({"reader": "tfrecord", "path": "memory://x"}, "match at least one file"),
        ({"reader": "parquet", "path": "nofs://x"}, "filesystem that is installed"),
        ({"reader": "transforms:Mine"}, "names pipeline and transforms are"),
        (
            {"reader": "tfrecord", "path": "TFRECORD", "features": {"vec": "floaty"}},
            "source.features.vec must be one of",
        ),
        (
            {
                "reader": "tfrecord",
                "path": "TFRECORD",
                "features": {"vec": {"dtype": "float32", "shap": [6]}},
            },
            "shap",
        ),
        (
            {"reader": "tfds", "name": "nothing", "data_dir": "TFDS"},
            "is prepared under",
        ),
        (
            {"reader": "tfds", "name": "vectors", "data_dir": "TFDS", "split": "tran"},
            "nearest is 'train'",
        ),
        ({"reader": "parquet", "path": ["PARQUET", "PARQUET"]}, "two files one name"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(
    job: Job, data: Path, source: dict[str, Any], message: str
) -> None:
    places = {n.upper(): str(data / n) for n in ("parquet", "tfrecord", "tfds")}

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(one) for one in value]
        return places.get(value, value) if isinstance(value, str) else value

    job.source = {name: place(value) for name, value in source.items()}
    with pytest.raises(ConfigError, match=message):
        job.plan()


def test_a_break_at_the_end_of_a_batch_is_one_bad_row(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", range(40), vectors())
    whole = (tmp_path / "a.tfrecord").read_bytes()
    record = len(whole) // 40
    (tmp_path / "a.tfrecord").write_bytes(whole[: record * 15 + record // 2])
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "a.*")})
    table = job.run(errors={"max_fraction": 1.0})
    assert table["example_id"].to_pylist() == list(range(15))
    assert [error["row"] for error in job.errors()] == [15]


def test_a_truncated_tfrecord_loses_only_its_own_rest(tmp_path: Path) -> None:
    values = vectors()
    write_tfrecord(tmp_path / "a.tfrecord", range(40), values)
    write_tfrecord(tmp_path / "b.tfrecord", range(40, 80), values)
    whole = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(whole[: len(whole) * 3 // 4 - 5])
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "*.*")})
    with pytest.raises(
        RuntimeError, match=r"files of 1 shards ended .* \(first: shard 0"
    ):
        job.run(errors={"max_fraction": 0.1})
    table = job.run(errors={"max_fraction": 1.0})
    assert table["example_id"].to_pylist() == [*range(29), *range(40, 80)]
    (error,) = job.errors()
    assert (error["stage"], error["exception"]) == ("read", "DataLossError")
    assert (error["row"], Path(error["file"]).name) == (29, "a.tfrecord")


def test_a_damaged_row_group_loses_only_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, range(60), vectors(), 20, checksums=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(path)})
    table = job.run(errors={"max_fraction": 0.4}, table={"rows_per_part": 60})
    assert table["example_id"].to_pylist() == [*range(20), *range(40, 60)]
    errors = job.errors()
    assert [error["row"] for error in errors] == list(range(20, 40))
    assert {error["stage"] for error in errors} == {"read"}
    assert "row group 1 is damaged" in errors[0]["message"]


def test_a_record_of_another_shape_is_quarantined(tmp_path: Path) -> None:
    values = vectors()
    odd = [v[:5] if i == 17 else v for i, v in enumerate(values[:40])]
    write_tfrecord(tmp_path / "a.tfrecord", range(40), odd)  # type: ignore[arg-type]
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "*.*")})
    table = job.run(errors={"max_fraction": 0.1})
    assert set(table["example_id"].to_pylist()) == set(range(40)) - {17}
    (error,) = job.errors()
    assert (error["row"], error["stage"], error["example_id"]) == (17, "read", None)


def test_a_filter_plans_only_row_groups_that_may_match(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", range(60), vectors(), 10)
    source = {"reader": "parquet", "path": str(tmp_path / "a.parquet")}
    job = Job(
        tmp_path / "out", {**source, "filter": [["id", ">=", 25], ["id", "<", 42]]}
    )
    plan = job.plan()
    spans = [piece.span for shard in plan.shards for piece in shard.pieces]
    assert spans == [(20, 30), (30, 40), (40, 50)]
    assert plan.rows is None
    table = job.run(source={"key": None})
    keys = sorted(table["example_id"].to_pylist(), key=lambda key: int(key[10:]))
    assert keys == [f"a.parquet#{row}" for row in range(25, 42)]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([["idd", "=", 1]], "source.filter must name columns of .*got 'idd'"),
        ([["id", "~", 1]], r"source.filter must be \[\[column, op, value\]"),
        ([["id", "=", 1000]], "must hold at least one row"),
        ([["id", "=", "x"]], r"must fit the columns of every file.*a\.parquet"),
    ],
)
def test_filters_that_cannot_be_are_refused(
    tmp_path: Path, filters: list[Any], message: str
) -> None:
    write_parquet(tmp_path / "a.parquet", range(60), vectors(), 10)
    source = {"reader": "parquet", "path": str(tmp_path / "a.parquet")}
    with pytest.raises(ConfigError, match=message):
        Job(tmp_path / "out", {**source, "filter": filters}).plan()


def test_partitions_are_columns_and_can_be_filtered(tmp_path: Path) -> None:
    for year, ids in ((2025, range(10)), (2026, range(10, 30))):
        path = tmp_path / "data" / f"year={year}" / "kind=a%20b" / "x.parquet"
        path.parent.mkdir(parents=True)
        write_parquet(path, ids, vectors(), 8)
    source = {"reader": "parquet", "path": str(tmp_path / "data")}
    table = Job(tmp_path / "out1", source).run(source={"keep": ["year", "kind"]})
    assert table.schema.field("year").type == pa.int64()
    assert set(table["kind"].to_pylist()) == {"a b"}
    assert sorted(table["year"].to_pylist()) == [2025] * 10 + [2026] * 20
    job = Job(tmp_path / "out2", {**source, "filter": [["year", "=", 2026]]})
    assert len(job.plan().shards.files()) == 1
    assert sorted(job.run()["example_id"].to_pylist()) == list(range(10, 30))


def test_lists_of_lists_of_fixed_size_are_matrices(tmp_path: Path) -> None:
    pairs = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    inner = pa.FixedSizeListArray.from_arrays(pairs.reshape(-1), 2)
    matrix = pa.FixedSizeListArray.from_arrays(inner, 3)
    pq.write_table(pa.table({"m": matrix}), tmp_path / "m.parquet")
    source = make_source(SourceSpec(reader="parquet", path=str(tmp_path / "m.parquet")))
    features = dict(source.describe())
    assert (features["m"].dtype, features["m"].shape) == ("float32", (3, 2))
    pieces = [Piece(str(tmp_path / "m.parquet"), "m", 1, 3)]
    (batch,) = source.read(pieces, features, 10).as_numpy_iterator()
    np.testing.assert_array_equal(batch[1]["m"], pairs[1:])


def test_a_feature_that_no_record_has_is_explained(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    given = {"id": "int64", "vek": {"dtype": "float32", "shape": [6]}}
    source = {**sources["tfrecord"], "features": given}
    with pytest.raises(
        ConfigError, match=r"got 'vek'; nearest is 'vec' .*id, text, vec"
    ):
        Job(tmp_path, source).plan()


def test_zlib_is_read_where_the_config_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "x.records"
    write_tfrecord(path, range(40), vectors(), compression="ZLIB")
    source = {"reader": "tfrecord", "path": str(path), "compression": "zlib"}
    assert len(Job(tmp_path / "out", source).run()) == 40
    with pytest.raises(ConfigError, match=r"check source\.compression"):
        Job(tmp_path / "out", {**source, "compression": "none"}).plan()


def test_tfds_decoders_leave_images_as_stored(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    pixels = np.random.default_rng(0).integers(0, 256, (12, 2, 3, 1), np.uint8)
    with tfds.core.registered.skip_registration():

        class Pictures(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                features = {
                    "image": tfds.features.Image(shape=(None, None, 1)),
                    "about": {"size": np.int64},
                    "parts": tfds.features.Sequence({"at": np.int64}),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, _: Any) -> Any:
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Any:
                for i, image in enumerate(pixels):
                    parts = [{"at": i}] * (i % 3)
                    yield i, {"image": image, "about": {"size": i}, "parts": parts}

    Pictures(data_dir=tmp_path / "data").download_and_prepare()
    directory = str(tmp_path / "data" / "pictures" / "1.0.0")
    source = {"reader": "tfds", "data_dir": directory, "decoders": {"image": "skip"}}
    described = make_source(SourceSpec(**source)).describe()
    assert {n: (f.dtype, f.shape) for n, f in described.items()} == {
        "tfds_id": ("string", ()),
        "image": ("bytes", ()),
        "about/size": ("int64", ()),
        "parts/at": ("int64", (None,)),
    }
    job = Job(tmp_path / "out", source)
    steps = [
        {"step": "decode_image", "feature": "image", "channels": 1},
        {"step": "reshape", "feature": "image", "shape": [6]},
    ]
    table = job.run(
        source={
            "key": "about/size",
            "keep": ["image", "parts/at"],
            "preprocess": steps,
        },
        model={"inputs": {"vec": "image"}},
        taps=[{"path": "stem"}],
    ).sort_by("example_id")
    assert all(data.startswith(b"\x89PNG") for data in table["image"].to_pylist())
    assert table["parts_at"].to_pylist() == [[i] * (i % 3) for i in range(12)]
    with pytest.raises(ConfigError, match=r"source\.decoders must name .*'image'"):
        make_source(SourceSpec(**{**source, "decoders": {"imag": "skip"}})).describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train+train[:10]"}, "must name no row twice"),
        ({"split": "train[:10"}, "source.split must be one of train"),
        ({"even_split": [3, 3]}, "an index from 0 to below count"),
    ],
)
def test_splits_that_cannot_be_are_refused(
    tmp_path: Path, sources: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Job(tmp_path, {**sources["tfds"], **options}).plan()


def test_flac_and_several_channels(tmp_path: Path) -> None:
    wave = np.linspace(-0.5, 0.5, 60, dtype=np.float32).reshape(-1, 2)
    (tmp_path / "cat").mkdir()
    soundfile.write(tmp_path / "cat" / "a.flac", wave, 8000, subtype="PCM_24")
    source = make_source(
        SourceSpec(
            reader="audio",
            path=str(tmp_path),
            sample_rate=8000,
            channels=2,
            window_frames=8,
            hop_frames=5,
            label="folder",
        )
    )
    (file,) = source.files()
    assert file.blocks == (5,)  # 0, 5, 10, 15 and 20 begin windows; 25 would reach 33
    features = dict(source.describe())
    piece = Piece(file.uri, file.name, 1, 4)
    found = list(source.read([piece], features, None).as_numpy_iterator())
    assert [at for at, _ in found] == [0, 1, 2, 3]
    assert [one["start_seconds"] for _, one in found] == [
        5 / 8000 * n for n in (1, 2, 3, 4)
    ]
    assert {one["label"] for _, one in found} == {b"cat"}
    for number, (_, one) in enumerate(found, 1):
        expected = wave[5 * number : 5 * number + 8]
        np.testing.assert_allclose(one["waveform"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0}, "source.sample_rate must be at least 1"),
        ({"sample_rate": 8000, "hop_frames": 4}, "hop_frames needs"),
        ({}, "source.sample_rate is required"),
    ],
)
def test_audio_that_cannot_be_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 8000)
    with pytest.raises(ConfigError, match=message):
        make_source(SourceSpec(reader="audio", path=str(tmp_path), **options)).files()


def test_shards_of_large_files_hold_at_most_a_gigabyte() -> None:
    from pipeline.cut import default_rows_per_part

    files = [File(f"{i}.jpg", f"{i}.jpg", 10 << 20, "", (1,)) for i in range(1000)]
    assert default_rows_per_part(files, 4, 16) == 96
    small = [File(f"{i}.jpg", f"{i}.jpg", 1000, "", (1,)) for i in range(1000)]
    assert default_rows_per_part(small, 4, 16) > 1000


def test_one_of_several_npy_files_that_changes_is_noticed(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("id", "vec")}
    for name, values in (("id", np.arange(4)), ("vec", vectors()[:4])):
        np.save(paths[name], values)
    source = make_source(SourceSpec(reader="numpy", path=paths))
    (file,) = source.files()
    np.save(paths["vec"], vectors()[4:8])
    pieces = [Piece(file.uri, file.name, 0, 4, version=file.identity)]
    with (
        pytest.raises(RuntimeError, match="must stay as they were planned"),
        readable(source, pieces),
    ):
        pass


def test_a_link_to_a_directory_above_is_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in" / "a.parquet", range(4), vectors(), 4)
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    source = make_source(SourceSpec(reader="parquet", path=str(tmp_path / "in")))
    assert "a.parquet" in [file.name for file in source.files()]


def test_one_long_list_does_not_fill_up_a_row_group(tmp_path: Path) -> None:
    lists = [[1]] * 5000 + [[1] * 50_000]
    pq.write_table(pa.table({"l": lists}), tmp_path / "l.parquet")
    source = make_source(
        SourceSpec(
            reader="parquet", path=str(tmp_path / "l.parquet"), lengths={"l": -1}
        )
    )
    pieces = [Piece(str(tmp_path / "l.parquet"), "l", 0, 5001)]
    features = dict(source.describe())
    sizes = [len(one["l"]) for _, one in source.read(pieces, features, None)]
    assert sizes == [1] * 5000 + [50_000]
    from transforms.sources.arrow import blocks_of

    table = pq.read_table(tmp_path / "l.parquet")
    blocks = list(blocks_of(table, np.arange(5001), features))
    assert sum(block.values["l"].nbytes for block in blocks) < 64 * 50_000 * 8 * 2
