"""The command line as people use it: its commands and options, its exit codes, and what it prints and writes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image

from cvkan import __version__, cli
from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.worker import Event, Order, train

SWEEP = """\
name: tiny
question: Is two more than one?
trial:
  data: {name: digits, n_train: 64, n_validation: 40, n_test: 40}
  model: {name: mlp, d_hidden: 4}
  train: {epochs: 1, batch_size: 32}
axes:
  model.n_layers: [1, 2]
seeds: 2
claims:
  - {says: Two is more, better: {model.n_layers: 2}, than: {model.n_layers: 1}}
profiles:
  long: {trial: {train: {epochs: 2}}}
"""


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `cvkan` with some words in a folder that holds tiny.yaml."""
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir))

    def command(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["cvkan", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, captured.out, captured.err)

    return command


@pytest.fixture
def trained(run: Run) -> Run:
    """The same after tiny.yaml has been swept."""
    assert run("sweep", "tiny.yaml", "--local").code == 0
    return run


def surface(command: Any, path: str = "cvkan") -> dict[str, list[str]]:
    names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    found = {path: sorted(names)}
    for name, child in getattr(command, "commands", {}).items():
        found |= surface(child, f"{path} {name}")
    return found


def test_commands_and_options() -> None:
    """Scripts rely on these names: removing or renaming one is a breaking change."""
    sweep = ["--cache", "--data", "--profile", "--results", "--set", "-p", "-r", "-s", "file"]
    data = ["--cache", "--data", "--domain", "--set", "-s", "name"]
    assert surface(typer.main.get_command(cli.app)) == {
        "cvkan": ["--install-completion", "--show-completion", "--version"],
        "cvkan sweep": sorted([*sweep, "--seeds", "--local", "--address", "--workers", "-w", "--dashboard", "--no-dashboard"]),
        "cvkan plan": sorted([*sweep, "--seeds"]),
        "cvkan train": sorted([*sweep, "--seed"]),
        "cvkan report": sorted(["--all", "--format", "-f", "--metric", "-m", "--output", "-o", "folder"]),
        "cvkan list": ["--sweeps", "kind"],
        "cvkan doctor": ["--cache", "--data", "--results", "-r"],
        "cvkan generate": ["--cache", "--length", "--prompt", "--results", "--seed", "--temperature", "--top-k", "-r", "run"],
        "cvkan data": [],
        "cvkan data prepare": sorted([*data, "--download"]),
        "cvkan data check": data,
    }


def test_help_needs_no_heavy_library() -> None:
    text = """
import sys
from cvkan import cli
for words in ([], ["sweep"], ["plan"], ["train"], ["report"], ["list"], ["doctor"], ["generate"], ["data"], ["data", "prepare"]):
    sys.argv = ["cvkan", *words, "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0, words
print("heavy:", [name for name in ("torch", "ray", "pyarrow", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "Train what the ledger lacks" in done.stdout


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"cvkan {__version__}\n", "")


@pytest.mark.parametrize("words", [["swep"], ["sweep"], ["sweep", "tiny.yaml", "--profle", "x"], ["report", "--format", "xml"]])
def test_words_that_are_no_command_end_with_2(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_plan_shows_the_arms_and_writes_nothing(run: Run) -> None:
    done = run("plan", "tiny.yaml")
    assert (done.code, done.err) == (0, "")
    assert "Is two more than one?" in done.out
    assert "n_layers=1" in done.out and "0 of 2" in done.out
    assert "2 arms x 2 seeds = 4 trials; 4 to train" in done.out
    assert not Path("results").exists()


def test_plan_counts_what_the_ledger_holds(trained: Run) -> None:
    assert "2 arms x 2 seeds = 4 trials; 0 to train" in trained("plan", "tiny.yaml").out
    assert "2 arms x 3 seeds = 6 trials; 2 to train" in trained("plan", "tiny.yaml", "--seeds", "3").out


def test_a_sweep_tells_how_to_read_it_and_trains_nothing_twice(trained: Run) -> None:
    done = trained("sweep", "tiny.yaml", "--local")
    assert (done.code, done.err) == (0, "")
    assert "all 4 trials are in the ledger; nothing to train" in done.out
    assert "cvkan report results/tiny" in done.out


def test_a_profile_has_a_folder_of_its_own(run: Run) -> None:
    assert run("sweep", "tiny.yaml", "--local", "--profile", "long", "--seeds", "1", "--results", "there").code == 0
    assert Ledger(Path("there/tiny@long")).trials()["epochs"].to_pylist() == [2, 2]
    assert "tiny@long" in run("report", "there").out


def test_a_sweep_with_a_failure_ends_with_1(run: Run) -> None:
    done = run("sweep", "tiny.yaml", "--local", "--set", "limits={trial_time: 0.000001, stop_after_failures: 3}")
    assert done.code == 1
    assert "stopped early: 3 failures in a row (limits.stop_after_failures); 1 trials were not started" in done.err
    assert "3 trials failed" in done.err


def test_an_interrupted_sweep_ends_with_130_and_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(order: Order, asked: Callable[[], bool]) -> Iterator[Event]:
        os.kill(os.getpid(), signal.SIGINT)
        return train(order, asked)

    with monkeypatch.context() as patch:
        patch.setattr("cvkan.orchestrator.local_backend.train", interrupted)
        assert run("sweep", "tiny.yaml", "--local").code == 130
    assert "1 interrupted" in run("report").out
    assert run("sweep", "tiny.yaml", "--local").code == 0
    assert set(Ledger(Path("results/tiny")).statuses().values()) == {"completed"}


def test_local_needs_no_address(run: Run) -> None:
    done = run("sweep", "tiny.yaml", "--local", "--address", "auto")
    assert (done.code, done.err) == (2, "--local: trains in this process; leave out --address\n")


def test_train_takes_the_first_values_of_a_sweep(run: Run) -> None:
    done = run("train", "tiny.yaml", "--set", "train.epochs=2", "--seed", "5")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "mlp, 310 parameters, seed 5"
    assert lines[1].startswith("epoch 1/2  train loss ") and lines[2].startswith("epoch 2/2  train loss ")
    assert any(line.startswith("test accuracy ") for line in lines)
    assert Ledger(Path("results/train")).trials()["seed"].to_pylist() == [5]
    assert "in the ledger already" in run("train", "tiny.yaml", "--set", "train.epochs=2", "--seed", "5").out


def test_train_needs_no_file(run: Run) -> None:
    small = ["data.n_train=64", "data.n_validation=40", "data.n_test=40", "model.name=mlp", "model.d_hidden=4", "train.epochs=0"]
    done = run("train", *[word for text in small for word in ("--set", text)])
    assert (done.code, done.err) == (0, "")
    assert "completed" in done.out


def test_report_of_a_folder_that_is_not_there_or_empty(run: Run) -> None:
    assert run("report", "nowhere") == (2, "", "nowhere: no such folder; `cvkan sweep` writes one\n")
    Path("empty").mkdir()
    done = run("report", "empty")
    assert done.code == 2
    assert done.err.startswith("empty: holds no results yet; run `cvkan sweep")


def test_report_of_one_sweep_and_of_all(trained: Run) -> None:
    for words in ([], ["results"], ["results/tiny"], ["--all"]):
        done = trained("report", *words)
        assert (done.code, done.err) == (0, "")
        for text in ("Is two more than one?", "4 of 4 trials done", "Two is more", "n_layers=2"):
            assert text in done.out


def test_report_formats(trained: Run) -> None:
    markdown = trained("report", "--format", "markdown").out
    assert markdown.startswith("## Is two more than one?")
    rows = list(csv.DictReader(trained("report", "-f", "csv").out.splitlines()))
    assert [row["model.n_layers"] for row in rows] == ["1", "2"]
    assert {row["metric"] for row in rows} == {"test_accuracy"}
    (sweep,) = json.loads(trained("report", "--format", "json", "--metric", "loss").out)["sweeps"]
    assert (sweep["name"], sweep["metric"]["column"], sweep["statuses"]) == ("tiny", "test_loss", {"completed": 4})


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "json"])
def test_report_writes_a_file(trained: Run, form: str) -> None:
    done = trained("report", "--format", form, "--output", "answer")
    assert done == (0, "", "")
    text = Path("answer").read_text(encoding="utf-8")
    assert "tiny" in text
    assert "\x1b" not in text
    assert text.endswith("\n")


def test_report_of_a_metric_that_is_unknown(trained: Run) -> None:
    done = trained("report", "--metric", "test_acuracy")
    assert (done.code, done.out) == (2, "")
    assert "did you mean test_accuracy?" in done.err


def test_report_to_a_place_that_cannot_be_written(trained: Run) -> None:
    done = trained("report", "-f", "csv", "-o", "nowhere/x.csv")
    assert (done.code, done.err) == (2, "nowhere/x.csv: cannot be written: No such file or directory\n")


def test_report_tells_of_a_damaged_file(trained: Run) -> None:
    Path("results/tiny/curves.parquet").write_bytes(b"damaged")
    done = trained("report")
    assert done.code == 0
    assert "results/tiny/curves.parquet: is damaged; its rows are missing here" in done.err


@pytest.mark.parametrize("kind", cli.KINDS)
def test_list_tells_a_line_about_every_name(run: Run, kind: str) -> None:
    done = run("list", kind, "--sweeps", ".")
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == [kind]
    assert rows and all(len(row.split()) > 1 for row in rows)
    assert "Is two more than one?" in done.out or kind != "sweeps"


def test_list_names_everything_if_nothing_is_asked(run: Run) -> None:
    out = run("list").out
    assert [kind for kind in cli.KINDS if f"\n{kind} " in f"\n{out}"] == list(cli.KINDS[1:])  # there is no folder of sweeps here
    for name in ("cv_kan", "image: digits", "logmag", "query", "causal", "conv", "sinusoidal", "adopt", "one_cycle"):
        assert f"\n{name} " in out


def test_list_of_an_unknown_kind(run: Run) -> None:
    assert run("list", "modles") == (2, "", "cvkan list: modles: is unknown; did you mean models?\n")


def test_doctor(run: Run) -> None:
    done = run("doctor")
    assert done.code == 0
    assert "!!" not in done.out
    for text in ("torch", "devices", "data: image/cifar10", "not found", "embedded"):
        assert text in done.out


def test_doctor_finds_a_folder_that_cannot_be_written(run: Run) -> None:
    Path("taken").write_text("a file")
    done = run("doctor", "--results", "taken")
    assert done.code == 1
    assert "!!" in done.out and "taken cannot be written" in done.out


def test_data_prepare_and_check(run: Run) -> None:
    done = run("data", "prepare", "digits", "--cache", "decoded", "--set", "data.n_train=100")
    assert (done.code, done.err) == (0, "")
    folder = Path(done.out.removeprefix("digits: decoded in ").strip())
    assert folder.parent == Path("decoded").absolute()
    check = ["data", "check", "digits", "--cache", "decoded", "--set", "data.n_train=100"]
    done = run(*check)
    assert done.code == 0
    assert "train: 100 images of 1 x 8 x 8: 0 10, " in done.out
    content = bytearray((folder / "train_x.npy").read_bytes())
    content[-1] ^= 1
    (folder / "train_x.npy").write_bytes(content)
    done = run(*check)
    assert done.code == 2
    assert "damaged content (train_x)" in done.err


def test_data_that_is_not_there(run: Run) -> None:
    done = run("data", "prepare", "cifar10", "--data", "nowhere")
    assert done.code == 2
    assert "nowhere/cifar-10-batches-py not found; `cvkan data prepare cifar10 --download` fetches it" in done.err
    done = run("data", "check", "digit")
    assert done.code == 2
    assert "did you mean digits?" in done.err


@pytest.mark.parametrize("plan", ["{bad", "{}", '{"schema": 1}', None])
def test_one_broken_folder_does_not_hide_the_others(trained: Run, plan: str | None) -> None:
    broken = Path("results/broken")
    shutil.copytree("results/tiny", broken)
    (broken / "plan.json").unlink()
    if plan is not None:
        (broken / "plan.json").write_text(plan)
    done = trained("report")
    assert done.code == 1
    assert "Is two more than one?" in done.out
    assert "broken" in done.err
    assert trained("report", "results/broken").code == 2


def test_a_row_of_an_unknown_status_is_no_traceback(trained: Run) -> None:
    path = Path("results/tiny/trials.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("status")
    pq.write_table(table.set_column(place, "status", pa.array(["paused"] * len(table))), path)
    done = trained("report")
    assert done.code == 2
    assert "status" in done.err


def test_data_is_checked_without_a_model(run: Run) -> None:
    """Images of an odd size fit no default model, and are data all the same."""
    for name, colour in (("cat", 10), ("dog", 200)):
        Path("pictures", name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (15, 15), (colour, number, 0)).save(Path("pictures", name, f"{number}.png"))
    sets = ("--set", "data.path=pictures", "--set", "data.image_size=15")
    assert run("data", "prepare", "folder", "--domain", "image", *sets).code == 0
    assert run("data", "check", "folder", "--domain", "image", *sets).code == 0
    assert "did you mean" in run("data", "check", "folder", "--domain", "image", "--set", "data.image_sise=15").err
    assert "say which with --domain" in run("data", "check", "folder").err


def test_a_home_folder_is_found_where_the_shell_leaves_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("data", "prepare", "digits", "--cache=~/c", "--set", "data.n_train=100").code == 0
    assert run("sweep", "tiny.yaml", "--local", "--results=~/r", "--seeds", "1", "--cache=~/c").code == 0
    assert Path("home/c").is_dir() and Path("home/r/tiny").is_dir() and not Path("~").exists()
    assert "home/data/cifar-10-batches-py not found" in run("data", "check", "cifar10", "--data=~/data").err
    done = run("plan", "tiny.yaml", "--results=~nobody_of_this_name/r")
    assert (done.code, done.err) == (2, "--results ~nobody_of_this_name/r: there is no home folder ~nobody_of_this_name\n")


@pytest.mark.parametrize("folder", ["a b #c", "123", "[x"])
def test_a_folder_of_data_is_taken_as_it_is_written(run: Run, folder: str) -> None:
    assert run("data", "check", "cifar10", "--data", folder).err.startswith(f"{folder}/cifar-10-batches-py not found; ")
    assert run("plan", "tiny.yaml", "--data", folder).code == 0
    assert run("plan", "tiny.yaml", "--data", "") == (2, "", "--data '': expected a folder\n")


def test_data_that_cannot_be_fetched(run: Run) -> None:
    done = run("data", "prepare", "tinyshakespeare", "--download", "--data", "nowhere")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert done.err.startswith(
        "--download: cvkan cannot fetch tinyshakespeare: nowhere/charlm/tinyshakespeare.txt not found; save https://"
    )
    assert run("data", "prepare", "pydoc", "--download", "--set", "data.prefix=20000", "--cache", "decoded").code == 0


@pytest.mark.parametrize("command", ["report", "plan", "generate"])
def test_a_name_too_long_for_a_file_is_one_line(run: Run, command: str) -> None:
    done = run(command, "x" * 300)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "File name too long" in done.err


def test_a_seed_too_large_is_told_as_the_option_it_is(run: Run) -> None:
    done = run("train", "--seed", "99999999999")
    assert done.code == 2
    assert "'--seed'" in done.err and "2147483647" in done.err


def test_nobody_listening_does_not_end_a_sweep(run: Run, cache_dir: Path) -> None:
    """A pipe that closes costs the lines and nothing else."""
    words = [str(Path(sys.executable).with_name("cvkan")), "sweep", "tiny.yaml", "--local", "--cache", str(cache_dir), "--results"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*words, "closed"], stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    assert b"Traceback" not in done.stderr
    assert set(Ledger(Path("closed/tiny")).statuses().values()) == {"completed"}
    assert Path("closed/tiny/trials.parquet").exists()


def test_the_name_of_single_trials_is_taken(run: Run) -> None:
    done = run("plan", "tiny.yaml", "--set", "name=train")
    assert done.code == 2
    assert "choose another name" in done.err


def test_labels_are_written_as_yaml_writes_them(run: Run) -> None:
    done = run("plan", "tiny.yaml", "--set", "claims=[]", "--set", "axes.train.grad_clip=[null, 0.5]")
    assert "grad_clip=null" in done.out
