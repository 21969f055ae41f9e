"""From a sweep to its trials: which, in which order, under which keys."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvkan.errors import DataError, UserError
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.plan import Plan, label_of, make_plan, packs, points, trial_key
from cvkan.orchestrator.spec import SECTIONS, TrialConfig, config_from
from cvkan.orchestrator.sweep import SweepSpec, sweep_from

TEXT = """\
name: x
trial: {model: {name: mlp, d_hidden: 8}}
axes:
  model.n_layers: [1, 2]
  optimizer.lr: [0.1, 0.2, 0.3]
seeds: 2
"""
HASH = "ab" * 32


def spec(text: str = TEXT, sets: tuple[str, ...] = ()) -> SweepSpec:
    return sweep_from(parse(text, "x.yaml"), "x.yaml", None, sets)


def plan(text: str = TEXT, sets: tuple[str, ...] = ()) -> Plan:
    return make_plan(spec(text, sets), lambda config: HASH)


def config(settings: dict[str, Any]) -> TrialConfig:
    return config_from(parse(json.dumps(settings), "x.yaml"))


AXES = {"train.epochs": [1, 2, 3], "optimizer.lr": [0.1, 0.2, 0.3], "model.n_layers": [1, 2, 3], "model.norm": ["none", "rms"]}


@settings(deadline=None)
@given(st.data())
def test_points_against_trying_every_combination(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(list(AXES)), unique=True, max_size=4))
    axes = {name: AXES[name][: data.draw(st.integers(1, 3))] for name in names}
    tie = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=2)) if len(names) > 1 else []
    tie = tie if len({len(axes[name]) for name in tie}) == 1 else []
    rules = st.lists(st.dictionaries(st.sampled_from(names), st.integers(0, 2), min_size=1), max_size=2) if names else st.just([])
    exclude = [{name: axes[name][place % len(axes[name])] for name, place in rule.items()} for rule in data.draw(rules)]

    expected = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        together = len({axes[name].index(point[name]) for name in tie}) < 2
        if together and not any(all(point[name] == value for name, value in picked.items()) for picked in exclude):
            expected.append(point)

    text = json.dumps({"name": "x", "axes": axes, "zip": [tie] if tie else [], "exclude": exclude})
    if expected:
        found = [{path: value.label for path, value in point.items()} for point in points(spec(text))]
        assert sorted(found, key=json.dumps) == sorted(expected, key=json.dumps)
        assert len(tie) > 1 or found == expected  # the last axis moves fastest
    else:
        with pytest.raises(UserError, match="leaves no arm"):
            spec(text)


def test_every_arms_first_seed_comes_before_any_arms_second() -> None:
    made = plan()
    assert [(trial.seed, trial.arm.label) for trial in made.trials] == [
        (seed, f"n_layers={depth} lr={rate}") for seed in (0, 1) for depth in (1, 2) for rate in (0.1, 0.2, 0.3)
    ]


def test_an_arm_has_its_values_its_settings_and_its_size() -> None:
    made = plan()
    arm = made.arms[-1]
    assert arm.values == {"model.n_layers": 2, "optimizer.lr": 0.3}
    assert json.loads(arm.id) == arm.values
    assert arm.config.plain()["optimizer"]["lr"] == 0.3
    assert arm.n_params == (64 * 8 + 8) + (8 * 8 + 8) + (8 * 10 + 10)
    assert {trial.data_hash for trial in made.trials} == {HASH}


def test_labels_are_short_where_that_is_clear() -> None:
    assert label_of({"model.n_layers": 2, "optimizer.lr": 0.1}) == "n_layers=2 lr=0.1"
    assert label_of({"model.name": "mlp", "optimizer.name": "sgd", "train.epochs": 3}) == "model.name=mlp optimizer.name=sgd epochs=3"
    assert label_of({}) == "defaults"


def test_a_sweep_without_axes_has_one_arm() -> None:
    assert [trial.arm.label for trial in plan("name: x\nseeds: [5, 9]").trials] == ["defaults", "defaults"]


def test_the_key_of_known_settings_does_not_change() -> None:
    """If this fails, every ledger in the world is trained again: change keys only with the ledger's schema version."""
    known = config({"model": {"name": "mlp", "d_hidden": 8, "n_layers": 1}, "optimizer": {"name": "sgd"}})
    assert trial_key(known, "0" * 64, 3) == "21527a69371cfe04"


