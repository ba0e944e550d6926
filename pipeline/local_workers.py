"""Extract on this machine in several worker processes, each taking the next shard.

A worker gets a shard only when it has room for one, so a slow worker delays the run by
no more than the shards that it is computing. A worker that dies is replaced, and its
shards are computed again.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing.connection import wait

from transforms import child_process, progress
from transforms.programs.local_worker import At, Done, Job, Ready, Stop
from transforms.shard import Shard
from transforms.stop import stopping
from transforms.table.plan_file import TablePlan

_log = logging.getLogger("featuretap")
_PROGRAM = "transforms.programs.local_worker"
_EXTRA_DEATHS = 2  # allowed beyond errors.attempts, while a shard's rows are isolated


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker process.

    Attributes:
      child: the process.
      room: how many shards it computes at a time; 0 until it is ready for the first.
      at: the shards that it is computing, by index.
      stops: whether it has been told that the run is to end.
    """

    child: child_process.Child
    room: int = 0
    at: dict[int, Shard] = field(default_factory=dict)
    stops: bool = False

    def no_longer_at(self, index: int) -> None:
        """Take note that it is done with a shard, or has failed at it."""
        del self.at[index]
        progress.forget(index)


@dataclass(slots=True)
class _Pool:
    """The workers of one table, and the shards that are left for them.

    Attributes:
      job: what each worker is told when it starts.
      most_deaths: how many workers may die at one shard before the run fails.
      shards: the shards that no worker has had yet.
      again: the shards of workers that have died.
      workers: the workers that are alive, as far as is known.
      deaths: how many workers have died at each shard, by index.
      failure: why the run fails; empty while it does not. Once it is set, no more
        shards are sent.
    """

    job: Job
    most_deaths: int
    shards: Iterator[Shard]
    again: deque[Shard] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)
    failure: str = ""

    def start(self) -> None:
        """Start one worker."""
        self.workers.append(_Worker(child_process.start(_PROGRAM, self.job)))

    def run(self) -> None:
        """Send out shards until all are done, or the run has failed or is stopping."""
        while self.workers:
            exhausted = self._hand_out()
            if stopping.is_set():
                self._tell_to_stop()
            if exhausted and not any(worker.at for worker in self.workers):
                return
            pipes = {worker.child.pipe: worker for worker in self.workers}
            for pipe in wait(list(pipes), child_process.LOOK_SECONDS):
                self._receive(pipes[pipe])  # type: ignore[index]  # they are ours
            for worker in [one for one in self.workers if one.child.has_ended()]:
                self._replace_dead(worker)

    def _hand_out(self) -> bool:
        """Send shards to the workers that have room; tell if no more are to be sent."""
        while (worker := self._idlest()) is not None:
            shard = self._next()
            if shard is None:
                return True
            worker.at[shard.index] = shard
            try:
                worker.child.pipe.send(shard)
            except OSError:  # it has died, which `run` notices next
                break
        return bool(self.failure) or stopping.is_set()

    def _idlest(self) -> _Worker | None:
        """Give the worker with the fewest shards that has room for one more.

        While some are not ready yet, the others get one shard each, so that few shards
        are not all taken by the first.
        """
        starting = any(not worker.room for worker in self.workers)
        able = [
            w
            for w in self.workers
            if len(w.at) < (min(w.room, 1) if starting else w.room)
        ]
        return min(able, key=lambda worker: len(worker.at), default=None)

    def _tell_to_stop(self) -> None:
        for worker in self.workers:
            if not worker.stops:
                worker.stops = True
                with contextlib.suppress(OSError):  # it has died
                    worker.child.pipe.send(Stop())

    def _next(self) -> Shard | None:
        if self.failure or stopping.is_set():
            return None
        return self.again.popleft() if self.again else next(self.shards, None)

    def _receive(self, worker: _Worker) -> None:
        """Take a worker's next message, or notice that it has died."""
        try:
            message = worker.child.receive()
        except EOFError:
            self._replace_dead(worker)
            return
        if isinstance(message, Ready):
            worker.room = message.shards
        elif isinstance(message, At):
            for index in worker.at.keys() & message.shards:
                progress.report(index, message.shards[index])
        elif isinstance(message, Done):
            worker.no_longer_at(message.shard)
        elif message.shard is None:
            self.workers.remove(worker)
            worker.child.close()
            self._do_without(message.message)
        else:
            worker.no_longer_at(message.shard)
            self.failure = self.failure or message.message

    def _replace_dead(self, worker: _Worker) -> None:
        """Take a dead worker's shards back; start another worker if any are left."""
        self.workers.remove(worker)
        death = worker.child.death()
        worker.child.close()
        if not worker.room:
            self._do_without(
                f"a worker {death} before it could start; its output is above"
            )
            return
        lost = dict(worker.at)
        for index in lost:
            worker.no_longer_at(index)
        self.deaths.update(list(lost))
        self.again.extend(lost.values())
        deadly = [i for i in lost if self.deaths[i] > self.most_deaths]
        if deadly:
            self.failure = self.failure or (
                f"{self.deaths[deadly[0]]} workers died at shard {deadly[0]}, the last"
                f" of them {death}; at most {self.most_deaths} may die at one shard"
            )
            return
        shard = self._next()
        if shard is not None:
            self.again.appendleft(shard)
            self.start()

    def _do_without(self, complaint: str) -> None:
        """Go on without a worker that cannot work, unless it was the last one."""
        if self.workers:
            _log.warning("one worker fewer: %s", complaint)
        else:
            self.failure = self.failure or complaint


def extract_in_processes(
    plan: TablePlan, shards: Iterable[Shard], processes: int
) -> None:
    """Extract shards of a planned table.

    Args:
      plan: of the table.
      shards: the shards to extract, at least one.
      processes: how many workers to start; fewer if there are fewer shards.

    Raises:
      RuntimeError: a shard failed, or workers keep dying. The shards that workers are
        computing at that moment are finished first.
    """
    rest = iter(shards)
    first = list(islice(rest, processes))
    pool = _Pool(
        job=Job(plan.config.table.path, plan.seal, len(first)),
        most_deaths=plan.config.errors.attempts + _EXTRA_DEATHS,
        shards=chain(first, rest),
    )
    try:
        for _ in first:
            pool.start()
        pool.run()
    finally:
        for worker in pool.workers:
            worker.child.close()
    if pool.failure:
        raise RuntimeError(pool.failure)
