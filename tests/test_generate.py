"""Generated text: what follows from scores, prompts and seeds, and which run a user means."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cvkan import cli
from cvkan.domains.task import Task
from cvkan.generate import continued, picker, prompt_notes, shown, unseen
from cvkan.models import build
from cvkan.models.protocol import Streaming
from cvkan.models.tpi import TPI
from cvkan.models.transformer import Transformer
from cvkan.orchestrator.ledger import Ledger

BYTES = Task("tokens", (16,), "next_token", 256, metric="bpc", direction="min", causal=True, vocabulary=256)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, {"tpi": TPI.tiny(), "transformer": Transformer.tiny()}[name], BYTES).eval()


# --- pure functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "streams"), [("tpi", True), ("transformer", False)])
def test_the_likeliest_bytes_are_those_of_whole_passes(name: str, streams: bool) -> None:
    """A model that streams has read everything, another one the last 16 bytes."""
    model = model_of(name)
    assert isinstance(model, Streaming) == streams
    for prompt in (b"abc", bytes(range(40, 100))):
        text = bytearray(prompt)
        for _ in range(20):
            seen = text if streams else text[-16:]
            with torch.no_grad():
                text.append(int(model(torch.tensor([list(seen)])).scores[0, -1].argmax()))
        assert prompt + continued(model, prompt, 16, 20, picker(0.0, None, 0)) == bytes(text)


def test_an_empty_prompt_is_a_new_line() -> None:
    for name in ("tpi", "transformer"):
        model = model_of(name)
        assert continued(model, b"", 16, 12, picker(1.0, None, 3)) == continued(model, b"\n", 16, 12, picker(1.0, None, 3))


def test_a_seed_names_a_text() -> None:
    model = model_of("tpi")
    first, again, other = (continued(model, b"a", 16, 40, picker(1.0, None, seed)) for seed in (1, 1, 2))
    assert first == again and first != other and len(first) == 40


def counts(scores: Tensor, temperature: float, top_k: int | None, n: int = 2000) -> Tensor:
    pick = picker(temperature, top_k, 0)
    return torch.bincount(torch.tensor([pick(scores) for _ in range(n)]), minlength=len(scores)) / n


def test_bytes_are_drawn_as_often_as_scores_and_temperature_say() -> None:
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0])
    for temperature in (0.5, 1.0, 3.0):
        torch.testing.assert_close(counts(scores, temperature, None), (scores / temperature).softmax(0), rtol=0.0, atol=0.04)
    torch.testing.assert_close(counts(scores, 1.0, 2), torch.tensor([0.0, 0.2689, 0.0, 0.7311]), rtol=0.0, atol=0.04)
    for greedy in (counts(scores, 0.0, None, 20), counts(scores, 1.0, 1, 20), counts(scores, 1e-6, None, 20)):
        assert greedy.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert counts(scores, 1.0, 99, 20).sum() == 1.0


def test_bytes_are_shown_as_text_that_steers_no_terminal() -> None:
    assert shown("é\n\tx".encode()) == "é\n\tx"
    assert shown(b"a\xffb\x1b[2Jc\r\x00") == "a\N{REPLACEMENT CHARACTER}b\\x1b[2Jc\\r\\x00"


def test_long_and_strange_prompts_are_named() -> None:
    assert prompt_notes(b"x" * 16, BYTES, True) == prompt_notes(b"x" * 16, BYTES, False) == []
    assert "17 bytes" in prompt_notes(b"x" * 17, BYTES, True)[0] and "reads all" in prompt_notes(b"x" * 17, BYTES, True)[0]
    assert "the last 16" in prompt_notes(b"x" * 17, BYTES, False)[0]
    train = torch.tensor([[104, 101], [108, 111]], dtype=torch.uint8)
    assert unseen(b"hello", train) == []
    assert unseen("hé!".encode(), train) == ["!", "\\xa9", "\\xc3"]


# --- the command --------------------------------------------------------------------------------------------------

SWEEP = """\
name: {name}
trial:
  domain: charlm
  data: {{name: pydoc, prefix: 20000, length: 32, n_train: 8, n_validation: 4, n_test: 4}}
  model: {{name: tpi, d_model: 8, n_layers: 1, expansion: 0}}
  train: {{epochs: 0}}
