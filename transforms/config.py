"""What the user asks for, as types: the sections of a featuretap config.

A table's fingerprint covers every option that changes its bytes; a run whose config has
another fingerprint is refused in the same directory. These options change no bytes and
may differ between runs of one table: `table.path`, `model.trusted`,
`errors.max_fraction`, `errors.crash`, `errors.attempts` and `[gates]`. `model.path` and
`model.weights` count by what is stored there, `errors.non_finite` only if it is
`quarantine`. `pipeline.fingerprint` holds the list.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from transforms.column_names import snake
from transforms.config_section import Section, one_or_many
from transforms.gate_limits import GatesSpec

Rows = Annotated[int, Field(gt=0)]


def _named(value: Any) -> Any:
    """Name the columns of a list of features."""
    value = one_or_many(value)
    if not isinstance(value, list | tuple):
        return value
    named: dict[str, Any] = {}
    for feature in value:
        column = snake(str(feature))
        other = named.setdefault(column, feature)
        if other != feature:
            raise ValueError(
                f"{other!r} and {feature!r} would both be column {column!r}; rename"
                f' one: keep = {{ {column} = "{other}", {column}_2 = "{feature}" }}'
            )
    return named


def _inputs(value: Any) -> Any:
    value = one_or_many(value)
    named = isinstance(value, dict)
    features = value.values() if named else value
    listed = named or isinstance(value, list | tuple)
    if not listed or not all(isinstance(one, str) for one in features):
        raise ValueError(
            'should be "feature", ["feature", ...] or { input = "feature" }'
        )
    return value


def _time_text(value: Any) -> Any:
    """Write a time as TOML has it as the text that means the same."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat().replace("+00:00", "Z")
    return value


