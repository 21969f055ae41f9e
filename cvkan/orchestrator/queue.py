"""What is still to train, in order; retries, the stop after failures in a row, and the end of a sweep. No Ray, no files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cvkan.orchestrator.plan import Trial
from cvkan.orchestrator.spec import Limits

Pack = tuple[Trial, ...]

RETRIED = frozenset({"failed", "lost"})
BAD = frozenset({"failed", "lost", "out_of_memory", "timed_out"})


@dataclass(frozen=True)
class Job:
    """A pack that a worker is to train, for the `attempt`-th time (from 1)."""

    pack: Pack
    attempt: int


class Queue:
    """Hands out packs until none are left, or until something says stop."""

    def __init__(self, packs: Sequence[Pack], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting = deque(Job(pack, 1) for pack in packs)
        self._limits = limits
        self._clock = clock
        self._started = clock()
        self._failures = 0
        self.running = 0
        self.stopped: str | None = None
        """Why no more packs are handed out, in words; None while they are."""
        self.interrupted = False
        """Whether the packs in training are to end too."""

    def stop(self, reason: str) -> None:
        """Hands out nothing more; the first reason stays."""
        self.stopped = self.stopped or reason

    def interrupt(self, reason: str) -> None:
        """Hands out nothing more and ends the packs in training."""
        self.interrupted = True
        self.stop(reason)

    def next(self) -> Job | None:
        """The next pack, or None if there is none to give now."""
        limit = self._limits.sweep_time
        if limit is not None and self._clock() - self._started > limit:
            self.stop(f"limits.sweep_time ({limit:g} s) is over")
        if self.stopped or not self._waiting:
            return None
        self.running += 1
        return self._waiting.popleft()

    @property
    def finished(self) -> bool:
        """Whether `next` will never give a pack again."""
        return self.running == 0 and (self.stopped is not None or not self._waiting)

    @property
    def left(self) -> int:
        """Trials that were never handed out."""
        return sum(len(job.pack) for job in self._waiting if job.attempt == 1)

    def settle(self, job: Job, statuses: Sequence[str]) -> list[bool]:
        """Takes back a job with the status of each trial; True for each that will be tried again."""
        self.running -= 1
        if job.attempt == 1:  # packs that fail again tell nothing new about the machine
            self._failures = self._failures + 1 if all(status in BAD for status in statuses) else 0
            if self._failures >= self._limits.stop_after_failures:
                self.stop(f"{self._failures} failures in a row (limits.stop_after_failures)")
        again = [status in RETRIED and job.attempt <= self._limits.retries and self.stopped is None for status in statuses]
        for trial in (trial for trial, retry in zip(job.pack, again, strict=True) if retry):
            self._waiting.append(Job((trial,), job.attempt + 1))
        return again
