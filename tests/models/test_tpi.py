"""TPI: its formulas, causality, masks, streaming, precision and packing, for every variant and window."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.output import Pair
from cvkan.models.protocol import Streaming
from cvkan.models.regularisers import REGULARISERS
from cvkan.models.tpi import LEAST, MEMORIES, NORMALISERS, TPI, VARIANTS, WINDOWS, Mixer
from cvkan.models.waves import RMS_EPS, read, unit_pairs, wave, write

NEXT = Task("tokens", (16,), "next_token", 11, metric="bpc", direction="min", causal=True, vocabulary=11)
PADDED = Task("tokens", (16,), "classes", 3, vocabulary=11, padding=0)
FRAMES = Task("complex", (16, 4, 2), "token_classes", 2)
IMAGES = Task("image", (1, 8, 8), "classes", 10)
FORECAST = Task("series", (16, 3), "forecast", 3, metric="mse", direction="min", horizon=5)

COMBINATIONS = [(variant, window, "layer") for variant, window in product(VARIANTS, WINDOWS)] + [("single", "decay", "channel")]
every_combination = pytest.mark.parametrize(("variant", "window", "decay"), COMBINATIONS)


def settings_of(variant: str, window: str, decay: str, **changes: Any) -> Any:
    chosen = {
        "variant": variant,
        "window": window,
        "decay": decay,
        "window_size": 7,
        "d_model": 6,
        "n_layers": 1,
        "n_phases": 4,
        "expansion": 2,
    }
    return TPI.Settings(**{**chosen, **changes})


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """Speeds that turn phases by some radians a token: at the start they hardly turn at all."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("speed"):
                parameter.copy_(torch.linspace(-0.8, 1.2, len(parameter)))
    return module


def build(variant: str = "single", window: str = "none", decay: str = "layer", task: Task = NEXT, **changes: Any) -> TPI:
    torch.manual_seed(0)
    model = TPI(settings_of(variant, window, decay, **changes), task)
    lively(model)
    return model.eval()


def ids(length: int, batch: int = 2) -> Tensor:
    return torch.randint(1, 11, (batch, length), generator=torch.Generator().manual_seed(length))


# --- formulas -----------------------------------------------------------------------------------------------------


def naive(mixer: Mixer, settings: Any, x: Tensor) -> Tensor:
    """The formulas at the head of tpi.py for one sequence x (T, D) float64, token by token in complex128."""
    d = settings.d_model
    if settings.shift:
        x = torch.stack([mixer.taps[0] * x[t] + mixer.taps[1] * (x[t - 1] if t else torch.zeros(d)) for t in range(len(x))])
    omega = F.linear(x, mixer.turn.weight, mixer.turn.bias)
    speed = mixer.speed.abs()
    own = mixer.initial(x) if settings.phase_init else torch.zeros_like(x)
    phi, phi_read = torch.zeros(d), torch.zeros(d)
    written: list[tuple[Tensor, Tensor]] = []
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    outs = []
    for t in range(len(x)):
        w = omega[t]
        phi = phi + speed[:d] * w[:d]
        if settings.variant == "decoupled":
            phi_read = phi_read + speed[d:] * w[d:]
        elif settings.variant == "constrained":
            phi_read = phi_read + speed * (w[:d] + settings.beta * w[d:])
        else:
            phi_read = phi
        here, at = phi + own[t], phi_read + own[t]
        if settings.variant == "query_offset":
            at = at + mixer.offset(x[t])
        m = 5.0 * mixer.strength(x[t]).sigmoid()
        content = x[t] * torch.exp(1j * here)
        written.append((m * content, m))
        total, n = torch.zeros(d, dtype=torch.complex128), torch.zeros(d, dtype=torch.float64)
        for i, (term, weight) in enumerate(written):
            if settings.window == "none":
                share: Any = 1.0
            elif settings.window == "hard":
                share = 1.0 if t - i < settings.window_size else 0.0
            else:
                share = (0.05 + 0.95 * mixer.decay_logit.sigmoid()) ** (t - i)
            total, n = total + share * term, n + share * weight
        n = n + LEAST
        found = total * torch.exp(-1j * at) / (n if settings.normaliser == "sum" else n.sqrt())
        features = torch.cat([part / ((part.square().mean() + RMS_EPS).sqrt()) for part in map(flat, (content, found))])
        h = F.linear(features, mixer.head.first.weight, mixer.head.first.bias)
        if settings.variant == "hybrid":
            memory.append((mixer.associative.key(x[t]), mixer.associative.value(x[t]), mixer.associative.gate(x[t]).sigmoid()))
            h = h + mixer.head.recalled(recalled(memory, settings.n_phases))
        outs.append(mixer.head.last(F.gelu(h)) if settings.expansion else h)
    return torch.stack(outs)


