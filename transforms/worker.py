"""Make all that one process needs to compute the shards of a planned table."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from transforms import device
from transforms.models.inputs import input_types
from transforms.models.load import cached_model
from transforms.models.model import Model
from transforms.preprocess.steps import Step, make_steps, trace_steps
from transforms.sources.batches import InputPipeline
from transforms.sources.prepared import Preparation
from transforms.sources.readers import make_source
from transforms.table.columns import passed_features
from transforms.table.directory import Table
from transforms.table.encode import Layout
from transforms.table.names import INTERNAL
from transforms.table.plan_file import TablePlan, read_claim, read_plan, versions
from transforms.table.timestamps import constant_timestamp
from transforms.taps.compile import compiled_once
from transforms.taps.device_memory import FittingTaps

_workers: dict[str, Worker] = {}
_lock = threading.Lock()


class Computer:
    """Computes rows as a plan says; loads source and model when they are first needed.

    A worker that takes all its rows over from earlier tables needs neither.
    """

    def __init__(self, plan: TablePlan) -> None:
        self._plan = plan
        self._compiled: dict[tuple[str, ...], FittingTaps] = {}
        self._lock = threading.RLock()

    @cached_property
    def pipeline(self) -> InputPipeline:
        """From stored rows to model inputs."""
        plan, inputs = self._plan, self.model.inputs
        preparation = Preparation(
            features=plan.features,
            steps=self._steps,
            inputs={i.feature: i.shape for i in inputs},
            fits=input_types(inputs),
            passed=passed_features(plan.columns),
        )
        source = make_source(plan.config.source)
        return InputPipeline(source, preparation, plan.config.model.batch_rows)

    def compiled(self, columns: tuple[str, ...]) -> FittingTaps:
        """From model inputs to some of the computed columns, by name.

        Raises:
          RuntimeError: the columns come out differently here.
        """
        with self._lock:
            if columns not in self._compiled:
                self._compiled[columns] = _compile(self.model, self._plan, columns)
            return self._compiled[columns]

    @cached_property
    def _steps(self) -> Sequence[Step]:
        return make_steps(self._plan.config.source.preprocess)

    @cached_property
    def model(self) -> Model:
        """The planned model, loaded."""
        device.configure()
        plan = self._plan
        with self._lock:
            traced = trace_steps(self._steps, plan.features)
            return cached_model(plan.config.model, traced, plan.model_digest)


@dataclass(frozen=True, slots=True)
class Worker:
    """All that a process needs for the shards of one table; made once.

    Attributes:
      table: the table being made.
      plan: of the table; its claim is compared before each commit.
      layout: how the rows look that it makes.
      computer: computes rows.
    """

    table: Table
    plan: TablePlan
    layout: Layout
    computer: Computer

    @property
    def pipeline(self) -> InputPipeline:
        """From stored rows to model inputs."""
        return self.computer.pipeline

    @property
    def compiled(self) -> FittingTaps:
        """From model inputs to the computed columns of its layout."""
        columns = tuple(c.name for c in self.layout.columns if c.is_computed)
        return self.computer.compiled(columns)

    def check_claim(self) -> None:
        """See that the table is still the one that this worker was made for.

        Raises:
          RuntimeError: it has been replaced.
        """
        now = read_claim(self.table).id
        if now != self.plan.claim:
            raise RuntimeError(
                f"the table in {self.table.uri!r} has been replaced while this worker"
                f" was at it\n  began with: {self.plan.claim}\n  there now:  {now}\n"
                "nothing was committed to it"
            )


def worker_for(table: Table, seal: str) -> Worker:
    """Give this process's worker for a planned table, made on first use.

    Args:
      table: the table.
      seal: of its plan, as the launcher says. The table's directory is data, which
        others may be able to write to: what another plan there names is not run.

    Raises:
      RuntimeError: the table holds another plan, or this machine would not compute what
        the plan says.
    """
    plan = read_plan(table, written=True)
    if plan.seal != seal:
        raise RuntimeError(
            f"workers must be made from their launcher's plan, {table.uri!r} holds"
            f" another\n  launcher: {seal}\n  there:    {plan.seal}\nsomething has"
            f" changed config.json or schema.json in {INTERNAL}; run the same command"
            " again, which puts back what its config says"
        )
    key = f"{table.uri} {plan.claim} {plan.config.errors.model_dump_json()}"
    with _lock:
        if key not in _workers:
            _workers.clear()
            _workers[key] = make_worker(table, plan)
        return _workers[key]


def make_worker(table: Table, plan: TablePlan) -> Worker:
    """Make a worker for a plan, whether it has been written to the table or not.

    Raises:
      RuntimeError: this machine would not compute what the plan says.
    """
    _check_versions(plan.versions, versions())
    layout = Layout(plan.columns, plan.schema, _timestamp(plan))
    worker = Worker(table, plan, layout, Computer(plan))
    if not plan.earlier:  # there is something to compute: what is wrong shows now
        _ = worker.pipeline, worker.compiled
    return worker


def _compile(model: Model, plan: TablePlan, columns: tuple[str, ...]) -> FittingTaps:
    """Compile the planned taps of some computed columns.

    Raises:
      RuntimeError: they come out differently here.
    """
    taps = [tap for tap in plan.taps if tap.column in columns]
    compile_for = partial(compiled_once, model, taps)
    compiled = compile_for(plan.config.model.batch_rows)
    planned = [(c.name, c.shape, c.dtype) for c in plan.columns if c.name in columns]
    found = [(o.column, o.shape, o.dtype) for o in compiled.outputs]
    if planned != found:
        raise RuntimeError(
            "this worker must compute the planned columns\n"
            f"  planned: {planned}\n  here:    {found}\n"
            "use the same versions of TensorFlow, Keras and the model's code everywhere"
        )
    return FittingTaps(compiled, None if model.batch_rows else compile_for)


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


def _timestamp(plan: TablePlan) -> datetime.datetime | None:
    """The event timestamp that all rows share, None if each has its own or none."""
    if not any(c.role == "timestamp" and not c.source for c in plan.columns):
        return None
    assert plan.config.table.event_timestamp is not None
    return constant_timestamp(plan.config.table.event_timestamp)
