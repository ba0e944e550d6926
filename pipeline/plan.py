"""Turn a config into a plan: shards, schema, sizes, fingerprint; nothing runs yet."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from transforms import device, storage
from transforms.activations import compile_taps, list_activations
from transforms.batch import read_errors
from transforms.lookup import ConfigError, shape_text, source_digest
from transforms.messages import holds_credentials
from transforms.models import Model, cached_model
from transforms.planned import versions
from transforms.preprocess import Step, make_steps, needed_features, trace_steps
from transforms.schema import (
    Column,
    arrow_schema,
    bytes_per_row,
    make_columns,
    passed_features,
)
from transforms.shard import Piece, Shard, Shards
from transforms.sources import Feature, File, Source, make_source
from transforms.sources.staging import readable
from transforms.spec import Config
from transforms.table import FORMAT_VERSION, Table, to_json, to_parquet
from transforms.taps import Activation, Tap, choose, choose_one, filter_activations

_PART_BYTES = 128 << 20
_SMALLEST_PART_BYTES = 8 << 20
_WANTED_PARTS = 32
_UNKNOWN_BYTES = 32 << 20
_MOST_SOURCE_BYTES = 1 << 30
Prepared = dict[str, tuple[tuple[int | None, ...], str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do.

    Attributes:
      config: what was asked for.
      shards: units of work, one part each.
      columns: of the table.
      features: what is read of each example.
      activations: everything that could be tapped.
      metadata: what every part says of itself, beside its columns.
      model_digest: of the model.
      ingredients: what the fingerprint is made of, `{name: hex digest}`.
    """

    config: Config
    shards: Shards
    columns: tuple[Column, ...]
    features: Mapping[str, Feature]
    activations: tuple[Activation, ...]
    metadata: Mapping[str, Any]
    model_digest: str
    ingredients: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of all that changes the bytes of the table: 64 hex digits."""
        return _digest(self.ingredients)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every part."""
        return arrow_schema(self.columns, self.metadata)

    @property
    def rows(self) -> int | None:
        """Planned rows; None if a source tells only when it is read."""
        return self.shards.rows

    @property
    def bytes_per_row(self) -> int:
        """Uncompressed bytes of a row."""
        return bytes_per_row(self.columns)

    def write(self, table: Table) -> None:
        """Put schema and shards where workers and later runs find them.

        What lies there and is the same is left alone.
        """
        layout = {
            "shards": len(self.shards),
            "rows": self.rows,
            "bytes_per_row": self.bytes_per_row,
            "columns": [column.to_json() for column in self.columns],
            "features": {
                name: {"dtype": f.dtype, "shape": list(f.shape)}
                for name, f in self.features.items()
            },
            "metadata": dict(self.metadata),
        }
        documents = {
            "schema.json": to_json(layout),
            "plan.parquet": to_parquet(self.shards.table),
        }
        for name, data in documents.items():
            if _content(table.internal(name)) != data:
                storage.replace(table.internal(name), data)

    def claim(self, table: Table) -> bool:
        """Make a directory this plan's, unless it is a plan's already.

        Returns:
          Whether this call made it so; of several at once exactly one does.
        """
        document = {
            "format_version": FORMAT_VERSION,
            "claim": uuid.uuid4().hex,
            "fingerprint": self.fingerprint,
            "ingredients": dict(self.ingredients),
            "model_digest": self.model_digest,
            "versions": versions(),
            "config": self.config.model_dump(mode="json", exclude_none=True),
        }
        return storage.create(table.internal("config.json"), to_json(document))


def make_plan(config: Config) -> Plan:
    """Plan a run: list the source, trace the model, cut shards; nothing is computed.

    Raises:
      ConfigError: what is asked for cannot be done.
    """
    if not config.taps:
        raise ConfigError(
            "taps must name at least one activation, got none (featuretap taps CONFIG"
            " lists all)"
        )
    source, known, steps, prepared, model = _trace(config)
    _check_lengths(config, model)
    activations = list_activations(model)
    taps = choose(config.taps, activations)
    compiled = compile_taps(model, taps, config.model.batch_rows)
    made = {
        name: Feature(dtype, shape)
        for name, (shape, dtype) in prepared.items()
        if name not in known
    }
    columns = make_columns(
        config, source.default_key, {**made, **known}, taps, compiled.outputs
    )
    used = [i.feature for i in model.inputs] + passed_features(columns)
    files = list(source.files())
    _check_files(config.table.path, files)
    rows_per_part = config.table.rows_per_part or _default_rows_per_part(
        files, bytes_per_row(columns), config.model.batch_rows
    )
    features = needed_features(steps, known, used)
    cut = cut_shards(files, rows_per_part)
    if config.limit:
        cut = _limited(source, features, cut, config.limit)
    shards = Shards.of(cut)
    if shards.rows == 0:
        raise ConfigError(
            f"the source must hold at least one row, got {len(files)} files without"
            " any; check source.path, source.split or source.filter"
        )
    ingredients = _ingredients(config, files, shards, model.digest)
    return Plan(
        config=config,
        shards=shards,
        columns=tuple(columns),
        features=features,
        activations=tuple(activations),
        metadata=_metadata(config, model.digest, _digest(ingredients)),
        model_digest=model.digest,
        ingredients=ingredients,
    )


