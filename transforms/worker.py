"""Make all that one process needs to compute the shards of a planned table."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transforms.config import Config, ErrorSpec
from transforms.models.load import cached_model
from transforms.preprocess.steps import make_steps, trace_steps
from transforms.sources.batches import InputPipeline
from transforms.sources.readers import make_source
from transforms.table.columns import Column, passed_features
from transforms.table.directory import Table
from transforms.table.encode import Layout
from transforms.table.plan_file import Planned, read_planned, versions
from transforms.table.timestamps import constant_timestamp
from transforms.taps.compile import compile_taps
from transforms.taps.device_memory import FittingTaps
from transforms.taps.language import Tap

_workers: dict[str, Worker] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Worker:
    """All that a process needs for the shards of one table; made once.

    Attributes:
      table: the table being made.
      claim: that the table had when this began.
      fingerprint: of its plan.
      shards: how many the plan has.
      pipeline: from stored rows to model inputs.
      compiled: from model inputs to columns.
      layout: how rows of the table look.
      errors: what becomes of rows that are not as they should be.
    """

    table: Table
    claim: str
    fingerprint: str
    shards: int
    pipeline: InputPipeline
    compiled: FittingTaps
    layout: Layout
    errors: ErrorSpec


def worker_for(table: Table) -> Worker:
    """Give this process's worker for a planned table, made on first use.

    Raises:
      RuntimeError: this machine would not compute what the plan says.
    """
    planned = read_planned(table, written=True)
    key = f"{table.uri} {planned.claim} {planned.config.errors.model_dump_json()}"
    with _lock:
        if key not in _workers:
            _workers.clear()
            _workers[key] = _make_worker(table, planned)
        return _workers[key]


def _make_worker(table: Table, plan: Planned) -> Worker:
    config, columns = plan.config, plan.columns
    _check_versions(plan.metadata["versions"], versions())
    steps = make_steps(config.source.preprocess)
    prepared = trace_steps(steps, plan.features)
    model = cached_model(config.model, prepared, plan.model_digest)
    taps = [
        Tap(
            c.source,
            c.reduce,
            c.name,
            c.dtype if c.dtype.startswith("float") else None,
            c.name,
        )
        for c in columns
        if c.role == "feature"
    ]
    compile_for = partial(compile_taps, model, taps)
    compiled = compile_for(config.model.batch_rows)
    planned = [(c.name, c.shape, c.dtype) for c in columns if c.is_computed]
    found = [(o.column, o.shape, o.dtype) for o in compiled.outputs]
    if planned != found:
        raise RuntimeError(
            "this worker must compute the planned columns\n"
            f"  planned: {planned}\n  here:    {found}\n"
            "use the same versions of TensorFlow, Keras and the model's code everywhere"
        )
    return Worker(
        table=table,
        claim=plan.claim,
        fingerprint=plan.fingerprint,
        shards=plan.shards,
        pipeline=InputPipeline(
            source=make_source(config.source),
            features=plan.features,
            steps=steps,
            inputs={i.feature: i.shape for i in model.inputs},
            passed=passed_features(columns),
            batch_rows=config.model.batch_rows,
        ),
        compiled=FittingTaps(compiled, None if model.batch_rows else compile_for),
        errors=config.errors,
        layout=Layout(
            columns=columns,
            schema=plan.schema,
            timestamp=_constant_timestamp(config, columns),
        ),
    )


def _check_versions(planned: Mapping[str, str], here: Mapping[str, str]) -> None:
    """See that this worker has the packages that the plan was made with."""
    different = [name for name in planned if planned[name] != here[name]]
    if different:
        raise RuntimeError(
            "this worker must have the versions of the plan\n"
            f"  planned: {', '.join(f'{n} {planned[n]}' for n in different)}\n"
            f"  here:    {', '.join(f'{n} {here[n]}' for n in different)}\n"
            "install the same versions everywhere"
        )


def _constant_timestamp(config: Config, columns: Sequence[Column]) -> Any:
    if not any(c.role == "timestamp" and not c.source for c in columns):
        return None
    assert config.table.event_timestamp is not None
    return constant_timestamp(config.table.event_timestamp)
