"""The shipped sweeps: each plans in full, in both profiles, and runs from end to end."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from cvkan import cli
from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.plan import Plan, make_plan
from cvkan.orchestrator.run import cached_hash
from cvkan.orchestrator.sweep import read_sweep

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
each_sweep = pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
each_profile = pytest.mark.parametrize("profile", [None, "full"], ids=["default", "full"])

ARMS = {
    "aggregation": 5, "capacity": 4, "depth_vs_width": 8, "embedding": 6, "image_baselines": 5, "norm_type": 5, "optimizer": 24,
    "pooling": 4, "precision": 6,
}  # fmt: skip
SMALL = ("train.epochs=1", "train.batch_size=64", "data.n_train=128", "data.n_validation=40", "data.n_test=40", "checkpoints=none")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cifar-10-batches-py of noise: a plan needs the files, not what they show."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]):
        data = np.random.default_rng(seed).integers(0, 256, (40, 3072), dtype=np.uint8)
        content = {"labels": [index % 10 for index in range(40)], "data": data}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {index}" for index in range(10)]}, protocol=2))
    return root


def planned(path: Path, profile: str | None, cifar10: Path, cache: Path) -> Plan:
    sets = [f"data.root={cifar10}", "data.unverified=true"] if profile else []
    return make_plan(read_sweep(path, profile, sets), cached_hash(cache))


@each_profile
@each_sweep
def test_a_sweep_plans_with_all_its_arms(path: Path, profile: str | None, cifar10: Path, cache_dir: Path) -> None:
    plan = planned(path, profile, cifar10, cache_dir)
    assert plan.dropped == ()
    assert len(plan.arms) == ARMS[path.stem]
    assert {arm.config.plain()["data"]["name"] for arm in plan.arms} == {"cifar10" if profile else "digits"}


@each_profile
@each_sweep
def test_a_sweep_can_answer_its_claims(path: Path, profile: str | None, cifar10: Path, cache_dir: Path) -> None:
    """Each claim compares two groups of arms that share no arm, with more than two seeds to pair."""
    plan = planned(path, profile, cifar10, cache_dir)
    assert plan.spec.claims
    assert len(plan.spec.seeds) >= 3
    for claim in plan.spec.claims:
        better, than = (
            {arm.id for arm in plan.arms if all(arm.values[axis] == value for axis, value in side.items())}
            for side in (claim.better, claim.than)
        )
        assert better and than and not better & than, claim.says
        assert len(better) == len(than), claim.says
        assert claim.margin > 0, claim.says


@each_profile
@each_sweep
def test_a_sweep_cannot_run_for_ever(path: Path, profile: str | None) -> None:
    limits = read_sweep(path, profile).limits
    assert limits.trial_time is not None and limits.sweep_time is not None
    assert limits.trial_time <= limits.sweep_time


@each_sweep
def test_a_sweep_runs_from_end_to_end(
    path: Path, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for text in SMALL for word in ("--set", text)]
    words = ["sweep", str(path), "--local", "--seeds", "1", "--results", str(tmp_path), "--cache", str(cache_dir), *sets]
    monkeypatch.setattr(sys, "argv", ["cvkan", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0, capsys.readouterr().err
    trials = Ledger(tmp_path / path.stem).trials()
    assert trials["status"].to_pylist() == ["completed"] * ARMS[path.stem]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["cvkan", "report", str(tmp_path), "--format", "json"])
    with pytest.raises(SystemExit):
        cli.main()
    (summary,) = json.loads(capsys.readouterr().out)["sweeps"]
    assert summary["statuses"] == {"completed": ARMS[path.stem]}
    for claim in summary["claims"]:
        assert claim["difference"]["n"] == 1
        assert claim["difference"]["mean"] is not None
