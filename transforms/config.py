"""What the user asks for, as types: the sections of a featuretap config.

Every option of a section changes the bytes of the table and is part of its
fingerprint, except `table.path`, `model.trusted` and `[errors]`, which only say where
and how strict. Of `[errors]`, `non_finite = "quarantine"` does change them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Rows = Annotated[int, Field(gt=0)]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepSpec(_Section):
    """One preprocessing step: a built-in, or a user's function of all features.

    `batched` matters for user functions: with False (the default) the function sees
    the features of one example, with True those of a batch, with a leading dimension.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    step: str
    batched: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The step's own options."""
        return dict(self.model_extra or {})


def _step(value: Any) -> Any:
    return {"step": value} if isinstance(value, str) else value


class SourceSpec(_Section):
    """`[source]`: which reader, with its own options beside the common ones."""

    model_config = ConfigDict(extra="allow", frozen=True)

    reader: str
    key: str | None = None
    keep: tuple[str, ...] = ()
    preprocess: tuple[Annotated[StepSpec, BeforeValidator(_step)], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The reader's own options."""
        return dict(self.model_extra or {})


class ModelSpec(_Section):
    """`[model]`: a saved model or a function that builds one, and how to run it.

    Without `precision` the model computes in the precision it was made with. `trusted`
    allows a stored model to bring code of its own, which then runs on every worker.
    """

    path: str | None = None
    build: str | None = None
    weights: str | None = None
    signature: str | None = None
    imports: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    batch_rows: Rows = 256
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    trusted: bool = False

    @property
    def files(self) -> dict[str, str]:
        """URIs of stored files, with the option that names each: `{uri: option}`."""
        named = {"model.path": self.path, "model.weights": self.weights}
        return {uri: option for option, uri in named.items() if uri}


class TapSpec(_Section):
    """`[[taps]]`: which activations, how reduced, into which column."""

    path: str
    reduce: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()
    column: str | None = None
    dtype: Literal["float16", "float32", "float64"] | None = None


class TableSpec(_Section):
    """`[table]`: where the table goes and how it is cut into parts."""

    path: str
    rows_per_part: Rows | None = None
    event_timestamp: str | None = None
    timestamp_unit: Literal["s", "ms", "us"] | None = None

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip("/"):
            raise ValueError("must name a directory of its own")
        return value.rstrip("/")


class ErrorSpec(_Section):
    """`[errors]`: how many bad rows a finished table may name, and what makes one.

    `non_finite` says what becomes of rows with NaN or infinite activations. After
    `attempts` workers have died at a shard, `crash` says what becomes of it: `isolate`
    finds the rows at fault, `quarantine` gives up all of its rows, `fail` the run.
    """

    max_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    non_finite: Literal["allow", "warn", "quarantine"] = "warn"
    crash: Literal["isolate", "quarantine", "fail"] = "isolate"
    attempts: Annotated[int, Field(gt=0)] = 2


class Config(_Section):
    """A whole config.

    `taps` may be empty only where one looks for them (`featuretap taps`).
    `limit` is the command line's `--limit`: only the first so many rows.
    """

    source: SourceSpec
    model: ModelSpec
    taps: tuple[TapSpec, ...] = ()
    table: TableSpec
    errors: ErrorSpec = ErrorSpec()
    limit: Rows | None = None
