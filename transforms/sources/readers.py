"""Name the readers; each turns stored data into tf.data datasets of examples.

A reader is a callable of its options that returns a `Source`. `READERS` holds the
built-in ones; `package.module:attribute` names anybody else's.
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
    """Make the source that a config names; nothing is listed or read yet.

    Raises:
      ConfigError: an unknown reader, or options that it does not take.
    """
    reader = resolve(spec.reader, READERS, "source.reader")
    source: Source = reader(**bind(reader, spec.options, "source"))
    return source
