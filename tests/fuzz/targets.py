"""What is fuzzed: each target takes bytes, and may raise named errors only."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from pipeline.config_file import load_config
from transforms.config import TapSpec
from transforms.errors.failure import Failure
from transforms.errors.stages import read_errors
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.prepared import Preparation
from transforms.sources.tfrecord import TfRecord
from transforms.sources.webdataset import WebDataset
from transforms.taps.chains import parse_reduction
from transforms.taps.language import Activation, choose_one

_MOST_ROWS = 200
_ACTIVATIONS = [
    Activation("encoder/block_0/attn:scores", (4, 4), "float32", None),
    Activation("encoder/block_1/attn@1:scores/0", (4, 4), "float32", None),
    Activation("", (2,), "float32", None),
]


def config(data: bytes) -> None:
    """A config file."""
    with _file(data, ".toml") as path, contextlib.suppress(ConfigError):
        load_config(path)


def tap(data: bytes) -> None:
    """A tap's path, column and dtype."""
    path, _, column = data.decode(errors="replace").partition("\n")
    with contextlib.suppress(ConfigError):
        choose_one(TapSpec(path=path, column=column or None), "taps[0]", _ACTIVATIONS)


def reduction(data: bytes) -> None:
    """A reduction, as text."""
    with contextlib.suppress(ConfigError):
        parse_reduction(data.decode(errors="replace"), "taps[0].reduce[0]")


def _reader(suffix: str, reader: Callable[..., Any]) -> Callable[[bytes], None]:
    """A file of one reader."""

    def target(data: bytes) -> None:
        with _file(data, suffix) as path:
            _read(lambda: reader(path=str(path)))

    return target


TARGETS: dict[str, Callable[[bytes], None]] = {
    "config": config,
    "tap": tap,
    "reduction": reduction,
    "csv": _reader(".csv", Csv),
    "jsonl": _reader(".jsonl", Jsonl),
    "tar": _reader(".tar", WebDataset),
    "tfrecord": _reader(".tfrecord", TfRecord),
}


def seeds() -> dict[str, list[bytes]]:
    """Sound input of each kind."""
    example = tf.train.Example()
    example.features.feature["a"].int64_list.value.append(3)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/x"
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(example.SerializeToString())
            writer.write(example.SerializeToString())
        records = Path(path).read_bytes()
    return {
        "config": [
            b'[source]\nreader = "csv"\npath = "a"\n[model]\npath = "m"\n'
            b'[[taps]]\npath = "x"\n[table]\npath = "t"\n'
        ],
        "tap": [b"encoder/block_*:**\nattn_{1}", b"**/attn@1:*\nx"],
        "reduction": [
            b"mean(axis=1)",
            b"top_k(k=2)",
            b"random_projection(dim=3, seed=1)",
        ],
        "csv": [b'a,b\n1,"x,\ny"\n2,z\n', b"a\n1.5\n\n"],
        "jsonl": [b'{"a": 1, "b": [1, 2]}\n{"a": 2, "b": []}\n'],
        "tar": [_tar()],
        "tfrecord": [records],
    }


def _tar() -> bytes:
    import tarfile

    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in (("0.txt", b"a"), ("0.cls", b"1"), ("1.txt", b"b")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _read(make: Callable[[], Any]) -> None:
    """Plan and read a source, as a worker would."""
    try:
        source = make()
        features = dict(source.describe())
        files = list(source.files())
    except (ConfigError, *read_errors()):
        return
    pieces = [
        Piece(file.uri, file.name, 0, sum(file.blocks), version=file.identity)
        if file.blocks is not None
        else Piece(file.uri, file.name, span=span, version=file.identity)
        for file in files
        for span in (file.spans or (None,))
    ]
    preparation = Preparation(features, [], {}, {}, list(features))
    pipeline = InputPipeline(source, preparation, 4)
    bad: list[Failure] = []
    rows = 0
    for batch in pipeline.batches(pieces, bad.append):
        rows += len(batch.positions)
        if rows + len(bad) > _MOST_ROWS:
            return


@contextlib.contextmanager
def _file(data: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"x{suffix}"
        path.write_bytes(data)
        yield path
