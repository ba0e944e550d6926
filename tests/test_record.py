"""The serialized record as a feature, for models that parse it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job, parity_of, stacked
from readers import (
    example,
    outcomes,
    rows,
    sequence_example,
    vectors,
    write_array_records,
    write_tfrecords,
)

from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.sources.readers import make_source

WRITERS = {"tfrecord": write_tfrecords, "array_record": write_array_records}


class Parses(tf.Module):
    """Takes serialized messages, as models exported for serving do."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: Any) -> dict[str, Any]:
        spec = {"vec": tf.io.FixedLenFeature([6], tf.float32)}
        return {"twice": tf.io.parse_example(examples, spec)["vec"] * 2.0}


@pytest.mark.parametrize("reader", WRITERS)
def test_a_signature_that_parses_takes_the_record(reader: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    WRITERS[reader](tmp_path / "data")
    module = Parses()
    saved = str(tmp_path / "saved")
    tf.saved_model.save(module, saved, signatures=module.serve)
    job = Job(tmp_path / "out", {"reader": reader, "path": str(tmp_path / "data")})
    table = job.run(
        source={"keep": ["text"]},
        model={"path": saved, "build": None, "inputs": {"examples": "record"}},
        taps=[{"path": ":twice"}],
    ).sort_by("example_id")
    np.testing.assert_array_equal(stacked(table["twice"]), vectors() * 2)
    assert table["text"].to_pylist()[:2] == ["row 0", "row 1"]
    assert parity_of(str(job.table), 5).passed


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("names", [["record"], ["record", "id"]])
def test_records_are_read_with_and_without_features(
    batch: int | None, names: list[str], tmp_path: Path
) -> None:
    write_tfrecords(tmp_path)
    source = make_source(SourceSpec(reader="tfrecord", path=str(tmp_path / "0.*")))
    features = {name: source.describe()[name] for name in names}
    pieces = _pieces(source)
    read = [one for _, one in source.read(pieces, features, batch).as_numpy_iterator()]
    assert [sorted(one) for one in read] == [sorted(names)] * len(read)
    found = [one["record"] for one in read]
    together = found if batch is None else [row for some in found for row in some]
    assert together == [example(row) for row in rows(range(30))]


def _pieces(source: Any) -> Any:
    from pipeline.cut import cut_shards

    (shard,) = cut_shards(source.files(), 1000)
    return shard.pieces


def test_records_of_sequences_are_messages_too(tmp_path: Path) -> None:
    write_tfrecords(tmp_path, sequence_example)
    source = make_source(SourceSpec(reader="tfrecord", path=str(tmp_path / "0.*")))
    features = {name: source.describe()[name] for name in ("record", "vec")}
    read = source.read(_pieces(source), features, None).as_numpy_iterator()
    for row, (_, one) in zip(rows(range(30)), read, strict=True):
        assert one["record"] == sequence_example(row)
        np.testing.assert_array_equal(one["vec"], row["vec"])


def write(path: Path, *records: bytes) -> dict[str, Any]:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return {"reader": "tfrecord", "path": str(path)}


def test_a_stored_feature_called_record_is_itself(tmp_path: Path) -> None:
    values = tf.train.Int64List(value=[7])
    feature = {"record": tf.train.Feature(int64_list=values)}
    features = tf.train.Features(feature=feature)
    message = tf.train.Example(features=features).SerializeToString()
    source = write(tmp_path / "a.tfrecord", message)
    assert outcomes("record", **source) == [7]
    assert outcomes("record", **source, features={"record": "int64"}) == [7]


def test_records_that_are_no_messages_can_be_read(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tfrecord", b"\xff\xff", b"more")
    with pytest.raises(ConfigError, match=r"give source.features \(\{\} if records"):
        make_source(SourceSpec(**source)).describe()
    made = make_source(SourceSpec(**source, features={}))
    assert list(made.describe()) == ["record"]
    read = made.read(_pieces(made), made.describe(), None).as_numpy_iterator()
    assert [one["record"] for _, one in read] == [b"\xff\xff", b"more"]
    declared = make_source(SourceSpec(**source, features={"record": "string"}))
    assert declared.describe()["record"].dtype == "bytes"
