"""Trains one pack in this process and yields what happens. Both backends run this; it writes no file."""

from __future__ import annotations

import json
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cvkan.domains import DOMAINS
from cvkan.domains.task import Data
from cvkan.errors import DataError
from cvkan.models import build
from cvkan.orchestrator.learner import Learner, Member, Point
from cvkan.orchestrator.spec import config_of
from cvkan.provenance import code_hash, machine


@dataclass(frozen=True)
class Order:
    """What a worker is asked to train: one arm, the keys and seeds of its trials, and what it may use."""

    config: dict[str, Any]
    keys: list[str]
    seeds: list[int]
    data_hash: str
    """Of the data set that the keys stand for; a worker that finds other data refuses to train."""
    folder: str
    """Where relative paths in the settings start: the driver's working folder."""
    cache: str
    device: str
    threads: int
    trial_time: float | None
    checkpoints: str


@dataclass(frozen=True)
class Progress:
    """A trial has ended an epoch."""

    key: str
    epoch: int
    epochs: int
    points: list[Point]


@dataclass(frozen=True)
class Outcome:
    """A trial has ended, whatever became of it."""

    key: str
    status: str
    reason: str | None
    epochs: int = 0
    steps: int = 0
    best_epoch: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    peak_memory_mb: float | None = None
    flops: int | None = None
    pack_size: int = 1
    started: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    log: str = ""
    checkpoints: dict[str, bytes] = field(default_factory=dict)


Event = Progress | Outcome


class Interrupted(Exception):
    """The sweep is being stopped."""


class TimedOut(Exception):
    """A trial has used up limits.trial_time."""


