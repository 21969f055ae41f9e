"""The command on a real Ray: the same rows as in process, and what kills, signals and lost workers leave behind.

Each test starts the command as its own process, as a user does; Ray takes seconds to start, so there are few of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from cvkan.orchestrator.ledger import Ledger

CVKAN = str(Path(sys.executable).with_name("cvkan"))
TIMINGS = ["seconds", "seconds_train", "seconds_eval", "peak_memory_mb", "started_utc"]
SWEEP = """
name: tiny
trial:
  data: {name: digits, n_train: 200, n_test: 60}
  model: {name: cv_kan, d_complex: 8, n_layers: 1, kan_hidden: 4}
  train: {epochs: EPOCHS, batch_size: 64}
axes:
  model.norm: [none, rms]
seeds: 4
"""


class Command:
    """A running `cvkan sweep`."""

    def __init__(self, folder: Path, cache: Path, epochs: int, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        file = folder / "tiny.yaml"
        file.write_text(SWEEP.replace("EPOCHS", str(epochs)))
        self.folder = folder / "results" / "tiny"
        words = [CVKAN, "sweep", str(file), "--results", str(folder / "results"), "--cache", str(cache), *options]
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            # A shell's background jobs ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.seen: dict[int, psutil.Process] = {}

    def children(self) -> list[psutil.Process]:
        """Processes that the command has started and that live."""
        if self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[process.pid] = process
        return [process for process in self.seen.values() if alive(process)]

    def workers(self) -> list[psutil.Process]:
        """Processes that train."""
        return [process for process in self.children() if "Trainable" in title(process)]

    def finished(self, timeout: float = 120) -> str:
        """Waits for the end; all that was printed."""
        text, _ = self.process.communicate(timeout=timeout)
        return text

    def rows(self) -> dict[str, list[Any]]:
        """The ledger's rows without what depends on the clock."""
        return Ledger(self.folder).trials().drop_columns(TIMINGS).to_pydict()


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    """Waits until `what` is true; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.fixture
def start(tmp_path: Path, cache_dir: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands; ends those that still run."""
    commands: list[Command] = []

    def begin(name: str, epochs: int, *options: str) -> Command:
        commands.append(Command(tmp_path / name, cache_dir, epochs, *options))
        return commands[-1]

    yield begin
    for command in commands:
        for process in command.children():
            process.kill()
        command.process.kill()
        command.process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[int, Command]:
    """The same sweeps, in process and left alone, by their epochs."""
    commands = {}
    for epochs in (3, 80):
        command = Command(tmp_path_factory.mktemp("undisturbed"), cache_dir, epochs, "--local")
        text = command.finished()
        assert command.process.returncode == 0, text
        commands[epochs] = command
    return commands


def test_ray_gives_the_rows_of_the_in_process_backend(start: Callable[..., Command], undisturbed: dict[int, Command]) -> None:
    command = start("ray", 3)
    text = command.finished()
    assert command.process.returncode == 0, text
    assert "Ray dashboard: http://127.0.0.1:" in text
    assert "8 of 8 trials" in text
    assert command.rows() == undisturbed[3].rows()
    curves = [pq.read_table(each.folder / "curves.parquet").to_pydict() for each in (command, undisturbed[3])]
    assert curves[0] == curves[1]
    assert not list((command.folder / "parts").iterdir())


def test_a_killed_worker_costs_no_trial(start: Callable[..., Command], undisturbed: dict[int, Command]) -> None:
    command = start("worker", 80, "--no-dashboard")
    wait_for(command.workers)[0].kill()
    text = command.finished()
    assert command.process.returncode == 0, text
    rows, expected = command.rows(), undisturbed[80].rows()
    assert "trying again" in text
    assert sorted(rows.pop("attempts"))[-1] == 2
    expected.pop("attempts")
    assert rows == expected


def test_an_interrupt_ends_everything_and_the_next_run_goes_on(start: Callable[..., Command], undisturbed: dict[int, Command]) -> None:
    command = start("interrupt", 80, "--no-dashboard")
    wait_for(lambda: list((command.folder / "parts").glob("*.trials")))
    command.children()
    command.process.send_signal(signal.SIGINT)
    text = command.finished()
    assert command.process.returncode == 130, text
    wait_for(lambda: not command.children(), 20)
    done = Ledger(command.folder).statuses()
    assert "completed" in done.values()
    assert len(done) <= 8
    again = Command(command.folder.parents[1], Path(command.process.args[6]), 80, "--local")  # type: ignore[index]
    assert "already in the ledger" in again.finished()
    assert again.process.returncode == 0
    assert again.rows() == undisturbed[80].rows()


def test_a_killed_driver_loses_nothing_that_was_written(start: Callable[..., Command], undisturbed: dict[int, Command]) -> None:
    command = start("driver", 80, "--no-dashboard")
    wait_for(lambda: list((command.folder / "parts").glob("*.trials")))
    command.children()
    command.process.kill()
    command.finished()
    wait_for(lambda: not command.workers(), 20)
    before = {key for key, status in Ledger(command.folder).statuses().items() if status == "completed"}
    assert before
    again = Command(command.folder.parents[1], Path(command.process.args[6]), 80, "--local")  # type: ignore[index]
    text = again.finished()
    assert f"{8 - len(before)} trials to train, {len(before)} already in the ledger" in text
    assert again.rows() == undisturbed[80].rows()
