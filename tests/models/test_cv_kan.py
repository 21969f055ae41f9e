"""CV-KAN: masks, causality, the parts' mathematics, and settings that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cvkan.domains.task import Task
from cvkan.models import MODELS
from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.cv_kan import CVKAN
from cvkan.models.embeddings import sinusoidal_angles
from cvkan.models.norms import NORMS
from cvkan.models.output import Pair
from cvkan.models.poolings import POOLINGS
from cvkan.models.twins import INTERACTIONS

DIGITS = Task("image", (1, 8, 8), "classes", 10)


def tokens(d: int = 8, n: int = 16, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(3, n, d, generator=generator), torch.randn(3, n, d, generator=generator))


def build(**changes: Any) -> CVKAN:
    torch.manual_seed(0)
    return CVKAN(CVKAN.Settings(**{**CVKAN.tiny().model_dump(), **changes}), DIGITS)


def mask_of(n: int) -> Tensor:
    mask = torch.ones(3, n, dtype=torch.bool)
    mask[0, 11:] = False
    mask[1, 5:] = False
    return mask


def with_junk(z: Pair, mask: Tensor) -> Pair:
    return Pair(torch.where(mask[..., None], z.re, 1e6), torch.where(mask[..., None], z.im, -1e5))


def complex_of(z: Pair) -> Tensor:
    return torch.complex(z.re.double(), z.im.double())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregations_hide_padding(aggregation: str) -> None:
    torch.manual_seed(0)
    aggregate = AGGREGATIONS[aggregation](8, (4, 4), 3)
    z, mask = tokens(), mask_of(16)
    clean, junk = aggregate(z, mask), aggregate(with_junk(z, mask), mask)
    torch.testing.assert_close(clean, junk)
    assert clean.re.shape[1] in (1, 16)
    if clean.re.shape[1] == 1:
        cut = aggregate(Pair(z.re[:1, :11], z.im[:1, :11]), None)
        torch.testing.assert_close(clean.re[:1], cut.re)
    empty = aggregate(z, torch.zeros(3, 16, dtype=torch.bool))
    assert empty.re.isfinite().all() and not empty.re.any()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_hide_padding(pooling: str) -> None:
    torch.manual_seed(0)
    pool = POOLINGS[pooling](8)
    z, mask = tokens(), mask_of(16)
    clean = pool(z, mask)
    torch.testing.assert_close(clean, pool(with_junk(z, mask), mask))
    torch.testing.assert_close(clean.im[1], pool(Pair(z.re[1:2, :5], z.im[1:2, :5]), None).im[0])
    torch.testing.assert_close(pool(z, torch.ones_like(mask)), pool(z, None))


@pytest.mark.parametrize("interaction", INTERACTIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_masks_hide_padding_from_scores(aggregation: str, norm: str, interaction: str) -> None:
    if (aggregation, norm) == ("causal", "batch"):
        return
    z, mask = tokens(), mask_of(16)
    scores = []
    for variant in (z, with_junk(z, mask)):
        model = build(aggregation=aggregation, norm=norm, interaction=interaction)
        scores.append(model.score(model.mix(variant, mask), mask))
    torch.testing.assert_close(scores[0], scores[1])


def test_a_transformer_hides_padding() -> None:
    torch.manual_seed(0)
    model = MODELS["transformer"](MODELS["transformer"].tiny(), DIGITS)
    x = torch.randn(3, 1, 8, 8)
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[:, 12:] = False
    other = x.clone()
    other[:, :, 6:] = 100.0
    torch.testing.assert_close(model(x, mask).scores, model(other, mask).scores)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("norm", [name for name in NORMS if name != "batch"])
@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_causal_aggregation_does_not_see_the_future(interaction: str, norm: str, center: bool) -> None:
    model = build(aggregation="causal", interaction=interaction, norm=norm, center_magnitudes=center, n_layers=3)
    z = tokens()
    for t in (1, 7, 15):
        changed = Pair(z.re.clone(), z.im.clone())
        changed.re[:, t] += 5.0
        changed.im[:, t] = -1e6
        before, after = model.mix(z), model.mix(changed)
        assert torch.equal(before.re[:, :t], after.re[:, :t]) and torch.equal(before.im[:, :t], after.im[:, :t])
        assert not torch.equal(before.re[:, t:], after.re[:, t:])


def test_aggregations_equal_their_formulas() -> None:
    z = tokens()
    c = complex_of(z)
    torch.testing.assert_close(complex_of(AGGREGATIONS["mean"](8, (4, 4), 3)(z, None)), c.mean(1, keepdim=True), rtol=1e-5, atol=1e-6)
    weights = c.abs().mean(-1, keepdim=True)
    expected = (weights / weights.sum(1, keepdim=True) * c).sum(1, keepdim=True)
    torch.testing.assert_close(complex_of(AGGREGATIONS["magnitude_weighted"](8, (4, 4), 3)(z, None)), expected, rtol=1e-5, atol=1e-6)
    counts = torch.arange(1, 17)[:, None]
    torch.testing.assert_close(complex_of(AGGREGATIONS["causal"](8, (4, 4), 3)(z, None)), c.cumsum(1) / counts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("grid", "window"), [((4, 4), 3), ((4, 4), 5), ((2, 8), 3), ((4, 4), 1)])
def test_a_local_window_is_a_reflect_padded_mean(grid: tuple[int, int], window: int) -> None:
    z = tokens()
    images = z.re.transpose(1, 2).reshape(3, 8, *grid)
    padded = torch.nn.functional.pad(images, [window // 2] * 4, mode="reflect")
    expected = torch.nn.functional.avg_pool2d(padded, window, stride=1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(AGGREGATIONS["local_window"](8, grid, window)(z, None).re, expected)


def test_max_pooling_takes_the_largest_token_whole() -> None:
    z = tokens()
    c = complex_of(z)
    largest = c.abs().sum(-1).argmax(1)
    torch.testing.assert_close(complex_of(POOLINGS["max"](8)(z, None)), c[torch.arange(3), largest])


def test_query_pooling_equals_its_formula() -> None:
    pool = POOLINGS["query"](8)
    state = pool.state_dict()
    query = torch.complex(state["query_re"].double(), state["query_im"].double())
    z = tokens()
    c = complex_of(z)
    weights = (c * query.conj()).sum(-1).abs().softmax(1)
    torch.testing.assert_close(complex_of(pool(z, None)).detach(), (weights[..., None] * c).sum(1), rtol=1e-5, atol=1e-6)


def test_broadcast_keeps_token_differences_and_pointwise_does_not() -> None:
    z = tokens()
    for interaction, kept in (("broadcast", True), ("pointwise", False)):
        out = build(interaction=interaction, n_layers=4, center_magnitudes=False).mix(z)
        same = torch.allclose(out.re[:, 1:] - out.re[:, :-1], z.re[:, 1:] - z.re[:, :-1], atol=1e-5)
        assert same == kept


@pytest.mark.parametrize("update", ["gated_tanh", "residual_log"])
def test_a_block_equals_its_formula_in_complex128(update: str) -> None:
    model = build(update=update, n_layers=1, center_magnitudes=False).double()
    z = Pair(*(part.double() for part in tokens()))
    c = complex_of(z)
    context = c.mean(1, keepdim=True)
    state = model.blocks[0].state_dict()

    def psi(name: str, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(x @ state[f"{name}.first.weight"].T + state[f"{name}.first.bias"])
        out: Tensor = hidden @ state[f"{name}.last.weight"].T + state[f"{name}.last.bias"]
        return out

    u, p = context.abs().log(), context / context.abs()
    change = psi("psi_mag", u)
    re, im = psi("psi_phase", torch.cat((p.real, p.imag), -1)).chunk(2, -1)
    direction = torch.complex(re, im) / torch.complex(re, im).abs()
    s = state["step"]
    amplitude = s * (5 * change.tanh()).exp() if update == "gated_tanh" else (u + s * change).exp()
    torch.testing.assert_close(complex_of(model.mix(z)).detach(), c + amplitude * direction, rtol=1e-6, atol=1e-6)


def test_centred_magnitudes_have_a_geometric_mean_of_1() -> None:
    out = build(center_magnitudes=True).mix(tokens())
    torch.testing.assert_close(complex_of(out).abs().log().mean(1).detach(), torch.zeros(3, 8, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_turn_phases_and_keep_magnitudes(positions: str) -> None:
    plain, turned = build(positions="none"), build(positions=positions)
    turned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 1, 8, 8)
    a, b = complex_of(plain.embed(x)), complex_of(turned.embed(x))
    torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(a, b, atol=1e-3)


def test_sinusoidal_positions_tell_rows_and_columns_apart() -> None:
    angle = sinusoidal_angles(8, (4, 4)).reshape(4, 4, 8)
    assert torch.allclose(angle[:, 0, :4], angle[:, 3, :4]) and torch.allclose(angle[0, :, 4:], angle[3, :, 4:])
    assert len({tuple(row) for row in angle.reshape(16, 8).tolist()}) == 16


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("cv_kan", {"patch_size": 3, "embedding": "linear"}, "model.patch_size 3 does not divide images of 8x8"),
    ("cv_kan", {"patch_size": 1}, "model.embedding conv"),
    ("cv_kan", {"d_complex": 7}, "model.d_complex 7"),
    ("cv_kan", {"window": 4}, "model.window 4 must be odd"),
    ("cv_kan", {"aggregation": "local_window", "window": 9}, "model.window 9 is too wide"),
    ("cv_kan", {"aggregation": "causal", "norm": "batch"}, "model.norm batch"),
    ("cv_kan", {"head": "factored", "n_heads": 3}, "model.n_heads 3 does not divide model.d_complex 8"),
    ("cv_kan", {"block": "hierarchical", "aggregation": "local_window"}, "model.aggregation local_window cannot be used with"),
    ("transformer", {"d_model": 9}, "model.n_heads 2"),
    ("transformer", {"d_model": 6, "positions": "sinusoidal"}, "model.d_model 6"),
    ("transformer", {"patch_size": 5}, "model.patch_size 5"),
]


@pytest.mark.parametrize(("name", "changes", "message"), WRONG)
def test_settings_that_cannot_work_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    model = MODELS[name]
    settings = type(model.tiny())(**{**model.tiny().model_dump(), **changes})
    with pytest.raises(ValueError, match=message) as caught:
        model.check(settings, DIGITS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm", "ruled"), ("pooling", "men"), ("mlp_layers", 4), ("d_complex", 0), ("per_dim", 1), ("block", "gate"), ("head", "magnitude")],
)
def test_settings_refuse_values_out_of_bounds(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        CVKAN.Settings.model_validate({field: value})


def test_widths_suit_heads_positions_and_stem() -> None:
    for head, n_heads, step in (("emergent", 3, 2), ("phase_offset", 3, 2), ("factored", 3, 6), ("factored", 4, 4)):
        assert CVKAN.width_step(CVKAN.Settings(head=head, n_heads=n_heads)) == step


@pytest.mark.parametrize("readout", ["pooled", "tokens"])
def test_a_forecast_read_from_tokens_knows_their_order(readout: str) -> None:
    task = Task("series", (12, 3), "forecast", 3, metric="mse", direction="min", horizon=4)
    torch.manual_seed(0)
    model = CVKAN(CVKAN.Settings(d_complex=8, n_layers=2, kan_hidden=4, positions="none", readout=readout), task)
    x = torch.randn(2, 12, 3)
    same = torch.allclose(model(x).scores, model(x.flip(1)).scores, atol=1e-5)
    assert same == (readout == "pooled")


@pytest.mark.parametrize(("causal", "aggregation"), [(True, "causal"), (False, "mean")])
def test_an_aggregation_of_auto_is_what_the_task_asks(causal: bool, aggregation: str) -> None:
    task = Task("tokens", (9,), "token_classes", 5, causal=causal, vocabulary=11)
    scores = []
    for name in ("auto", aggregation):
        torch.manual_seed(0)
        scores.append(CVKAN(CVKAN.Settings(d_complex=8, kan_hidden=4, aggregation=name), task)(torch.arange(9)[None]).scores)
    assert torch.equal(scores[0], scores[1])
