"""Extract on this machine in several processes, each of which takes the next shard.

No shard is promised to a worker beforehand: the slowest lags by the shards that it has
in flight, and the others do the rest. A worker that dies is replaced, and its shards
are computed again.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing.connection import wait

from transforms import child_process
from transforms.config import Config
from transforms.programs.local_worker import Done, Job, Ready
from transforms.shard import Shard
from transforms.stop import stopping

_log = logging.getLogger("featuretap")
_PROGRAM = "transforms.programs.local_worker"
_DEATHS_BEYOND = 2  # errors.attempts: those of processes that isolate its rows


@dataclass(slots=True, eq=False)
class _Worker:
    child: child_process.Child
    room: int = 0
    at: dict[int, Shard] = field(default_factory=dict)


@dataclass(slots=True)
class _Pool:
    """The workers of one table, and what is left for them."""

    job: Job
    most_deaths: int
    shards: Iterator[Shard]
    again: deque[Shard] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)
    failure: str = ""

    def start(self) -> None:
        self.workers.append(_Worker(child_process.start(_PROGRAM, self.job)))

    def run(self) -> None:
        while self.workers:
            exhausted = self._hand_out()
            if exhausted and not any(worker.at for worker in self.workers):
                return
            pipes = {worker.child.pipe: worker for worker in self.workers}
            for pipe in wait(list(pipes), child_process.LOOK_SECONDS):
                self._hear(pipes[pipe])  # type: ignore[index]  # they are ours
            for worker in [one for one in self.workers if one.child.has_ended()]:
                self._bury(worker)

    def _hand_out(self) -> bool:
        """Send shards to whoever has room; say whether none are left to send."""
        for worker in self.workers:
            while len(worker.at) < worker.room:
                shard = self._next()
                if shard is None:
                    return True
                worker.at[shard.index] = shard
                try:
                    worker.child.pipe.send(shard)
                except OSError:  # it has died, as will be noticed
                    break
        return bool(self.failure) or stopping.is_set()

    def _next(self) -> Shard | None:
        if self.failure or stopping.is_set():
            return None
        return self.again.popleft() if self.again else next(self.shards, None)

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.child.receive()
        except EOFError:
            self._bury(worker)
            return
        if isinstance(message, Ready):
            worker.room = message.shards
        elif isinstance(message, Done):
            del worker.at[message.shard]
        elif message.shard is None:
            self.workers.remove(worker)
            worker.child.close()
            self._do_without(message.message)
        else:
            del worker.at[message.shard]
            self.failure = self.failure or message.message

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that has died, if its shards or others are still to do."""
        self.workers.remove(worker)
        death = worker.child.death()
        worker.child.close()
        if not worker.room:
            self._do_without(
                f"a worker process must come to its first shard, one {death} before;"
                " what it printed stands above"
            )
            return
        self.deaths.update(list(worker.at))
        self.again.extend(worker.at.values())
        hopeless = [i for i in worker.at if self.deaths[i] > self.most_deaths]
        if hopeless:
            self.failure = self.failure or (
                f"at most {self.most_deaths} worker processes may die at one shard, as"
                f" many did at shard {hopeless[0]}, and one more that {death}"
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
    config: Config, shards: Iterable[Shard], processes: int
) -> None:
    """Extract shards of a planned table.

    Args:
      config: of the table.
      shards: those to extract, at least one.
      processes: how many workers; fewer if there are fewer shards.

    Raises:
      RuntimeError: a shard failed, or workers keep dying. Shards that were at work then
        are finished first.
    """
    rest = iter(shards)
    first = list(islice(rest, processes))
    pool = _Pool(
        job=Job(config.table.path, len(first)),
        most_deaths=config.errors.attempts + _DEATHS_BEYOND,
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
