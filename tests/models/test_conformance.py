"""What every model promises, on every kind of task that it serves, and for every named part of CV-KAN and its twins."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cvkan.models
from cvkan.domains.objectives import OBJECTIVES
from cvkan.domains.task import Task
from cvkan.errors import UserError
from cvkan.models import MODELS, misfit
from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.blocks import BLOCKS, HEAD_FEATURES, UPDATES
from cvkan.models.embeddings import EMBEDDINGS, POSITIONS
from cvkan.models.heads import HEADS
from cvkan.models.norms import NORMS
from cvkan.models.output import Output
from cvkan.models.poolings import POOLINGS
from cvkan.models.real_cartesian import REAL_NORMS
from cvkan.models.real_polar import LOG_NORMS
from cvkan.models.twins import INTERACTIONS, READOUTS
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.spec import config_from

TASKS: dict[str, Task] = {
    "image": Task("image", (3, 8, 8), "classes", 7),
    "complex": Task("complex", (6, 5, 2), "classes", 7),
    "complex_tokens": Task("complex", (6, 5, 2), "token_classes", 2),
    "complex_causal": Task("complex", (6, 5, 2), "token_classes", 2, causal=True),
    "forecast": Task("series", (12, 3), "forecast", 3, metric="mse", direction="min", horizon=4),
    "reversible": Task("series", (12, 3), "forecast", 3, metric="mse", direction="min", horizon=4, reversible=True),
    "sentence": Task("tokens", (9,), "classes", 3, vocabulary=11, padding=0),
    "equation": Task("tokens", (3,), "classes", 7, vocabulary=8),
    "tagged": Task("tokens", (9,), "token_classes", 5, vocabulary=11, padding=0),
    "recall": Task("tokens", (9,), "token_classes", 5, causal=True, vocabulary=11, padding=0),
    "language": Task("tokens", (9,), "next_token", 11, metric="bpc", direction="min", causal=True, vocabulary=11),
    "waveform": Task("waveform", (1300,), "classes", 7),
}
"""One small task of every kind."""

FIXED_LENGTH = frozenset({"mlp"})
"""Models that take no sequence shorter than task.shape either."""

PARTS: dict[str, dict[str, Iterable[object]]] = {
    "cv_kan": {
        "block": BLOCKS,
        "head": HEADS,
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
    },
    "real_polar": {
        "norm": LOG_NORMS,
        "pooling": POOLINGS,
        "update": UPDATES,
        "head_features": HEAD_FEATURES,
        "interaction": INTERACTIONS,
        "per_dim": (True, False),
    },
    "real_cartesian": {
        "norm": REAL_NORMS,
        "pooling": POOLINGS,
        "interaction": INTERACTIONS,
        "per_dim": (True, False),
    },
}
"""Named settings and all their values, each tried alone on an image and on a causal sequence where it can have an effect."""

TOGETHER: list[tuple[str, dict[str, Any]]] = [
    *(("cv_kan", {"aggregation": name, "interaction": "pointwise", "update": "residual_log"}) for name in AGGREGATIONS),
    *(("cv_kan", {"block": name, "interaction": "pointwise", "per_dim": False}) for name in BLOCKS),
    *(("cv_kan", {"block": name, "head": "factored", "n_heads": 2}) for name in BLOCKS if name != "polarizing"),
    ("cv_kan", {"block": "hierarchical", "aggregation": "attention", "n_layers": 3}),
    ("cv_kan", {"block": "phase_attention", "head": "phase_offset"}),
    ("real_polar", {"update": "residual_log", "interaction": "pointwise"}),
    ("transformer", {"embedding": "conv", "positions": "sinusoidal"}),
    ("transformer", {"positions": "none"}),
]
"""Further combinations, on an image and on a causal sequence."""

NOT_CAUSAL = frozenset({("aggregation", name) for name in AGGREGATIONS if name != "causal"} | {("norm", "batch")})
"""Values that CV-KAN refuses on a causal task."""
Variant = tuple[str, dict[str, Any], str]


def effective(name: str, changes: dict[str, Any], task: Task) -> bool:
    """Whether the changes can be made on a task and are not idle there."""
    refused = task.causal and name == "cv_kan" and any(item in NOT_CAUSAL for item in changes.items())
    only = MODELS[name].only
    return not refused and all(setting not in only or only[setting] & {task.input, task.output} for setting in changes)


def variants() -> list[Variant]:
    """Every model on every task that it serves, and every named part on an image and a causal sequence."""
    found: list[Variant] = [(name, {}, task) for name in MODELS for task in TASKS if misfit(name, TASKS[task]) is None]
    changed = list(TOGETHER)
    for name, settings in PARTS.items():
        defaults = MODELS[name].tiny().model_dump()
        changed += [(name, {key: value}) for key, values in settings.items() for value in values if value != defaults[key]]
    found += [(name, changes, task) for name, changes in changed for task in ("image", "recall") if effective(name, changes, TASKS[task])]
    found += [(name, {"readout": value}, "forecast") for name in PARTS for value in READOUTS if value != "pooled"]
    found += [(name, {"interaction": "pointwise"}, "sentence") for name in PARTS]
    found += [("cv_kan", {"block": value}, "tagged") for value in BLOCKS if value != "polarizing"]
    found += [("cv_kan", {"head": value}, "tagged") for value in HEADS if value != "emergent"]
    found += [("cv_kan", {"aggregation": value}, "complex_tokens") for value in AGGREGATIONS if value != "mean"]
    return found


VARIANTS = variants()


def label(variant: Variant) -> str:
    name, changes, task = variant
    return "-".join([name, *map(str, changes.values()), task])


def over(chosen: Iterable[Variant]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "changes", "task"), [pytest.param(*variant, id=label(variant)) for variant in chosen])


every_variant = over(VARIANTS)


def build(name: str, changes: dict[str, Any], task: Task, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    settings = MODELS[name].tiny()
    return cvkan.models.build(name, type(settings)(**{**settings.model_dump(), **changes}), task)


def batch(task: Task, n: int = 4, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    """Inputs and mask, as the learner makes them; where there is padding the examples have 2, 4, 6, ... real tokens."""
    generator = torch.Generator().manual_seed(seed)
    if task.input != "tokens":
        return torch.randn(n, *task.shape, generator=generator), None
    if task.padding is None:
        return torch.randint(task.vocabulary, (n, *task.shape), generator=generator), None
    x = torch.randint(1, task.vocabulary, (n, *task.shape), generator=generator)
    length = torch.arange(2, 2 * n + 2, 2)[:, None]
    x = x.masked_fill(torch.arange(task.shape[0]) >= length, task.padding)
    return x, x != task.padding


def targets(task: Task, x: Tensor, mask: Tensor | None) -> Tensor:
    n, tokens = len(x), task.shape[0]
    if task.output == "forecast":
        return x[:, -1:].expand(n, task.horizon, -1)
    if task.output == "classes":
        return torch.arange(n) % task.n_outputs
    y = torch.arange(n * tokens).reshape(n, tokens) % task.n_outputs
    return y if mask is None else y.masked_fill(~mask, -1)


def loss_of(task: Task, scores: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    return OBJECTIVES[task.output].loss(scores, targets(task, x, mask), 0.0)


def trained(model: nn.Module, task: Task, x: Tensor, mask: Tensor | None) -> Output:
    """The output, after one backward pass."""
    out: Output = model(x, mask)
    torch.autograd.backward(loss_of(task, out.scores, x, mask))
    return out


def assert_finite_gradients(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad()
    torch.autograd.backward(loss)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def shape_of(task: Task, n: int) -> tuple[int, ...]:
    return {
        "classes": (n, task.n_outputs),
        "token_classes": (n, task.shape[0], task.n_outputs),
        "next_token": (n, task.shape[0], task.n_outputs),
        "forecast": (n, task.horizon, task.n_outputs),
    }[task.output]


def test_every_model_serves_a_task_here() -> None:
    assert {name for name, _, _ in VARIANTS} == set(MODELS)


@every_variant
def test_scores_are_finite_float32_and_every_parameter_gets_a_gradient(name: str, changes: dict[str, Any], task: str) -> None:
    posed = TASKS[task]
    x, mask = batch(posed)
    model = build(name, changes, posed)
    out = trained(model, posed, x, mask)
    assert out.scores.shape == shape_of(posed, 4)
    assert out.scores.dtype == torch.float32 and out.scores.isfinite().all()
    assert (out.tokens is not None) == MODELS[name].has_phases
    if out.tokens is not None:
        tokens = 16 if posed.input == "image" else posed.shape[0]
        assert out.tokens.re.shape[:2] == out.tokens.im.shape[:2] == (4, tokens)
        assert out.tokens.re.dtype == out.tokens.im.dtype == torch.float32
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_variant
def test_a_seed_gives_one_model_that_its_state_carries_over(name: str, changes: dict[str, Any], task: str) -> None:
    x, mask = batch(TASKS[task])
    first, again, other = (build(name, changes, TASKS[task], seed=seed) for seed in (3, 3, 4))
    scores = first(x, mask).scores
    assert torch.equal(scores, again(x, mask).scores) and not torch.equal(scores, other(x, mask).scores)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x, mask).scores, other.eval()(x, mask).scores)


@every_variant
def test_examples_do_not_touch_each_other_in_evaluation(name: str, changes: dict[str, Any], task: str) -> None:
    model = build(name, changes, TASKS[task]).eval()
    x, mask = batch(TASKS[task])
    torch.testing.assert_close(model(x, mask).scores[:2], model(x[:2], None if mask is None else mask[:2]).scores, rtol=1e-4, atol=1e-5)


@over(variant for variant in VARIANTS if MODELS[variant[0]].stacks)
def test_stacked_members_equal_solo_models(name: str, changes: dict[str, Any], task: str) -> None:
    """Scores, gradients and buffers of two members under vmap equal those of each alone."""
    posed = TASKS[task]
    x, mask = batch(posed)
    members = [build(name, changes, posed, seed=seed) for seed in range(2)]
    solos = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")

    def scores(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(skeleton, (parameters, buffers), (x, mask)).scores
        return out

    stacked = torch.func.vmap(scores)(parameters, buffers)
    torch.autograd.backward([loss_of(posed, member, x, mask) for member in stacked])
    for i, solo in enumerate(solos):
        torch.testing.assert_close(stacked[i], trained(solo, posed, x, mask).scores, rtol=1e-5, atol=1e-5)
        for key, parameter in solo.named_parameters():
            assert parameter.grad is not None
            size = parameter.grad.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(parameters[key].grad[i] / size, parameter.grad / size, rtol=1e-3, atol=1e-3, msg=key)
        for key, buffer in solo.named_buffers():
            torch.testing.assert_close(buffers[key][i], buffer, rtol=1e-5, atol=1e-5)


@every_variant
def test_half_precision_and_zeros_stay_finite(name: str, changes: dict[str, Any], task: str) -> None:
    """In both half precisions, on inputs of 0, of usual and of large size; and with all weights 0."""
    posed = TASKS[task]
    inputs, mask = batch(posed)
    model = build(name, changes, posed)
    cases = [(torch.float16, size) for size in ((1.0,) if posed.input == "tokens" else (0.0, 1.0, 1e3))]
    for dtype, size in [*cases, (torch.bfloat16, 1.0)]:
        x = inputs * size if inputs.is_floating_point() else inputs
        with torch.autocast("cpu", dtype):
            out = model(x, mask)
        assert out.scores.dtype == torch.float32 and out.scores.isfinite().all(), size
        assert out.tokens is None or out.tokens.re.dtype == torch.float32
        # The gradient of a squared error grows with the square of the numbers; the learner's loss scaler would see to it.
        loss = loss_of(posed, out.scores, x, mask)
        assert_finite_gradients(model, loss / max(1.0, size) ** 2 if posed.output == "forecast" else loss)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    scores = model(inputs, mask).scores
    assert scores.isfinite().all()
    assert_finite_gradients(model, loss_of(posed, scores, inputs, mask))


@every_variant
def test_double_precision_agrees_with_single(name: str, changes: dict[str, Any], task: str) -> None:
    x, mask = batch(TASKS[task])
    model = build(name, changes, TASKS[task])
    single = model(x, mask).scores
    model = build(name, changes, TASKS[task]).double()
    double = model(x.double() if x.is_floating_point() else x, mask).scores
    torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-3)


@over(variant for variant in VARIANTS if TASKS[variant[2]].causal)
def test_a_token_of_a_causal_task_does_not_see_those_after_it(name: str, changes: dict[str, Any], task: str) -> None:
    """Bit for bit, whatever follows; and a shorter sequence gives the same scores."""
    posed = TASKS[task]
    model = build(name, changes, posed).eval()
    x, _ = batch(replace(posed, padding=None))
    before = model(x).scores
    for t in range(1, posed.shape[0]):
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % posed.vocabulary if posed.input == "tokens" else -3.0 * x[:, t] + 1.0
        after = model(changed).scores
        assert torch.equal(before[:, :t], after[:, :t]), t
        assert not torch.equal(before[:, t:], after[:, t:]), t
        torch.testing.assert_close(model(x[:, :t]).scores, before[:, :t], rtol=1e-4, atol=1e-5)


@over(variant for variant in VARIANTS if TASKS[variant[2]].padding is not None)
def test_padding_changes_nothing(name: str, changes: dict[str, Any], task: str) -> None:
    """Neither what stands in it, nor how much of it there is."""
    posed = TASKS[task]
    model = build(name, changes, posed).eval()
    x, mask = batch(posed)
    assert mask is not None
    scores = model(x, mask).scores
    other = torch.where(mask, x, posed.vocabulary - 1)
    real = mask if posed.output != "classes" else torch.ones(len(x), dtype=torch.bool)
    torch.testing.assert_close(model(other, mask).scores[real], scores[real], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(x[3:], mask[3:]).scores, model(x[3:], None if bool(mask[3:].all()) else mask[3:]).scores)
    if name in FIXED_LENGTH:
        return
    for row in range(len(x)):
        n = int(mask[row].sum())
        alone = model(x[row : row + 1, :n]).scores[0]
        padded = scores[row] if posed.output == "classes" else scores[row, :n]
        torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-5)


def longer(task: Task) -> Task:
    return replace(task, longest=2 * task.shape[0])


@over(variant for variant in VARIANTS if TASKS[variant[2]].input in ("complex", "tokens"))
def test_longer_sequences_than_those_of_training_work_or_are_refused(name: str, changes: dict[str, Any], task: str) -> None:
    posed = longer(TASKS[task])
    try:
        model = build(name, changes, posed).eval()
    except ValueError as error:
        assert str(error).startswith("model.") and "\n" not in str(error) and str(posed.length) in str(error)
        return
    x, _ = batch(replace(posed, shape=(posed.length, *posed.shape[1:]), padding=None))
    scores = model(x).scores
    assert scores.isfinite().all()
    assert scores.shape == shape_of(replace(posed, shape=(posed.length,)), 4)
    if posed.causal:
        torch.testing.assert_close(model(x[:, : posed.shape[0]]).scores, scores[:, : posed.shape[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cv_kan", "real_polar", "real_cartesian", "transformer"])
def test_positions_that_are_not_learned_reach_beyond_training(name: str) -> None:
    for positions in ("sinusoidal", "none"):
        build(name, {"positions": positions}, longer(TASKS["recall"]))
    with pytest.raises(ValueError, match="positions learned ends at token 9"):
        build(name, {"positions": "learned"}, longer(TASKS["recall"]))


REFUSED = [(name, task) for name in MODELS for task in TASKS if misfit(name, TASKS[task]) is not None]


@pytest.mark.parametrize(("name", "task"), REFUSED)
def test_a_task_that_a_model_cannot_serve_is_refused_with_those_that_can(name: str, task: str) -> None:
    text = misfit(name, TASKS[task])
    assert text is not None and text.startswith(f"{name} cannot ") and "\n" not in text
    able = text.partition("; models that can: ")[2].split(", ")
    assert able == [other for other in MODELS if misfit(other, TASKS[task]) is None]


@pytest.mark.parametrize("item", sorted(NOT_CAUSAL))
def test_cv_kan_refuses_what_would_show_the_future(item: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"model.{item[0]} {item[1]} "):
        build("cv_kan", dict([item]), TASKS["recall"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"model": {"name": "m5"}}, "x.yaml:1: model.name: m5 cannot use image input; models that can: "),
        (
            {"domain": "recall", "model": {"name": "mlp"}},
            "x.yaml:1: model.name: mlp cannot keep a token from seeing those after it; ",
        ),
        (
            {"domain": "recall", "model": {"name": "cv_kan", "aggregation": "mean"}},
            "x.yaml:1: model.aggregation: mean would show a token what follows it; this data set needs causal",
        ),
    ],
)
def test_a_sweep_file_is_told_the_same(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config_from(parse(json.dumps(choice), "x.yaml"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("interaction", INTERACTIONS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("norm", NORMS)
def test_deep_stacks_stay_finite(interaction: str, update: str, norm: str) -> None:
    posed = TASKS["image"]
    model = build("cv_kan", {"n_layers": 16, "interaction": interaction, "update": update, "norm": norm}, posed)
    x, _ = batch(posed)
    for scale in (0.0, 1.0, 1e3):
        scores = model(x * scale).scores
        assert scores.isfinite().all()
        assert_finite_gradients(model, loss_of(posed, scores, x, None))


FIRST = {name: next(task for task in TASKS if misfit(name, TASKS[task]) is None) for name in MODELS}
"""For each model the first task that it serves."""


@pytest.mark.parametrize("name", MODELS)
def test_parameters_grow_with_the_width_and_are_counted_without_memory(name: str) -> None:
    model, posed = MODELS[name], TASKS[FIRST[name]]
    settings = model.Settings()
    with torch.device("meta"):
        on_meta = model(settings, posed)
    assert sum(p.numel() for p in on_meta.parameters()) == sum(p.numel() for p in model(settings, posed).parameters())
    if model.width is None:
        return
    counts = []
    with torch.device("meta"):
        for factor in range(1, 12):
            wider = type(settings)(**{**settings.model_dump(), model.width: factor * model.width_step(settings)})
            counts.append(sum(p.numel() for p in model(wider, posed).parameters()))
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("name", [name for name in MODELS if "dropout" in MODELS[name].Settings.model_fields])
def test_dropout_works_and_stops_in_evaluation(name: str) -> None:
    posed = TASKS[FIRST[name]]
    model = build(name, {"dropout": 0.5}, posed)
    x, mask = batch(posed)
    assert not torch.equal(model(x, mask).scores, model(x, mask).scores)
    model.eval()
    assert torch.equal(model(x, mask).scores, model(x, mask).scores)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_a_few_examples(name: str) -> None:
    posed = TASKS[FIRST[name]]
    model = build(name, {}, posed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, mask = batch(posed, n=6)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(posed, model(x, mask).scores, x, mask)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_forecast_of_a_reversible_task_moves_with_the_series() -> None:
    x, _ = batch(TASKS["reversible"])
    for name in (name for name in MODELS if misfit(name, TASKS["reversible"]) is None):
        model = build(name, {}, TASKS["reversible"]).eval()
        torch.testing.assert_close(model(3.0 * x + 5.0).scores, 3.0 * model(x).scores + 5.0, rtol=1e-3, atol=1e-3)


def test_the_real_polar_twin_has_the_size_of_cv_kan() -> None:
    for posed in TASKS.values():
        if misfit("cv_kan", posed) is None:
            with torch.device("meta"):
                sizes = [
                    sum(p.numel() for p in MODELS[name](MODELS[name].Settings(), posed).parameters()) for name in ("cv_kan", "real_polar")
                ]
            assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