SETTINGS: dict[str, Any] = {
    "data": {"name": "digits", "root": "here", "n_train": 100},
    "model": {"name": "mlp", "d_hidden": 8, "dropout": 0.1},
    "optimizer": {"name": "adamw", "lr": 0.1, "betas": [0.9, 0.99]},
    "train": {"epochs": 3, "patience": 2},
    "loss": {"label_smoothing": 0.1},
}
CHANGES = [
    ("data", "n_train", 101),
    ("data", "split_seed", 1),
    ("data", "augment", "flip"),
    ("model", "d_hidden", 9),
    ("model", "dropout", 0.2),
    ("model", "n_layers", 3),
    ("optimizer", "name", "adam"),
    ("optimizer", "lr", 0.2),
    ("optimizer", "betas", [0.9, 0.98]),
    ("optimizer", "warmup", 0.1),
    ("train", "epochs", 4),
    ("train", "patience", None),
    ("train", "precision", "bf16"),
    ("loss", "label_smoothing", 0.0),
]


@given(st.randoms(use_true_random=False))
def test_the_order_in_a_file_changes_no_key(order: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name]) for name in names}

    assert trial_key(config(shuffled(SETTINGS)), HASH, 0) == trial_key(config(SETTINGS), HASH, 0)


@pytest.mark.parametrize(("section", "name", "value"), CHANGES)
def test_a_setting_that_changes_results_changes_the_key(section: str, name: str, value: object) -> None:
    other = {**SETTINGS, section: {**SETTINGS[section], name: value}}
    assert trial_key(config(other), HASH, 0) != trial_key(config(SETTINGS), HASH, 0)


def test_seed_and_data_change_the_key_and_the_datas_place_does_not() -> None:
    base = config(SETTINGS)
    moved = config({**SETTINGS, "data": {**SETTINGS["data"], "root": "there", "download": True}})
    assert len({trial_key(base, HASH, 0), trial_key(base, HASH, 1), trial_key(base, "cd" * 32, 0)}) == 3
    assert trial_key(moved, HASH, 0) == trial_key(base, HASH, 0)


def test_a_default_that_is_written_out_changes_no_key() -> None:
    written = {part: getattr(config({}), part).model_dump(mode="json") for part in SECTIONS}
    assert trial_key(config(written), HASH, 0) == trial_key(config({}), HASH, 0)


def test_more_seeds_and_values_keep_the_keys_of_the_old_trials() -> None:
    before = {trial.key for trial in plan().trials}
    after = {trial.key for trial in plan(sets=("seeds=3", "axes.model.n_layers=[4, 2, 1]")).trials}
    assert before < after
    assert len(after) == 27


def test_matched_arms_are_of_equal_size_and_their_key_holds_the_width() -> None:
    made = plan(sets=("match={to: 20000, within: 0.01}",))
    assert not made.dropped
    for arm in made.arms:
        assert arm.matched is not None
        assert arm.matched.path == "model.d_hidden"
        assert arm.config.plain()["model"]["d_hidden"] == arm.matched.value
        assert abs(arm.n_params - 20_000) <= 200
    by_hand = config({"model": {"name": "mlp", "n_layers": 1, "d_hidden": made.arms[0].matched.value}, "optimizer": {"lr": 0.1}})
    assert made.trials[0].key == trial_key(by_hand, HASH, 0)


def test_a_named_width_is_solved() -> None:
    made = plan("name: x\naxes: {model.n_layers: [1, 2]}\nmatch: {to: 50000, by: model.kan_hidden}\n")
    assert {arm.matched.path for arm in made.arms if arm.matched} == {"model.kan_hidden"}
    assert [arm.config.plain()["model"]["d_complex"] for arm in made.arms] == [64, 64]


def test_arms_that_cannot_be_matched_are_left_out_and_named() -> None:
    made = plan("name: x\ntrial: {model: {name: mlp}}\naxes: {model.n_layers: [1, 512]}\nmatch: {to: 1500}\nseeds: 2\n")
    assert [arm.label for arm in made.arms] == ["n_layers=1"]
    assert len(made.trials) == 2
    (dropped,) = made.dropped
    assert dropped.label == "n_layers=512"
    assert "nearest to 1,500 parameters is" in dropped.reason
    assert "model.d_hidden=1, outside 2.0%" in dropped.reason


def test_a_width_that_the_model_refuses_leaves_the_arm_out() -> None:
    with pytest.raises(UserError, match=r"model\.mlp_layers cannot be varied: expected at least 2; got 1"):
        plan("name: x\nmatch: {to: 1500, by: model.mlp_layers}\n")