def flat(z: Tensor) -> Tensor:
    return torch.cat((z.real, z.imag))


def recalled(memory: list[tuple[Tensor, Tensor, Tensor]], n_phases: int) -> Tensor:
    """What the last token reads: sum_i g_i v_i sum_p cos(theta_p - theta_{i-1, p}), over its scale."""
    angles = [math.pi * key.tanh() for key, _, _ in memory]
    read_at = angles[-1]
    total = torch.zeros_like(memory[0][1])
    for before, (_, value, gate) in zip(angles, memory[1:], strict=False):
        total = total + gate * value * (read_at - before).cos().sum()
    strength = sum(float(gate.detach()) for _, _, gate in memory)
    return total / (math.sqrt(max(1.0, strength)) * math.sqrt(n_phases))


def check_formula(settings: Any, length: int) -> None:
    torch.manual_seed(1)
    mixer: Any = lively(Mixer(settings)).double()
    x = torch.randn(1, length, settings.d_model, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x)[0][0], naive(mixer, settings, x[0]), rtol=1e-9, atol=1e-9)


@every_combination
def test_the_mixer_computes_its_formula(variant: str, window: str, decay: str) -> None:
    check_formula(settings_of(variant, window, decay), 70)


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize(("shift", "phase_init", "expansion"), [(True, False, 0), (False, True, 4), (True, True, 0)])
@pytest.mark.parametrize("variant", ["single", "decoupled"])
def test_so_it_does_with_every_option(variant: str, shift: bool, phase_init: bool, expansion: int, normaliser: str) -> None:
    options = {"shift": shift, "phase_init": phase_init, "expansion": expansion, "normaliser": normaliser}
    check_formula(settings_of(variant, "none", "layer", **options), 20)


def compose(angle: Tensor, x: Tensor, logit: Tensor) -> Tensor:
    at = wave(angle)
    content, written, m = write(x, logit, angle, at, 5.0)
    found = read(written, m + 0.3, angle.flip(0), wave(angle.flip(0)), True)
    other = read(content, m + 0.3, angle, at, False)
    return torch.cat((unit_pairs(content, found), unit_pairs(written, other), *at, m), dim=-1)


def test_gradients_of_the_parts_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = tuple(torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3))
    assert torch.autograd.gradcheck(compose, parts)


# --- causality, masks, length -------------------------------------------------------------------------------------


@every_combination
def test_no_token_sees_those_after_it(variant: str, window: str, decay: str) -> None:
    model = build(variant, window, decay, n_layers=2, shift=True)
    x = ids(80)
    with torch.no_grad():
        scores = model(x).scores
        for t in (0, 31, 32, 66):
            changed = x.clone()
            changed[:, t] = changed[:, t] % 10 + 1
            other = model(changed).scores
            assert torch.equal(other[:, :t], scores[:, :t])
            assert not torch.equal(other[:, t], scores[:, t])


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant: str, pooling: str) -> None:
    model = build(variant, "hard", task=PADDED, pooling=pooling, shift=True)
    x = ids(13)
    padded, junk = F.pad(x, (0, 27)), F.pad(x, (0, 27), value=5)
    mask = padded != 0
    torch.testing.assert_close(model(padded, mask).scores, model(x).scores, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(junk, mask).scores, model(padded, mask).scores)


def test_padding_need_not_be_finite() -> None:
    model = build(task=FRAMES)
    x = torch.randn(1, 10, 4, 2)
    mask = torch.arange(10) < 6
    x[:, 6:] = math.nan
    torch.testing.assert_close(model(x, mask[None]).scores[:, :6], model(x[:, :6]).scores)


@pytest.mark.parametrize("task", [NEXT, PADDED, FRAMES, IMAGES, FORECAST], ids=lambda task: f"{task.input} {task.output}")
def test_every_parameter_gets_a_gradient(task: Task) -> None:
    for variant, window, decay in COMBINATIONS:
        model = build(variant, window, decay, task=task, d_model=8, shift=True, phase_init=True, ffn=True)
        x = ids(16) if task.input == "tokens" else torch.randn(2, *task.shape)
        out = model(x)
        penalty = sum(REGULARISERS[name](out.tokens, None) for name in REGULARISERS)
        torch.autograd.backward(out.scores.square().sum() + penalty)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (variant, window, name)
            assert parameter.grad.any(), (variant, window, name)


def test_one_token_is_enough() -> None:
    for combination in COMBINATIONS:
        assert build(*combination)(ids(1)).scores.isfinite().all()


