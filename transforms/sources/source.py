"""What every reader promises, and the parts that readers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import ConfigDict

from transforms.dtypes import DTYPES, Feature
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece, position

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source, as a listing shows it.

    Attributes:
      uri: what the reader opens.
      name: unique and independent of where the data lies; the head of default keys.
      bytes: size.
      version: etag, generation or modification time: changes when the content does.
      blocks: rows of each run of rows that is best read whole (Parquet row groups, all
        of a file where any range is as good); None where the rows are not known.
      divisible: whether cutting a block costs nothing worth avoiding.
      first: row in the file at which the first block begins.
      spans: of a file whose rows are not known, the ranges of bytes that can be read
        apart; none if it is read as a whole.
    """

    uri: str
    name: str
    bytes: int
    version: str
    blocks: tuple[int, ...] | None = None
    divisible: bool = True
    first: int = 0
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def identity(self) -> str:
        """What tells that a file has changed; empty without a version."""
        return f"{self.bytes} bytes, version {self.version}" if self.version else ""


class Source(Protocol):
    """Where examples come from.

    `read` is called on workers, the others on the launcher.

    Attributes:
      default_key: feature that identifies an example if the config names none; with
        None that is the file's name and the row.
    """

    @property
    def default_key(self) -> str | None:
        """The feature's name."""

    def files(self) -> Sequence[File]:
        """List the files in reading order, from metadata.

        Raises:
          ConfigError: there is nothing to read.
        """

    def describe(self) -> Mapping[str, Feature]:
        """Tell what an example holds."""

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read some rows, in order.

        Args:
          pieces: the rows.
          features: which features, as `describe()` told them at planning.
          batch_rows: examples in an element; None: elements are single examples,
            and one that cannot be read fails alone.

        Returns:
          Elements `(position, {feature: tensor})`; `position`, int64 `[]` or
          `[batch]`, is `transforms.shard.position` of the piece and the row in it, and
          goes on counting over rows that cannot be read.
        """


@runtime_checkable
class Localizes(Protocol):
    """What a source may do besides: check or fetch files before a worker reads them.

    Without it `read` gets the pieces as they were planned.
    """

    def localize(self, pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
        """Give pieces of the same rows whose files `read` can open.

        Args:
          pieces: as planned.
          directory: an empty local one for copies, removed when the shard is done.

        Raises:
          RuntimeError: a file is not the one that was planned.
        """


@dataclass(frozen=True, slots=True)
class GivenFeature:
    """A feature as a config gives it.

    Attributes:
      dtype: name of an entry of `DTYPES`.
      shape: without the batch dimension; -1 where it differs between examples.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dtype: str
    shape: tuple[int, ...] = ()


def given_features(
    given: Mapping[str, GivenFeature | str], option: str = "source.features"
) -> dict[str, Feature]:
    """Check the features that a config gives; -1 in a shape becomes None.

    Raises:
      ConfigError: an unknown type.
    """
    features = {}
    for name, value in given.items():
        feature = GivenFeature(value) if isinstance(value, str) else value
        if feature.dtype not in DTYPES:
            raise ConfigError(
                f"{option}.{name} must be one of {', '.join(DTYPES)}, got"
                f" {feature.dtype!r}{nearest(feature.dtype, DTYPES)}"
            )
        shape = tuple(None if n == -1 else n for n in feature.shape)
        features[name] = Feature(feature.dtype, shape)
    return features


def numbered_records(
    pieces: Sequence[Piece], open_file: Callable[[Any], tf.data.Dataset]
) -> tf.data.Dataset:
    """Chain the records of pieces, each with its position.

    Args:
      pieces: what to read.
      open_file: from a scalar string tensor, a file's URI, to a dataset of its records.
    """
    import tensorflow as tf

    rows = [piece.rows for piece in pieces]
    table = {
        "file": [piece.file for piece in pieces],
        "skip": tf.constant([piece.start for piece in pieces], tf.int64),
        "take": tf.constant([-1 if n is None else n for n in rows], tf.int64),
        "first": tf.constant([position(i) for i in range(len(pieces))], tf.int64),
    }

    def read_piece(piece: Mapping[str, Any]) -> tf.data.Dataset:
        records = open_file(piece["file"]).skip(piece["skip"]).take(piece["take"])
        return records.enumerate(piece["first"])

    if len(pieces) == 1:  # spares 3 microseconds a record
        return read_piece({name: values[0] for name, values in table.items()})
    return tf.data.Dataset.from_tensor_slices(table).flat_map(read_piece)
