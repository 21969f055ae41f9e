"""A sweep from file to ledger through the in-process backend: what is trained, what is skipped, what failures leave."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from cvkan.errors import UserError
from cvkan.models import MODELS
from cvkan.orchestrator.checkpoint import from_bytes
from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.local_backend import LocalBackend
from cvkan.orchestrator.plan import Plan, make_plan
from cvkan.orchestrator.run import Driver, Result, cached_hash
from cvkan.orchestrator.sweep import sweep_from
from cvkan.report.live import LineView

SWEEP = """
name: tiny
question: Is it run?
trial:
  data: {name: digits, n_train: 200, n_test: 60}
  model: {name: cv_kan, d_complex: 8, n_layers: 1, kan_hidden: 4}
  train: {epochs: 2, batch_size: 64}
axes:
  model.norm: [none, rms]
seeds: 2
"""
TIMINGS = ["seconds", "seconds_train", "seconds_eval", "peak_memory_mb", "started_utc"]

Sweep = Callable[..., Result]


class Bench:
    """Plans and runs sweeps in a folder of a test's own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.lines: list[str] = []

    def plan(self, *sets: str, text: str = SWEEP, seeds: str | None = None) -> Plan:
        return make_plan(sweep_from(parse(text, "tiny.yaml"), "tiny.yaml", None, sets, seeds), cached_hash(self.cache))

    def run(self, *sets: str, text: str = SWEEP, seeds: str | None = None) -> Result:
        view = LineView(self.lines.append)
        return Driver(self.plan(*sets, text=text, seeds=seeds), self.ledger, lambda: LocalBackend("cpu"), view, self.cache).run(
            "cvkan sweep"
        )

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "tiny")

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        return list(zip(*(self.ledger.trials()[column].to_pylist() for column in columns), strict=True))


@pytest.fixture
def bench(tmp_path: Path, cache_dir: Path) -> Bench:
    return Bench(tmp_path, cache_dir)


