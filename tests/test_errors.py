"""Bad input through the real command: a clear line for every mistake, all at once, exit code 2, nothing trained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cvkan import cli
from cvkan.errors import Problem, UserError, did_you_mean, nearest

GOOD = """\
name: x
trial:
  data: {name: digits}
  model:
    name: cv_kan
    d_complex: 4
    n_layers: 1
    kan_hidden: 4
axes:
  model.n_layers: [1, 2]
  optimizer.lr: [0.1, 0.2]
"""

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `cvkan plan x.yaml` (or another command) in an empty folder; gives exit code and lines of standard error."""
    monkeypatch.chdir(tmp_path)

    def command(text: str | bytes, *options: str, argv: Sequence[str] = ("plan", "x.yaml")) -> tuple[int, list[str]]:
        Path("x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setattr(sys, "argv", ["cvkan", *argv, "--cache", str(cache_dir), *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return caught.value.code, captured.err.splitlines()

    return command


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_the_file_that_these_tests_break_is_good(run: Run) -> None:
    assert run(GOOD) == (0, [])


UNKNOWN_NAMES = [
    (GOOD + "axs: {}\n", "x.yaml:12: axs: unknown setting; did you mean axes?"),
    (changed("trial:\n", "trial:\n  modle: {}\n"), "x.yaml:3: modle: unknown setting; did you mean model?"),
    (changed("digits}", "digits, rot: 1}"), "x.yaml:3: data.rot: unknown setting; did you mean root?"),
    (changed("kan_hidden: 4", "dpeth: 3"), "x.yaml:8: model.dpeth: unknown setting; did you mean n_layers?"),
    (changed("  data", "  optimizer: {learning_rte: 1}\n  data"), "x.yaml:3: optimizer.learning_rte: unknown setting; did you mean lr?"),
    (changed("  data", "  train:\n    epoch: 3\n  data"), "x.yaml:4: train.epoch: unknown setting; did you mean epochs?"),
    (changed("  data", "  loss: {smooth: 3}\n  data"), "x.yaml:3: loss.smooth: unknown setting; did you mean label_smoothing?"),
    (GOOD + "match: {to: 1000, bye: 3}\n", "x.yaml:12: match.bye: unknown setting; did you mean by?"),
    (GOOD + "limits:\n  retires: 3\n", "x.yaml:13: limits.retires: unknown setting; did you mean retries?"),
    (GOOD + "resources: {gpu: 1}\n", "x.yaml:12: resources.gpu: unknown setting; did you mean gpus?"),
    (
        GOOD + "claims:\n  - {says: a, better: {model.n_layers: 1}, than: {model.n_layers: 2},\n     margn: 1}\n",
        "x.yaml:14: claims.0.margn: unknown setting; did you mean margin?",
    ),
    (GOOD + "profiles:\n  p:\n    seds: 3\n", "x.yaml:14: profiles.p.seds: unknown setting of a profile; did you mean seeds?"),
    (changed("cv_kan", "cv-kan"), "x.yaml:5: model.name: 'cv-kan' is unknown; did you mean cv_kan?"),
    (changed("digits", "cifar"), "x.yaml:3: data.name: 'cifar' is unknown; did you mean cifar10?"),
    (changed("  data", "  domain: images\n  data"), "x.yaml:3: domain: 'images' is unknown; did you mean image?"),
    (changed("  data", "  optimizer: {name: adan}\n  data"), "x.yaml:3: optimizer.name: 'adan' is unknown; did you mean adam?"),
    (changed("kan_hidden: 4", "norm: lyer"), "x.yaml:8: model.norm: 'lyer' is unknown; did you mean layer?"),
    (changed("kan_hidden: 4", "pooling: men"), "x.yaml:8: model.pooling: 'men' is unknown; did you mean mean?"),
    (changed("  data", "  optimizer: {schedule: cosin}\n  data"), "x.yaml:3: optimizer.schedule: 'cosin' is unknown; did you mean cosine?"),
    (
        changed("optimizer.lr", "optimiser.lr"),
        "axes.optimiser.lr: an axis names a setting of a trial, such as model.n_layers; did you mean",
    ),
    (changed("optimizer.lr", "optimizer.lrr"), "x.yaml:11: optimizer.lrr: unknown setting; did you mean lr?"),
    (changed("[0.1, 0.2]", "[0.1]\n  model.norm:\n    - none\n    - lyer"), "x.yaml:14: model.norm: 'lyer' is unknown; did you mean"),
]

WRONG_TYPES = [
    (changed("d_complex: 4", "d_complex: four"), 'x.yaml:6: model.d_complex: expected a whole number; got "four"'),
    (changed("d_complex: 4", "d_complex: '4'"), 'x.yaml:6: model.d_complex: expected a whole number; got "4"'),
    (changed("d_complex: 4", "d_complex: 4.0"), "x.yaml:6: model.d_complex: expected a whole number; write 4 instead of 4.0"),
    (changed("d_complex: 4", "d_complex: true"), "x.yaml:6: model.d_complex: expected a whole number; got true"),
    (changed("d_complex: 4", "d_complex: [4]"), "x.yaml:6: model.d_complex: expected a whole number; got [4]"),
    (changed("d_complex: 4", "d_complex: {a: 4}"), 'x.yaml:6: model.d_complex: expected a whole number; got {"a": 4}'),
    (changed("d_complex: 4", "d_complex:"), "x.yaml:6: model.d_complex: expected a whole number; got nothing (null)"),
    (changed("d_complex: 4", "per_dim: yes"), 'x.yaml:6: model.per_dim: expected true or false; got "yes"'),
    (changed("d_complex: 4", "norm: 1"), "x.yaml:6: model.norm: expected text; got 1"),
    (changed("{name: digits}", "digits"), 'x.yaml:3: data: expected settings such as {name: digits}; got "digits"'),
    (changed("  data", "  optimizer: [adam]\n  data"), 'x.yaml:3: optimizer: expected settings such as {name: adamw}; got ["adam"]'),
    (changed("  data", "  train:\n  data"), "x.yaml:3: train: expected settings such as {epochs: 20}; got nothing (null)"),
    (changed("name: cv_kan", "name: [cv_kan]"), 'x.yaml:5: model.name: expected a name, such as cv_kan; got ["cv_kan"]'),
    (changed("  data", "  domain:\n  data"), "x.yaml:3: domain: expected a name, such as image; got nothing (null)"),
    (changed("  data", "  optimizer: {betas: 0.9}\n  data"), "x.yaml:3: optimizer.betas: expected a list; got 0.9"),
    (changed("  data", "  optimizer: {betas: [1, 2, 3]}\n  data"), "x.yaml:3: optimizer.betas: expected 2 or fewer values; got [1, 2, 3]"),
    (changed("name: x", "name: 3"), "x.yaml:1: name: expected text; got 3"),
    (changed("name: x\n", "question: y\n"), "x.yaml:1: name: is missing"),
    (GOOD + "limits: 3\n", "x.yaml:12: limits: expected a mapping, such as {name: value}; got 3"),
    (GOOD + "match: [1]\n", "x.yaml:12: match: expected a mapping, such as {name: value}; got [1]"),
    (GOOD + "match: {to: 1e5}\n", "x.yaml:12: match.to: expected a whole number; write 100000 instead of 100000.0"),
    (GOOD + "match: {of: params}\n", "x.yaml:12: match.to: is missing"),
    (GOOD + "claims: {a: 1}\n", 'x.yaml:12: claims: expected a list; got {"a": 1}'),
    (GOOD + "claims: [a]\n", 'x.yaml:12: claims.0: expected a mapping, such as {name: value}; got "a"'),
    (GOOD + "seeds: eight\n", 'x.yaml:12: seeds: expected a whole number; got "eight"'),
    (GOOD + "seeds:\n  - 1\n  - a\n", 'x.yaml:14: seeds.1: expected a whole number; got "a"'),
    (GOOD + "zip: 3\n", "x.yaml:12: zip: expected a list; got 3"),
    (GOOD + "exclude: {model.n_layers: 1}\n", 'x.yaml:12: exclude: expected a list; got {"model.n_layers": 1}'),
    (GOOD + "limits: {trial_time: soon}\n", 'limits.trial_time: expected a time such as 90s, 30m, 8h or 1h30m; got "soon"'),
    (GOOD + "resources: {gpus: two}\n", 'x.yaml:12: resources.gpus: expected a number from 0 to 1, or auto; got "two"'),
    (GOOD + "profiles: [p]\n", 'x.yaml:12: profiles: expected a mapping, such as {name: value}; got ["p"]'),
    (changed("[0.1, 0.2]", "[0.1, big]"), 'x.yaml:11: optimizer.lr: expected a number; got "big"'),
    (changed("[0.1, 0.2]", "3"), "x.yaml:11: axes.optimizer.lr: expected a list of values, such as [1, 2, 4]; got 3"),
    ("- a\n- b\n", 'x.yaml:1: expected a sweep: settings such as `name: my_sweep`; got ["a", "b"]'),
]

OUT_OF_RANGE = [
    (changed("d_complex: 4", "d_complex: 0"), "x.yaml:6: model.d_complex: expected at least 1; got 0"),
    (changed("d_complex: 4", "d_complex: 1_000_000_000_000"), "x.yaml:6: model.d_complex: expected at most 16,777,216; got 1000000000000"),
    (changed("d_complex: 4", "dropout: 1.5"), "x.yaml:6: model.dropout: expected less than 1; got 1.5"),
    (changed("[0.1, 0.2]", "[0.1, .nan]"), "x.yaml:11: optimizer.lr: expected a finite number; got NaN"),
    (changed("[0.1, 0.2]", "\n    - 0.1\n    - -0.2"), "x.yaml:13: optimizer.lr: expected more than 0; got -0.2"),
    (changed("  data", "  train: {grad_clip: .inf}\n  data"), "x.yaml:3: train.grad_clip: expected a finite number; got Infinity"),
    (changed("  data", "  train: {precision: fp8}\n  data"), 'x.yaml:3: train.precision: expected fp32, bf16 or fp16; got "fp8"'),
    (GOOD + "seeds: 0\n", "x.yaml:12: seeds: expected at least 1; got 0"),
    (GOOD + "seeds: []\n", "x.yaml:12: seeds: expected 1 or more values; got []"),
    (GOOD + "limits: {stop_after_failures: 0}\n", "x.yaml:12: limits.stop_after_failures: expected at least 1; got 0"),
    (GOOD + "limits: {sweep_time: 0}\n", "limits.sweep_time: expected a time such as 90s"),
    (GOOD + "resources: {gpus: -1}\n", "x.yaml:12: resources.gpus: expected a number from 0 to 1, or auto; got -1"),
    (GOOD + "match: {to: 1000, within: 2}\n", "x.yaml:12: match.within: expected less than 1; got 2"),
    (GOOD + "checkpoints: all\n", 'x.yaml:12: checkpoints: expected both, best or none; got "all"'),
]

CANNOT_WORK = [
    (changed("kan_hidden: 4", "patch_size: 3"), "x.yaml:8: model.patch_size: 3 does not divide images of 8x8"),
    (changed("kan_hidden: 4", "window: 4"), "x.yaml:8: model.window: 4 must be odd"),
    (
        changed("  data", "  optimizer: {name: sgd, momentum: 0,\n    nesterov: true}\n  data"),
        "x.yaml:4: optimizer.nesterov: true needs momentum above 0",
    ),
    (
        "name: x\ntrial:\n  model: {name: mlp}\n  loss:\n    diversity: 1\n",
        "x.yaml:5: loss.diversity: mlp has no phases to regularise",
    ),
    (
        changed("{name: digits}", "\n    name: folder\n    path: nowhere"),
        "x.yaml:5: data: nowhere: No such file or directory; set data.path to a folder with one sub-folder of images for each class",
    ),
    (
        changed("{name: digits}", "\n    name: cifar10\n    root: nowhere"),
        "x.yaml:5: data: nowhere/cifar-10-batches-py not found; `cvkan data prepare cifar10 --download` fetches it, or set data.root",
    ),
    (changed("digits}", "digits,\n    n_train: 99999}"), "x.yaml:4: data.n_train: 99999 asked, but the train part has 1294 examples"),
]

AXES = [
    (changed("[0.1, 0.2]", "[]"), "x.yaml:11: axes.optimizer.lr: is empty; expected at least one value"),
    (changed("[0.1, 0.2]", "[0.1,\n    1e-1]"), "x.yaml:12: axes.optimizer.lr: 0.1 stands twice"),
    (changed("[0.1, 0.2]", "[1, 1.0]"), "x.yaml:11: axes.optimizer.lr: 1.0 stands twice"),
    (changed("optimizer.lr: [0.1, 0.2]", "seed: [1]"), "x.yaml:11: axes.seed: an axis names a setting of a trial, such as model.n_layers"),
    (changed("optimizer.lr", "optimizer..lr"), "x.yaml:11: axes.optimizer..lr: an axis names a setting of a trial"),
    (
        changed("optimizer.lr", "optimizer.lr.x"),
        "x.yaml:11: axes.optimizer.lr.x: an axis names a setting of a trial, such as model.n_layers; 'optimizer.lr.x' is none",
    ),
    (changed("axes:\n", "axes:\n  model: [{name: mlp}]\n"), "x.yaml:11: axes.model.n_layers: lies inside the axis model"),
    (changed("optimizer.lr: [0.1, 0.2]", "data.root: [a, b]"), "x.yaml:11: axes.data.root: changes no result: 'n_layers=1 root=a' and"),
    (GOOD + "zip: [[optimizer.lr, train.epochs]]\n", "x.yaml:12: zip: 'train.epochs' is no axis of this sweep; valid: model.n_layers, "),
    (GOOD + "zip: [[optimizer.lr]]\n", "x.yaml:12: zip: expected groups of two or more axes"),
    (GOOD + "zip: [[optimizer.lr, {a: 1}]]\n", "x.yaml:12: zip: expected groups of two or more axes"),
    (GOOD + "zip: [[optimizer.lr, optimizer.lr]]\n", "x.yaml:12: zip: 'optimizer.lr' is tied twice"),
    (
        changed("[0.1, 0.2]", "[0.1]\nzip: [[model.n_layers, optimizer.lr]]"),
        "x.yaml:12: zip: tied axes need equally many values: model.n_layers has 2, optimizer.lr has 1",
    ),
    (GOOD + "exclude: [{model.n_layers: 1}, {model.n_layers: 2}]\n", "x.yaml:12: exclude: leaves no arm to train"),
    (GOOD + "exclude: [{}]\n", "x.yaml:12: exclude.0: expected values of axes, such as {model.n_layers: 2}"),
    (GOOD + "exclude: [{model.n_layers: 3}]\n", "x.yaml:12: exclude.0.model.n_layers: 3 is not a value of this axis; valid: 1, 2"),
]


def claim(better: str, than: str, metric: str = "test_accuracy") -> str:
    return f"{GOOD}claims:\n  - says: a\n    metric: {metric}\n    better: {better}\n    than: {than}\n"


CLAIMS = [
    (
        claim("{model.n_layer: 1}", "{model.n_layers: 2}"),
        "x.yaml:15: claims.0.better.model.n_layer: is no axis of this sweep; did you mean",
    ),
    (claim("{model.n_layers: 1}", "{model.n_layers: 3}"), "x.yaml:16: claims.0.than.model.n_layers: 3 is not a value of this axis"),
    (claim("{model.n_layers: true}", "{model.n_layers: 2}"), "x.yaml:15: claims.0.better.model.n_layers: true is not a value of this axis"),
    (claim("{}", "{model.n_layers: 2}"), "x.yaml:15: claims.0.better: expected values of axes"),
    (claim("{model.n_layers: 2}", "{model.n_layers: 2}"), "x.yaml:16: claims.0.than: chooses the same arms as better"),
    (
        claim("{model.n_layers: 1}", "{model.n_layers: 2}", "test_acc"),
        "x.yaml:14: claims.0.metric: 'test_acc' is unknown; did you mean test_accuracy?",
    ),
]

MATCH = [
    (
        GOOD + "match:\n  to: 3000\n  by: model.norm\n",
        "x.yaml:14: match.by: 'model.norm' is no width of cv_kan; valid: width, model.d_complex, ",
    ),
    (GOOD + "match: {to: 3000, by: d_complex}\n", "x.yaml:12: match.by: 'd_complex' is no width of cv_kan; did you mean model.d_complex?"),
    (GOOD + "match: {to: 3000, by: model.n_layers}\n", "match.by: model.n_layers is an axis of this sweep, so it cannot be solved"),
    (GOOD + "match: {of: flops, to: 3}\n", 'x.yaml:12: match.of: expected params; got "flops"'),
]


@pytest.mark.parametrize(("text", "line"), UNKNOWN_NAMES + WRONG_TYPES + OUT_OF_RANGE + CANNOT_WORK + AXES + CLAIMS + MATCH)
def test_one_mistake_is_one_line(run: Run, text: str, line: str) -> None:
    code, lines = run(text)
    assert code == 2
    assert len(lines) == 1
    assert line in lines[0]
    assert lines[0].startswith("x.yaml:")


@pytest.mark.parametrize("name", ["a/b", "..", "''", "x" * 300, "x y", "é", "-x", '"a\\nb"', "/etc", "a\\b"])
def test_names_that_are_no_folder(run: Run, name: str) -> None:
    code, lines = run(changed("name: x\n", f"name: {name}\n"))
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("x.yaml:1: name: ")
    assert "cannot name a folder; use letters, digits, - and _, at most 64" in lines[0]
    assert len(lines[0]) < 160


OPTIONS = [
    (["--set", "model.pooling"], "--set model.pooling: expected path=value, such as model.n_layers=4"),
    (["--set", "=3"], "--set =3: expected path=value, such as model.n_layers=4"),
    (["--set", "train..epochs=3"], "--set train..epochs=3: expected path=value, such as model.n_layers=4"),
    (["--set", "optimzer.lr=3"], "--set optimzer.lr=3: optimzer.lr: unknown setting; did you mean optimizer?"),
    (["--set", "n_train=3"], "--set n_train=3: n_train: unknown setting; did you mean data.n_train?"),
    (["--set", "epochs=3"], "--set epochs=3: epochs: unknown setting; did you mean train.epochs?"),
    (["--set", "depth=3"], "--set depth=3: depth: unknown setting; did you mean model.n_layers?"),
    (["--set", "modle=3"], "--set modle=3: modle: unknown setting; did you mean model?"),
    (["--set", "train.epoch=3"], "--set train.epoch=3: train.epoch: unknown setting; did you mean epochs?"),
    (["--set", "train.epochs=abc"], '--set train.epochs=abc: train.epochs: expected a whole number; got "abc"'),
    (["--set", "train.epochs=-1"], "--set train.epochs=-1: train.epochs: expected at least 0; got -1"),
    (["--set", "train.epochs="], "--set train.epochs=: train.epochs: expected a whole number; got nothing (null)"),
    (["--set", "train.epochs=[1"], "--set train.epochs=[1: train.epochs: not valid YAML: expected ',' or ']'"),
    (["--set", "train.epochs=1\nfoo: 3"], "--set train.epochs=1\\nfoo: 3: train.epochs: not valid YAML"),
    (["--set", "model=3"], "--set model=3: model: expected settings such as {name: cv_kan}; got 3"),
    (["--set", "model.n_layers=3"], "model.n_layers: is an axis of this sweep; set its values with axes.model.n_layers=[...]"),
    (["--set", "model={n_layers: 3}"], "model.n_layers: is an axis of this sweep; set its values with axes.model.n_layers=[...]"),
    (["--set", "axes.model.n_layers=[3, 3]"], "--set axes.model.n_layers=[3, 3]: axes.model.n_layers: 3 stands twice"),
    (["--set", "axes.model.foo=[3]"], "--set axes.model.foo=[3]: model.foo: unknown setting; valid: "),
    (
        ["--set", "axes.data=[{name: digits}]", "--data", "x"],
        "--data x: data: is an axis of this sweep; set its values with axes.data=[...]",
    ),
    (["--set", "name=../x"], '--set name=../x: name: "../x" cannot name a folder'),
    (["--set", "question=!!python/name:os.system"], "question: the YAML tag !!python/name:os.system is not allowed"),
    (["--profile", "ful"], "--profile ful: no such profile; did you mean full?"),
    (["--seeds", "0"], "--seeds 0: seeds: expected at least 1; got 0"),
    (["--seeds", "99999"], "--seeds 99999: seeds: expected at most 10000; got 99999"),
    *[
        ([f"--seeds={text}"], f"--seeds {text}: expected a number of seeds such as 8, or a list such as 3,5,7")
        for text in ["x", "-1", "1.5", "", "1,,2", "1,a", "3,-1", "٣"]
    ],
]


@pytest.mark.parametrize(("options", "line"), OPTIONS)
def test_one_mistake_in_an_option_is_one_line(run: Run, options: list[str], line: str) -> None:
    code, lines = run(GOOD + "profiles: {full: {seeds: 2}}\n", *options)
    assert code == 2
    assert len(lines) == 1
    assert line in lines[0]


def test_a_mistake_in_a_profile_is_told_where_it_stands(run: Run) -> None:
    text = GOOD + "profiles:\n  p:\n    trial:\n      train:\n        epochs: -1\n    limits: {retries: x}\n"
    assert run(text) == (0, [])
    assert run(text, "--profile", "p") == (
        2,
        ["x.yaml:16: train.epochs: expected at least 0; got -1", 'x.yaml:17: limits.retries: expected a whole number; got "x"'],
    )


def test_a_profile_that_is_nothing(run: Run) -> None:
    code, lines = run(GOOD + "profiles: {p: }\n", "--profile", "p")
    assert (code, len(lines)) == (2, 1)
    assert "x.yaml:12: profiles.p: expected a mapping" in lines[0]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(run: Run) -> None:
    text = (
        changed("d_complex: 4", "d_complex: -4\n    dpeth: 3")
        .replace("digits", "digts")
        .replace("name: x", "name: a/b")
        .replace("[1, 2]", "[]")
        .replace("0.2", "-0.2")
    )
    text += "seeds: 0\nclaims: [{says: a, better: {foo: 1}, than: {optimizer.lr: 9}}]\nlimits: {retries: x}\nfoo: 3\n"
    code, lines = run(text, "--set", "train.epochs=x", "--set", "nonsense", "--profile", "p")
    assert code == 2
    starts = [
        'x.yaml:1: name: "a/b" cannot name a folder',
        "x.yaml:3: data.name: 'digts' is unknown; did you mean digits?",
        "x.yaml:6: model.d_complex: expected at least 1; got -4",
        "x.yaml:7: model.dpeth: unknown setting; did you mean n_layers?",
        "x.yaml:11: axes.model.n_layers: is empty",
        "x.yaml:12: optimizer.lr: expected more than 0; got -0.2",
        "x.yaml:13: seeds: expected at least 1; got 0",
        "x.yaml:14: claims.0.better.foo: is no axis of this sweep",
        "x.yaml:14: claims.0.than.optimizer.lr: 9 is not a value of this axis",
        "x.yaml:15: limits.retries: expected a whole number",
        "x.yaml:16: foo: unknown setting",
        "--profile p: this sweep has no profiles",
        "--set nonsense: expected path=value",
        "--set train.epochs=x: train.epochs: expected a whole number",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


def test_no_message_speaks_of_the_libraries_behind_it(run: Run) -> None:
    jargon = ("Input should", "validation", "instance of", "unable to parse", "dictionary", "Tuple", "pydantic", "integer", "Node(")
    for text, _ in UNKNOWN_NAMES + WRONG_TYPES + OUT_OF_RANGE + AXES + CLAIMS:
        _, lines = run(text)
        assert not [line for line in lines for word in jargon if word in line]


def test_no_width_reaches_the_size(run: Run) -> None:
    code, lines = run(GOOD + "match: {to: 10}\n")
    assert code == 2
    assert len(lines) == 2  # once for each depth, not once for each arm
    assert lines[0].startswith("x.yaml:12: match: no arm can be matched; n_layers=1 lr=0.1: nearest to 10 parameters is ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"name: caf\xe9\n", "x.yaml: is not UTF-8 text"),
        (bytes(range(256)), "x.yaml: is not UTF-8 text"),
        (b"", "x.yaml: is empty; expected a sweep (see sweeps/depth_vs_width.yaml)"),
        (b"#" * 2_000_000, "x.yaml: is larger than 1,000,000 bytes"),
        (b"name: x\n\ttrial: 3\n", "x.yaml:2: not valid YAML: a tab; indent with spaces"),
        (b"name: x\nname: y\n", "x.yaml:2: name: stands twice; first at x.yaml:1"),
        (b"name: !!python/object/apply:os.system [touch pwned]\n", "x.yaml:1: the YAML tag !!python/object/apply:os.system"),
        ("name: x\nquestion: \u202e\ntr\u202eial: {}\n".encode(), "x.yaml:3: tr\\u202eial: unknown setting; did you mean trial?"),
        ("name: x\nmodel\N{PILE OF POO}: {}\n".encode(), "x.yaml:2: model\N{PILE OF POO}: unknown setting"),
    ],
)
def test_files_that_are_no_sweeps(run: Run, content: bytes, line: str) -> None:
    code, lines = run(content)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert not Path("pwned").exists()


def test_a_results_folder_that_cannot_be_made(run: Run) -> None:
    Path("taken").write_text("a file")
    code, lines = run(GOOD, "--local", "--no-dashboard", "--results", "taken", argv=("sweep", "x.yaml"))
    assert code == 2
    assert lines[-1].startswith(f"{Path('taken').absolute()}/x: cannot be written: ")


def test_mistakes_are_found_before_ray_is_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    code, lines = run(changed("d_complex: 4", "d_complex: -4"), argv=("sweep", "x.yaml"))
    assert (code, len(lines)) == (2, 1)
    assert "ray" not in sys.modules
    assert not Path("results").exists()


def test_the_installed_command_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\ntrial: {train: {epochs: -1}}\n")
    command = Path(sys.executable).parent / "cvkan"
    done = subprocess.run(
        [command, "plan", "x.yaml"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "x.yaml:2: train.epochs: expected at least 0; got -1\n"


def test_a_problem_cannot_break_its_line_or_steer_the_terminal() -> None:
    assert str(Problem("a\nb", "c\x1b[31m", "d\u2028e")) == "a\\nb: c\\x1b[31m: d\\u2028e"
    assert str(Problem("", "", "Füße 😀")) == "Füße 😀"


def test_problems_come_once_and_by_line() -> None:
    ninth, tenth, option = Problem("x.yaml:9", "a", "b"), Problem("x.yaml:10", "a", "b"), Problem("--set a:1", "a", "b")
    assert UserError([option, tenth, ninth, tenth]).problems == [ninth, tenth, option]


def test_suggestions() -> None:
    assert nearest("dpeth", ["n_layers", "width"], {"depth": "n_layers"}) == "n_layers"
    assert nearest("NORM", ["norm", "n"]) == "norm"
    assert nearest("zzz", ["norm"]) is None
    assert did_you_mean("nrm", ["norm", "window"]) == "did you mean norm?"
    assert did_you_mean("zzz", ["norm", "window"]) == "valid: norm, window"