@every_combination
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_sequences_stay_finite_and_right_under_autocast(variant: str, window: str, decay: str, dtype: torch.dtype) -> None:
    model = build(variant, window, decay)
    x = ids(4096, 1)
    exact = model(x).scores
    with torch.autocast("cpu", dtype):
        out = model(x)
    torch.autograd.backward(out.scores.square().mean())
    assert out.scores.dtype == torch.float32 and out.tokens is not None and out.tokens.re.dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    # Phases are sums over all tokens before: their errors would show at the end.
    torch.testing.assert_close(out.scores[:, -100:], exact[:, -100:], rtol=0.1, atol=0.1)


def test_the_phases_have_magnitude_one() -> None:
    out = build(task=FRAMES)(torch.randn(2, 16, 4, 2))
    assert isinstance(out.tokens, Pair) and out.tokens.re.shape == (2, 16, 6)
    torch.testing.assert_close(out.tokens.re.square() + out.tokens.im.square(), torch.ones(2, 16, 6))


# --- streaming ----------------------------------------------------------------------------------------------------


def streamed(model: TPI, x: Tensor) -> Tensor:
    state, scores = model.start(len(x)), []
    for t in range(x.shape[1]):
        score, state = model.step(x[:, t], state)
        scores.append(score)
    return torch.stack(scores, 1)


def check_streaming(model: TPI, x: Tensor) -> None:
    assert isinstance(model, Streaming)
    with torch.no_grad():
        torch.testing.assert_close(streamed(model, x), model(x).scores, rtol=0.0, atol=1e-4)


@every_combination
@pytest.mark.parametrize(("shift", "expansion"), [(True, 0), (False, 2)])
def test_streamed_scores_equal_whole_ones(variant: str, window: str, decay: str, shift: bool, expansion: int) -> None:
    """150 tokens, trained on 16."""
    check_streaming(build(variant, window, decay, shift=shift, expansion=expansion, phase_init=not shift), ids(150))


def test_streamed_scores_equal_whole_ones_far_beyond_training() -> None:
    check_streaming(build("hybrid", "decay", shift=True, ffn=True), ids(1200, 1))


def test_complex_tokens_are_streamed_too() -> None:
    check_streaming(build("decoupled", "hard", task=FRAMES), torch.randn(2, 40, 4, 2))


def test_the_state_does_not_grow() -> None:
    def numbers(state: object) -> int:
        return state.numel() if isinstance(state, Tensor) else sum(map(numbers, state)) if isinstance(state, list | tuple) else 0

    for combination in COMBINATIONS:
        model = build(*combination, n_layers=2, shift=True)
        state = model.start(3)
        first = numbers(state)
        for t in range(9):
            _, state = model.step(ids(9, 3)[:, t], state)
        assert numbers(state) == first


def test_a_model_without_scores_of_tokens_says_so() -> None:
    with pytest.raises(ValueError, match="forecast has no scores of a single token"):
        build(task=FORECAST).start(1)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_decay_windows_are_reported_in_tokens() -> None:
    assert build().windows() is None
    torch.testing.assert_close(build("single", "decay", n_layers=3).windows(), torch.full((3, 1), math.sqrt(MEMORIES[0] * MEMORIES[1])))
    channels = build("single", "decay", "channel", n_layers=2).windows()
    assert channels is not None and channels.shape == (2, 6)
    torch.testing.assert_close(channels[0, [0, -1]], torch.tensor(MEMORIES), rtol=1e-3, atol=0.0)


@every_combination
def test_a_pack_equals_its_members(variant: str, window: str, decay: str) -> None:
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        members.append(TPI(settings_of(variant, window, decay, shift=True, phase_init=True), NEXT))
    solos = copy.deepcopy(members)
    parameters, buffers = torch.func.stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")
    x = ids(40)

    def scores(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(skeleton, (parameters, buffers), (x,)).scores
        return out

    stacked = torch.func.vmap(scores)(parameters, buffers)
    torch.autograd.backward(stacked.square().sum())
    for i, solo in enumerate(solos):
        out = solo(x).scores
        torch.testing.assert_close(stacked[i], out, rtol=1e-4, atol=1e-5)
        torch.autograd.backward(out.square().sum())
        for name, parameter in solo.named_parameters():
            assert parameter.grad is not None
            size = parameter.grad.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(parameters[name].grad[i] / size, parameter.grad / size, rtol=1e-3, atol=1e-3, msg=name)


def test_a_state_dict_carries_every_variant_over() -> None:
    builders: list[Callable[[], TPI]] = [lambda c=c: build(*c, shift=True, phase_init=True, ffn=True) for c in COMBINATIONS]
    for builder in builders:
        model, other = builder(), builder()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(ids(20)).scores, model(ids(20)).scores)


def test_an_odd_width_with_the_conv_stem_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.d_model 7 must be even"):
        TPI.check(settings_of("single", "none", "layer", d_model=7, embedding="conv"), IMAGES)