seeds: {seeds}
checkpoints: {checkpoints}
"""


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


def command(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["cvkan", *words])
        cli.main()
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with results: `many` (17 seeds: two keys begin alike), `one`, `bare` (no weights) and `train` (no text)."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, seeds, checkpoints in (("many", "17", "best"), ("one", "[105]", "both"), ("bare", "[106]", "none")):
            (folder / f"{name}.yaml").write_text(SWEEP.format(name=name, seeds=seeds, checkpoints=checkpoints))
            assert command("sweep", f"{name}.yaml", "--local", "--cache", "cache") == 0
        sets = ("domain=arithmetic", "data.p=5", "model.name=mlp", "model.d_hidden=4", "train.epochs=0")
        assert command("train", *(word for each in sets for word in ("-s", each)), "--cache", "cache") == 0
        yield folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `cvkan generate` in that folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "300")

    def generate(*words: str) -> Done:
        capsys.readouterr()
        code = command("generate", *words, "--cache", "cache")
        return Done(code, *capsys.readouterr())

    return generate


def keys(folder: Path, sweep: str) -> list[str]:
    return sorted(Ledger(folder / "results" / sweep).statuses())


def test_a_run_is_named_by_key_or_folder(run: Run, folder: Path) -> None:
    (key,) = keys(folder, "one")
    words = ("--prompt", "The ", "--length", "30", "--seed", "7")
    by_key = run(key, *words)
    assert by_key.code == 0 and by_key.err == "" and by_key.out.startswith("The ") and len(by_key.out) > 10
    checkpoints = f"results/one/checkpoints/{key}"
    for name in (key[:9], "results/one", checkpoints, f"{checkpoints}/best.safetensors"):
        assert run(name, *words) == by_key
    assert run(key, "--prompt", "The ", "--length", "30", "--seed", "8").out != by_key.out


def test_of_a_sweep_the_best_trial_is_taken_and_named(run: Run, folder: Path) -> None:
    rows = Ledger(folder / "results" / "many").trials().to_pylist()
    best = min(rows, key=lambda row: float(row["best_val_bpc"]))["key"]
    done = run("results/many", "--length", "20")
    assert done.code == 0 and best in done.err and "the best of 17 trials by best_val_bpc" in done.err
    assert run(best, "--length", "20").out == done.out


def test_notes_go_beside_the_text(run: Run, folder: Path) -> None:
    done = run("results/one", "--prompt", "\N{EURO SIGN}" + "x" * 40, "--length", "5")
    assert done.code == 0 and "sequences of 32; it reads all of them" in done.err and "\\xe2" in done.err
    assert done.out.startswith("\N{EURO SIGN}xx")


def test_a_run_that_cannot_be_meant_is_one_clear_line(run: Run, folder: Path) -> None:
    (bare,), (arithmetic,) = keys(folder, "bare"), keys(folder, "train")
    firsts = [key[0] for name in ("bare", "many", "one", "train") for key in keys(folder, name)]
    common = max(firsts, key=firsts.count)
    damaged = folder / "results" / "one" / "checkpoints" / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "best.safetensors").write_bytes(b"not a checkpoint")
    for name, text in {
        "nothing": "no trial under results whose key begins so",
        common: f"{firsts.count(common)} keys begin so: {common}",
        bare: "no best weights of this trial (completed)",
        "results/bare": "no completed trial of this sweep has kept its best weights",
        "results": "holds several sweeps (bare, many, one, train)",
        arithmetic: "was trained on arithmetic, which is no text of bytes",
        "results/one/checkpoints/damaged": "not a cvkan checkpoint",
        "results/one/checkpoints/absent": "no trial under results",
    }.items():
        done = run(name)
        assert done.code == 2 and done.out == "" and text in done.err, (name, done)
        assert len(done.err.splitlines()) == 1, done.err


def test_a_name_that_nobody_can_mean_is_one_clear_line(run: Run, folder: Path) -> None:
    for name, text in {
        "": "RUN: is empty; expected a trial's key",
        "x" * 300: "cannot be used: File name too long",
        "~nobody_of_this_name/x": "there is no home folder ~nobody_of_this_name",
        "results/train": "no trial here was trained on text of bytes; generate needs a trial of the domain charlm",
    }.items():
        done = run(name)
        assert done.code == 2 and done.out == "" and text in done.err, (name, done)
        assert len(done.err.splitlines()) == 1, done.err


def test_trials_of_other_domains_are_not_ranked(run: Run, folder: Path, tmp_path: Path) -> None:
    """In a folder of `cvkan train` the trials are of any domain, and the plan is that of the last one."""
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "results" / "train", mixed)
    (key,) = keys(folder, "one")
    shutil.copytree(folder / "results" / "one" / "checkpoints" / key, mixed / "checkpoints" / key)
    shutil.copy(folder / "results" / "one" / "trials.parquet", mixed / "parts" / "000001.trials")
    shutil.copy(folder / "results" / "one" / "curves.parquet", mixed / "parts" / "000001.curves")
    assert len(Ledger(mixed).statuses()) == 2
    assert run(str(mixed), "--length", "9") == run(key, "--length", "9")


def test_a_damaged_ledger_is_told(run: Run, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "results" / "one", tmp_path / "results" / "one")
    (tmp_path / "results" / "one" / "trials.parquet").write_bytes(b"damaged")
    (key,) = keys(folder, "one")
    for words in ((key, "--results", str(tmp_path / "results")), (str(tmp_path / "results" / "one"),)):
        done = run(*words)
        assert done.code == 2 and "one/trials.parquet cannot be read, being damaged" in done.err
        assert len(done.err.splitlines()) == 1, done.err


WRITTEN = "written by another version of cvkan, or is damaged"
BROKEN: dict[str, tuple[object, str]] = {
    "list": ([], "does not tell its version"),
    "null": (None, "does not tell its version"),
    "no version": ({"config": {}}, "does not tell its version"),
    "version text": ({"version": "9"}, "does not tell its version"),
    "no settings": ({"version": 1}, WRITTEN),
    "settings list": ({"version": 1, "config": []}, WRITTEN),
    "renamed": ({"version": 1, "config": {"domain": "charlm", "model": {"name": "tpi", "n_lyrs": 3}}}, "model.n_lyrs: unknown setting"),
    "domain gone": ({"version": 1, "config": {"domain": "chrlm"}}, WRITTEN),
    "domain list": ({"version": 1, "config": {"domain": ["charlm"]}}, WRITTEN),
    "huge": ({"version": 1, "config": {"domain": "charlm", "model": {"name": "transformer", "d_model": 1 << 24}}}, "does not fit"),
    "other sizes": ({"version": 1, "config": {"domain": "charlm", "model": {"name": "tpi", "d_model": 4}}}, "does not fit"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_does_not_say_what_it_is(run: Run, folder: Path, tmp_path: Path, case: str) -> None:
    meta, text = BROKEN[case]
    (key,) = keys(folder, "one")
    path = tmp_path / "checkpoints" / "broken" / "best.safetensors"
    path.parent.mkdir(parents=True)
    weights = load((folder / "results" / "one" / "checkpoints" / key / "best.safetensors").read_bytes())
    path.write_bytes(save(weights, {"cvkan": json.dumps(meta)}))
    done = run(str(path))
    assert done.code == 2 and done.out == "" and done.err.startswith(str(path)) and text in done.err, done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert case != "renamed" or WRITTEN in done.err