@pytest.fixture(autouse=True)
def determinism() -> Iterator[None]:
    """The worker sets determinism for its process; the tests' process gets its own back."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def without_timings(table: pa.Table) -> dict[str, list[Any]]:
    return table.drop_columns(TIMINGS).to_pydict()


def test_a_sweep_leaves_a_row_a_curve_a_log_and_checkpoints_for_every_trial(bench: Bench) -> None:
    result = bench.run()
    assert (result.counts["completed"], result.held, result.left, result.failures) == (4, 0, 0, 0)
    trials, curves = bench.ledger.tables()
    assert trials["status"].to_pylist() == ["completed"] * 4
    assert sorted(zip(trials["model.norm"].to_pylist(), trials["seed"].to_pylist(), strict=True)) == [
        ("none", 0), ("none", 1), ("rms", 0), ("rms", 1),
    ]  # fmt: skip
    for name in ("test_accuracy", "test_loss", "best_val_accuracy", "last_val_loss", "last_train_loss", "flops", "n_params", "steps"):
        assert all(value is not None and value >= 0 for value in trials[name].to_pylist()), name
    assert len(curves) == 4 * 2 * 3
    for key in trials["key"].to_pylist():
        assert "epoch 2" in bench.ledger.log_path(key).read_text()
        best = from_bytes(bench.ledger.checkpoint_path(key, "best").read_bytes())
        assert best.meta["key"] == key
        assert from_bytes(bench.ledger.checkpoint_path(key, "last").read_bytes()).part("optimizer")


def test_the_best_checkpoint_gives_the_reported_test_figures(bench: Bench) -> None:
    """Whoever loads a checkpoint elsewhere finds what the table says."""
    bench.run(seeds="1")
    plan = bench.plan(seeds="1")
    data = cached_data(bench, plan)
    for (key, accuracy), trial in zip(sorted(bench.rows("key", "test_accuracy")), sorted(plan.trials, key=lambda t: t.key), strict=True):
        model = MODELS["cv_kan"](trial.arm.config.model, data.task)
        model.load_state_dict(from_bytes(bench.ledger.checkpoint_path(key, "best").read_bytes()).part("model"))
        with torch.no_grad():
            scores = model.eval()(data.encode(data.test.x[:])).scores
        assert (scores.argmax(-1) == data.test.y).double().mean().item() == pytest.approx(accuracy)


def cached_data(bench: Bench, plan: Plan) -> Any:
    from cvkan.domains import DOMAINS

    return DOMAINS["image"].load(plan.arms[0].config.data, bench.cache)


def test_a_finished_sweep_trains_nothing_and_does_not_even_start_a_backend(bench: Bench) -> None:
    bench.run()
    before = (bench.folder / "tiny" / "trials.parquet").read_bytes()

    def connect() -> LocalBackend:
        raise AssertionError("a backend was started")

    result = Driver(bench.plan(), bench.ledger, connect, LineView(bench.lines.append), bench.cache).run("again")
    assert (result.held, result.counts.total()) == (4, 0)
    assert (bench.folder / "tiny" / "trials.parquet").read_bytes() == before


def test_more_seeds_and_axis_values_train_only_what_is_new(bench: Bench) -> None:
    bench.run()
    old = dict(bench.rows("key", "started_utc"))
    result = bench.run("axes.model.norm=[none, rms, layer]", seeds="3")
    assert (result.held, result.counts["completed"]) == (4, 5)
    new = dict(bench.rows("key", "started_utc"))
    assert {key: new[key] for key in old} == old
    assert len(new) == 9


def test_the_order_of_training_does_not_change_the_rows(tmp_path: Path, cache_dir: Path) -> None:
    """A trial is determined by its settings, data and seed: alone, in another order, in a pack, the same row and curve."""
    tables = []
    for name, sets in (("a", ()), ("b", ("axes.model.norm=[rms, none]",)), ("c", ("resources.pack=2",))):
        other = Bench(tmp_path / name, cache_dir)
        other.run(*sets)
        trials, curves = other.ledger.tables()
        tables.append((without_timings(trials.drop_columns(["pack_size"])), curves.to_pydict()))
    assert tables[0] == tables[1] == tables[2]


def test_a_diverged_trial_is_a_result_with_its_reason(bench: Bench) -> None:
    text = SWEEP.replace("{name: cv_kan, d_complex: 8, n_layers: 1, kan_hidden: 4}", "{name: mlp, d_hidden: 8}")
    text = text.replace("model.norm: [none, rms]", "optimizer.lr: [1.0e-3, 1.0e+35]").replace("train: {", "train: {grad_clip: null, ")
    text = text.replace("axes:", "  optimizer: {name: sgd}\naxes:")
    result = bench.run(text=text)
    assert result.failures == 0
    found = {(lr, status) for lr, status in bench.rows("optimizer.lr", "status")}
    assert found == {(1e-3, "completed"), (1e35, "diverged")}
    reasons = [reason for reason, status in bench.rows("reason", "status") if status == "diverged"]
    assert all("not finite" in reason for reason in reasons)
    assert bench.run(text=text).held == 4


@pytest.fixture
def broken_norm(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the norm `rms` raise while it trains."""

    def install(error: BaseException) -> None:
        from cvkan.models import norms

        class Broken(norms.NORMS["rms"]):  # type: ignore[misc, name-defined]
            def forward(self, *arguments: Any) -> Any:
                if self.training and not any(parameter.is_meta for parameter in self.parameters()):
                    raise error
                return super().forward(*arguments)

        monkeypatch.setitem(norms.NORMS, "rms", Broken)

    return install


