"""Seconds per no-op trial: cvkan, plain Ray Tune and an Optuna loop, side by side in one run.

    python benchmarks/overhead.py [--trials 50 500] [--plain-trials 12]

A no-op trial of cvkan is a real one that trains for 0 epochs: it is placed on a warm worker, builds its
model, evaluates validation and test part, and writes row, curve, log and checkpoints to the ledger. The plain Tune
trial imports torch and reports a number; the Optuna trial asks and tells in memory. Plain Tune pays a process a
trial, so it runs fewer of them; all figures are per trial. Wall seconds are of the training alone, after Ray has
started; CPU seconds are of the driver and of all worker processes.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil

# isort: off
from cvkan.orchestrator import ray_backend  # before ray: it sets what Ray reads when it is imported
from ray import tune

# isort: on
from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.plan import make_plan
from cvkan.orchestrator.run import Driver, cached_hash
from cvkan.orchestrator.sweep import sweep_from
from cvkan.report.live import LineView

SWEEP = """
name: noop
trial:
  data: {name: digits, n_train: 100, n_validation: 40, n_test: 40}
  model: {name: mlp, d_hidden: 8, n_layers: 1}
  train: {epochs: 0, batch_size: 32}
checkpoints: best
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of a trial."""

    trials: int
    wall: float
    cpu: float


class CpuClock(threading.Thread):
    """Adds up the CPU seconds of this process and of all that it starts, also of those that end, by looking often."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[tuple[int, float], float] = {}
        self.over = threading.Event()

    def look(self) -> None:
        """Notes what every living process has used."""
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self.seen[(process.pid, process.create_time())] = times.user + times.system
            except psutil.NoSuchProcess:
                continue

    def run(self) -> None:
        while not self.over.wait(0.25):
            self.look()

    def total(self) -> float:
        """CPU seconds up to now."""
        self.look()
        return sum(self.seen.values())


def measured(trials: int, work: Callable[[], None]) -> Cost:
    """The cost per trial of `work`."""
    clock = CpuClock()
    cpu, wall = clock.total(), time.perf_counter()
    clock.start()
    work()
    wall = time.perf_counter() - wall
    clock.over.set()
    clock.join()
    cpu = clock.total() - cpu
    return Cost(trials, wall / trials, cpu / trials)


def cvkan_trials(count: int, cache: Path, connect: Callable[[], Any]) -> Cost:
    """No-op trials through the whole of cvkan, on a running Ray."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(sweep_from(parse(SWEEP, "the benchmark"), "the benchmark", seeds=str(count)), cached_hash(cache))
        driver = Driver(plan, Ledger(Path(folder) / "noop"), connect, LineView(lambda line: None), cache)
        cost = measured(count, lambda: check(driver.run("benchmark").counts["completed"], count))
    return cost


def check(found: int, wanted: int) -> None:
    """Ends the benchmark if trials are missing: a fast failure must not look like a fast run."""
    if found != wanted:
        raise SystemExit(f"{found} of {wanted} trials completed")


def plain_trial(config: dict[str, Any]) -> None:
    """A trial of plain Tune."""
    import torch

    tune.report({"score": float(torch.tensor(config["x"] * 2.0))})


def scored(tuner: tune.Tuner) -> int:
    """Runs a tuner; how many of its trials reported a score."""
    results = tuner.fit()
    return sum("score" in (results[place].metrics or {}) for place in range(len(results)))


def plain_trials(count: int) -> Cost:
    """A function trainable with Tune's defaults (its file loggers are off in this process)."""
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            plain_trial,
            param_space={"x": tune.grid_search(list(range(count)))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        return measured(count, lambda: check(scored(tuner), count))


def optuna_trials(count: int) -> Cost:
    """An Optuna loop in memory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return measured(count, lambda: study.optimize(lambda trial: trial.suggest_float("x", 0, 1) * 2, n_trials=count))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--plain-trials", type=int, default=12, help="trials of plain Tune, which takes seconds each")
    arguments = parser.parse_args()
    cache = Path(tempfile.mkdtemp(prefix="cvkan-benchmark-"))
    backend = ray_backend.RayBackend("noop", 1, 0, dashboard=False)

    class Kept:
        """The running Ray, which a driver must not end."""

        device = backend.device
        run = staticmethod(backend.run)

        def close(self) -> None:
            """Nothing."""

    rows = [("cvkan", cvkan_trials(count, cache, Kept)) for count in arguments.trials]
    rows.append(("plain Ray Tune", plain_trials(arguments.plain_trials)))
    rows += [("Optuna loop", optuna_trials(count)) for count in arguments.trials]
    backend.close()
    plain = next(cost for name, cost in rows if name == "plain Ray Tune")
    print(f"{'':16}{'trials':>8}{'wall s/trial':>14}{'CPU s/trial':>14}{'plain Tune takes':>18}")
    for name, cost in rows:
        print(f"{name:16}{cost.trials:8}{cost.wall:14.4f}{cost.cpu:14.4f}{plain.wall / cost.wall:16.1f} x")


if __name__ == "__main__":
    main()
