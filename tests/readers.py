"""The same hundred rows for every reader, and how each reads them."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import tensorflow as tf
from array_record.python import array_record_module

from pipeline.cut import cut_shards
from transforms.config import SourceSpec
from transforms.shard import split_position
from transforms.sources.readers import make_source
from transforms.sources.staging import readable

ROWS = 100
PARTS = (range(0, 30), range(30, 75), range(75, ROWS))
Row = Mapping[str, Any]


def pixels() -> np.ndarray:
    """uint8 [100, 6]."""
    return np.random.default_rng(0).integers(1, 256, (ROWS, 6), np.uint8)


def vectors() -> np.ndarray:
    """float32 [100, 6], positive, with values that text and files keep exactly."""
    return pixels().astype(np.float32) / 256


def rows(numbers: range) -> list[Row]:
    """Rows as `{id, vec, text}`."""
    values = vectors()
    return [{"id": i, "vec": values[i], "text": f"row {i}"} for i in numbers]


@dataclass(frozen=True)
class Case:
    """How one reader reads the rows.

    Attributes:
      write: puts the rows into a directory.
      source: `[source]`, with `DIR` for that directory.
      key: feature that holds the rows' numbers; None if keys must tell them.
      number: from a default key to the row's number, where one can tell.
      feature: that holds the vector after preprocessing.
      text: feature that holds `row <number>`, if there is one.
    """

    write: Callable[[Path], None]
    source: dict[str, Any]
    key: str | None = "id"
    number: Callable[[str], int] | None = None
    feature: str = "vec"
    text: str | None = "text"


def everything(
    batch: int | None = None, **source: Any
) -> tuple[list[dict[str, Any]], set]:
    """Everything a source holds, and its keys."""
    made = make_source(SourceSpec(**source))
    features = {n: replace(f, nullable=False) for n, f in made.describe().items()}
    found, keys = [], set()
    for shard in cut_shards(made.files(), 1000):
        # the last piece first: none may need what stands before it
        with readable(made, shard.pieces[::-1]) as pieces:
            elements = made.read(pieces, features, batch)
            placed = [
                (split_position(at), dict(one))
                for at, one in elements.as_numpy_iterator()
            ]
        for _, one in sorted(placed, key=lambda row: (-row[0][0], row[0][1])):
            found.append(one)
            keys.add(one.pop("row_id"))
    return found, keys


def outcomes(feature: str, **source: Any) -> list[Any]:
    """What each row of a source has for a feature: its value, or what is wrong."""
    made = make_source(SourceSpec(**source))
    features = {feature: made.describe()[feature]}
    found: list[Any] = []
    for shard in cut_shards(made.files(), 1000):
        with readable(made, shard.pieces) as pieces:
            rows = iter(made.read(pieces, features, None))
            while True:
                try:
                    element = next(rows, None)
                except tf.errors.InvalidArgumentError as error:
                    found.append(str(error))
                    continue
                if element is None:
                    break
                value = element[1][feature].numpy()
                found.append(value.decode() if isinstance(value, bytes) else value)
    return found


def example(row: Row) -> bytes:
    """A tf.Example."""
    feature = {
        "id": tf.train.Feature(int64_list=tf.train.Int64List(value=[row["id"]])),
        "vec": tf.train.Feature(float_list=tf.train.FloatList(value=row["vec"])),
        "text": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[row["text"].encode()])
        ),
    }
    features = tf.train.Features(feature=feature)
    return bytes(tf.train.Example(features=features).SerializeToString())


def sequence_example(row: Row) -> bytes:
    """A tf.SequenceExample: the vector is a list of six numbers."""
    context = tf.train.Example.FromString(example(row)).features
    del context.feature["vec"]
    entries = [
        tf.train.Feature(float_list=tf.train.FloatList(value=[v])) for v in row["vec"]
    ]
    lists = {"vec": tf.train.FeatureList(feature=entries)}
    message = tf.train.SequenceExample(
        context=context, feature_lists=tf.train.FeatureLists(feature_list=lists)
    )
    return bytes(message.SerializeToString())


def write_tfrecords(
    directory: Path,
    serialize: Callable[[Row], bytes] = example,
    compression: str = "",
    suffix: str = ".tfrecord",
) -> None:
    """Three TFRecord files."""
    for part, numbers in enumerate(PARTS):
        path = str(directory / f"{part}{suffix}")
        with tf.io.TFRecordWriter(path, compression) as writer:
            for row in rows(numbers):
                writer.write(serialize(row))


def write_array_records(directory: Path) -> None:
    """Three ArrayRecord files."""
    for part, numbers in enumerate(PARTS):
        writer = array_record_module.ArrayRecordWriter(
            str(directory / f"{part}.array_record"), "group_size:1"
        )
        for row in rows(numbers):
            writer.write(example(row))
        writer.close()


def arrow(numbers: range) -> pa.Table:
    """An Arrow table."""
    values = vectors()[list(numbers)]
    return pa.table(
        {
            "id": pa.array(list(numbers), pa.int64()),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6),
            "text": [f"row {i}" for i in numbers],
            "unused": [{"a": i} for i in numbers],
        }
    )


def write_parquet(directory: Path) -> None:
    """Three Parquet files of row groups of 16."""
    for part, numbers in enumerate(PARTS):
        pq.write_table(arrow(numbers), directory / f"{part}.parquet", row_group_size=16)


def write_hive(directory: Path) -> None:
    """Parquet files in directories that name a column."""
    for part, numbers in enumerate(PARTS):
        (directory / f"part={part}").mkdir()
        path = directory / f"part={part}" / "x.parquet"
        pq.write_table(arrow(numbers), path, row_group_size=16)


def write_with_strangers(directory: Path) -> None:
    """Parquet files in which a filter must leave out every other row."""
    for part, numbers in enumerate(PARTS):
        table = arrow(numbers)
        both = pa.concat_tables([table, table]).take(
            np.stack([np.arange(len(table)), np.arange(len(table))], 1).reshape(-1)
        )
        keep = np.tile([1, 0], len(table))
        pq.write_table(
            both.append_column("keep", pa.array(keep)),
            directory / f"{part}.parquet",
            row_group_size=16,
        )


def write_ipc(directory: Path) -> None:
    """Three Arrow files of record batches of 16."""
    for part, numbers in enumerate(PARTS):
        table = arrow(numbers)
        path = str(directory / f"{part}.arrow")
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=16)


def write_csv(
    directory: Path, suffix: str = ".csv", opened: Callable[..., Any] = open, **how: Any
) -> None:
    """Three CSV files of a column for each value."""
    names = [f"v{i}" for i in range(6)]
    for part, numbers in enumerate(PARTS):
        path = directory / f"{part}{suffix}"
        with opened(path, "wt", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, **how)
            writer.writerow(["id", *names, "text"])
            for row in rows(numbers):
                writer.writerow([row["id"], *row["vec"], row["text"]])


def write_jsonl(directory: Path) -> None:
    """Three JSON Lines files, with an empty line in each."""
    for part, numbers in enumerate(PARTS):
        lines = [
            json.dumps({**row, "vec": row["vec"].tolist()}) for row in rows(numbers)
        ]
        lines.insert(3, "")
        (directory / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


def arrays(numbers: range) -> dict[str, np.ndarray]:
    """Arrays of all rows."""
    chosen = list(numbers)
    texts = np.array([f"row {i}" for i in numbers])
    return {"id": np.array(chosen), "vec": vectors()[chosen], "text": texts}


def write_npz(directory: Path) -> None:
    """Three .npz files."""
    for part, numbers in enumerate(PARTS):
        np.savez(directory / f"{part}.npz", **arrays(numbers))


def write_npy(directory: Path) -> None:
    """A file for each feature."""
    for name, array in arrays(range(ROWS)).items():
        np.save(directory / f"{name}.npy", array)


def write_tars(directory: Path) -> None:
    """Three tar files; vectors as raw bytes."""
    for part, numbers in enumerate(PARTS):
        with tarfile.open(directory / f"d-{part:03d}.tar", "w") as tar:
            for row in rows(numbers):
                members = {
                    "id": str(row["id"]).encode(),
                    "txt": row["text"].encode(),
                    "vec.bin": row["vec"].astype("<f4").tobytes(),
                }
                for extension, data in members.items():
                    add_member(tar, f"dir/{row['id']:04d}.{extension}", data)


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_images(directory: Path) -> None:
    """A PNG of 2 x 3 grey pixels for each row, in directories by class."""
    for i, values in enumerate(pixels()):
        folder = directory / ("odd" if i % 2 else "even")
        folder.mkdir(exist_ok=True)
        image = PIL.Image.fromarray(values.reshape(2, 3))
        image.save(folder / f"{i:04d}.png")
    (directory / "README.txt").write_text("not an image")


def write_audio(directory: Path, windows: int = 1) -> None:
    """A WAV of six frames for each row, or of several rows and a rest."""
    values = vectors()
    for i in range(0, ROWS, windows):
        wave = values[i : i + windows].reshape(-1)
        if windows > 1:
            wave = np.concatenate([wave, [0.5, 0.5]])
        path = directory / f"{i:04d}.wav"
        soundfile.write(path, wave, 8000, subtype="FLOAT")


DECODE_PIXELS = [
    {"step": "decode_image", "feature": "image", "channels": 1},
    {"step": "reshape", "feature": "image", "shape": [6]},
    {"step": "rescale", "feature": "image", "scale": 1 / 256},
]
NAMES = [f"v{i}" for i in range(6)]
STACK = [{"step": "stack", "feature": "vec", "of": NAMES}]


def _gz(path: Path, *args: Any, **kwargs: Any) -> Any:
    import gzip

    return gzip.open(path, *args, **kwargs)


CASES: dict[str, Case] = {
    "tfrecord": Case(write_tfrecords, {"reader": "tfrecord", "path": "DIR/*.tfrecord"}),
    "tfrecord, gzip": Case(
        lambda d: write_tfrecords(d, compression="GZIP", suffix=".tfrecord.gz"),
        {"reader": "tfrecord", "path": "DIR"},
    ),
    "tfrecord, indexed": Case(
        write_tfrecords,
        {"reader": "tfrecord", "path": "DIR/*.tfrecord", "index": "DIR/_index"},
    ),
    "tfrecord, sequences": Case(
        lambda d: write_tfrecords(d, sequence_example),
        {"reader": "tfrecord", "path": "DIR"},
    ),
    "array_record": Case(
        write_array_records, {"reader": "array_record", "path": "DIR"}
    ),
    "parquet": Case(write_parquet, {"reader": "parquet", "path": "DIR/*.parquet"}),
    "parquet, partitions": Case(write_hive, {"reader": "parquet", "path": "DIR"}),
    "parquet, filtered": Case(
        write_with_strangers,
        {"reader": "parquet", "path": "DIR", "filter": [["keep", "=", 1]]},
    ),
    "arrow": Case(write_ipc, {"reader": "parquet", "path": "DIR"}),
    "csv": Case(write_csv, {"reader": "csv", "path": "DIR/*.csv", "preprocess": STACK}),
    "csv, gzip": Case(
        lambda d: write_csv(d, ".csv.gz", _gz),
        {"reader": "csv", "path": "DIR", "preprocess": STACK},
    ),
    "jsonl": Case(write_jsonl, {"reader": "jsonl", "path": "DIR"}),
    "numpy": Case(write_npz, {"reader": "numpy", "path": "DIR"}),
    "numpy, a file each": Case(
        write_npy,
        {
            "reader": "numpy",
            "path": {name: f"DIR/{name}.npy" for name in ("id", "vec", "text")},
        },
    ),
    "webdataset": Case(
        write_tars,
        {
            "reader": "webdataset",
            "path": "DIR/d-{000..002}.tar",
            "preprocess": [
                {
                    "step": "decode_raw",
                    "feature": "vec.bin",
                    "dtype": "float32",
                    "shape": [6],
                }
            ],
        },
        feature="vec.bin",
        text="txt",
    ),
    "images": Case(
        write_images,
        {
            "reader": "images",
            "path": "DIR",
            "label": "folder",
            "preprocess": DECODE_PIXELS,
        },
        key=None,
        number=lambda key: int(key.rpartition("/")[2][:4]),
        feature="image",
        text=None,
    ),
    "audio": Case(
        write_audio,
        {"reader": "audio", "path": "DIR", "sample_rate": 8000},
        key=None,
        number=lambda key: int(key[:4]),
        feature="waveform",
        text=None,
    ),
    "audio, windows": Case(
        lambda d: write_audio(d, 5),
        {
            "reader": "audio",
            "path": "DIR",
            "sample_rate": 8000,
            "window_frames": 6,
        },
        key=None,
        number=lambda key: int(key[:4]) + int(key.partition("#")[2]),
        feature="waveform",
        text=None,
    ),
    "user": Case(
        lambda directory: np.save(directory / "v.npy", vectors()),
        {"reader": "toolbox:VectorReader", "path": "DIR/v.npy", "sizes": [30, 45, 25]},
        text=None,
    ),
}


def prepare_tfds(
    directory: Path, examples: Sequence[Row], file_format: str = "tfrecord"
) -> None:
    """A TFDS dataset `vectors` of three files."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Vectors(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self) -> Any:
                features = {
                    "id": tfds.features.Scalar(np.int64),
                    "vec": tfds.features.Tensor(shape=(6,), dtype=np.float32),
                    "text": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, _: Any) -> Any:
                return {"train": self._generate_examples()}

            def _generate_examples(self) -> Any:
                for row in examples:
                    yield row["id"], dict(row)

    config = tfds.download.DownloadConfig(num_shards=3)
    builder = Vectors(data_dir=directory, file_format=file_format)
    builder.download_and_prepare(download_config=config)


def tfds_case(file_format: str) -> Case:
    """A prepared TFDS dataset in one of its file formats."""

    def write(directory: Path) -> None:
        prepare_tfds(directory, rows(range(ROWS)), file_format)

    return Case(write, {"reader": "tfds", "name": "vectors", "data_dir": "DIR"})


for _format in ("tfrecord", "array_record", "parquet"):
    CASES[f"tfds, {_format}"] = tfds_case(_format)


def placed(value: Any, directory: str) -> Any:
    """Put a directory's name into a source."""
    if isinstance(value, dict):
        return {name: placed(one, directory) for name, one in value.items()}
    if isinstance(value, list):
        return [placed(one, directory) for one in value]
    if isinstance(value, str):
        return value.replace("DIR", directory)
    return value