@pytest.mark.parametrize(
    ("error", "status", "attempts"),
    [
        (RuntimeError("boom <b>"), "failed", 2),
        (torch.OutOfMemoryError("no memory"), "out_of_memory", 1),
        (MemoryError(), "out_of_memory", 1),
    ],
)
def test_a_failure_is_a_row_with_a_reason_and_a_log(bench: Bench, broken_norm: Any, error: Exception, status: str, attempts: int) -> None:
    with pytest.MonkeyPatch.context():
        broken_norm(error)
        result = bench.run()
    assert result.counts == {"completed": 2, status: 2}
    assert result.failures == 2
    for key, norm, found, tried, reason in bench.rows("key", "model.norm", "status", "attempts", "reason"):
        assert found == ("completed" if norm == "none" else status)
        if norm == "rms":
            assert tried == attempts
            assert "\n" not in reason
            assert "Traceback" in bench.ledger.log_path(key).read_text()
    assert any(status in line for line in bench.lines)


def test_failed_trials_are_trained_by_the_next_run(bench: Bench, broken_norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        from cvkan.models import norms

        broken_norm(RuntimeError("boom"))
        broken = norms.NORMS["rms"]
        patch.setitem(norms.NORMS, "rms", broken)
        assert bench.run().failures == 2
    monkeypatch.undo()
    result = bench.run()
    assert (result.held, result.counts["completed"], result.failures) == (2, 2, 0)
    assert {status for (status,) in bench.rows("status")} == {"completed"}
    assert len(bench.rows("key")) == 4


def test_failures_in_a_row_stop_the_sweep(bench: Bench, broken_norm: Any) -> None:
    broken_norm(RuntimeError("boom"))
    result = bench.run("axes.model.norm=[rms]", "limits.stop_after_failures=3", "limits.retries=0", seeds="10")
    assert result.counts["failed"] == 3
    assert result.left == 7
    assert "failures in a row" in str(result.stopped)


def test_a_failure_in_a_pack_ends_its_own_trial_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed raises in its second epoch: the other seeds of the pack keep their results and whole curves."""
    from cvkan.orchestrator.learner import Learner

    advance = Learner.advance

    def failing(self: Learner, member: Any, *arguments: Any) -> Any:
        if member.seed == 1 and member.epoch == 1:
            raise RuntimeError("boom")
        return advance(self, member, *arguments)

    monkeypatch.setattr(Learner, "advance", failing)
    result = bench.run("resources.pack=3", "limits.retries=0", "axes.model.norm=[none]", seeds="3")
    assert result.counts == {"completed": 2, "failed": 1}
    assert sorted(bench.rows("seed", "status", "epochs")) == [(0, "completed", 2), (1, "failed", 1), (2, "completed", 2)]
    trials, curves = bench.ledger.tables()
    assert sorted(curves["key"].to_pylist().count(key) for key in trials["key"].to_pylist()) == [3, 6, 6]


def test_a_pack_has_the_time_of_its_trials_together(bench: Bench) -> None:
    seconds = max(value for (value,) in (bench.run(seeds="1"), bench.rows("seconds"))[1])
    other = Bench(bench.folder / "pack", bench.cache)
    result = other.run("resources.pack=8", f"limits.trial_time={seconds * 6:.1f}s", seeds="8")
    assert result.counts == {"completed": 16}


def test_a_worker_that_dies_after_part_of_a_pack_takes_no_result_back(bench: Bench) -> None:
    from cvkan.orchestrator.worker import Outcome, train

    class Dying:
        """Trains packs, and loses its process before the last outcome of the first one is told."""

        device = "cpu"

        def run(self, queue: Any, order: Any, on_event: Any) -> None:
            first = True
            while (job := queue.next()) is not None:
                events = list(train(order(job), lambda: False))
                for event in events[:-1] if first else events:
                    on_event(event)
                for trial in job.pack if first else ():
                    on_event(Outcome(trial.key, "lost", "worker lost"))
                first = False

        def close(self) -> None:
            """Nothing is held."""

    driver = Driver(bench.plan("resources.pack=2"), bench.ledger, Dying, LineView(bench.lines.append), bench.cache)
    result = driver.run("x")
    assert result.counts == {"completed": 4}
    assert sorted(bench.rows("attempts")) == [(1,), (1,), (1,), (2,)]


def test_a_trial_that_waits_to_be_tried_again_has_a_row_when_the_sweep_stops(bench: Bench, broken_norm: Any) -> None:
    broken_norm(RuntimeError("boom"))
    lines: list[str] = []

    class Interrupting(LineView):
        def ended(self, trial: Any, outcome: Any, again: bool) -> None:
            super().ended(trial, outcome, again)
            if again:
                signal.raise_signal(signal.SIGINT)

    driver = Driver(bench.plan(), bench.ledger, lambda: LocalBackend("cpu"), Interrupting(lines.append), bench.cache)
    result = driver.run("x")
    assert result.counts["failed"] == 1
    failed = [key for key, status in bench.rows("key", "status") if status == "failed"]
    assert len(failed) == 1
    assert "boom" in bench.ledger.log_path(failed[0]).read_text()


def test_images_that_the_default_model_could_not_take(bench: Bench) -> None:
    """A worker opens the data of its own trial; the default model's patches do not divide 15 pixels."""
    for name, colour in (("cat", 10), ("dog", 200)):
        (bench.folder / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (15, 15), (colour, number, 0)).save(bench.folder / "pictures" / name / f"{number}.png")
    data = f"data={{name: folder, path: '{bench.folder / 'pictures'}', image_size: 15}}"
    text = SWEEP.replace("  data: {name: digits, n_train: 200, n_test: 60}\n", "").replace("batch_size: 64", "batch_size: 8")
    result = bench.run(data, "model.patch_size=5", "model.embedding=linear", text=text, seeds="1")
    assert result.counts == {"completed": 2}


def test_other_data_than_planned_is_not_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    order = Driver._order
    monkeypatch.setattr(Driver, "_order", lambda self, job: replace(order(self, job), data_hash="0" * 64))
    result = bench.run("limits.retries=0", seeds="1")
    assert result.counts == {"failed": 2}
    assert all("not the one that was planned" in reason for (reason,) in bench.rows("reason"))


def test_a_trial_that_takes_too_long_is_timed_out(bench: Bench) -> None:
    result = bench.run("limits.trial_time=0.5s", "train.epochs=100000", seeds="1")
    assert result.counts == {"timed_out": 2}
    assert all("trial_time" in reason for (reason,) in bench.rows("reason"))


def test_an_interrupt_writes_what_is_done_and_the_next_run_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    class Interrupting(LineView):
        def ended(self, trial: Any, outcome: Any, again: bool) -> None:
            super().ended(trial, outcome, again)
            if outcome.status == "completed":
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = Driver(bench.plan(), bench.ledger, lambda: LocalBackend("cpu"), Interrupting(lines.append), bench.cache).run("x")
    assert signal.getsignal(signal.SIGINT) is before
    assert result.interrupted
    assert result.counts["completed"] == 1
    assert bench.run().counts["completed"] == 3
    assert {status for (status,) in bench.rows("status")} == {"completed"}


def test_checkpoints_are_kept_as_asked(bench: Bench) -> None:
    bench.run("checkpoints=best", seeds="1")
    assert {path.name for path in (bench.folder / "tiny" / "checkpoints").rglob("*.safetensors")} == {"best.safetensors"}
    other = Bench(bench.folder / "none", bench.cache)
    other.run("checkpoints=none", seeds="1")
    assert not (other.folder / "tiny" / "checkpoints").exists()


def test_a_results_folder_that_cannot_be_written(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    bench.folder = bench.folder / "file"
    with pytest.raises(UserError, match="cannot be written"):
        bench.run()


def test_a_disk_that_fills_up_ends_the_sweep_with_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(UserError, match="No space left on device"):
        bench.run()


def test_the_plan_on_disk_tells_a_report_what_it_needs(bench: Bench) -> None:
    bench.run("match={to: 3000, within: 0.2}", seeds="1")
    plan = bench.ledger.read_plan()
    assert plan["axes"] == {"model.norm": ["none", "rms"]}
    assert plan["metric"] == {"name": "accuracy", "direction": "max"}
    assert {arm["matched"]["path"] for arm in plan["arms"]} == {"model.d_complex"}
    assert {trial["key"] for trial in plan["trials"]} == {key for (key,) in bench.rows("key")}
