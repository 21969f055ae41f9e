"""The shipped sweeps: each plans in full, in both profiles, and runs from end to end."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from cvkan import cli
from cvkan.domains import DOMAINS
from cvkan.orchestrator.ledger import Ledger
from cvkan.orchestrator.plan import Plan, make_plan
from cvkan.orchestrator.run import cached_hash
from cvkan.orchestrator.sweep import read_sweep

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
each_sweep = pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
each_profile = pytest.mark.parametrize("profile", [None, "full"], ids=["default", "full"])

ARMS = {
    "aggregation": 5, "aggregation_paradox": 8, "audio_pooling": 4, "audio_precompute": 2, "capacity": 4, "charlm_baselines": 6,
    "complex_necessity": 9, "depth_vs_width": 8, "embedding": 6, "grokking": 6, "heads": 3, "image_baselines": 5, "norm_type": 5,
    "optimizer": 24, "pooling": 4, "precision": 24, "recall": 12, "text_baselines": 7, "text_norm": 4, "timeseries_baselines": 12,
    "timeseries_pooling": 3, "tpi_head": 12, "tpi_length": 6, "tpi_variants": 5, "tpi_window": 5,
}  # fmt: skip
"""Arms of each sweep's default."""
FULL_ARMS = {"aggregation_paradox": 12, "audio_precompute": 4, "recall": 30}
"""Where the full profile has another number of arms."""
FULL_DATA = {
    "image": ("cifar10",), "audio": ("speech_commands",), "timeseries": ("etth1",), "text": ("sst2",), "charlm": ("enwik8",),
}  # fmt: skip
"""The data sets of full profiles, by domain; the other domains are generated."""
ACROSS_DOMAINS = ("complex_necessity", "precision")
"""Sweeps over several domains, each with its embedded data set in every profile."""


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


def planned(path: Path, profile: str | None, request: pytest.FixtureRequest, cache: Path) -> Plan:
    if profile != "full" or path.stem in ACROSS_DOMAINS:
        return make_plan(read_sweep(path, profile), cached_hash(cache))
    domain = str(read_sweep(path).trial.plain().get("domain", "image"))
    sets = []
    if domain in FULL_DATA:
        root = request.getfixturevalue("cifar10" if domain == "image" else "sample_root")
        sets = [f"data.root={root}", *(["data.unverified=true"] if domain == "image" else [])]
    return make_plan(read_sweep(path, profile, sets), cached_hash(cache))


@each_profile
@each_sweep
def test_a_sweep_plans_with_all_its_arms(path: Path, profile: str | None, request: pytest.FixtureRequest, cache_dir: Path) -> None:
    plan = planned(path, profile, request, cache_dir)
    assert plan.dropped == ()
    assert len(plan.arms) == (FULL_ARMS.get(path.stem, ARMS[path.stem]) if profile == "full" else ARMS[path.stem])
    for arm in plan.arms:
        names = tuple(DOMAINS[arm.config.domain].DATA_SETS)[:1]
        if profile == "full" and path.stem not in ACROSS_DOMAINS:
            names = FULL_DATA.get(arm.config.domain, names)
        assert arm.config.plain()["data"]["name"] in names


@each_profile
@each_sweep
def test_a_sweep_can_answer_its_claims(path: Path, profile: str | None, request: pytest.FixtureRequest, cache_dir: Path) -> None:
    """Each claim compares two groups of arms that share no arm, with more than two seeds to pair."""
    plan = planned(path, profile, request, cache_dir)
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
    words = ["sweep", str(path), "--profile", "smoke", "--local", "--results", str(tmp_path), "--cache", str(cache_dir)]
    monkeypatch.setattr(sys, "argv", ["cvkan", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0, capsys.readouterr().err
    trials = Ledger(tmp_path / f"{path.stem}@smoke").trials()
    assert trials["status"].to_pylist() == ["completed"] * ARMS[path.stem]
    for format in ("terminal", "markdown", "csv"):
        monkeypatch.setattr(sys, "argv", ["cvkan", "report", str(tmp_path), "--format", format])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["cvkan", "report", str(tmp_path), "--format", "json"])
    with pytest.raises(SystemExit):
        cli.main()
    (summary,) = json.loads(capsys.readouterr().out)["sweeps"]
    assert summary["statuses"] == {"completed": ARMS[path.stem]}
    for claim in summary["claims"]:
        if claim["metric"]["column"] == "reached_step":
            continue  # nothing is reached in one epoch
        assert claim["difference"]["n"] == 1
        assert claim["difference"]["mean"] is not None
