"""Sweeps to report on, built by hand. `pytest tests/report --accept-golden` writes what the renderers give as the golden files."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cvkan.orchestrator.ledger import CORE, CURVES, HEAD, TAIL

METRICS = ("best_val_accuracy", "last_val_accuracy", "best_val_loss", "last_val_loss", "last_train_loss", "test_accuracy", "test_loss")
FIXED = {**HEAD, **CORE, **dict.fromkeys(METRICS, pa.float64()), **TAIL}

Values = Mapping[str, Any]
Row = dict[str, Any]
Sample = tuple[pa.Table, pa.Table, dict[str, Any]]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with tests/report/golden/NAME, or writes it there with --accept-golden."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--accept-golden", default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}; write it with: pytest tests/report --accept-golden"
        expected = path.read_text(encoding="utf-8")
        assert text == expected, f"{name} differs; if that is right: pytest tests/report --accept-golden"

    return compare


def key_of(arm: str, seed: int) -> str:
    return hashlib.sha256(f"{arm} {seed}".encode()).hexdigest()[:16]


def canonical(values: Values) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def make_plan(axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], **changes: Any) -> dict[str, Any]:
    """A plan over the grid of the axes; `changes` replace its entries."""
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    arms = [
        {
            "arm": canonical(point),
            "values": point,
            "label": " ".join(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in point.items()) or "defaults",
            "n_params": 199_000 + 37 * place,
            "matched": None,
        }
        for place, point in enumerate(points)
    ]
    plan: dict[str, Any] = {
        "schema": 1, "name": "example", "profile": None, "question": "Is more better?", "metric": {"name": "accuracy", "direction": "max"},
        "axes": {path: list(values) for path, values in axes.items()}, "seeds": list(seeds), "claims": [], "arms": arms, "dropped": [],
        "match": None, "file": "sweeps/example.yaml", "command": "cvkan sweep sweeps/example.yaml",
    }  # fmt: skip
    plan |= changes
    plan["trials"] = [{"key": key_of(arm["arm"], seed), "arm": arm["arm"], "seed": seed} for seed in plan["seeds"] for arm in plan["arms"]]
    return plan


def make_row(plan: Mapping[str, Any], arm: Mapping[str, Any], seed: int, test: float | None, **changes: Any) -> Row:
    """A completed trial with this test accuracy; `changes` replace columns."""
    figures = {
        "best_val_accuracy": test, "last_val_accuracy": test, "test_accuracy": test,
        "best_val_loss": None if test is None else 1 - test, "last_val_loss": None if test is None else 1 - test,
        "last_train_loss": None if test is None else 1 - test, "test_loss": None if test is None else 1 - test,
    }  # fmt: skip
    row: Row = {
        "key": key_of(arm["arm"], seed), "sweep": plan["name"], "arm": arm["arm"], **arm["values"], "seed": seed, "status": "completed",
        "reason": None, "n_params": arm["n_params"], "flops": None, "epochs": 20, "steps": 200, "best_epoch": 18, **figures,
        "seconds": 12.0, "seconds_train": 10.0, "seconds_eval": 2.0, "peak_memory_mb": None, "pack_size": 1, "attempts": 1,
        "cvkan_version": "0.1.0", "git_sha": "0123456789abcdef0123456789abcdef01234567", "git_dirty": False, "code_hash": "c0de",
        "data_hash": "da7a", "torch": "2.11.0", "device": "cpu", "host": "node-1",
        "started_utc": datetime(2026, 11, 2, 9) + timedelta(seconds=seed), "config": "{}",
    }  # fmt: skip
    return row | changes


def make_tables(plan: Mapping[str, Any], rows: Sequence[Row], points: Sequence[Row] = ()) -> tuple[pa.Table, pa.Table]:
    """The ledger's tables of rows, sorted by key as the ledger sorts them, and of a curve's points."""
    rows = sorted(rows, key=lambda row: row["key"])
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in FIXED.items()}
    columns |= {path: pa.array([row[path] for row in rows]) for path in plan["axes"]}
    return pa.table(columns), pa.table({name: pa.array([point[name] for point in points], kind) for name, kind in CURVES.items()})


class Build:
    """The functions above, for tests."""

    plan = staticmethod(make_plan)
    row = staticmethod(make_row)
    tables = staticmethod(make_tables)
    key = staticmethod(key_of)


@pytest.fixture
def build() -> type[Build]:
    return Build


@pytest.fixture
def depth_vs_width() -> Sample:
    """Two axes, eight seeds, two claims, with every kind of gap: diverged, failed, not run, an earlier row, dropped arms."""
    return depth_vs_width_sample()


def depth_vs_width_sample() -> Sample:
    layers, kinds = [1, 2, 4, 8], ["broadcast", "pointwise"]
    better, than = {"model.n_layers": 2, "model.interaction": "broadcast"}, {"model.n_layers": 8, "model.interaction": "broadcast"}
    plan = make_plan(
        {"model.n_layers": layers, "model.interaction": kinds},
        range(8),
        name="depth_vs_width",
        question="At equal parameter count, does CV-KAN gain more from width or from depth?",
        file="sweeps/depth_vs_width.yaml",
        command="cvkan sweep sweeps/depth_vs_width.yaml",
        match={"of": "params", "to": 200_000, "by": "model.d_complex", "within": 0.02},
        claims=[
            {"says": "Width beats depth at equal size", "metric": "test_accuracy", "better": better, "than": than, "margin": 0.005},
            {
                "says": "Broadcast keeps a lower loss than pointwise",
                "metric": "test_loss",
                "better": {"model.interaction": "broadcast"},
                "than": {"model.interaction": "pointwise"},
                "margin": 0.0,
            },
        ],
        dropped=[
            {
                "label": "n_layers=16 interaction=pointwise",
                "reason": "nearest to 200,000 parameters is 231,008 (+15.5%) at model.d_complex=24, outside 2.0%",
            }
        ],
    )
    for arm in plan["arms"]:
        arm["matched"] = {"path": "model.d_complex", "value": 176 // arm["values"]["model.n_layers"]}
    rows, points = [], []
    for place, arm in enumerate(plan["arms"]):
        for seed in range(8):
            test = 0.951 - 0.0042 * place - 0.0009 * ((seed * 7 + place * 3) % 8) + 0.0011 * (seed % 3)
            figures = {"best_val_accuracy": test + 0.004, "seconds": 31.4 + 9.7 * place + seed}
            rows.append(make_row(plan, arm, seed, test, device="NVIDIA H200", git_dirty=seed == 0, **figures))
            for epoch in range(1, 21):
                value = (test + 0.004) * (1 - 0.7 * 0.8**epoch)
                points.append(
                    {"key": rows[-1]["key"], "epoch": epoch, "step": epoch * 10, "split": "val", "metric": "accuracy", "value": value}
                )
    gone = {"test_accuracy": None, "test_loss": None}
    ends = {
        (7, 3): {"status": "diverged", "reason": "the loss is not finite at step 44 (epoch 3)"},
        (7, 5): {"status": "diverged", "reason": "the loss is not finite at step 44 (epoch 3)"},
        (6, 2): {"status": "out_of_memory", "reason": "CUDA out of memory at batch size 128; tried 32 with accumulation [cap 2]"},
    }
    for (arm_place, seed), end in ends.items():
        rows[arm_place * 8 + seed] |= {**end, **gone}
    del rows[5 * 8 + 7]
    old = make_row(plan, plan["arms"][0], 99, 0.2, status="completed")
    return *make_tables(plan, [*rows, old], points), plan
