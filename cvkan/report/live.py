"""What people see while a sweep runs: a live table on a terminal, at most a line a minute in a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cvkan.orchestrator.plan import Plan, Trial
from cvkan.orchestrator.worker import Outcome
from cvkan.orchestrator.worker import Progress as EpochEnd

SHOWN = 12
"""Running trials that the live table shows."""
LINE_EVERY_S = 60.0


class Tally:
    """Counts of ended trials, the failures among them, and the best validation figure seen."""

    def __init__(self, metric: str, direction: str) -> None:
        self.metric = metric
        self.sign = 1.0 if direction == "max" else -1.0
        self.counts: Counter[str] = Counter()
        self.best: tuple[float, str] | None = None

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Books an ended trial."""
        self.counts[outcome.status] += 1
        value = outcome.figures.get(f"best_val_{self.metric}")
        if value is not None and (self.best is None or self.sign * value > self.sign * self.best[0]):
            self.best = (value, f"{trial.arm.label} seed={trial.seed}")

    def text(self) -> str:
        """ "12 completed, 1 failed; best val accuracy 0.953 (n_layers=2 seed=1)"."""
        parts = ", ".join(f"{count} {status}" for status, count in self.counts.most_common()) or "none ended yet"
        best = f"; best val {self.metric} {self.best[0]:.4g} ({self.best[1]})" if self.best else ""
        return parts + best


class LineView:
    """For pipes and logs: where the sweep stands, at most once a minute; every failure at once."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.write = write
        self.clock = clock

    def started(self, plan: Plan, waiting: int, held: int) -> None:
        task = plan.arms[0].config.task()
        self.tally = Tally(task.metric, task.direction)
        self.waiting = waiting
        self.begun = self.last = self.clock()
        self.write(f"{plan.spec.folder}: {waiting} trials to train, {held} already in the ledger")

    def progress(self, trial: Trial, event: EpochEnd) -> None:
        self._line()

    def ended(self, trial: Trial, outcome: Outcome, again: bool) -> None:
        if outcome.status not in ("completed", "stopped"):
            retry = "; trying again" if again else ""
            self.write(f"{outcome.status}: {trial.arm.label} seed={trial.seed} ({trial.key}): {outcome.reason}{retry}")
        if not again:
            self.tally.add(trial, outcome)
        self._line()

    def _line(self) -> None:
        if self.clock() - self.last >= LINE_EVERY_S:
            self.last = self.clock()
            done = sum(self.tally.counts.values())
            self.write(f"{done} of {self.waiting} trials after {(self.last - self.begun) / 60:.0f} min: {self.tally.text()}")

    def finished(self) -> None:
        done = sum(self.tally.counts.values())
        self.write(f"{done} of {self.waiting} trials in {self.clock() - self.begun:.0f} s: {self.tally.text()}")


class LiveView:
    """For terminals: a progress bar, the running trials with their newest figures, counts, the last failures."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.running: dict[str, tuple[Trial, EpochEnd]] = {}
        self.failures: list[str] = []

    def started(self, plan: Plan, waiting: int, held: int) -> None:
        task = plan.arms[0].config.task()
        self.metric = task.metric
        self.tally = Tally(task.metric, task.direction)
        self.held = held
        self.bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self.task: TaskID = self.bar.add_task(plan.spec.folder, total=waiting)
        self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True)
        self.live.start()

    def progress(self, trial: Trial, event: EpochEnd) -> None:
        self.running[trial.key] = (trial, event)

    def ended(self, trial: Trial, outcome: Outcome, again: bool) -> None:
        self.running.pop(trial.key, None)
        if outcome.status not in ("completed", "stopped"):
            retry = "; trying again" if again else ""
            self.failures.append(f"{outcome.status}: {trial.arm.label} seed={trial.seed}: {outcome.reason}{retry}")
        if not again:
            self.tally.add(trial, outcome)
            self.bar.advance(self.task)

    def render(self) -> RenderableType:
        """The view as it stands."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("running", "epoch", "train loss", f"val {self.metric}"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True, overflow="ellipsis")
        running = list(self.running.values())
        for trial, event in running[:SHOWN]:
            figures = {f"{point.split}_{point.metric}": point.value for point in event.points}
            numbers = (figures.get("train_loss"), figures.get(f"val_{self.metric}"))
            shown = ["" if value is None else f"{value:.4f}" for value in numbers]
            table.add_row(Text(f"{trial.arm.label} seed={trial.seed}"), f"{event.epoch}/{event.epochs}", *shown)
        lines: list[RenderableType] = [self.bar, Text(self.tally.text()), table]
        if len(running) > SHOWN:
            lines.append(Text(f"and {len(running) - SHOWN} more"))
        lines += [Text(failure, style="red") for failure in self.failures[-3:]]
        return Group(*lines)

    def finished(self) -> None:
        self.live.stop()
        for failure in self.failures:
            self.console.print(Text(failure, style="red"))


class EpochView:
    """For one trial: a line an epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def started(self, plan: Plan, waiting: int, held: int) -> None:
        arm = plan.arms[0]
        self.console.print(Text(f"{arm.config.model.identity()['name']}, {arm.n_params:,} parameters, seed {plan.trials[0].seed}"))

    def progress(self, trial: Trial, event: EpochEnd) -> None:
        figures = "  ".join(f"{point.split} {point.metric} {point.value:.4f}" for point in event.points)
        self.console.print(Text(f"epoch {event.epoch}/{event.epochs}  {figures}"))

    def ended(self, trial: Trial, outcome: Outcome, again: bool) -> None:
        reason = f": {outcome.reason}" if outcome.reason else ""
        self.console.print(Text(f"{outcome.status}{reason} after {outcome.seconds:.1f} s"))
        for name, value in outcome.figures.items():
            if name.startswith("test_"):
                self.console.print(Text(f"{name.replace('_', ' ')} {value:.4f} (weights of epoch {outcome.best_epoch})"))

    def finished(self) -> None:
        """Nothing: every line is out."""
