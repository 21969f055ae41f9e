"""M5 on waveforms: shapes, sizes, and what every model promises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models import MODELS, misfit
from cvkan.models.m5 import M5, M5Settings

TONES = Task("waveform", (4000,), "classes", 10)
SPEECH = Task("waveform", (16_000,), "classes", 35)


def clips(task: Task, n: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, *task.shape, generator=torch.Generator().manual_seed(seed))


def build(task: Task = TONES, seed: int = 0) -> M5:
    torch.manual_seed(seed)
    return M5(M5.tiny(), task)


def test_it_is_a_model_for_waveforms_alone() -> None:
    assert MODELS["m5"] is M5
    assert misfit("m5", TONES) is None
    assert "cannot use complex input" in str(misfit("m5", Task("complex", (63, 129, 2), "classes", 10)))


@pytest.mark.parametrize("task", [TONES, SPEECH, Task("waveform", (1100,), "classes", 3)])
def test_scores_are_finite_float32(task: Task) -> None:
    out = build(task)(clips(task))
    assert out.scores.shape == (5, task.n_outputs) and out.scores.dtype == torch.float32
    assert out.scores.isfinite().all() and out.tokens is None


def test_the_paper_s_size() -> None:
    with torch.device("meta"):
        model = M5(M5Settings(d_channels=128), TONES)
    convolutions = 80 * 128 + 3 * 128 * 128 + 3 * 128 * 256 + 3 * 256 * 512
    norms, head = 2 * (128 + 128 + 256 + 512), 512 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + head


def test_clips_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.name m5 needs clips of at least 1100 samples; these have 1099"):
        M5.check(M5.tiny(), Task("waveform", (1099,), "classes", 3))


def test_every_parameter_gets_a_gradient() -> None:
    model = build()
    torch.autograd.backward(F.cross_entropy(model(clips(TONES)).scores, torch.arange(5)))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_examples_do_not_touch_each_other_in_evaluation() -> None:
    model, x = build().eval(), clips(TONES)
    torch.testing.assert_close(model(x).scores[:2], model(x[:2]).scores, rtol=1e-4, atol=1e-5)


def test_stacked_members_equal_solo_models() -> None:
    members = [build(seed=seed) for seed in range(3)]
    solos = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")
    x, y = clips(TONES), torch.arange(5)

    def scores(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(skeleton, (parameters, buffers), (x,)).scores
        return out

    stacked = torch.func.vmap(scores)(parameters, buffers)
    torch.autograd.backward([F.cross_entropy(member, y) for member in stacked])
    for index, solo in enumerate(solos):
        out = solo(x).scores
        torch.testing.assert_close(stacked[index], out, rtol=1e-4, atol=1e-5)
        torch.autograd.backward(F.cross_entropy(out, y))
        for name, parameter in solo.named_parameters():
            assert parameter.grad is not None
            size = parameter.grad.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(parameters[name].grad[index] / size, parameter.grad / size, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_half_precision_stays_finite(dtype: torch.dtype, scale: float) -> None:
    model = build()
    with torch.autocast("cpu", dtype):
        out = model(clips(TONES) * scale)
        loss = F.cross_entropy(out.scores, torch.arange(5))
    torch.autograd.backward(loss)
    assert out.scores.dtype == torch.float32 and out.scores.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_double_precision_agrees_with_single() -> None:
    single = build()(clips(TONES)).scores
    torch.testing.assert_close(single, build().double()(clips(TONES).double()).scores, rtol=1e-3, atol=1e-3)


def test_it_learns_to_tell_pitches() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(30) % 3
    phase = torch.rand(30, 1, generator=generator) * 6.28
    x = torch.sin(torch.arange(4000) * (0.1 + 0.1 * y[:, None]) + phase) + 0.1 * torch.randn(30, 4000, generator=generator)
    model = build(seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x).scores, y))
        optimizer.step()
    assert (model(x).scores.argmax(1) == y).float().mean() >= 0.9
