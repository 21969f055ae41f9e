"""The training loop: one step over a pack of K >= 1 models of one arm, which differ in their seed.

The learner knows neither Ray nor files. A step does no host-device synchronisation: losses stay on the device until
the epoch ends (the loss scaler of fp16 needs one where the optimizer has no fused kernel: rmsprop, lion, adopt).
Every draw comes from a generator of the trial's own, derived from its seed, so a trial is the same curve alone, in a
pack, on a warm worker or resumed from a checkpoint.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.amp.grad_scaler import GradScaler

from cvkan.domains.objectives import OBJECTIVES, REACHED, RISING
from cvkan.domains.task import Data, Split
from cvkan.models import build
from cvkan.models.output import Output
from cvkan.models.regularisers import REGULARISERS
from cvkan.orchestrator.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    random_state,
    restore_optimizer,
    set_random_state,
)
from cvkan.orchestrator.spec import REGULARISER_WEIGHTS, TrialConfig

EVAL_BATCH = 512
EVAL_SCORES = 1 << 22
"""Scores of one batch of an evaluation, at most: long sequences over a vocabulary are evaluated fewer at a time."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Point:
    """One value of a learning curve."""

    epoch: int
    step: int
    split: str
    metric: str
    value: float


@dataclass
class Member:
    """One trial of the pack, as it stands after `epoch` epochs."""

    seed: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    order: Generator
    augment: Generator
    random: dict[str, Tensor]
    epoch: int = 0
    step: int = 0
    since_best: int = 0
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    diverged: str | None = None
    done: bool = False
    seconds_train: float = 0.0
    seconds_eval: float = 0.0


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose ("init", "order", "augment", "dropout"), so that no two share a stream."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _nothing() -> None:
    """The tick of a caller that never interrupts."""


