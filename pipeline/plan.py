"""Turn a config into a plan: shards, schema, sizes, fingerprint; nothing runs yet."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from transforms import device, storage
from transforms.activations import compile_taps, list_activations
from transforms.lookup import ConfigError, source_digest
from transforms.models import Model, cached_model
from transforms.preprocess import Step, make_steps, needed_features, trace_steps
from transforms.read import read_errors
from transforms.schema import (
    Column,
    arrow_schema,
    bytes_per_row,
    make_columns,
    passed_features,
)
from transforms.shard import Piece, Shard, shards_to_arrow
from transforms.sources import Feature, File, Source, make_source
from transforms.spec import Config
from transforms.table import FORMAT_VERSION, Table, to_json, to_parquet
from transforms.taps import Activation, Tap, choose, choose_one, filter_activations

_PART_BYTES = 128 << 20
_SMALLEST_PART_BYTES = 8 << 20
_WANTED_PARTS = 32
Prepared = dict[str, tuple[tuple[int | None, ...], str]]
_VERSIONED = ("featuretap", "tensorflow", "keras", "numpy", "pyarrow")


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
    shards: tuple[Shard, ...]
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
        counts = [shard.rows for shard in self.shards]
        return None if None in counts else sum(n for n in counts if n is not None)

    @property
    def bytes_per_row(self) -> int:
        """Uncompressed bytes of a row."""
        return bytes_per_row(self.columns)

    def write(self, table: Table) -> None:
        """Put schema and shards where workers and later runs find them."""
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
        storage.replace(table.internal("schema.json"), to_json(layout))
        storage.replace(
            table.internal("plan.parquet"),
            to_parquet(shards_to_arrow(list(self.shards))),
        )

    def claim(self, table: Table) -> bool:
        """Make a directory this plan's, unless it is a plan's already.

        Returns:
          Whether this call made it so; of several at once exactly one does.
        """
        document = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "ingredients": dict(self.ingredients),
            "model_digest": self.model_digest,
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
    _check_apart(config.table.path, files)
    rows_per_part = config.table.rows_per_part or _default_rows_per_part(
        files, bytes_per_row(columns), config.model.batch_rows
    )
    features = needed_features(steps, known, used)
    if config.limit:
        files = _limited(source, features, files, config.limit)
    shards = cut_shards(files, rows_per_part)
    ingredients = _ingredients(config, files, shards, model.digest)
    return Plan(
        config=config,
        shards=tuple(shards),
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


def cut_shards(files: Iterable[File], rows_per_part: int) -> list[Shard]:
    """Group the rows of files into shards, in order, each row exactly once.

    A shard never has more than `rows_per_part` rows where rows are known; a file whose
    rows are not known is a shard of its own. Blocks that are better read whole are cut
    only if they alone exceed a shard.
    """
    shards: list[Shard] = []
    open_pieces: list[Piece] = []
    room = rows_per_part

    def close() -> None:
        nonlocal open_pieces, room
        if open_pieces:
            shards.append(Shard(len(shards), tuple(open_pieces)))
        open_pieces, room = [], rows_per_part

    for file in files:
        if file.blocks is None:
            close()
            open_pieces = [Piece(file.uri, file.name)]
            close()
            continue
        start = 0
        for block in file.blocks:
            if not file.divisible and block > room:
                close()
            stop = start + block
            while start < stop:
                rows = min(room, stop - start)
                open_pieces.append(Piece(file.uri, file.name, start, rows))
                start, room = start + rows, room - rows
                if room == 0:
                    close()
    close()
    return shards


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


def _default_rows_per_part(
    files: Sequence[File], row_bytes: int, batch_rows: int
) -> int:
    """Choose parts of 8 to 128 MiB before compression, and 32 of them if that allows.

    Whole batches go into a part, so that no batch is filled up but the last.
    """
    known = sum(sum(file.blocks) for file in files if file.blocks)
    wanted = known * row_bytes // _WANTED_PARTS
    part_bytes = min(max(wanted, _SMALLEST_PART_BYTES), _PART_BYTES)
    batches = max(part_bytes // max(row_bytes, 1) // batch_rows, 1)
    return batches * batch_rows


def _limited(
    source: Source, features: Mapping[str, Feature], files: Sequence[File], limit: int
) -> list[File]:
    """Keep only the first rows; files that do not know their rows are counted."""
    kept: list[File] = []
    for file in files:
        blocks = file.blocks
        if blocks is None:
            blocks = (_count(source, features, file, limit),)
        blocks = tuple(
            rows
            for block, before in zip(
                blocks, itertools.accumulate(blocks, initial=0), strict=False
            )
            if (rows := min(block, limit - before)) > 0
        )
        limit -= sum(blocks)
        kept.append(replace(file, blocks=blocks))
        if limit <= 0:
            break
    return kept


def _count(
    source: Source, features: Mapping[str, Feature], file: File, limit: int
) -> int:
    """Count the rows of a file up to `limit`, bad ones included."""
    examples = iter(source.read([Piece(file.uri, file.name)], features, None))
    count = 0
    while count < limit:
        try:
            if next(examples, None) is None:
                break
        except read_errors():
            pass
        count += 1
    return count


def _check_apart(table: str, files: Sequence[File]) -> None:
    """Refuse to read what would be written."""
    inside = storage.join(storage.filesystem(table)[1], "")
    for file in files:
        if storage.filesystem(file.uri)[1].startswith(inside):
            raise ConfigError(
                f"table.path must not hold files of the source, {table!r} holds"
                f" {file.uri!r}; choose another path, or a narrower source.path"
            )


def _metadata(config: Config, digest: str, fingerprint: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "source": config.source.model_dump(mode="json", exclude_none=True),
        "model": config.model.model_dump(mode="json", exclude_none=True),
        "model_digest": digest,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


def _ingredients(
    config: Config, files: Sequence[File], shards: Sequence[Shard], digest: str
) -> dict[str, str]:
    """Hash each thing that changes the bytes, so that a difference can be named."""
    source, model = config.source, config.model
    user_code = [step.step for step in source.preprocess] + [source.reader]
    user_code += [text.partition("(")[0] for tap in config.taps for text in tap.reduce]
    names = [name for name in user_code if ":" in name]
    parts: dict[str, Any] = {
        "source": source.model_dump(mode="json", exclude={"preprocess"}),
        "files": [[f.uri, f.bytes, f.version, f.blocks] for f in files],
        "preprocess": [step.model_dump(mode="json") for step in source.preprocess],
        "model": [digest, model.inputs],
        "taps": [tap.model_dump(mode="json") for tap in config.taps],
        "batch_rows": model.batch_rows,
        "precision": model.precision,
        "parts": [[p.start for p in shard.pieces] for shard in shards],
        "event_timestamp": config.table.event_timestamp,
        "limit": config.limit,
        "user_code": source_digest(names),
        "versions": _versions(),
        "format_version": FORMAT_VERSION,
    }
    return {name: _digest(part)[:16] for name, part in parts.items()}


def _digest(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()
