"""The grokking transformer: its formula, its few parameters, and grokking from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvkan.domains import DOMAINS
from cvkan.domains.task import Task
from cvkan.models.grok_transformer import GrokTransformer, GrokTransformerSettings
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of

EQUATIONS = Task("tokens", (3,), "classes", 7, vocabulary=8)
SETTINGS = GrokTransformerSettings(d_model=8, n_heads=2, d_mlp=16)


def build(task: Task = EQUATIONS, settings: GrokTransformerSettings = SETTINGS) -> GrokTransformer:
    torch.manual_seed(0)
    return GrokTransformer(settings, task)


def equations() -> Tensor:
    a, b = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))
    return torch.stack((a, b, torch.full((5,), 7)), dim=1)


def test_scores_are_those_of_the_formula() -> None:
    model, x = build(), equations()
    for tokens, scores in zip(x, model(x).scores, strict=True):
        h = model.embed.weight[tokens] + model.positions
        heads = []
        for head in range(2):
            q, k, v = (model.qkv.weight[8 * part + 4 * head :][:4] for part in range(3))
            pattern = torch.softmax((h @ q.T) @ (h @ k.T).T / 2.0, dim=-1)
            heads.append(pattern @ (h @ v.T))
        h = h + torch.cat(heads, dim=-1) @ model.out.weight.T
        h = h + torch.relu(h @ model.up.weight.T) @ model.down.weight.T
        torch.testing.assert_close(h[-1] @ model.unembed.weight.T, scores, rtol=1e-5, atol=1e-6)


def test_all_weights_are_matrices_of_the_asked_scale() -> None:
    model = build(settings=GrokTransformerSettings(d_model=128, d_mlp=512, init_scale=0.5))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert shapes == {
        "embed.weight": (8, 128), "positions": (3, 128), "qkv.weight": (384, 128), "out.weight": (128, 128),
        "up.weight": (512, 128), "down.weight": (128, 512), "unembed.weight": (7, 128),
    }  # fmt: skip
    for name, weight in model.named_parameters():
        assert abs(weight.std() * weight.shape[1] ** 0.5 - 0.5) < 0.05, name
        assert abs(weight.mean()) < 0.01, name


def test_the_last_real_token_is_read_and_padding_is_not_seen() -> None:
    model = build(Task("tokens", (5,), "classes", 7, vocabulary=9, padding=8))
    x = equations()
    padded = torch.cat((x, torch.full((5, 2), 8)), dim=1)
    torch.testing.assert_close(model(padded, padded != 8).scores, model(x).scores)
    garbled = torch.where(padded == 8, 3, padded)
    assert torch.equal(model(garbled, padded != 8).scores, model(padded, padded != 8).scores)


def test_pattern_and_neurons_are_what_the_scores_are_made_of() -> None:
    model, x = build(), equations()
    h = model.embed(x) + model.positions
    added, pattern = model.attend(h, None)
    assert pattern.shape == (5, 2, 3, 3)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(5, 2, 3))
    neurons = model.neurons(h + added)
    assert neurons.shape == (5, 3, 16) and neurons.min() == 0
    torch.testing.assert_close(model.unembed(h + added + model.down(neurons))[:, -1], model(x).scores)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.d_model 6 is not divisible by model\.n_heads 4"):
        build(settings=GrokTransformerSettings(d_model=6))
    with pytest.raises(ValueError, match=r"has 3 positions, and the data set tests 9 tokens"):
        build(Task("tokens", (3,), "classes", 7, vocabulary=8, longest=9))


def test_it_memorises_first_and_groks_later(cache_dir: Path) -> None:
    """Power et al. 2022 in small: the training part is known long before a rule that holds for the rest is found."""
    config = config_of({
        "domain": "arithmetic",
        "data": {"name": "addition", "p": 31, "fraction": 0.4},
        "model": {"name": "grok_transformer"},
        "optimizer": {
            "name": "adamw", "lr": 2e-2, "weight_decay": 2.0, "betas": [0.9, 0.98], "schedule": "constant", "warmup": 0.005,
        },
        "train": {"epochs": 2000, "batch_size": 100_000, "grad_clip": None, "eval_every": 10, "eval_train": True},
    })  # fmt: skip
    data = DOMAINS["arithmetic"].load(config.data, cache_dir)
    learner = Learner(config, [1], data, torch.device("cpu"))
    (member,) = learner.members
    curve: list[tuple[float, float]] = []
    while not member.done and (not curve or min(curve[-1]) < 0.95):
        points = {(point.split, point.metric): point.value for point in learner.advance(member)}
        curve.append((points["fit", "accuracy"], points["val", "accuracy"]))
    assert member.step % 10 == 0 and member.step == 10 * len(curve)
    assert any(fit >= 0.99 and held_out < 0.5 for fit, held_out in curve)
    assert curve[-1][0] >= 0.99 and curve[-1][1] >= 0.95
    assert learner.test(member)["test_accuracy"] >= 0.9
