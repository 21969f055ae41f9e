"""The driver: plan -> what the ledger lacks -> packs -> a backend -> rows. The one writer of a sweep's folder."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from cvkan.domains import DOMAINS
from cvkan.domains.objectives import OBJECTIVES, REACHED, figures
from cvkan.domains.task import Task
from cvkan.errors import Problem, UserError
from cvkan.orchestrator.ledger import FINAL, SCHEMA_VERSION, Ledger, Row
from cvkan.orchestrator.plan import Plan, Trial, packs
from cvkan.orchestrator.queue import Job, Queue
from cvkan.orchestrator.spec import TrialConfig
from cvkan.orchestrator.worker import Event, Order, Outcome, Progress
from cvkan.provenance import git_state

FLUSH_EVERY_S = 0.5
"""Rows are written together for this long: short trials would otherwise spend their time on small files."""


class Backend(Protocol):
    """Trains the packs of a queue somewhere."""

    def run(self, queue: Queue, order: Callable[[Job], Order], on_event: Callable[[Event], None]) -> None:
        """Takes jobs until the queue is finished. Every trial of a job gives one Outcome, also if its process died."""

    @property
    def device(self) -> str:
        """The torch device that a worker trains on: cpu or cuda."""

    def close(self) -> None:
        """Gives back what the backend holds."""


class View(Protocol):
    """What people see of a running sweep."""

    def started(self, plan: Plan, waiting: int, held: int) -> None:
        """Training begins: `waiting` trials to train, `held` found in the ledger."""

    def progress(self, trial: Trial, event: Progress) -> None:
        """A trial has ended an epoch."""

    def ended(self, trial: Trial, outcome: Outcome, again: bool) -> None:
        """A trial has ended; `again` if it will be tried once more."""

    def finished(self) -> None:
        """Nothing more is trained."""


@dataclass
class Result:
    """What a run did: how many trials it found done, how the others ended, how many were not started and why."""

    held: int
    counts: Counter[str] = field(default_factory=Counter)
    left: int = 0
    stopped: str | None = None
    interrupted: bool = False

    @property
    def failures(self) -> int:
        """Trials of this run that ended without a result."""
        return sum(count for status, count in self.counts.items() if status not in FINAL and status != "interrupted")


def cached_hash(cache: Path) -> Callable[[TrialConfig], str]:
    """The hash of a config's data set, which is decoded into `cache` if it is not there yet."""
    return lambda config: DOMAINS[config.domain].load(config.data, cache).hash


def plan_record(plan: Plan, command: str) -> dict[str, Any]:
    """plan.json: what a report needs to know of a sweep beside its rows."""
    spec = plan.spec
    headlines = {(task.metric, task.direction) for task in (arm.config.task() for arm in plan.arms)}
    # Arms of several domains have only their loss in common.
    metric, direction = headlines.pop() if len(headlines) == 1 else ("loss", "min")
    return {
        "schema": SCHEMA_VERSION,
        "name": spec.name,
        "profile": spec.profile,
        "question": spec.question,
        "file": spec.source,
        "command": command,
        "metric": {"name": metric, "direction": direction},
        "axes": {path: [value.label for value in values] for path, values in spec.axes.items()},
        "seeds": list(spec.seeds),
        "claims": [claim.model_dump() for claim in spec.claims],
        "match": spec.match.model_dump() if spec.match else None,
        "arms": [
            {
                "arm": arm.id,
                "values": arm.values,
                "label": arm.label,
                "n_params": arm.n_params,
                "matched": {"path": arm.matched.path, "value": arm.matched.value} if arm.matched else None,
            }
            for arm in plan.arms
        ],
        "dropped": [{"label": arm.label, "reason": arm.reason} for arm in plan.dropped],
        "trials": [{"key": trial.key, "arm": trial.arm.id, "seed": trial.seed} for trial in plan.trials],
    }


def figure_names(task: Task) -> list[str]:
    """The metric columns of a trial of this task."""
    return figures(OBJECTIVES[task.output].metrics, task.further)


def row_of(trial: Trial, outcome: Outcome, sweep: str, attempts: int) -> Row:
    """A trial's row in the ledger."""
    sha, dirty = git_state()
    machine = {"torch": None, "device": None, "host": None, "cvkan_version": None, "code_hash": None, **outcome.provenance}
    fixed = {
        "key": trial.key,
        "sweep": sweep,
        "arm": trial.arm.id,
        "seed": trial.seed,
        "n_params": trial.arm.n_params,
        "attempts": attempts,
        "git_sha": sha,
        "git_dirty": dirty,
        "data_hash": trial.data_hash,
        "config": json.dumps(trial.arm.config.plain(), sort_keys=True),
        # Without a zone: DuckDB needs one more package for times that have one.
        "started_utc": (datetime.fromisoformat(outcome.started) if outcome.started else datetime.now(UTC)).replace(tzinfo=None),
        **{name: getattr(outcome, name) for name in OUTCOME_COLUMNS},
        **machine,
    }
    names = figure_names(trial.arm.config.task()) + ([REACHED] if trial.arm.config.train.reach is not None else [])
    figures: dict[str, float | None] = dict.fromkeys(names)
    curve = [vars(point) for point in outcome.curve]
    return Row(fixed, dict(trial.arm.values), {**figures, **outcome.figures}, curve)


