"""What every model promises, on every model and on every named part of CV-KAN."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models import MODELS
from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.cv_kan import HEAD_FEATURES, INTERACTIONS, UPDATES, CVKANSettings
from cvkan.models.embeddings import EMBEDDINGS, POSITIONS
from cvkan.models.norms import NORMS
from cvkan.models.poolings import POOLINGS

DIGITS = Task("image", (1, 8, 8), "classes", 10)
CIFAR = Task("image", (3, 32, 32), "classes", 7)


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """One model of every kind, and one CV-KAN for every value of every named setting."""
    parts: dict[str, Iterable[object]] = {
        "norm": NORMS,
        "pooling": POOLINGS,
        "aggregation": AGGREGATIONS,
        "embedding": EMBEDDINGS,
        "positions": POSITIONS,
        "update": UPDATES,
        "head_features": HEAD_FEATURES,
        "interaction": INTERACTIONS,
        "per_dim": (True, False),
        "mlp_layers": (2, 3),
        "head_hidden": (0, 5),
        "center_magnitudes": (True, False),
    }
    for name in MODELS:
        yield name, {}
    for setting, values in parts.items():
        for value in values:
            if value != CVKANSettings.model_fields[setting].default:
                yield "cv_kan", {setting: value}
    for aggregation in AGGREGATIONS:
        yield "cv_kan", {"aggregation": aggregation, "interaction": "pointwise", "update": "residual_log"}
    yield "cv_kan", {"per_dim": False, "interaction": "pointwise"}
    for embedding, positions in (("conv", "sinusoidal"), ("linear", "none")):
        yield "transformer", {"embedding": embedding, "positions": positions}


VARIANTS = [pytest.param(name, changes, id="-".join([name, *map(str, changes.values())])) for name, changes in variants()]
every_variant = pytest.mark.parametrize(("name", "changes"), VARIANTS)


def build(name: str, changes: dict[str, Any], task: Task = DIGITS, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    settings = MODELS[name].tiny()
    return MODELS[name](type(settings)(**{**settings.model_dump(), **changes}), task)


def images(task: Task = DIGITS, n: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(n, *task.shape, generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x).scores, torch.arange(len(x)) % 7)


@every_variant
@pytest.mark.parametrize("task", [DIGITS, CIFAR], ids=["digits", "cifar"])
def test_scores_are_finite_float32_of_the_task_s_shape(name: str, changes: dict[str, Any], task: Task) -> None:
    out = build(name, changes, task)(images(task, 3))
    assert out.scores.shape == (3, task.n_outputs)
    assert out.scores.dtype == torch.float32 and out.scores.isfinite().all()
    assert (out.tokens is not None) == MODELS[name].has_phases
    if out.tokens is not None:
        tokens = (task.shape[1] // 2) * (task.shape[2] // 2)
        assert out.tokens.re.shape == out.tokens.im.shape == (3, tokens, 8)
        assert out.tokens.re.dtype == out.tokens.im.dtype == torch.float32


@every_variant
def test_every_parameter_gets_a_gradient(name: str, changes: dict[str, Any]) -> None:
    model = build(name, changes)
    torch.autograd.backward(loss_of(model, images()))
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_variant
def test_the_same_seed_gives_the_same_output_and_another_does_not(name: str, changes: dict[str, Any]) -> None:
    x = images()
    first, again, other = (build(name, changes, seed=seed)(x).scores for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@every_variant
def test_a_state_dict_carries_a_model_over(name: str, changes: dict[str, Any]) -> None:
    model, other = build(name, changes, seed=0), build(name, changes, seed=1)
    model(images())
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()).scores, other.eval()(images()).scores)


@every_variant
def test_examples_do_not_touch_each_other_in_evaluation(name: str, changes: dict[str, Any]) -> None:
    model = build(name, changes).eval()
    x = images()
    torch.testing.assert_close(model(x).scores[:2], model(x[:2]).scores, rtol=1e-4, atol=1e-5)


@every_variant
def test_stacked_members_equal_solo_models(name: str, changes: dict[str, Any]) -> None:
    """Scores, gradients and buffers of three members under vmap equal those of each alone."""
    members = [build(name, changes, seed=seed) for seed in range(3)]
    solos = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")
    x = images()

    def scores(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(skeleton, (parameters, buffers), (x,)).scores
        return out

    stacked = torch.func.vmap(scores)(parameters, buffers)
    target = torch.arange(len(x)) % 7
    torch.autograd.backward([F.cross_entropy(member, target) for member in stacked])
    for i, solo in enumerate(solos):
        out = solo(x).scores
        torch.testing.assert_close(stacked[i], out, rtol=1e-5, atol=1e-5)
        torch.autograd.backward(F.cross_entropy(out, target))
        for key, parameter in solo.named_parameters():
            assert parameter.grad is not None
            size = parameter.grad.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(parameters[key].grad[i] / size, parameter.grad / size, rtol=1e-3, atol=1e-3, msg=key)
        for key, buffer in solo.named_buffers():
            torch.testing.assert_close(buffers[key][i], buffer, rtol=1e-5, atol=1e-5)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_half_precision_stays_finite(name: str, changes: dict[str, Any], dtype: torch.dtype, scale: float) -> None:
    model = build(name, changes)
    with torch.autocast("cpu", dtype):
        out = model(images() * scale)
        loss = F.cross_entropy(out.scores, torch.arange(5))
    torch.autograd.backward(loss)
    assert out.scores.dtype == torch.float32 and out.scores.isfinite().all()
    assert out.tokens is None or out.tokens.re.dtype == torch.float32
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@every_variant
def test_double_precision_agrees_with_single(name: str, changes: dict[str, Any]) -> None:
    model = build(name, changes)
    single = model(images()).scores
    model = build(name, changes).double()
    torch.testing.assert_close(single, model(images().double()).scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("interaction", INTERACTIONS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("norm", NORMS)
def test_deep_stacks_stay_finite(interaction: str, update: str, norm: str) -> None:
    model = build("cv_kan", {"n_layers": 16, "interaction": interaction, "update": update, "norm": norm})
    for scale in (0.0, 1.0, 1e3):
        model.zero_grad()
        loss = loss_of(model, images() * scale)
        torch.autograd.backward(loss)
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_grow_with_the_width_and_are_counted_without_memory(name: str) -> None:
    model = MODELS[name]
    settings = model.Settings()
    step = model.width_step(settings)
    counts = []
    with torch.device("meta"):
        for factor in range(1, 12):
            wider = type(settings)(**{**settings.model_dump(), model.width: factor * step})
            counts.append(sum(p.numel() for p in model(wider, CIFAR).parameters()))
    assert counts == sorted(set(counts))
    with torch.device("meta"):
        on_meta = model(settings, CIFAR)
    assert sum(p.numel() for p in on_meta.parameters()) == sum(p.numel() for p in model(settings, CIFAR).parameters())


@pytest.mark.parametrize("name", MODELS)
def test_dropout_works_and_stops_in_evaluation(name: str) -> None:
    if "dropout" not in type(MODELS[name].tiny()).model_fields:
        return
    model = build(name, {"dropout": 0.5})
    assert not torch.equal(model(images()).scores, model(images()).scores)
    model.eval()
    assert torch.equal(model(images()).scores, model(images()).scores)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_ten_images(name: str) -> None:
    model = build(name, {})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = images(n=10), torch.arange(10) % 3
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x).scores, y))
        optimizer.step()
    assert (model(x).scores.argmax(1) == y).float().mean() >= 0.9
