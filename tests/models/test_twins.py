"""CV-KAN's real-valued twins: what sets them apart from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models import MODELS
from cvkan.models.output import Pair
from cvkan.models.pairs import magnitude, polar, token_mean
from cvkan.models.real_cartesian import RealCartesian, RealCartesianBlock
from cvkan.models.real_polar import POLAR_POOLINGS, RealPolar, RealPolarBlock

DIGITS = Task("image", (1, 8, 8), "classes", 10)
TEXT = Task("tokens", (5,), "token_classes", 4, vocabulary=7)


def tokens(n: int = 6, d: int = 8, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(3, n, d, generator=generator).double(), torch.randn(3, n, d, generator=generator).double())


def psi(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = F.gelu(x @ state[f"{name}.first.weight"].T + state[f"{name}.first.bias"])
    out: Tensor = hidden @ state[f"{name}.last.weight"].T + state[f"{name}.last.bias"]
    return out


def polar_block(**changes: Any) -> RealPolarBlock:
    torch.manual_seed(0)
    return RealPolarBlock(RealPolar.Settings(**{**RealPolar.tiny().model_dump(), **changes}), causal=False).double()


@pytest.mark.parametrize("update", ["gated_tanh", "residual_log"])
def test_a_polar_block_equals_its_formula(update: str) -> None:
    block = polar_block(update=update)
    state = block.state_dict()
    u, p = polar(tokens())
    context = u.exp().mean(1, keepdim=True).log()
    c = torch.stack((p.re.mean(1, keepdim=True), p.im.mean(1, keepdim=True)))
    q = c / c.norm(dim=0)
    change, s = psi(state, "psi_mag", context), state["step"]
    a = s * (5 * change.tanh()).exp() if update == "gated_tanh" else (context + s * change).exp()
    w = torch.stack(psi(state, "psi_phase", torch.cat((q[0], q[1]), -1)).chunk(2, -1))
    v = torch.stack(p) + s * w / w.norm(dim=0)
    new_u, new_p = block(u, p)
    torch.testing.assert_close(new_u, (u.exp() + a).log(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(new_p), v / v.norm(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interaction", ["broadcast", "pointwise"])
def test_magnitudes_of_a_polar_block_do_not_depend_on_directions(interaction: str) -> None:
    block = polar_block(interaction=interaction)
    u, p = polar(tokens())
    _, other = polar(tokens(seed=1))
    assert torch.equal(block(u, p)[0], block(u, other)[0])
    assert torch.equal(block(u, p)[1].re, block(u + 1.0, p)[1].re)


def test_opposite_phases_cancel_in_cv_kan_alone() -> None:
    z = tokens(n=1)
    opposite = Pair(torch.cat((z.re, -z.re), 1), torch.cat((z.im, -z.im), 1))
    assert magnitude(Pair(token_mean(opposite.re, None), token_mean(opposite.im, None))).max() < 1e-5
    u, p = polar(opposite)
    pooled, _ = POLAR_POOLINGS["mean"](8)(u, p)
    torch.testing.assert_close(pooled, magnitude(z).squeeze(1))


@pytest.mark.parametrize("pooling", POLAR_POOLINGS)
def test_polar_poolings_hide_padding(pooling: str) -> None:
    torch.manual_seed(0)
    pool = POLAR_POOLINGS[pooling](8).double()
    u, p = polar(tokens())
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 4:] = False
    mask[2] = False
    junk = torch.where(mask[..., None], u, 9.0)
    m, c = pool(junk, p, mask)
    cut_m, cut_c = pool(u[:1, :4], Pair(p.re[:1, :4], p.im[:1, :4]))
    torch.testing.assert_close(m[:1], cut_m)
    torch.testing.assert_close(c.im[:1], cut_c.im)
    assert not m[2].any() and not c.re[2].any()


def test_polar_max_pooling_takes_the_largest_token_whole() -> None:
    u, p = polar(tokens())
    m, c = POLAR_POOLINGS["max"](8)(u, p)
    rows = torch.arange(3), u.exp().sum(-1).argmax(1)
    torch.testing.assert_close(m, u.exp()[rows])
    torch.testing.assert_close(c.re, p.re[rows])


@pytest.mark.parametrize("head_features", ["magnitude", "both"])
def test_positions_reach_the_scores_of_a_polar_model(head_features: str) -> None:
    torch.manual_seed(0)
    model = RealPolar(RealPolar.Settings(d_complex=8, n_layers=2, kan_hidden=4, head_features=head_features), TEXT)
    x = torch.full((1, 5), 3)
    scores = model(x).scores
    assert not torch.allclose(scores[:, 0], scores[:, 4], atol=1e-4)


@pytest.mark.parametrize("interaction", ["broadcast", "pointwise"])
def test_a_cartesian_block_equals_its_formula(interaction: str) -> None:
    torch.manual_seed(0)
    settings = RealCartesian.Settings(**{**RealCartesian.tiny().model_dump(), "interaction": interaction})
    block = RealCartesianBlock(settings, causal=False).double()
    state = block.state_dict()
    h = torch.cat(tokens(), -1)
    context = h.mean(1, keepdim=True)
    read = torch.cat((h, context.expand_as(h)), -1) if interaction == "pointwise" else context
    torch.testing.assert_close(torch.cat(block(tokens()), -1), h + state["step"] * psi(state, "psi", read), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["real_polar", "real_cartesian"])
def test_twins_refuse_what_would_show_the_future(name: str) -> None:
    model = MODELS[name]
    settings = type(model.tiny())(**{**model.tiny().model_dump(), "aggregation": "mean"})
    with pytest.raises(ValueError, match=r"model\.aggregation mean would show a token what follows it"):
        model.check(settings, Task("tokens", (5,), "token_classes", 4, causal=True, vocabulary=7))
    with pytest.raises(ValueError, match=r"model\.d_complex 7 must be a multiple of 2"):
        model.check(type(settings)(d_complex=7), DIGITS)