OUTCOME_COLUMNS = (
    "status", "reason", "flops", "epochs", "steps", "best_epoch", "seconds", "seconds_train", "seconds_eval", "peak_memory_mb", "pack_size",
)  # fmt: skip


class Driver:
    """Runs one plan into one ledger through the backend that `connect` starts, if there is anything to train."""

    def __init__(self, plan: Plan, ledger: Ledger, connect: Callable[[], Backend], view: View, cache: Path) -> None:
        self.plan = plan
        self.ledger = ledger
        self.connect = connect
        self.view = view
        self.cache = cache
        self.trials = {trial.key: trial for trial in plan.trials}
        self.open: dict[str, Job] = {}
        self.ended: dict[str, dict[str, Outcome]] = {}
        self.again: dict[str, str] = {}
        self.rows: list[Row] = []
        self.flushed = 0.0
        self.unwritten: OSError | None = None

    def run(self, command: str) -> Result:
        """Trains what the ledger lacks. UserError if the folder is held by another driver or cannot be written."""
        with self.ledger.writing():
            with self._told():
                self.ledger.merge()
                held = self.ledger.statuses()
                self.ledger.write_plan(plan_record(self.plan, command))
            waiting = [trial for trial in self.plan.trials if held.get(trial.key) not in FINAL]
            self.result = Result(held=len(self.plan.trials) - len(waiting))
            self.queue = Queue(packs(waiting, self.plan.spec.resources.pack), self.plan.spec.limits)
            if waiting:
                self._train(waiting)
                with self._told():
                    self.ledger.merge()
            self.result.counts.update(self.again.values())
            self.result.left = self.queue.left
            self.result.stopped = self.queue.stopped
        return self.result

    def _train(self, waiting: list[Trial]) -> None:
        self.backend = self.connect()
        self.view.started(self.plan, len(waiting), self.result.held)
        try:
            with self._signals():
                self.backend.run(self.queue, self._order, self._on_event)
                for key in list(self.open):
                    self._on_event(Outcome(key, "interrupted", "stopped before its end", log="stopped before its end\n"))
        finally:
            self._flush()
            self.view.finished()
            self.backend.close()
        if self.unwritten is not None:
            with self._told():
                raise self.unwritten

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A folder that cannot be written is told in a line."""
        try:
            yield
        except OSError as error:
            text = f"cannot be written: {error.strerror or error}; rows written before are kept"
            raise UserError(Problem(str(self.ledger.folder), "", text)) from None

    def _order(self, job: Job) -> Order:
        spec, arm = self.plan.spec, job.pack[0].arm
        for trial in job.pack:
            self.open[trial.key] = job
        return Order(
            config=arm.config.plain(),
            keys=[trial.key for trial in job.pack],
            seeds=[trial.seed for trial in job.pack],
            data_hash=job.pack[0].data_hash,
            folder=str(Path.cwd()),
            cache=str(self.cache),
            device=self.backend.device,
            threads=spec.resources.cpus,
            trial_time=spec.limits.trial_time,
            checkpoints=spec.checkpoints,
        )

    def _on_event(self, event: Event) -> None:
        if event.key in self.open:
            self._book(event)
        long = isinstance(event, Outcome) and event.seconds > FLUSH_EVERY_S
        if long or time.monotonic() - self.flushed > FLUSH_EVERY_S:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            self._write(lambda: self.ledger.append(self.rows))
        self.rows, self.flushed = [], time.monotonic()

    def _write(self, write: Callable[[], None]) -> None:
        """Writes; a disk that does not take it ends the sweep, outside the backend, which would wrap the error."""
        try:
            write()
        except OSError as error:
            self.unwritten = self.unwritten or error
            self.queue.interrupt("results cannot be written")

    def _book(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.view.progress(self.trials[event.key], event)
            return
        job = self.open[event.key]
        outcomes = self.ended.setdefault(job.pack[0].key, {})
        outcomes.setdefault(event.key, event)  # a worker that dies later takes nothing back
        if len(outcomes) == len(job.pack):
            self._settle(job, self.ended.pop(job.pack[0].key))

    def _settle(self, job: Job, outcomes: dict[str, Outcome]) -> None:
        statuses = [outcomes[trial.key].status for trial in job.pack]
        for trial, again in zip(job.pack, self.queue.settle(job, statuses), strict=True):
            outcome = outcomes[trial.key]
            del self.open[trial.key]
            # Files first: a row never names a checkpoint or a log that is not there. A trial that will be tried again
            # has a row too, which the next one replaces: nothing may come of the next one.
            self._write(functools.partial(self.ledger.write_files, trial.key, outcome.log, outcome.checkpoints))
            self.rows.append(row_of(trial, outcome, self.plan.spec.name, job.attempt))
            self.again.pop(trial.key, None)
            if again:
                self.again[trial.key] = outcome.status
            else:
                self.result.counts[outcome.status] += 1
            self.view.ended(trial, outcome, again)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the trials in training and writes what is done; the second ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.result.interrupted:
                self.view.finished()
                os._exit(130)
            self.result.interrupted = True
            self.queue.interrupt("interrupted")

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
