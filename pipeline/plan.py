"""Turn a config into a plan: shards, schema, sizes, fingerprint; nothing runs yet."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.cut import cut_shards, default_rows_per_part, limit_shards
from pipeline.fingerprint import digest_of, hash_ingredients
from transforms import device, storage
from transforms.config import Config
from transforms.credentials import holds_credentials
from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.messages import shape_text
from transforms.models.load import cached_model
from transforms.models.model import Model
from transforms.preprocess.steps import Step, make_steps, needed_features, trace_steps
from transforms.shard import Shards
from transforms.sources.readers import make_source
from transforms.sources.source import File, Source
from transforms.table.columns import (
    Column,
    arrow_schema,
    bytes_per_row,
    make_columns,
    passed_features,
)
from transforms.table.directory import FORMAT_VERSION, Table, to_json, to_parquet
from transforms.table.plan_file import versions
from transforms.taps.compile import compile_taps
from transforms.taps.language import Activation, choose
from transforms.taps.survey import list_activations

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
        return digest_of(self.ingredients)

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
    source, known, steps, prepared, model = trace_job(config)
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
    rows_per_part = config.table.rows_per_part or default_rows_per_part(
        files, bytes_per_row(columns), config.model.batch_rows
    )
    features = needed_features(steps, known, used)
    cut = cut_shards(files, rows_per_part)
    if config.limit:
        cut = limit_shards(source, features, cut, config.limit)
    shards = Shards.of(cut)
    if shards.rows == 0:
        raise ConfigError(
            f"the source must hold at least one row, got {len(files)} files without"
            " any; check source.path, source.split or source.filter"
        )
    ingredients = hash_ingredients(config, files, shards, model.digest)
    return Plan(
        config=config,
        shards=shards,
        columns=tuple(columns),
        features=features,
        activations=tuple(activations),
        metadata=_metadata(config, model.digest, digest_of(ingredients)),
        model_digest=model.digest,
        ingredients=ingredients,
    )


def trace_job(
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