class StepSpec(Section):
    """One preprocessing step: a built-in, or a function of the user's.

    A config may write a step without options as its name alone: `"lower"`.

    Attributes:
      step: name of a built-in step (`transforms.preprocess.steps.PREPROCESSORS`), which
        changes the feature that its option `feature` names; or
        `package.module:function`, which gets all features as `{name: tensor}` and
        returns all features that are left.
      batched: for functions of the user's only. False: the function sees the features
        of one example. True: it sees those of a batch, whose tensors have the batch as
        first axis; that is faster if no step for single examples comes later.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    step: str
    batched: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """All other keys of the step, given to it as keyword arguments."""
        return dict(self.model_extra or {})


def _step(value: Any) -> Any:
    return {"step": value} if isinstance(value, str) else value


class SourceSpec(Section):
    """`[source]`: where examples come from, and what happens to them before the model.

    All keys that are not listed here are options of the reader, such as `path`.

    Attributes:
      reader: name of a built-in reader (`transforms.sources.readers.READERS`), or
        `package.module:callable` that returns a `transforms.sources.source.Source`.
      key: feature that identifies an example: one text or whole number, different in
        every row. It becomes the column `example_id`; a value that comes twice fails
        the run at its end. If left out, the reader's default key is used, mostly
        `<file>#<row>`.
      keep: features that become columns as they were read, beside those of taps; or as
        preprocessing made them, if the source has none of that name: `{column:
        feature}`, or a list of features, whose names in lower_snake become the
        columns'. If left out, no feature is kept.
      preprocess: steps that turn what was read into what the model takes, run in this
        order. If left out, the model gets the features as they were read.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    reader: str
    key: str | None = None
    keep: Annotated[dict[str, str], BeforeValidator(_named)] = Field({})
    preprocess: tuple[Annotated[StepSpec, BeforeValidator(_step)], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """All other keys of `[source]`, given to the reader as keyword arguments."""
        return dict(self.model_extra or {})


class ModelSpec(Section):
    """`[model]`: a saved model or a function that builds one, and how to run it.

    Attributes:
      path: URI of a `.keras` or `.h5` file or a SavedModel directory. Exactly one of
        `path` and `build` must be given.
      build: `package.module:function` without arguments that returns a model. It runs
        on the launcher and on every worker; a worker on which its weights come out
        differently refuses to compute.
      weights: URI of a weights file, or of a TensorFlow checkpoint without its suffix,
        loaded into the model. If left out, the model keeps the weights it came with.
      signature: which signature of a SavedModel to run. If left out, the only one, or
        `serving_default` of several. Other forms of model refuse it.
      tags: which graph of a SavedModel to run, by its tags. If left out, the only one,
        or of several the one tagged `serve`, or not at all. An empty list names the one
        without tags. Other forms of model refuse it.
      imports: modules to import before the model is loaded, such as those that register
        custom Keras layers. Their source code is part of the fingerprint.
      inputs: `{model input: feature}`; or a list of features, in the order of the
        model's inputs; or one feature, for a model of one input. An input that is left
        out takes the feature of its own name, else the only feature left that is
        neither key nor kept nor the event's time, else the only one whose shape and
        type fit. Where there is more than one way, none is taken.
      batch_rows: rows that go through the model in one call. More is faster until the
        device is out of memory, where calls of fewer rows take over. A model of fixed
        batch size takes no other number.
      precision: type in which a model of Keras 3 computes; `bfloat16` and `float16` are
        faster on many devices and less exact. If left out, the model computes in the
        precision it was made with. Models that are not of Keras refuse any, and so do
        those of Keras 2 and quantized ones.
      jit: True has XLA compile the model and the taps as one, which is faster on many
        GPUs and slower on many CPUs. Values differ by rounding, and nothing is checked
        while it computes: an index that is out of range gives some value.
      trusted: False refuses stored models that hold Python functions or operations that
        do more than compute, that expand beyond measure or that lead to other files.
        True loads them: their code then runs on the launcher and on every worker, with
        the rights of the user.
    """

    path: str | None = None
    build: str | None = None
    weights: str | None = None
    signature: str | None = None
    tags: tuple[str, ...] | None = None
    imports: tuple[str, ...] = ()
    inputs: Annotated[dict[str, str] | tuple[str, ...], BeforeValidator(_inputs)] = (
        Field({})
    )
    batch_rows: Rows = 256
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    jit: bool = False
    trusted: bool = False

    @property
    def files(self) -> dict[str, str]:
        """URIs of stored files, with the option that names each: `{uri: option}`."""
        named = {"model.path": self.path, "model.weights": self.weights}
        return {uri: option for option, uri in named.items() if uri}


class TapSpec(Section):
    """`[[taps]]`: which activations, how reduced, into which column.

    Attributes:
      path: address of an activation (`featuretap taps` lists them), or a pattern that
        may match several: `*` matches within one segment, `**` across segments. A path
        that matches nothing is refused.
      reduce: one reduction or several, such as `mean(axis=1)`, applied from left to
        right on the device. If left out, the whole activation is stored.
      column: name of the column, in lower_snake; `{1}` stands for what the first
        wildcard of `path` matched. If left out, the address in lower_snake.
      dtype: type that the column's numbers are cast to after the reductions. If left
        out, floating-point numbers become float32 (float64 stays); integers, booleans
        and text keep their type.
    """

    path: str
    reduce: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
    column: str | None = None
    dtype: Literal["float16", "float32", "float64"] | None = None


class TableSpec(Section):
    """`[table]`: where the table goes and how it is cut into parts.

    Attributes:
      path: URI of the table's directory, local or on any filesystem that can create a
        file only if it is absent. A finished table of the same fingerprint is left as
        it is, an unfinished one is resumed.
      rows_per_part: most rows of a shard, and so of the Parquet file that it becomes.
        If left out, as many rows as make parts of 8 to 128 MiB before compression,
        and at most some seconds of work for one core where the model is heavy.
        Without effect where rows are known only after reading: there a shard is about
        32 MiB of stored data.
      event_timestamp: an RFC 3339 time for all rows, or the feature that holds each
        row's time, as timestamp, RFC 3339 text or number. A time for all rows may also
        be written as TOML writes times, without quotes. It becomes the column
        `event_timestamp`, in UTC. If left out, there is no such column.
      timestamp_unit: what numbers in `event_timestamp` count since 1970: seconds,
        milliseconds or microseconds. Required for numbers, refused for anything else.
      entity: columns of `source.keep` that say whose features a row holds, such as a
        user's id, for feature stores. An entity may have several rows, each at a time
        of its own: the run fails at its end if one comes twice at one
        `event_timestamp`. A row whose entity is null is a bad row. If left out, the
        table's rows are told apart by their key alone.
    """

    path: str
    rows_per_part: Rows | None = None
    event_timestamp: Annotated[str | None, BeforeValidator(_time_text)] = None
    timestamp_unit: Literal["s", "ms", "us"] | None = None
    entity: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.rpartition("://")[2].strip("/"):
            raise ValueError("must name a directory of its own")
        return value.rstrip("/")


class ErrorSpec(Section):
    """`[errors]`: what makes a row a bad row, and how many of them a table may have.

    Bad rows are left out of the table and named in `_featuretap/errors`.

    Attributes:
      max_fraction: share of all rows that may be bad, from 0 to 1. The run fails at its
        end if there are more; raise the limit and run again to accept them, nothing is
        computed twice. The default 0 accepts none; 1 also accepts files that break off
        and so hide how many rows they lost.
      non_finite: what becomes of rows whose activations hold NaN or infinite values.
        `allow` does not look; `warn` stores them, counts them by column and says so at
        the end; `quarantine` makes them bad rows.
      crash: what becomes of a shard at which `attempts` workers have died. `isolate`
        computes it in a process of its own and makes the rows that kill it bad rows;
        `quarantine` makes all of its rows bad rows; `fail` fails the run.
      attempts: deaths of workers at one shard after which `crash` decides. Before that
        the shard is simply computed again.
    """

    max_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    non_finite: Literal["allow", "warn", "quarantine"] = "warn"
    crash: Literal["isolate", "quarantine", "fail"] = "isolate"
    attempts: Annotated[int, Field(gt=0)] = 2


class PublishSpec(BaseModel):
    """`[publish.NAME]`: a store that the finished table is published to.

    Other keys are the target's own options, as for `featuretap publish --set`.

    Attributes:
      to: the target, a built-in or `package.module:callable`. If left out, NAME.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    to: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The target's own options."""
        return dict(self.model_extra or {})


class Config(Section):
    """A whole config: one attribute for each section of the TOML file.

    Attributes:
      source: `[source]`, where examples come from.
      model: `[model]`, what computes the activations.
      taps: `[[taps]]`, which activations are stored. May be empty only for
        `featuretap taps`, which lists what can be tapped.
      table: `[table]`, where the results go.
      errors: `[errors]`, how bad rows are treated. If left out, none are accepted.
      gates: `[gates]`, what the finished table must be like. If left out, it is judged
        by limits that hardly anybody wants to pass.
      publish: `[publish.NAME]`, where a run takes the finished table, in this order. If
        left out, nowhere.
      limit: the command line's `--limit`: the first so many rows of the source and no
        others, which makes another table. If left out, all rows.
    """

    source: SourceSpec
    model: ModelSpec
    taps: tuple[TapSpec, ...] = ()
    table: TableSpec
    errors: ErrorSpec = ErrorSpec()
    gates: GatesSpec = GatesSpec()
    publish: dict[str, PublishSpec] = Field({})
    limit: Rows | None = None
