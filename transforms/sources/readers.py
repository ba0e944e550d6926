"""Turn `[source]` into a source: the table of readers.

A reader is a callable that takes the reader's options as keyword arguments and returns
a `Source`. `READERS` holds the built-in ones; `package.module:attribute` in a config
names any other.
"""

from __future__ import annotations

from transforms.config import SourceSpec
from transforms.lookup import bind, resolve
from transforms.sources.array_record import ArrayRecord
from transforms.sources.audio import Audio
from transforms.sources.csv import Csv
from transforms.sources.images import Images
from transforms.sources.jsonl import Jsonl
from transforms.sources.npy import Numpy
from transforms.sources.parquet import Parquet
from transforms.sources.source import Source
from transforms.sources.tfds import Tfds
from transforms.sources.tfrecord import TfRecord
from transforms.sources.webdataset import WebDataset

READERS = {
    "array_record": ArrayRecord,
    "audio": Audio,
    "csv": Csv,
    "images": Images,
    "jsonl": Jsonl,
    "numpy": Numpy,
    "parquet": Parquet,
    "tfds": Tfds,
    "tfrecord": TfRecord,
    "webdataset": WebDataset,
}


def make_source(spec: SourceSpec) -> Source:
    """Make the source that a config names; no file is listed or read yet.

    Raises:
      ConfigError: the reader is unknown, or does not take the options.
    """
    reader = resolve(spec.reader, READERS, "source.reader")
    source: Source = reader(**bind(reader, spec.options, "source"))
    return source
