"""Turn a config into a plan: shards, schema, sizes, fingerprint; nothing runs yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

from pipeline.cut import (
    cut_by_work,
    cut_shards,
    default_rows_per_part,
    limit_shards,
)
from pipeline.earlier import TakenOver, take_over
from pipeline.fingerprint import (
    digest_of,
    hash_columns,
    hash_config,
    hash_ingredients,
    hash_rows,
    hash_versions,
)
from pipeline.notes import plan_notes
from transforms import device, storage
from transforms.config import Config
from transforms.credentials import holds_credentials
from transforms.dtypes import Feature, is_null_name
from transforms.lookup import ConfigError
from transforms.messages import shape_text
from transforms.models.inputs import Input, Shape, input_text, wired_spec
from transforms.models.load import cached_model
from transforms.models.model import Model
from transforms.preprocess.steps import (
    Step,
    fills,
    make_steps,
    needed_features,
    trace_steps,
)
from transforms.shard import Shards
from transforms.sources.examples import RECORD
from transforms.sources.readers import make_source
from transforms.sources.source import File, OtherColumns, Source
from transforms.table.columns import (
    Column,
    bytes_per_row,
    make_columns,
    passed_features,
)
from transforms.table.gates import check_gates
from transforms.table.plan_file import TablePlan, versions
from transforms.taps.company import all_alone, made_up_rows, marked, mixing_taps
from transforms.taps.compile import CompiledTaps, compiled_once
from transforms.taps.language import Activation, Tap, choose, flops_of
from transforms.taps.survey import list_activations
from transforms.taps.xla import check_xla
from transforms.values import MOST_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(TablePlan):
    """What a run will do.

    Attributes:
      shards: units of work, one part each.
      activations: everything that could be tapped.
      inputs: of the model, with the features that go in.
      notes: sentences on what will not be read, or not as one may expect.
    """

    shards: Shards
    activations: tuple[Activation, ...]
    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()


def make_plan(
    config: Config, earlier: Sequence[str] = (), *, retry_errors: bool = False
) -> Plan:
    """Plan a run: list the source, trace the model, cut shards; nothing is computed.

    Args:
      config: what is asked for.
      earlier: URIs of finished tables, from which rows of files that have not changed
        are taken over as far as they have the columns.
      retry_errors: compute the shards of earlier tables that have bad rows again.

    Raises:
      FileNotFoundError: an earlier table is not there.
      ConfigError: what is asked for cannot be done.
    """
    _check_config(config, earlier)
    job = trace_job(config)
    config = job.config
    _check_lengths(config, job.model)
    activations, taps, compiled = _compile(config, job.model)
    with naming_other_columns(job.source):
        columns = make_columns(
            config, job.source.default_key, job.table_features(), taps, compiled.outputs
        )
    _check_columns(config, columns)
    used = [i.feature for i in job.model.inputs] + passed_features(columns)
    features = needed_features(job.steps, job.table_features(made=False), used)
    files = _list_files(job.source, config.table.path)
    notes = plan_notes(job.source, files, job.features, config.source.preprocess)
    digest = job.model.digest
    made_by = hash_rows(config, columns, features)
    inputs = needed_features(job.steps, features, [i.feature for i in job.model.inputs])
    columns = hash_columns(config, columns, inputs, digest)
    ours = {**hash_config(config, digest), "versions": hash_versions()}
    taken = take_over(earlier, made_by, columns, ours, files, retry_errors=retry_errors)
    flops = flops_of(taps, activations)
    shards = _cut(config, job.source, files, taken, columns, features, flops)
    ingredients = hash_ingredients(config, files, shards, digest, taken.earlier)
    return Plan(
        config=config,
        fingerprint=digest_of(ingredients),
        ingredients=ingredients,
        model_digest=digest,
        versions=versions(),
        shard_count=len(shards),
        rows=shards.rows,
        columns=tuple(columns),
        taps=tuple(taps),
        features=features,
        rows_made_by=made_by,
        earlier=taken.earlier,
        left_out=taken.left_out,
        shards=shards,
        activations=tuple(activations),
        inputs=job.model.inputs,
        notes=(*taken.notes, *notes),
    )


def _compile(
    config: Config, model: Model
) -> tuple[list[Activation], list[Tap], CompiledTaps]:
    """Choose and compile the taps; none whose rows depend on more than the row.

    What the columns are does not depend on the number of rows in a batch. Where a batch
    has to be made up few are enough, unless it is fixed; else a worker in this process
    goes on with the function for whole batches.
    """
    activations = list_activations(model)
    taps = choose(config.taps, activations)
    rows = config.model.batch_rows
    alone = all_alone(taps, activations)
    if model.batch_rows is None and not alone:
        rows = made_up_rows(model)
    compiled = compiled_once(model, taps, rows)
    check_xla(model, compiled)
    if alone:
        return activations, taps, compiled
    if refused := mixing_taps(model, taps, compiled):
        activations = marked(activations, refused)
        taps = choose(config.taps, activations)
        compiled = compiled_once(model, taps, rows)
    return activations, taps, compiled


@dataclass(frozen=True, slots=True)
class Job:
    """A config's source, preprocessing and model, traced.

    Attributes:
      config: the config; its `model.inputs` says of each input which feature goes in.
      source: where examples come from.
      features: what the source has.
      steps: preprocessing, in order.
      prepared: what preprocessing makes, `{name: (shape without batch, dtype)}`.
      model: loaded.
    """

    config: Config
    source: Source
    features: Mapping[str, Feature]
    steps: Sequence[Step]
    prepared: Mapping[str, tuple[Shape, str]]
    model: Model

    def table_features(self, *, made: bool = True) -> dict[str, Feature]:
        """Give the features that can go to the table.

        Those that something may look at on the way are not nullable: a null is a bad
        row there, since tensors have no place for it, or is filled by the reader.

        Args:
          made: with those that preprocessing makes, where the source has none of that
            name.
        """
        strict = {i.feature for i in self.model.inputs}
        key = self.config.source.key or self.source.default_key
        strict |= {key or "", self.config.table.event_timestamp or ""}
        kept = self.config.source.keep
        strict |= {kept[n] for n in self.config.table.entity if n in kept}
        reads = [step.reads for step in self.steps]
        anything = None in reads
        strict |= {name for read in reads for name in read or ()}
        filled = fills(self.steps)
        found = {}
        for name, feature in self.features.items():
            fill = filled.get(name, feature.fill)
            is_strict = anything or name in strict or fill is not None
            nullable = feature.nullable and not is_strict
            found[name] = replace(feature, nullable=nullable, fill=fill)
        for name, (shape, dtype) in self.prepared.items() if made else ():
            found.setdefault(name, Feature(dtype, shape))
        return found


def trace_job(config: Config) -> Job:
    """Describe the source, trace its preprocessing, load the model for the result."""
    device.configure()
    source = make_source(config.source)
    key, time = config.source.key or source.default_key, config.table.event_timestamp
    apart = [*config.source.keep.values(), *filter(None, (key, time))]
    if config.source.reader in ("tfrecord", "array_record"):
        apart.append(RECORD)  # what the other features are parsed from
    with naming_other_columns(source):
        features = dict(source.describe())
        steps = make_steps(config.source.preprocess)
        prepared = trace_steps(steps, features)
        apart += filter(is_null_name, prepared)
        model = cached_model(config.model, prepared, apart=apart)
    wired = {"model": wired_spec(config.model, model.inputs)}
    config = config.model_copy(update=wired)
    return Job(config, source, features, steps, prepared, model)


@contextmanager
def naming_other_columns(source: Source) -> Iterator[None]:
    """Let messages say of columns that are there and are no features what they are."""
    try:
        yield
    except ConfigError as error:
        others = source.other_columns() if isinstance(source, OtherColumns) else {}
        text = str(error)
        said = [
            f"{n!r} is there: it {why}" for n, why in others.items() if repr(n) in text
        ]
        if not said:
            raise
        raise ConfigError("; ".join([text, *said])) from error


def _cut(
    config: Config,
    source: Source,
    files: Sequence[File],
    taken: TakenOver,
    columns: Sequence[Column],
    features: Mapping[str, Feature],
    row_flops: int,
) -> Shards:
    """Cut files that nothing is taken over of; behind what is, in its own cut."""
    rows_per_part = config.table.rows_per_part or _rows_per_part(
        config, taken.files, bytes_per_row(columns), row_flops
    )
    cut = cut_shards(taken.files, rows_per_part, first=len(taken.shards))
    if config.limit:
        cut = limit_shards(source, features, cut, config.limit)
    shards = Shards.of(chain(taken.shards, cut))
    if shards.rows == 0:
        raise ConfigError(
            f"the source must hold at least one row, got {len(files)} files without"
            " any; check source.path, source.split or source.filter"
        )
    return shards


def _check_config(config: Config, earlier: Sequence[str]) -> None:
    """Refuse a plan for nothing, and what cannot go with earlier tables."""
    if not config.taps:
        raise ConfigError(
            "taps must name at least one activation, got none (featuretap taps CONFIG"
            " lists all)"
        )
    if earlier and config.limit:
        raise ConfigError("either --from or --limit, got both: --from is for all rows")
    for uri in earlier:
        if storage.filesystem(uri)[1] == storage.filesystem(config.table.path)[1]:
            raise ConfigError(
                f"table.path must not be a table that rows are taken over from, got"
                f" {config.table.path!r} for both; a finished table never changes,"
                " choose a new path"
            )


def _rows_per_part(
    config: Config, files: Sequence[File], row_bytes: int, row_flops: int
) -> int:
    """Choose the size of parts by bytes, and by work where that makes them smaller."""
    batch_rows = config.model.batch_rows
    rows_per_part = default_rows_per_part(files, row_bytes, batch_rows)
    rows = sum(sum(file.blocks or ()) for file in files)
    rows = min(rows, config.limit or rows)
    return cut_by_work(rows_per_part, rows, row_flops, batch_rows)


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
                f"model {input_text(i.name)} must have few shapes, rows of feature"
                f" {i.feature!r} differ in {shape_text(i.shape)}; give them some"
                " lengths in source.preprocess, such as"
                f' {{ step = "pad", feature = "{i.feature}", lengths = [32, 128] }},'
                " or resize images"
            )


def _check_columns(config: Config, columns: Sequence[Column]) -> None:
    """Refuse columns for batches, or for stores, that cannot hold them."""
    _check_batches(columns, config.model.batch_rows)
    check_gates(config.gates, columns)
    if config.publish:
        from pipeline.publish.columns import Columns
        from pipeline.publish.publish import check_targets

        check_targets(config, Columns(tuple(columns), tuple(config.table.entity)))


def _check_batches(columns: Sequence[Column], batch_rows: int) -> None:
    """Refuse batches of more values than an Arrow array can hold."""
    for column in columns:
        width = column.width or 0
        if column.is_vector and width * batch_rows > MOST_VALUES:
            fits = MOST_VALUES // width
            remedy = f"set it to {fits} or less, or reduce" if fits else "reduce"
            raise ConfigError(
                f"model.batch_rows must give a column at most {MOST_VALUES} values in a"
                f" batch, got {batch_rows} rows of {width} values for column"
                f" {column.name!r}; {remedy} the column"
            )


def _list_files(source: Source, table: str) -> list[File]:
    """List the files of a source.

    Refuse to read what would be written, or to write down what is secret.
    """
    files = list(source.files())
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
    return files