@dataclass(frozen=True, slots=True)
class TapListing:
    """What could be tapped, and what it would cost.

    Attributes:
      activations: addresses of the model.
      columns: of the chosen ones, by address.
      rows: of the source; None if it tells only when it is read.
      complaints: what is wrong with the config's taps.
    """

    activations: tuple[Activation, ...]
    columns: Mapping[str, Sequence[str]]
    rows: int | None
    complaints: tuple[str, ...]

    def bytes(self, activation: Activation) -> int | None:
        """Uncompressed bytes of an activation for the whole source."""
        each = activation.bytes_per_row
        return None if self.rows is None or each is None else self.rows * each


def list_taps(config: Config, pattern: str | None = None) -> TapListing:
    """List the activations of the config's model, with their cost.

    Args:
      config: the config; its taps may match nothing: this is where one looks them up.
      pattern: list only addresses that match it, as in a tap; None lists all.

    Raises:
      ConfigError: source or model cannot be had, or nothing matches the pattern.
    """
    source, *_, model = _trace(config)
    activations = list_activations(model)
    taps: list[Tap] = []
    complaints: list[str] = []
    for index, spec in enumerate(config.taps):
        try:
            taps += choose_one(spec, f"taps[{index}]", activations)
        except ConfigError as error:
            complaints.append(str(error))
    if pattern is not None:
        activations = filter_activations(pattern, activations)
    counts = [file.blocks for file in source.files()]
    known = [sum(blocks) for blocks in counts if blocks is not None]
    rows = sum(known) if len(known) == len(counts) else None
    columns: dict[str, list[str]] = {}
    for tap in taps:
        columns.setdefault(tap.address, []).append(tap.column)
    return TapListing(tuple(activations), columns, rows, tuple(complaints))


def cut_shards(files: Iterable[File], rows_per_part: int) -> Iterator[Shard]:
    """Group the rows of files into shards, in order, each row exactly once.

    A shard never has more than `rows_per_part` rows where rows are known. Where they
    are not, files and spans of files are grouped up to 32 MiB, larger ones stand alone.
    Blocks that are better read whole are cut only if they alone exceed a shard.
    """
    for index, pieces in enumerate(_grouped(files, rows_per_part)):
        yield Shard(index, tuple(pieces))


