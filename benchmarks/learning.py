"""What the models learn on small budgets: one table of test figures, each arm on the same data, split and number of updates.

    python benchmarks/learning.py [--only recall etth1] [--seeds 3] [--data DIR] [--threads 1]

Groups: recall (8 pairs), grokking (p = 31), signal_noise, tones, grammar need no files; enwik8 (bits per byte of each TPI variant
on the first megabyte) and etth1 (96 steps to 96) read DIR. Trials run one after another in this process, as `cvkan sweep --local`
runs them: no row is written. A group of seeds shows mean and range. Seconds are of training and evaluation on this machine, and
only tell what a row costs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
import torch

from cvkan.domains import DOMAINS
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.load import Node, merge
from cvkan.orchestrator.match import count_parameters
from cvkan.orchestrator.spec import TrialConfig, config_of

Plain = Mapping[str, Any]

COSINE = {"name": "adamw", "lr": 3e-3, "schedule": "cosine", "warmup": 0.05}
SMALL_TPI = {"name": "tpi", "d_model": 48, "n_layers": 2, "expansion": 2}
RECALL = {
    "domain": "recall", "data": {"name": "pairs", "pairs": 8, "n_train": 4000, "n_validation": 500, "n_test": 500},
    "optimizer": COSINE, "train": {"epochs": 8, "batch_size": 64},
}  # fmt: skip
ENWIK8 = {
    "domain": "charlm", "data": {"name": "enwik8", "prefix": 1_000_000, "length": 256},
    "optimizer": COSINE, "train": {"epochs": 2, "batch_size": 16},
}  # fmt: skip
ETTH1 = {"domain": "timeseries", "optimizer": COSINE, "train": {"epochs": 5, "batch_size": 64}}
LEVEL = {"name": "etth1"}
REVERSIBLE = {"name": "etth1", "reversible": True}
FORECASTER = {"name": "cv_kan", "d_complex": 32, "n_layers": 2, "readout": "tokens", "head_features": "both"}

MARKER = {"name": "cv_kan", "d_complex": 16, "n_layers": 2, "positions": "none"}

GROUPS: dict[str, tuple[Plain, dict[str, Plain]]] = {
    "recall": (
        RECALL,
        {
            "single": {"model": SMALL_TPI},
            "single, shift": {"model": {**SMALL_TPI, "shift": True}},
            "query_offset": {"model": {**SMALL_TPI, "variant": "query_offset"}},
            "hybrid": {"model": {**SMALL_TPI, "variant": "hybrid"}},
            "hybrid, shift": {"model": {**SMALL_TPI, "variant": "hybrid", "shift": True}},
            "transformer": {"model": {"name": "transformer", "d_model": 48, "n_layers": 2}},
            "lstm": {"model": {"name": "lstm", "d_hidden": 96, "n_layers": 1}},
        },
    ),
    "grokking": (
        {
            "domain": "arithmetic", "data": {"name": "addition", "p": 31, "fraction": 0.4}, "model": {"name": "grok_transformer"},
            "optimizer": {
                "name": "adamw", "lr": 2e-2, "weight_decay": 2.0, "betas": [0.9, 0.98], "schedule": "constant", "warmup": 0.005
            },
            "train": {"epochs": 2000, "batch_size": 100_000, "eval_every": 10, "grad_clip": None},
        },
        {"grok_transformer, weight decay 2": {}, "weight decay 0": {"optimizer": {"weight_decay": 0.0}}},
    ),
    "signal_noise": (
        {"domain": "signal_noise", "optimizer": {"name": "adamw", "lr": 1e-2}, "train": {"epochs": 6}},
        {
            "cv_kan, phase_attention": {"model": {**MARKER, "block": "phase_attention"}},
            "cv_kan, pointwise": {"model": {**MARKER, "interaction": "pointwise"}},
            "cv_kan, broadcast": {"model": MARKER},
            "tpi": {"model": {"name": "tpi", "d_model": 32, "n_layers": 2}},
            "transformer": {"model": {"name": "transformer", "d_model": 32, "n_layers": 2, "positions": "none"}},
        },
    ),
    "tones": ({"domain": "audio"}, {"cv_kan": {}}),
    "grammar": (
        {"domain": "text", "optimizer": COSINE, "train": {"epochs": 10, "batch_size": 32}},
        {
            "lstm": {"model": {"name": "lstm", "n_layers": 1, "d_hidden": 64}},
            "tpi": {"model": {"name": "tpi", "d_model": 32, "n_layers": 2}},
            "transformer": {"model": {"name": "transformer", "n_layers": 2, "positions": "sinusoidal"}},
            "cv_kan, causal context": {
                "model": {"name": "cv_kan", "d_complex": 32, "n_layers": 2, "interaction": "pointwise", "aggregation": "causal"}
            },
        },
    ),
    "enwik8": (
        ENWIK8,
        {
            **{variant: {"model": {**SMALL_TPI, "variant": variant}} for variant in ("single", "decoupled", "query_offset", "constrained")},
            "hybrid": {"model": {**SMALL_TPI, "variant": "hybrid"}},
            "single, shift": {"model": {**SMALL_TPI, "shift": True}},
        },
    ),
    "etth1": (
        ETTH1,
        {
            "dlinear": {"data": LEVEL, "model": {"name": "dlinear"}},
            "nlinear": {"data": LEVEL, "model": {"name": "nlinear"}},
            "cv_kan": {"data": LEVEL, "model": FORECASTER},
            "cv_kan, reversible": {"data": REVERSIBLE, "model": FORECASTER},
            "tpi": {"data": LEVEL, "model": {"name": "tpi", "d_model": 32, "n_layers": 2}},
            "tpi, reversible": {"data": REVERSIBLE, "model": {"name": "tpi", "d_model": 32, "n_layers": 2}},
        },
    ),
}  # fmt: skip
"""From the name of a group to what its arms share, and what each arm sets beside it."""


def located(value: Any) -> Node:
    """Plain settings as the tree that sweeps are made of."""
    if isinstance(value, Mapping):
        return Node({key: located(child) for key, child in value.items()}, "benchmark")
    return Node([located(child) for child in value], "benchmark") if isinstance(value, list | tuple) else Node(value, "benchmark")


def config(shared: Plain, arm: Plain, root: str) -> TrialConfig:
    """The settings of an arm, its data under `root`."""
    tree = merge(merge(located(shared), located(arm)), located({"data": {"root": root}}))
    return config_of(tree.plain())


def trained(settings: TrialConfig, seed: int, cache: Path) -> tuple[float, float]:
    """The headline figure of the test part, and the seconds that it took."""
    data = DOMAINS[settings.domain].load(settings.data, cache)
    learner = Learner(settings, [seed], data, torch.device("cpu"))
    (member,) = learner.members
    while not member.done:
        learner.advance(member)
    if member.diverged is not None:
        return float("nan"), member.seconds_train
    figure = learner.test(member)[f"test_{learner.task.metric}"]
    return figure, member.seconds_train + member.seconds_eval


def rows(group: str, seeds: int, root: str, cache: Path) -> Iterator[str]:
    """A line for each arm of a group."""
    shared, arms = GROUPS[group]
    for name, arm in arms.items():
        settings = config(shared, arm, root)
        size = count_parameters(str(settings.model.identity()["name"]), settings.model, settings.task())
        runs = [trained(settings, seed, cache) for seed in range(seeds)]
        figures = [figure for figure, _ in runs]
        spread = f" ({min(figures):.3f} to {max(figures):.3f})" if seeds > 1 else ""
        cost = sum(seconds for _, seconds in runs) / seeds
        yield f"{name:34}{settings.task().metric:>9} {sum(figures) / seeds:.3f}{spread:20}{size:>10,}{cost:>8.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", default="data")
    parser.add_argument("--cache", type=Path, default=platformdirs.user_cache_path("cvkan"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    print(f"test figures of {options.seeds} seed(s), mean (least to most); parameters; seconds a trial; torch {torch.__version__}")
    for group in options.only:
        shared, arms = GROUPS[group]
        print(f"\n{group}: {json.dumps(shared)}")
        started = time.perf_counter()
        for line in rows(group, options.seeds, options.data, options.cache):
            print(line, flush=True)
        print(f"{len(arms)} arms, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