class Learner:
    """Trains the seeds of one arm side by side, an epoch at a time."""

    def __init__(self, config: TrialConfig, seeds: Sequence[int], data: Data, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.data = data
        self.task = data.task
        self.objective = OBJECTIVES[self.task.output]
        self.penalties = {name: getattr(config.loss, name) for name in REGULARISER_WEIGHTS if getattr(config.loss, name) > 0}
        self.train_split = self._placed(data.train)
        self.validation_split = self._placed(data.validation)
        batch = config.train.batch_size
        self.batch = min(batch, len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch
        self.steps = self.steps_per_epoch * config.train.epochs
        self.members = [self._member(seed) for seed in seeds]

    def _placed(self, split: Split) -> Split:
        """The split on the device if it fits into half of what is free there; else where it lies."""
        if self.device.type != "cuda":
            return split
        free, _ = torch.cuda.mem_get_info(self.device)
        if split.x.nbytes + split.y.nbytes > free // 2:
            return split
        return Split(split.x.to(self.device), split.y.to(self.device))

    def _member(self, seed: int) -> Member:
        torch.manual_seed(derive(seed, "init"))
        # Built on the CPU, so that a seed means the same weights on every device.
        model = build(self.config.model.identity()["name"], self.config.model, self.task).to(self.device)
        torch.manual_seed(derive(seed, "dropout"))
        return Member(
            seed=seed,
            model=model,
            optimizer=self.config.optimizer.build(model.parameters()),
            scaler=GradScaler(self.device.type, enabled=self.config.train.precision == "fp16"),
            order=Generator().manual_seed(derive(seed, "order")),
            augment=Generator(self.device).manual_seed(derive(seed, "augment")),
            random=random_state(self.device),
        )

    @property
    def done(self) -> bool:
        """Whether every member has ended."""
        return all(member.done for member in self.members)

    def epoch(self, tick: Callable[[], None] = _nothing) -> list[list[Point]]:
        """Trains and validates every member that has not ended, as `advance` does: each one's new points (none if it had ended)."""
        return [[] if member.done else self.advance(member, tick) for member in self.members]

    def advance(self, member: Member, tick: Callable[[], None] = _nothing) -> list[Point]:
        """Trains one member until its next evaluation (`train.eval_every` epochs), and evaluates it; its new points.

        `tick` is called before every update and every batch of an evaluation, and may raise to leave the epoch.
        """
        started = time.perf_counter()
        set_random_state(member.random, self.device)
        losses: list[float] = []
        for _ in range(min(self.config.train.eval_every, self.config.train.epochs - member.epoch)):
            losses = self._train(member, tick)
            member.epoch += 1
            if not all(map(_finite, losses)):
                break
        trained = time.perf_counter()
        points = []
        if losses:
            member.figures["last_train_loss"] = sum(losses) / len(losses)
            points.append(self._point(member, "train", "loss", member.figures["last_train_loss"]))
        bad = next((place for place, loss in enumerate(losses) if not _finite(loss)), None)
        if bad is not None:
            step = member.step - len(losses) + bad + 1
            self._diverge(member, f"the loss is not finite at step {step} (epoch {member.epoch})")
        else:
            if self.config.train.eval_train:
                fitted = self._evaluate(member.model, self.train_split, tick)
                points += [self._point(member, "fit", name, value) for name, value in fitted.items()]
            metrics = self._evaluate(member.model, self.validation_split, tick)
            points += [self._point(member, "val", name, value) for name, value in metrics.items()]
            self._judge(member, metrics)
        member.random = random_state(self.device)
        member.seconds_train += trained - started
        member.seconds_eval += time.perf_counter() - trained
        return points

    def _point(self, member: Member, split: str, metric: str, value: float) -> Point:
        return Point(member.epoch, member.step, split, metric, value)

    def _diverge(self, member: Member, reason: str) -> None:
        member.diverged, member.done = reason, True

    def _train(self, member: Member, tick: Callable[[], None]) -> list[float]:
        """One pass over the training part; the loss of every step."""
        member.model.train()
        order = torch.randperm(len(self.train_split), generator=member.order)
        order = order.to(self.train_split.x.device)
        losses = torch.empty(self.steps_per_epoch, device=self.device)
        for place in range(self.steps_per_epoch):
            tick()
            rows = order[place * self.batch : (place + 1) * self.batch]
            losses[place] = self._update(member, self.train_split.x[rows], self.train_split.y[rows])
        values: list[float] = losses.tolist()
        return values

    def _update(self, member: Member, raw: Tensor, y: Tensor) -> Tensor:
        """One step of the optimizer; the task's loss, detached."""
        x, y, mask = self._batch(raw, y)
        if self.data.augment is not None:
            x = self.data.augment(x, member.augment)
        member.optimizer.param_groups[0]["lr"] = self.config.optimizer.learning_rate(member.step, self.steps)
        member.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            output: Output = member.model(x, mask)
        loss = self.objective.loss(output.scores, y, self.config.loss.label_smoothing)
        total = loss
        for name, weight in self.penalties.items():
            assert output.tokens is not None
            total = total + weight * REGULARISERS[name](output.tokens, mask)
        member.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if self.config.train.grad_clip is not None:
            member.scaler.unscale_(member.optimizer)
            nn.utils.clip_grad_norm_(member.model.parameters(), self.config.train.grad_clip)
        member.scaler.step(member.optimizer)
        member.scaler.update()
        member.step += 1
        return loss.detach()

    def _batch(self, raw: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, targets and mask of a batch, on the device."""
        x = self.data.encode(raw.to(self.device, non_blocking=True))
        mask = None if self.task.padding is None else x != self.task.padding
        return x, y.to(self.device, non_blocking=True), mask

    def _autocast(self) -> torch.autocast:
        precision = self.config.train.precision
        return torch.autocast(self.device.type, dtype=DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES)

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, split: Split, tick: Callable[[], None]) -> dict[str, float]:
        """Each metric of a split, without augmentation."""
        model.eval()
        totals: dict[str, Tensor] = {}
        asked = torch.zeros((), dtype=torch.float64, device=self.device)
        size = max(1, min(EVAL_BATCH, EVAL_SCORES // (self.task.n_outputs * math.prod(split.y.shape[1:]))))
        for start in range(0, len(split), size):
            tick()
            x, y, mask = self._batch(split.x[start : start + size], split.y[start : start + size])
            with self._autocast():
                scores = model(x, mask).scores
            sums, count = self.objective.sums(scores, y)
            asked += count
            for name, value in sums.items():
                totals[name] = totals[name] + value if name in totals else value
        return {name: (value / asked).item() for name, value in totals.items()}

    def _judge(self, member: Member, metrics: dict[str, float]) -> None:
        """Books the validation figures: the best weights so far, early stopping, divergence, the end."""
        if not all(_finite(value) for value in metrics.values()):
            self._diverge(member, f"the validation figures are not finite after step {member.step} (epoch {member.epoch})")
            return
        sign = 1.0 if self.task.direction == "max" else -1.0
        headline = f"best_val_{self.task.metric}"
        better = headline not in member.figures or sign * metrics[self.task.metric] > sign * member.figures[headline]
        for name, value in metrics.items():
            rises = name in RISING
            known = member.figures.get(f"best_val_{name}", value)
            member.figures[f"best_val_{name}"] = max(known, value) if rises else min(known, value)
            member.figures[f"last_val_{name}"] = value
        if better:
            member.best = {name: value.detach().clone() for name, value in member.model.state_dict().items()}
            member.best_epoch, member.since_best = member.epoch, 0
        else:
            member.since_best += 1
        reach, patience = self.config.train.reach, self.config.train.patience
        if reach is not None and sign * metrics[self.task.metric] >= sign * reach:
            member.figures.setdefault(REACHED, float(member.step))
        out_of_patience = patience is not None and member.since_best >= patience
        reached = self.config.train.stop_at_reach and REACHED in member.figures
        member.done = member.epoch >= self.config.train.epochs or out_of_patience or reached

    def test(self, member: Member, tick: Callable[[], None] = _nothing) -> dict[str, float]:
        """The test figures of a member's best weights. The test part is touched here only, once a trial has ended."""
        started = time.perf_counter()
        last = {name: value.detach().clone() for name, value in member.model.state_dict().items()}
        member.model.load_state_dict(member.best)
        figures = {f"test_{name}": value for name, value in self._evaluate(member.model, self.data.test, tick).items()}
        for part, split in self.data.further.items():
            figures |= {f"test_{name}_{part}": value for name, value in self._evaluate(member.model, split, tick).items()}
        member.model.load_state_dict(last)
        member.seconds_eval += time.perf_counter() - started
        return figures

    def best(self, member: Member, about: dict[str, Any]) -> Checkpoint:
        """The best weights; `about` is kept with them."""
        return Checkpoint(prefixed("model", member.best), {**about, "kind": "best", "epoch": member.best_epoch})

    def last(self, member: Member, about: dict[str, Any]) -> Checkpoint:
        """All that is needed to go on from the end of the member's last epoch as if it had never stopped."""
        tensors, optimizer = optimizer_tensors(member.optimizer)
        counters = {name: getattr(member, name) for name in COUNTERS}
        scaler = member.scaler.state_dict()
        return Checkpoint(
            {
                **prefixed("model", member.model.state_dict()),
                **prefixed("best", member.best),
                **prefixed("optimizer", tensors),
                **prefixed("random", member.random),
                "generator/order": member.order.get_state(),
                "generator/augment": member.augment.get_state(),
            },
            {**about, "kind": "last", "optimizer": optimizer, "scaler": scaler, **counters},
        )

    def restore(self, member: Member, checkpoint: Checkpoint) -> None:
        """Puts a member where `last` found it; the rest of its curve is then bit for bit the same."""
        member.model.load_state_dict(checkpoint.part("model"))
        member.best = {name: value.to(self.device) for name, value in checkpoint.part("best").items()}
        restore_optimizer(member.optimizer, checkpoint.part("optimizer"), checkpoint.meta["optimizer"])
        if checkpoint.meta["scaler"]:
            member.scaler.load_state_dict(checkpoint.meta["scaler"])
        member.random = checkpoint.part("random")
        member.order.set_state(checkpoint.tensors["generator/order"])
        member.augment.set_state(checkpoint.tensors["generator/augment"])
        for name in COUNTERS:
            setattr(member, name, checkpoint.meta[name])


COUNTERS = ("epoch", "step", "since_best", "best_epoch", "figures", "diverged", "done", "seconds_train", "seconds_eval")


def _finite(value: float) -> bool:
    return value - value == 0.0