def test_missing_data_is_told_once_for_each_data_set_at_its_line() -> None:
    text = "name: x\naxes:\n  train.epochs: [1, 2]\n  data:\n    - {name: digits}\n    - {name: mnist, root: a}\n    - {name: cifar10}\n"

    def data_hash(config: TrialConfig) -> str:
        name = config.data.identity()["name"]
        if name == "digits":
            return HASH
        raise DataError(f"{name} is not here; set data.root")

    with pytest.raises(UserError) as caught:
        make_plan(spec(text), data_hash)
    assert str(caught.value).splitlines() == [
        "x.yaml:6: data: mnist is not here; set data.root",
        "x.yaml:7: data: cifar10 is not here; set data.root",
    ]


def test_data_is_hashed_once_for_each_data_set() -> None:
    asked: Counter[str] = Counter()

    def data_hash(config: TrialConfig) -> str:
        asked[str(config.data.identity()["n_train"])] += 1
        return HASH

    make_plan(spec(TEXT.replace("[1, 2]", "[1, 2]\n  data.n_train: [10, 20]")), data_hash)
    assert asked == {"10": 1, "20": 1}


def test_two_arms_that_are_the_same_trial_are_refused() -> None:
    with pytest.raises(UserError, match=r"x\.yaml:5: axes\.optimizer: changes no result"):
        plan("name: x\naxes:\n  optimizer:\n    - {name: adam}\n    - {name: adam, lr: 0.001}\n")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7))
def test_packs_are_a_partition_by_arm_in_order(n_arms: int, n_seeds: int, size: int) -> None:
    trials = plan(sets=("axes.model.n_layers=[1]", f"axes.optimizer.lr={list(range(1, n_arms + 1))}", f"seeds={n_seeds}")).trials
    made = packs(trials, size)
    assert Counter(trial.key for pack in made for trial in pack) == Counter(trial.key for trial in trials)
    assert all(len({trial.arm.id for trial in pack}) == 1 and 1 <= len(pack) <= size for pack in made)
    assert len(made) == n_arms * -(-n_seeds // size)
    assert all([trial.seed for trial in pack] == sorted(trial.seed for trial in pack) for pack in made)
    places = {trial.key: place for place, trial in enumerate(trials)}
    firsts = [places[pack[0].key] for pack in made]
    assert firsts == sorted(firsts)


def test_packs_of_what_the_ledger_lacks() -> None:
    trials = [trial for trial in plan(sets=("seeds=3",)).trials if trial.seed != 1]
    assert [[trial.seed for trial in pack] for pack in packs(trials, 2)] == [[0, 2]] * 6
    assert packs([], 4) == []


def test_axes_that_make_too_many_arms_are_refused_at_once() -> None:
    values = list(range(1, 31))
    names = ("n_layers", "d_complex", "kan_hidden", "mlp_expansion", "window", "patch_size")
    axes = "".join(f"  model.{name}: {values}\n" for name in names)
    with pytest.raises(UserError, match="729,000,000 arms; at most 100,000"):
        plan(f"name: x\naxes:\n{axes}")


@pytest.mark.parametrize(
    ("model", "axis", "values"),
    [
        ("{name: tpi, window: none}", "model.window_size", "[4, 8]"),
        ("{name: tpi, variant: single}", "model.beta", "[0.1, 1.0]"),
        ("{name: cv_kan, head: emergent}", "model.n_heads", "[2, 4]"),
        ("{name: cv_kan, block: phase_attention}", "model.aggregation", "[mean, attention]"),
    ],
)
def test_an_axis_that_has_no_effect_beside_the_other_settings_is_refused(model: str, axis: str, values: str) -> None:
    text = f"name: x\ntrial: {{model: {model}}}\naxes: {{{axis}: {values}}}"
    with pytest.raises(UserError, match=f"axes.{axis}: changes no result"):
        make_plan(sweep_from(parse(text, "x.yaml"), "x.yaml"), lambda config: "0" * 64)


def test_a_setting_that_an_axis_brings_to_effect_may_stand_in_the_trial() -> None:
    text = "name: x\ntrial: {model: {name: tpi, window_size: 8}}\naxes: {model.window: [none, hard], model.decay: [layer]}"
    assert len(make_plan(sweep_from(parse(text, "x.yaml"), "x.yaml"), lambda config: "0" * 64).arms) == 2
