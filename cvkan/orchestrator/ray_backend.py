"""The Ray Tune backend: packs on the CPUs and GPUs of this machine or a cluster. The only file that imports ray.

Tune places packs on warm workers (a class Trainable with reused actors: imports, CUDA context and data are paid once
a worker). The queue hands out the packs and the ledger keeps the results, so Tune's own files and its state are off.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Read by Ray when it is imported or started: no files of its own for each trial, no output beside ours, no state to
# restore (the ledger is the state), no change of directory, and Ctrl-C belongs to the driver.
os.environ.update(
    {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
)
if "ray" not in sys.modules and (Path.home() / ".ray" / "auth_token").exists():
    # A cluster started by `ray start` asks for the token that lies here; Ray itself sends it to its own clusters only.
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cvkan.errors import Problem, UserError
from cvkan.orchestrator.queue import Job, Queue
from cvkan.orchestrator.worker import Event, Order, Outcome, event_from_plain, event_to_plain, train

# A worker that died is told by the view, in one line; Tune would print its traceback beside it.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

REPORT_EVERY_S = 1.0
"""A worker gathers events for this long before it reports: a round trip to the driver costs about 10 ms."""


class PackTrainable(tune.Trainable):
    """Trains one pack after another in one process."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune reserves for one worker."""
        return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}])

    def setup(self, config: dict[str, Any]) -> None:
        self._sweep = config["sweep"]
        # A warm worker's name stays the same in the dashboard; which trial it trains stands in its log there.
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
        logging.getLogger(__name__).info("training %s", config["label"])
        self._events: Iterator[Event] = train(Order(**config["order"]), lambda: False)
        self._left = len(config["order"]["keys"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        deadline = time.monotonic() + REPORT_EVERY_S
        events = []
        for event in self._events:
            events.append(event_to_plain(event))
            self._left -= isinstance(event, Outcome)
            if self._left == 0 or time.monotonic() > deadline:
                break
        return {"done": self._left == 0, "events": events}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints travel to the ledger with the outcome."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def __repr__(self) -> str:
        return f"worker of {self._sweep}"


class _Packs(Searcher):
    """Hands the queue's packs to Tune. It is never pickled with its queue: Tune's state is not kept."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        self.source = source

    def suggest(self, trial_id: str) -> Any:
        job = self.source.queue.next()
        if job is None:
            # Running jobs may come back to be tried again.
            return Searcher.FINISHED if self.source.queue.finished else None
        self.source.jobs[trial_id] = job
        return {**self.source.worker, "label": self.source.label(job), "order": asdict(self.source.order(job))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback has the results."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class _Source:
    """What searcher and callback share: the queue, the jobs in training by Tune's trial id, and where events go."""

    def __init__(self, queue: Queue, order: Callable[[Job], Order], on_event: Callable[[Event], None], worker: dict[str, Any]) -> None:
        self.queue = queue
        self.order = order
        self.worker = worker
        self.on_event = on_event
        self.jobs: dict[str, Job] = {}

    def label(self, job: Job) -> str:
        """An arm and its seeds, for the dashboard."""
        return f"{job.pack[0].arm.label} seed={','.join(str(trial.seed) for trial in job.pack)}"

    def lost(self, trial_id: str, reason: str) -> None:
        """The process that trained a job is gone."""
        job = self.jobs.pop(trial_id, None)
        for trial in job.pack if job else ():
            self.on_event(Outcome(trial.key, "lost", reason, log=f"{reason}\n"))

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        """Tune pickles what it is given once, to keep it; what it keeps is never read."""
        return (object, ())


class _Events(tune.Callback):
    """Brings workers' events to the driver."""

    def __init__(self, source: _Source) -> None:
        self.source = source

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        events = result["events"]
        plain = list(events)
        events.clear()  # Tune keeps the last result of every trial; checkpoints must not stay in it.
        for event in plain:
            self.source.on_event(event_from_plain(event))
        if result["done"]:
            self.source.jobs.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        last = str(error).strip().splitlines()[0] if error is not None and str(error).strip() else "the worker died"
        self.source.lost(trial.trial_id, f"worker lost: {last}"[:300])


class _Stop(Stopper):
    """Ends the experiment when the driver has been interrupted."""

    def __init__(self, source: _Source) -> None:
        self.source = source

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.source.queue.interrupted


class RayBackend:
    """Trains on a Ray cluster: one of its own on this machine, or the one at `address`."""

    def __init__(
        self, sweep: str, cpus: int, gpus: float | str, address: str | None = None, workers: int | None = None, dashboard: bool = True
    ) -> None:
        self.sweep = sweep
        self.workers = workers
        self.cpus = cpus
        if address is not None and address.startswith("ray://"):
            text = "Tune cannot be driven through Ray's client; give auto or HOST:PORT on a machine that the cluster can reach"
            raise UserError(Problem("--address", address, text))
        try:
            context = ray.init(
                address=address or "local",
                # None: the dashboard is started where its packages are installed.
                include_dashboard=None if dashboard or address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            if address is None:
                raise UserError(Problem("", "", f"Ray does not start here: {first}; --local trains without it")) from None
            raise UserError(Problem("--address", address, f"no Ray cluster answers: {first}")) from None
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self.gpus = (1.0 if resources.get("GPU", 0) >= 1 else 0.0) if gpus == "auto" else float(gpus)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for name, asked in (("CPU", float(cpus)), ("GPU", self.gpus)):
            there = max(node["Resources"].get(name, 0.0) for node in nodes if node["Alive"])
            if asked > there:
                self.close()
                text = f"{asked:g} asked for each worker; the largest machine of this cluster has {there:g}"
                raise UserError(Problem("", f"resources.{name.lower()}s", text))
        slots = [int(resources["CPU"] // cpus), *([int(resources["GPU"] / self.gpus)] if self.gpus else [])]
        # Tune starts as many workers at a time; by itself it would start the next one only when the last one runs.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, min([*slots, *([workers] if workers else [])])))

    @property
    def device(self) -> str:
        """See `run.Backend`."""
        return "cuda" if self.gpus > 0 else "cpu"

    def run(self, queue: Queue, order: Callable[[Job], Order], on_event: Callable[[Event], None]) -> None:
        """See `run.Backend`."""
        source = _Source(queue, order, on_event, {"cpus": self.cpus, "gpus": self.gpus, "sweep": self.sweep})
        with tempfile.TemporaryDirectory(prefix="cvkan-tune-") as scratch:
            tuner = tune.Tuner(
                PackTrainable,
                tune_config=tune.TuneConfig(
                    search_alg=_Packs(source),
                    num_samples=-1,
                    reuse_actors=True,
                    max_concurrent_trials=self.workers,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    name="packs",
                    verbose=0,
                    callbacks=[_Events(source)],
                    stop=_Stop(source),
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            tuner.fit()

    def close(self) -> None:
        """Ends this cluster, or leaves the one that was joined."""
        ray.shutdown()
