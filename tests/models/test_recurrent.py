"""LSTM and GRU: the right recurrence, padding, streaming, and why they do not stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models import MODELS
from cvkan.models.recurrent import GRU, LSTM, GRUSettings, LSTMSettings

LANGUAGE = Task("tokens", (7,), "next_token", 11, causal=True, vocabulary=11, longest=50)
CLASSES = Task("tokens", (7,), "classes", 3, vocabulary=11, padding=0)
SERIES = Task("series", (7, 4), "forecast", 4, horizon=5)
FRAMES = Task("complex", (7, 4, 2), "token_classes", 3)
both = pytest.mark.parametrize("name", ["lstm", "gru"])


def build(name: str, task: Task, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = MODELS[name].tiny()
    return MODELS[name](settings.model_copy(update=changes), task)


def ids(task: Task, n: int = 4, tokens: int = 7) -> Tensor:
    return torch.randint(1, task.vocabulary, (n, tokens), generator=torch.Generator().manual_seed(1))


def lstm_by_hand(x: Tensor, layer: nn.LSTM) -> Tensor:
    """h (T, d) of one sequence x (T, d)."""
    h, c, out = torch.zeros(layer.hidden_size), torch.zeros(layer.hidden_size), []
    for token in x:
        gates = layer.weight_ih_l0 @ token + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out)


def gru_by_hand(x: Tensor, layer: nn.GRU) -> Tensor:
    """h (T, d) of one sequence x (T, d)."""
    h, out = torch.zeros(layer.hidden_size), []
    for token in x:
        r, z, n = (layer.weight_ih_l0 @ token + layer.bias_ih_l0).chunk(3)
        r_h, z_h, n_h = (layer.weight_hh_l0 @ h + layer.bias_hh_l0).chunk(3)
        z = (z + z_h).sigmoid()
        h = (1 - z) * (n + (r + r_h).sigmoid() * n_h).tanh() + z * h
        out.append(h)
    return torch.stack(out)


@both
def test_layers_are_the_recurrence_of_the_formula(name: str) -> None:
    model = build(name, LANGUAGE, n_layers=2).eval()
    x = ids(LANGUAGE)
    for tokens, scores in zip(x, model(x).scores, strict=True):
        h = model.embed(tokens)
        for layer in model.mix.layers:
            h = lstm_by_hand(h, layer) if name == "lstm" else gru_by_hand(h, layer)
        torch.testing.assert_close(model.readout.head(h), scores, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize(("task", "shape"), [(CLASSES, (4, 3)), (LANGUAGE, (4, 7, 11)), (SERIES, (4, 5, 4)), (FRAMES, (4, 7, 3))])
def test_every_kind_of_sequence_can_be_read(name: str, task: Task, shape: tuple[int, ...]) -> None:
    x = ids(task) if task.vocabulary else torch.randn(4, *task.shape)
    assert build(name, task)(x).scores.shape == shape


@both
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_at_the_end_changes_no_score(name: str, pooling: str) -> None:
    model = build(name, CLASSES, pooling=pooling)
    x = ids(CLASSES, tokens=5)
    padded = torch.cat((x, torch.zeros(4, 3, dtype=torch.long)), dim=1)
    torch.testing.assert_close(model(padded, padded != 0).scores, model(x).scores, rtol=1e-5, atol=1e-6)
    other = torch.where(padded == 0, 9, padded)
    assert torch.equal(model(other, padded != 0).scores, model(padded, padded != 0).scores)


@both
def test_pooling_last_reads_the_last_token_and_mean_all(name: str) -> None:
    x = ids(CLASSES)
    mean, last = (build(name, CLASSES, pooling=pooling) for pooling in ("mean", "last"))
    assert not torch.allclose(mean(x).scores, last(x).scores)
    h, _ = last.mix(last.embed(x), last.start(4))
    torch.testing.assert_close(last.readout.head(h[:, -1]), last(x).scores)
    torch.testing.assert_close(mean.readout.head(h.mean(1)), mean(x).scores)


@both
def test_one_token_after_another_gives_the_scores_of_all_at_once(name: str) -> None:
    model = build(name, LANGUAGE).eval()
    x = ids(LANGUAGE, tokens=50)
    state, streamed = model.start(4), []
    for token in x.unbind(1):
        scores, state = model.step(token, state)
        streamed.append(scores)
    torch.testing.assert_close(torch.stack(streamed, 1), model(x).scores, rtol=1e-4, atol=1e-5)


@both
def test_a_later_token_changes_no_earlier_score(name: str) -> None:
    model, x = build(name, LANGUAGE), ids(LANGUAGE)
    before = model(x).scores
    for place in (1, 4, 6):
        changed = x.clone()
        changed[:, place] = (x[:, place] + 1) % 11
        after = model(changed).scores
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place], before[:, place])


@both
def test_dropout_acts_between_layers_and_needs_two(name: str) -> None:
    model, x = build(name, LANGUAGE, dropout=0.5), ids(LANGUAGE)
    assert not torch.equal(model(x).scores, model(x).scores)
    torch.manual_seed(5)
    first = model(x).scores
    torch.manual_seed(5)
    assert torch.equal(model(x).scores, first)
    model.eval()
    assert torch.equal(model(x).scores, model(x).scores)
    with pytest.raises(ValueError, match=r"model\.dropout 0\.5 acts between layers, and model\.n_layers is 1"):
        build(name, LANGUAGE, dropout=0.5, n_layers=1)


@both
def test_torch_cannot_stack_the_kernel(name: str) -> None:
    """`stacks` may become true on the day that this fails."""
    models = [build(name, LANGUAGE) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)
    x = ids(LANGUAGE)

    def scores(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(models[0], (parameters, buffers), (x,)).scores
        return out

    assert not MODELS[name].stacks
    with pytest.raises(RuntimeError, match=rf"Batching rule not implemented for aten::{name}\.input"):
        torch.func.vmap(scores)(parameters, buffers)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_keeps_the_recurrence_single(name: str, dtype: torch.dtype) -> None:
    model, x = build(name, FRAMES), 1e3 * torch.randn(2, 7, 4, 2)
    with torch.autocast("cpu", dtype):
        scores = model(x).scores
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    torch.testing.assert_close(scores, model(x).scores, rtol=0, atol=0.05)


def test_an_lstm_has_four_gates_and_a_gru_three() -> None:
    sizes = [
        sum(p.numel() for p in model.mix.parameters())
        for model in (LSTM(LSTMSettings(d_hidden=16, n_layers=1), LANGUAGE), GRU(GRUSettings(d_hidden=16, n_layers=1), LANGUAGE))
    ]
    assert sizes == [4 * (2 * 16 * 16 + 2 * 16), 3 * (2 * 16 * 16 + 2 * 16)]
