"""Sweep files with profiles and options: what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvkan.errors import UserError
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.spec import config_from
from cvkan.orchestrator.sweep import SweepSpec, read_sweep, sweep_from, tree_at

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))

TEXT = """\
name: x
question: >
  Deep
  or wide?
trial:
  model: {name: mlp, d_hidden: 8}
axes:
  model.n_layers: [1, 2]
  optimizer: [{name: sgd}, {name: adam, lr: 0.1}, {name: adam}]
seeds: 3
profiles:
  big:
    trial: {model: {d_hidden: 16}}
    seeds: 5
  deep: {axes: {model.n_layers: [8]}}
"""


def sweep(
    text: str = TEXT, profile: str | None = None, sets: tuple[str, ...] = (), seeds: str | None = None, one: bool = False
) -> SweepSpec:
    return sweep_from(parse(text, "x.yaml"), "x.yaml", profile, sets, seeds, one_trial=one)


def labels(spec: SweepSpec, axis: str) -> list[object]:
    return [value.label for value in spec.axes[axis]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_that_are_shipped_are_good(path: Path) -> None:
    spec = read_sweep(path)
    assert spec.name == path.stem
    assert spec.question.endswith("?")
    for profile in spec.tree.plain()["profiles"]:
        assert read_sweep(path, profile).folder == f"{path.stem}@{profile}"


def test_what_a_file_says() -> None:
    spec = sweep()
    assert (spec.name, spec.folder, spec.question, spec.seeds) == ("x", "x", "Deep or wide?", (0, 1, 2))
    assert spec.trial.plain() == {"model": {"name": "mlp", "d_hidden": 8}}
    assert labels(spec, "model.n_layers") == [1, 2]


def test_mappings_on_an_axis_are_named_by_what_tells_them_apart() -> None:
    assert labels(sweep(), "optimizer") == ["sgd", "adam (lr=0.1)", "adam"]
    assert labels(sweep(sets=("axes.optimizer=[{lr: 0.1}, {lr: 0.2, betas: [0.9, 0.99]}]",)), "optimizer") == [
        "lr=0.1",
        "lr=0.2, betas=[0.9, 0.99]",
    ]


def test_a_profile_is_laid_upon_the_file() -> None:
    spec = sweep(profile="big")
    assert (spec.folder, len(spec.seeds)) == ("x@big", 5)
    assert spec.trial.plain() == {"model": {"name": "mlp", "d_hidden": 16}}
    assert labels(sweep(profile="deep"), "model.n_layers") == [8]
    assert labels(sweep(profile="deep"), "optimizer") == labels(sweep(), "optimizer")


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.epochs=5", ("train", "epochs"), 5),
        ("trial.train.epochs=5", ("train", "epochs"), 5),
        (" train.epochs = 5", ("train", "epochs"), 5),
        ("data.root=a=b", ("data", "root"), "a=b"),
        ("train.patience=", ("train", "patience"), None),
        ("model={d_hidden: 4}", ("model",), {"name": "mlp", "d_hidden": 4}),
        ("domain=image", ("domain",), "image"),
    ],
)
def test_set_changes_the_trial(text: str, path: tuple[str, ...], value: object) -> None:
    found = sweep(sets=(text,)).trial.plain()
    for part in path:
        found = found[part]
    assert found == value


def test_set_changes_the_sweep() -> None:
    spec = sweep(sets=("axes.model.n_layers=[4]", "seeds=[7, 9]", "limits.retries=0", "match={to: 500}", "question=why"))
    assert labels(spec, "model.n_layers") == [4]
    assert (spec.seeds, spec.limits.retries, spec.question) == ((7, 9), 0, "why")
    assert spec.match is not None
    assert spec.match.to == 500


def test_the_last_set_wins_over_the_first_and_over_a_profile() -> None:
    spec = sweep(profile="big", sets=("model.d_hidden=1", "model.d_hidden=2"))
    assert spec.trial.plain()["model"]["d_hidden"] == 2


@pytest.mark.parametrize(
    ("text", "seeds"), [("8", tuple(range(8))), ("3,5,7", (3, 5, 7)), ("3,", (3,)), ("0", None), ("1, 2", (1, 2)), ("4,4", (4,))]
)
def test_seeds_of_the_command_line(text: str, seeds: tuple[int, ...] | None) -> None:
    if seeds is None:
        with pytest.raises(UserError, match="expected at least 1"):
            sweep(seeds=text)
    else:
        assert sweep(seeds=text).seeds == seeds


def test_one_trial_takes_the_first_value_of_every_axis() -> None:
    spec = sweep(TEXT + "exclude: [{model.n_layers: 1}]\nmatch: {to: 10}\n", one=True, sets=("model.n_layers=3",))
    assert (spec.axes, spec.exclude, spec.match, spec.claims) == ({}, (), None, ())
    assert spec.trial.plain() == {"model": {"name": "mlp", "d_hidden": 8, "n_layers": 3}, "optimizer": {"name": "sgd"}}


def test_one_trial_takes_the_first_value_of_axes_that_an_option_sets() -> None:
    spec = sweep(one=True, sets=("axes.model.n_layers=[4, 2, 3]", "axes.train.epochs=[7, 8]"))
    assert spec.axes == {}
    assert (spec.trial.plain()["model"]["n_layers"], spec.trial.plain()["train"]) == (4, {"epochs": 7})
    with pytest.raises(UserError, match=r"axes.model.n_layers: expected a list of values"):
        sweep(one=True, sets=("axes.model.n_layers=4",))


def test_one_trial_keeps_what_an_unnamed_value_does_not_change() -> None:
    text = "name: x\ntrial: {model: {name: mlp, d_hidden: 8}}\naxes: {model: [{label: deep, n_layers: 5}, {n_layers: 1}]}\n"
    assert sweep(text, one=True).trial.plain() == {"model": {"name": "mlp", "d_hidden": 8, "n_layers": 5}}


@pytest.mark.parametrize(("text", "line"), [("seeds=4", "set it with --seed"), ("name=foo", "lies in results/train")])
def test_one_trial_refuses_what_it_sets_itself(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        sweep(one=True, sets=(text,))


@pytest.mark.parametrize("folder", ["/tmp/a b #c", "123", "[x", "a: b", "null", " x "])
def test_the_folder_of_data_is_no_yaml(folder: str) -> None:
    spec = sweep_from(parse(TEXT, "x.yaml"), "x.yaml", sets=("data.root=elsewhere",), data=folder)
    assert spec.trial.plain()["data"] == {"root": folder}


def test_a_claim_names_values_as_the_axes_do() -> None:
    text = TEXT.replace("[1, 2]", "[1, 2]\n  optimizer.betas: [[0.9, 0.99], [0.8, 0.9]]\n  train.grad_clip: [1.0, 2.5]")
    text = text.replace("  optimizer: [{name: sgd}, {name: adam, lr: 0.1}, {name: adam}]\n", "")
    text += "claims: [{says: a, better: {optimizer.betas: [0.9, 0.99], train.grad_clip: 1}, than: {train.grad_clip: 2.5}}]\n"
    (claim,) = sweep(text).claims
    assert claim.better == {"optimizer.betas": "[0.9, 0.99]", "train.grad_clip": 1.0}
    assert claim.than == {"train.grad_clip": 2.5}


@pytest.mark.parametrize("text", ["zip: [model.n_layers, train.epochs]", "zip: [[model.n_layers, train.epochs]]"])
def test_one_group_of_tied_axes_needs_no_inner_list(text: str) -> None:
    spec = sweep(f"name: x\naxes: {{model.n_layers: [1, 2], train.epochs: [3, 4]}}\n{text}\n")
    assert spec.ties == (("model.n_layers", "train.epochs"),)


def test_empty_lists_and_mappings_say_nothing() -> None:
    spec = sweep("name: x\naxes: {}\nzip: []\nexclude: []\nclaims: []\nprofiles: {}\nlimits: {}\ntrial: {}\nmatch: null\n")
    assert (spec.axes, spec.ties, spec.exclude, spec.claims, spec.match) == ({}, (), (), (), None)


def test_a_mapping_without_a_name_changes_only_what_it_names() -> None:
    text = """
name: windows
trial: {model: {name: mlp, d_hidden: 24}}
axes:
  model:
    - {label: deep, n_layers: 5}
    - {n_layers: 1, dropout: 0.5}
    - {name: resnet}
"""
    spec = sweep_from(parse(text, "x.yaml"), "x.yaml")
    assert [value.label for value in spec.axes["model"]] == ["deep", "n_layers=1, dropout=0.5", "resnet"]
    models = [config_from(tree_at(spec.trial, {"model": value})).model.identity() for value in spec.axes["model"]]
    assert [model["name"] for model in models] == ["mlp", "mlp", "resnet"]
    assert [model.get("d_hidden") for model in models] == [24, 24, None]
    assert [model.get("n_layers") for model in models] == [5, 1, None]


@pytest.mark.parametrize("label", ["3", "''", "[a]", "null"])
def test_a_label_is_text(label: str) -> None:
    with pytest.raises(UserError, match=r"^x.yaml:3: axes.model: label: expected text that is not empty; got .*$"):
        sweep_from(parse(f"name: x\naxes:\n  model: [{{label: {label}, n_layers: 2}}]", "x.yaml"), "x.yaml")