def status_of(error: BaseException) -> tuple[str, str]:
    """Status and one-line reason of a trial that ended by an exception. The only place where the two meet."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, Interrupted):
        return "interrupted", "stopped before its end"
    if isinstance(error, TimedOut):
        return "timed_out", text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out_of_memory", text[:200]
    return "failed", f"{type(error).__name__}: {text}"[:300]


@lru_cache(maxsize=4)
def _data(domain: str, data: str, cache: str) -> Data:
    """A decoded data set; kept, so that a warm worker opens it once."""
    values = json.loads(data)
    settings = DOMAINS[domain].DATA_SETS[values["name"]].Settings.model_validate(values)
    return DOMAINS[domain].load(settings, Path(cache))


@lru_cache(maxsize=64)
def _flops(config: str) -> int:
    """Floating-point operations of one example's forward pass in matrix products, convolutions and attention (2 per multiply-add)."""
    settings = config_of(json.loads(config))
    task = settings.task()
    with torch.device("meta"):
        model = build(settings.model.identity()["name"], settings.model, task).eval().to("meta")
        x = torch.zeros(1, *task.shape, dtype=torch.long if task.input == "tokens" else torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return int(counter.get_total_flops())


def prepare_process(order: Order) -> None:
    """Folder, thread count and determinism of this process; called before the first tensor of a trial."""
    if os.path.isdir(order.folder):  # another node of a cluster may not have it; absolute paths serve there
        os.chdir(order.folder)
    torch.set_num_threads(order.threads)
    if order.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in convolutions as in linear layers


def train(order: Order, interrupted: Callable[[], bool]) -> Iterator[Event]:
    """Trains a pack: a Progress after every epoch of a trial, an Outcome for each trial at the end of it."""
    run = _Run(order, interrupted)
    try:
        prepare_process(order)
        yield from run.events()
    except Exception as error:
        yield from run.broken(error)


class _Run:
    """The state of one pack in training."""

    def __init__(self, order: Order, interrupted: Callable[[], bool]) -> None:
        self.order = order
        self.interrupted = interrupted
        self.device = torch.device(order.device)
        self.began = time.monotonic()
        self.started = datetime.now(UTC).isoformat()
        code_hash()  # of the code as it is imported, not as it lies there when the trial ends
        self.provenance: dict[str, str] = {}
        self.learner: Learner | None = None
        self.curves: dict[str, list[Point]] = {key: [] for key in order.keys}
        self.log: dict[str, list[str]] = {
            key: [f"{self.started} trial {key} seed {seed}", json.dumps(order.config, indent=1)]
            for key, seed in zip(order.keys, order.seeds, strict=True)
        }
        self.ended: set[str] = set()

    def tick(self) -> None:
        """Called before every update and every batch of an evaluation."""
        if self.interrupted():
            raise Interrupted
        limit = self.order.trial_time
        if limit is not None and time.monotonic() - self.began > limit * len(self.order.keys):
            raise TimedOut(f"limits.trial_time ({limit:g} s) is over")

    def events(self) -> Iterator[Event]:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what an earlier pack left would be missing to those who share the GPU
            torch.cuda.reset_peak_memory_stats(self.device)
        self.provenance = machine(self.device)
        self.tick()
        config = config_of(self.order.config)
        data = _data(config.domain, json.dumps(self.order.config["data"]), self.order.cache)
        if data.hash != self.order.data_hash:
            raise DataError(f"the data set here (hash {data.hash[:16]}) is not the one that was planned ({self.order.data_hash[:16]})")
        self.learner = Learner(config, self.order.seeds, data, self.device)
        while len(self.ended) < len(self.order.keys):
            for key, member in zip(self.order.keys, self.learner.members, strict=True):
                if key not in self.ended:
                    yield from self._advance(key, member, config.train.epochs)

    def _advance(self, key: str, member: Member, epochs: int) -> Iterator[Event]:
        """An epoch of one trial. What it raises ends this trial alone, unless it concerns the whole process."""
        assert self.learner is not None
        try:
            yield self._progress(key, member, self.learner.advance(member, self.tick), epochs)
            if member.done:
                yield self._finished(key, member)
        except Exception as error:
            if status_of(error)[0] != "failed":
                raise
            yield self._failed(key, member, error)

    def _progress(self, key: str, member: Member, points: list[Point], epochs: int) -> Progress:
        self.curves[key] += points
        figures = " ".join(f"{point.split}_{point.metric}={point.value:.5g}" for point in points)
        self.log[key].append(f"epoch {member.epoch} step {member.step} {figures}")
        return Progress(key, member.epoch, epochs, points)

    def _finished(self, key: str, member: Member) -> Outcome:
        assert self.learner is not None
        about = {"key": key, "seed": member.seed, "config": self.order.config}
        checkpoints = {}
        if self.order.checkpoints != "none" and member.best:
            checkpoints["best"] = self.learner.best(member, about).to_bytes()
        if self.order.checkpoints == "both":
            checkpoints["last"] = self.learner.last(member, about).to_bytes()
        if member.diverged is None:
            member.figures |= self.learner.test(member, self.tick)
            return self._outcome(key, "completed", None, member, checkpoints)
        return self._outcome(key, "diverged", member.diverged, member, checkpoints)

    def _outcome(self, key: str, status: str, reason: str | None, member: Member | None, checkpoints: dict[str, bytes]) -> Outcome:
        self.ended.add(key)
        size = len(self.order.keys)
        self.log[key].append(f"{datetime.now(UTC).isoformat()} {status}{f': {reason}' if reason else ''}")
        return Outcome(
            key=key,
            status=status,
            reason=reason,
            epochs=member.epoch if member else 0,
            steps=member.step if member else 0,
            best_epoch=member.best_epoch if member and member.best else None,
            figures=dict(member.figures) if member else {},
            seconds=(time.monotonic() - self.began) / size,
            seconds_train=member.seconds_train if member else 0.0,
            seconds_eval=member.seconds_eval if member else 0.0,
            peak_memory_mb=self._peak_memory(),
            flops=self._flops_or_none(),
            pack_size=size,
            started=self.started,
            provenance=self.provenance,
            curve=self.curves[key],
            log="\n".join(self.log[key]) + "\n",
            checkpoints=checkpoints,
        )

    def broken(self, error: Exception) -> Iterator[Outcome]:
        """Outcomes of the trials that an exception ended. The log holds the traceback of a failure."""
        members = self.learner.members if self.learner else [None] * len(self.order.keys)
        for key, member in zip(self.order.keys, members, strict=True):
            if key not in self.ended:
                yield self._failed(key, member, error)

    def _failed(self, key: str, member: Member | None, error: Exception) -> Outcome:
        status, reason = status_of(error)
        if status in ("failed", "out_of_memory"):
            self.log[key].append("".join(traceback.format_exception(error)))
        return self._outcome(key, status, reason, member, {})

    def _flops_or_none(self) -> int | None:
        config = {part: self.order.config[part] for part in ("domain", "data", "model")}
        return _flops(json.dumps(config, sort_keys=True)) if self.learner is not None else None

    def _peak_memory(self) -> float:
        """On a GPU the pack's peak; on a CPU the peak of the whole process so far (MB)."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def event_to_plain(event: Event) -> dict[str, Any]:
    """The event as plain values, to travel between processes."""
    return {"kind": type(event).__name__, **asdict(event)}


def event_from_plain(plain: dict[str, Any]) -> Event:
    """Reads what `event_to_plain` wrote."""
    values = dict(plain)
    kind = values.pop("kind")
    points = "points" if kind == "Progress" else "curve"
    values[points] = [Point(**point) for point in values[points]]
    return Progress(**values) if kind == "Progress" else Outcome(**values)
