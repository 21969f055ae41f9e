"""CV-KAN's blocks and heads: each equals its formula in complex128."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cvkan.models.blocks import BLOCKS, Layout, PhaseAttention, PolarSettings
from cvkan.models.heads import HEADS
from cvkan.models.output import Pair

LAYOUT = Layout(d=6, layer=0, aggregation="mean", window=3, grid=(11,))


def tokens(n: int = 11, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(*(torch.randn(2, n, d, generator=generator, dtype=torch.float64) for _ in range(2)))


def pair(c: Tensor) -> Pair:
    return Pair(c.real.contiguous(), c.imag.contiguous())


def applied(module: nn.Module, c: Tensor, mask: Tensor | None = None) -> Tensor:
    out: Pair = module(pair(c), mask)
    return torch.complex(out.re, out.im).detach()


def make(block: str, layout: Layout = LAYOUT, interaction: str = "broadcast") -> nn.Module:
    torch.manual_seed(0)
    module = BLOCKS[block](PolarSettings(kan_hidden=5, interaction=interaction), layout).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def like(block: str, other: nn.Module, layout: Layout = LAYOUT, interaction: str = "broadcast", inside: str = "block.") -> nn.Module:
    """A block with the weights that `other` has under `inside`."""
    module = make(block, layout, interaction)
    module.load_state_dict({key.removeprefix(inside): value for key, value in other.state_dict().items() if key.startswith(inside)})
    return module


def matrix(state: dict[str, Tensor], name: str) -> Tensor:
    return torch.complex(state[f"{name}.re.weight"], state[f"{name}.im.weight"])


@pytest.mark.parametrize("interaction", ["broadcast", "pointwise"])
def test_a_gate_stands_between_a_token_and_its_polarization(interaction: str) -> None:
    gated = make("gated", interaction=interaction)
    whole = applied(like("polarizing", gated, interaction=interaction), tokens())
    state = gated.state_dict()
    gate = (tokens().abs().log() @ state["gate.weight"].T + state["gate.bias"]).sigmoid()
    torch.testing.assert_close(applied(gated, tokens()), (1 - gate) * tokens() + gate * whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_phase_attention_equals_its_formula(causal: bool) -> None:
    torch.manual_seed(0)
    attention = PhaseAttention(6, causal).double()
    state = attention.state_dict()
    z = tokens()
    q, k, v = (z @ matrix(state, name).T for name in ("query", "key", "value"))
    scores = (q @ k.mH).real / math.sqrt(6)
    if causal:
        scores = scores.masked_fill(torch.ones(11, 11, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(applied(attention, z), scores.softmax(-1).to(v.dtype) @ v)


def test_phase_attention_does_not_ask_where_phases_start() -> None:
    torch.manual_seed(0)
    attention = PhaseAttention(6, False).double()
    turn = torch.polar(torch.tensor(1.0).double(), torch.tensor(1.234).double())
    torch.testing.assert_close(applied(attention, tokens() * turn), applied(attention, tokens()) * turn)


def test_phase_attention_sees_no_padding_and_survives_a_row_of_it() -> None:
    attention = make("phase_attention")
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 7:] = False
    junk = torch.where(mask[..., None], tokens(), 1e3 + 1e3j)
    torch.testing.assert_close(applied(attention, junk, mask)[0, :7], applied(attention, tokens()[:1, :7])[0])
    assert applied(attention, tokens(), torch.zeros_like(mask)).isfinite().all()


@pytest.mark.parametrize("aggregation", ["mean", "magnitude_weighted", "attention", "causal"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_hierarchical_block_is_the_polarizing_one_of_each_group(layer: int, aggregation: str) -> None:
    layout = replace(LAYOUT, layer=layer, aggregation=aggregation)
    grouped = make("hierarchical", layout)
    block = like("polarizing", grouped, layout)
    parts = tokens().split(2 ** (layer + 1), dim=1)
    torch.testing.assert_close(applied(grouped, tokens()), torch.cat([applied(block, part) for part in parts], 1))


def test_a_group_of_all_tokens_is_the_polarizing_block() -> None:
    grouped = make("hierarchical", replace(LAYOUT, layer=40))
    assert torch.equal(applied(grouped, tokens()), applied(like("polarizing", grouped), tokens()))


def test_hierarchical_groups_hide_padding() -> None:
    grouped = make("hierarchical", replace(LAYOUT, layer=1))
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 6:] = False
    junk = torch.where(mask[..., None], tokens(), 1e3 + 1e3j)
    torch.testing.assert_close(applied(grouped, junk, mask)[0, :6], applied(grouped, tokens()[:1, :6])[0])


@pytest.mark.parametrize("block", BLOCKS)
def test_phase_offset_is_the_mean_over_rotations_of_one_block(block: str) -> None:
    head = HEADS["phase_offset"](lambda d: make(block, replace(LAYOUT, d=d)), 6, 3).double()
    one = like(block, head)
    turns = [torch.polar(torch.ones(()).double(), torch.tensor(2 * math.pi * h / 3).double()) for h in range(3)]
    expected = sum(applied(one, tokens() * turn) / turn for turn in turns) / 3
    out = applied(head, tokens())
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(applied(head, tokens() * turns[1]), out * turns[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(out, applied(one, tokens()), atol=1e-3)


def test_factored_heads_do_not_touch_each_other() -> None:
    head = HEADS["factored"](lambda d: make("polarizing", replace(LAYOUT, d=d)), 6, 3)
    changed = tokens()
    changed[..., 2:4] *= 2j
    before, after = applied(head, tokens()), applied(head, changed)
    assert torch.equal(before[..., :2], after[..., :2]) and torch.equal(before[..., 4:], after[..., 4:])
    assert not torch.allclose(before[..., 2:4], after[..., 2:4])


def test_an_emergent_head_is_the_block() -> None:
    block = make("gated")
    assert HEADS["emergent"](lambda d: block, 6, 4) is block
