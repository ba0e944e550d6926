"""What every reader promises, and the parts that readers share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import ConfigDict

from transforms.dtypes import DTYPES, Feature, holds
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece, position

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source, as a listing shows it.

    Attributes:
      uri: URI under which the reader opens it.
      name: name within the source, unique and independent of where the data lie;
        default keys begin with it.
      bytes: size of the file.
      version: etag, generation or modification time; changes when the content does.
        Empty if the filesystem has none of these.
      blocks: number of rows of each block, a run of rows that is best read whole, such
        as a Parquet row group; one block for the whole file if any range of rows can be
        read as cheaply. None if the number of rows is not known before reading.
      divisible: whether a block may be cut without extra cost. If False, a block is cut
        only if it alone exceeds a shard.
      first: row of the file at which the first block begins.
      spans: ranges that can be read separately, for a file whose number of rows is not
        known: `(first, end)` in bytes, or whatever else the reader counts. Empty if the
        file must be read as a whole.
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
        """Size and version as text; empty if there is no version.

        A file whose identity is not the planned one has changed.
        """
        return f"{self.bytes} bytes, version {self.version}" if self.version else ""


class Source(Protocol):
    """Where examples come from: what a reader returns.

    `files` and `describe` are called on the launcher, `read` on workers.

    Attributes:
      default_key: feature that identifies an example if the config names none; None
        makes keys of the file's name and the number of the row, `<file>#<row>`.
    """

    @property
    def default_key(self) -> str | None:
        """Name of the feature that is the key by default, or None."""

    def files(self) -> Sequence[File]:
        """List the files in reading order, without reading their rows.

        Raises:
          ConfigError: there is nothing to read.
        """

    def describe(self) -> Mapping[str, Feature]:
        """Give the features that an example holds, by name."""

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read some rows, in order.

        Args:
          pieces: the rows to read.
          features: the features to read, as `describe()` gave them at planning.
          batch_rows: number of examples in an element. None: elements are single
            examples, and one that cannot be read must raise an error and let reading go
            on with the next.

        Returns:
          A dataset of `(position, {feature: tensor})`. `position`, int64 `[]` or
          `[batch]`, is `transforms.shard.position` of the piece's index in `pieces` and
          the row in it; rows that cannot be read are counted, too.
        """


@runtime_checkable
class Localizes(Protocol):
    """A source that checks or copies files before a worker reads them.

    Sources without this method get the pieces in `read` as they were planned.
    """

    def localize(self, pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
        """Give pieces of the same rows whose files `read` can open.

        Args:
          pieces: the pieces of a shard, as planned.
          directory: an empty local directory for copies, removed when the shard is
            done.

        Raises:
          RuntimeError: a file is not the one that was planned.
        """


@runtime_checkable
class OtherColumns(Protocol):
    """A source that may hold columns that cannot be features.

    A message that names one then says what it is, rather than that it is not there.
    """

    def other_columns(self) -> Mapping[str, str]:
        """Give what is to be said of each: `{name: "is a struct; …"}`."""


@runtime_checkable
class Noting(Protocol):
    """A source that has something to say to whoever plans."""

    def notes(self) -> Sequence[str]:
        """Give sentences on what will not be read, or not as one may expect.

        Each says what, how much of it, and how to have it otherwise. Called on the
        launcher, after `files`.
        """


@dataclass(frozen=True, slots=True)
class GivenFeature:
    """A feature as a config gives it.

    Attributes:
      dtype: name of a type in `transforms.dtypes.DTYPES`.
      shape: shape in one example; -1 for a length that differs between examples. If
        left out, the feature is a scalar.
      default: what stands where a row, or an element of its list, has no value. If
        None, such a row is a bad row, or a null where the feature is only kept.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dtype: str
    shape: tuple[int, ...] = ()
    default: int | float | str | None = None


def given_features(
    given: Mapping[str, GivenFeature | str], option: str = "source.features"
) -> dict[str, Feature]:
    """Check the features that a config gives; -1 in a shape becomes None.

    Args:
      given: `{name: dtype, or dtype and shape}`.
      option: name of the config's option that holds them, for errors.

    Raises:
      ConfigError: a type is unknown, or does not have its default.
    """
    features = {}
    for name, value in given.items():
        feature = GivenFeature(value) if isinstance(value, str) else value
        if feature.dtype not in DTYPES:
            raise ConfigError(
                f"{option}.{name} must be one of {', '.join(DTYPES)}, got"
                f" {feature.dtype!r}{nearest(feature.dtype, DTYPES)}"
            )
        default = feature.default
        if default is not None and not holds(feature.dtype, default):
            raise ConfigError(
                f"{option}.{name}.default must be a value of {feature.dtype}, got"
                f" {default!r}"
            )
        shape = tuple(None if n == -1 else n for n in feature.shape)
        features[name] = Feature(feature.dtype, shape, fill=default)
    return features


def numbered_records(
    pieces: Sequence[Piece],
    open_file: Callable[[Any], tf.data.Dataset],
    owner: object = None,
) -> tf.data.Dataset:
    """Read the records of pieces one piece after the other, each with its position.

    Args:
      pieces: the rows to read.
      open_file: gives a dataset of a file's records by its URI, a scalar string tensor.
      owner: keeps the trace of `open_file`, as `traced_once` says, which must then be
        the same for all pieces that it is given with. If None, it is traced each time.
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

    def read_pieces(pieces: tf.data.Dataset) -> tf.data.Dataset:
        return pieces.flat_map(unconverted(read_piece))

    def trace(key: str, build: Callable[..., Any]) -> Callable[..., Any]:
        return build if owner is None else traced_once(owner, key, build)

    if len(pieces) == 1:  # saves 3 microseconds for each record
        piece = {name: tf.constant(found[0]) for name, found in table.items()}
        return trace("piece", read_piece)(piece)
    several = tf.data.Dataset.from_tensor_slices(table)
    return trace("pieces", read_pieces)(several)


def traced_once(
    owner: object, key: Hashable, build: Callable[..., tf.data.Dataset]
) -> Callable[..., tf.data.Dataset]:
    """Trace a function that makes a dataset, once for all that is given of a type.

    The operations of a dataset take longer to trace than a small shard to read.

    Args:
      owner: a reader, or whatever else lives as long as the traces are of use, and
        keeps them in its `__dict__`. Not a bound method: that of its class would keep
        them, for all readers.
      key: all but the owner that `build` depends on.
      build: makes it from tensors and datasets.
    """
    traces = vars(owner).setdefault("_traced_datasets", {})
    if key not in traces:
        traces[key] = _traced(build)
    traced: Callable[..., tf.data.Dataset] = traces[key]
    return traced


def _traced(build: Callable[..., tf.data.Dataset]) -> Callable[..., tf.data.Dataset]:
    import tensorflow as tf

    function = tf.function(unconverted(build), reduce_retracing=True)
    # TensorFlow counts the traces of all owners as if they were one's.
    function._omit_frequent_tracing_warning = True

    def made(*given: Any) -> tf.data.Dataset:
        with tf.device("cpu"):  # where datasets are, whatever else there is
            return function(*given)

    return made


def unconverted(function: Callable[..., Any]) -> Any:
    """Keep autograph, which takes long, away from a function that does not need it."""
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)