def _grouped(files: Iterable[File], rows_per_part: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each shard."""
    pieces: list[Piece] = []
    room, bytes_room = rows_per_part, _UNKNOWN_BYTES
    for file in files:
        for start, rows, span, size in _runs(file):
            if pieces and (rows is None) != (pieces[-1].rows is None):
                yield pieces
                pieces, room, bytes_room = [], rows_per_part, _UNKNOWN_BYTES
            piece = Piece(file.uri, file.name, start, rows, span, file.identity)
            if rows is None:
                if pieces and size > bytes_room:
                    yield pieces
                    pieces, bytes_room = [], _UNKNOWN_BYTES
                pieces.append(piece)
                bytes_room -= size
                continue
            if pieces and not file.divisible and rows > room:
                yield pieces
                pieces, room = [], rows_per_part
            while rows:
                taken = min(room, rows)
                pieces.append(replace(piece, start=start, rows=taken))
                start, rows, room = start + taken, rows - taken, room - taken
                if room == 0:
                    yield pieces
                    pieces, room = [], rows_per_part
    if pieces:
        yield pieces


def _runs(
    file: File,
) -> Iterator[tuple[int, int | None, tuple[int, int] | None, int]]:
    """Yield first row, rows, span and bytes of what is best read whole."""
    if file.blocks is not None:
        start = file.first
        for rows in file.blocks:
            yield start, rows, None, 0
            start += rows
        return
    whole = sum(stop - start for start, stop in file.spans) or 1
    for span in file.spans:
        yield 0, None, span, file.bytes * (span[1] - span[0]) // whole
    if not file.spans:
        yield 0, None, None, file.bytes


def _trace(
    config: Config,
) -> tuple[Source, dict[str, Feature], list[Step], Prepared, Model]:
    """Describe the source, trace its preprocessing, load the model for the result."""
    device.configure()
    source = make_source(config.source)
    known = dict(source.describe())
    steps = make_steps(config.source.preprocess)
    prepared = trace_steps(steps, known)
    return source, known, steps, prepared, cached_model(config.model, prepared)


def _check_lengths(config: Config, model: Model) -> None:
    """Refuse inputs of open length unless a step bounds the number of lengths.

    Every length in a batch costs a call of the model.
    """
    steps = config.source.preprocess
    bounded = {one.options.get(n) for one in steps for n in ("feature", "mask")}
    for i in model.inputs:
        users = any(":" in step.step for step in steps)
        if None in i.shape and i.feature not in bounded and not users:
            raise ConfigError(
                f"model input {i.name!r} must have few shapes, rows of feature"
                f" {i.feature!r} differ in {shape_text(i.shape)}; give them some"
                " lengths in source.preprocess, such as"
                f' {{ step = "pad", feature = "{i.feature}", lengths = [32, 128] }},'
                " or resize images"
            )


def _default_rows_per_part(
    files: Sequence[File], row_bytes: int, batch_rows: int
) -> int:
    """Choose parts of 8 to 128 MiB before compression, and 32 of them if that allows.

    Whole batches go into a part, so that no batch is filled up but the last; and no
    more rows than 1 GiB of the source holds, which a worker may have to copy.
    """
    known = [file for file in files if file.blocks]
    rows = sum(sum(file.blocks or ()) for file in known)
    wanted = rows * row_bytes // _WANTED_PARTS
    part_bytes = min(max(wanted, _SMALLEST_PART_BYTES), _PART_BYTES)
    source_bytes = sum(file.bytes for file in known) // max(rows, 1)
    most = min(
        part_bytes // max(row_bytes, 1), _MOST_SOURCE_BYTES // max(source_bytes, 1)
    )
    return max(most // batch_rows, 1) * batch_rows


def _limited(
    source: Source, features: Mapping[str, Feature], shards: Iterable[Shard], limit: int
) -> Iterator[Shard]:
    """Keep only the first rows; pieces that do not know their rows are counted."""
    for shard in shards:
        pieces = []
        for piece in shard.pieces:
            rows = piece.rows
            if rows is None:
                rows = _count(source, features, piece, limit)
            if rows := min(rows, limit):
                pieces.append(replace(piece, rows=rows))
            limit -= rows
        if pieces:
            yield replace(shard, pieces=tuple(pieces))
        if limit <= 0:
            return


def _count(
    source: Source, features: Mapping[str, Feature], piece: Piece, limit: int
) -> int:
    """Count the rows of a piece up to `limit`, bad ones included."""
    with readable(source, [piece]) as pieces:
        examples = iter(source.read(pieces, features, None))
        count = 0
        while count < limit:
            try:
                if next(examples, None) is None:
                    break
            except read_errors():
                pass
            count += 1
    return count


def _check_files(table: str, files: Sequence[File]) -> None:
    """Refuse to read what would be written, or to write down what is secret."""
    inside = storage.join(storage.filesystem(table)[1], "")
    for file in files:
        if holds_credentials(file.uri):
            raise ConfigError(
                f"the files of a reader must not hold credentials, got {file.uri!r},"
                " which would be written into the plan; let the reader add them when"
                " it opens the file"
            )
        if inside not in file.uri:  # spares most of a million files the next question
            continue
        if storage.filesystem(file.uri)[1].startswith(inside):
            raise ConfigError(
                f"table.path must not hold files of the source, {table!r} holds"
                f" {file.uri!r}; choose another path, or a narrower source.path"
            )


def _content(uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return None


def _metadata(config: Config, digest: str, fingerprint: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "source": config.source.model_dump(mode="json", exclude_none=True),
        "model": config.model.model_dump(
            mode="json", exclude_none=True, exclude={"trusted"}
        ),
        "model_digest": digest,
        "versions": versions(),
    }


def _ingredients(
    config: Config, files: Sequence[File], shards: Shards, digest: str
) -> dict[str, str]:
    """Hash each thing that changes the bytes, so that a difference can be named."""
    source, model = config.source, config.model
    user_code = [step.step for step in source.preprocess] + [source.reader]
    user_code += [text.partition("(")[0] for tap in config.taps for text in tap.reduce]
    names = [name for name in user_code if ":" in name]
    parts: dict[str, Any] = {
        "source": source.model_dump(mode="json", exclude={"preprocess"}),
        "files": _files_digest(files),
        "preprocess": [step.model_dump(mode="json") for step in source.preprocess],
        "model": [digest, model.inputs],
        "taps": [tap.model_dump(mode="json") for tap in config.taps],
        "batch_rows": model.batch_rows,
        "precision": model.precision,
        "parts": shards.digest(),
        "event_timestamp": [config.table.event_timestamp, config.table.timestamp_unit],
        "limit": config.limit,
        "user_code": source_digest(names),
        "versions": versions(),
        "non_finite": config.errors.non_finite == "quarantine",
        "format_version": FORMAT_VERSION,
    }
    return {name: _digest(part)[:16] for name, part in parts.items()}


def _files_digest(files: Sequence[File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.uri}\0{file.identity}\0{file.blocks}\n".encode())
    return digest.hexdigest()


def _digest(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()
