"""The transformer on sequences: causality, positions beyond training, padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cvkan.domains.task import Task
from cvkan.models.transformer import Transformer

CAUSAL = Task("tokens", (6,), "token_classes", 5, causal=True, vocabulary=9, longest=40)
FREE = Task("tokens", (6,), "token_classes", 5, vocabulary=9)
CLASSES = Task("tokens", (6,), "classes", 5, vocabulary=9, padding=0, longest=40)


def build(task: Task, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(Transformer.tiny().model_copy(update={"positions": "sinusoidal", **changes}), task).eval()


def ids(tokens: int, n: int = 3) -> Tensor:
    return torch.randint(1, 9, (n, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tokens", [6, 40])
@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
def test_a_later_token_changes_no_earlier_score(positions: str, tokens: int) -> None:
    model, x = build(CAUSAL, positions=positions), ids(tokens)
    before = model(x).scores
    for place in (1, tokens // 2, tokens - 1):
        changed = x.clone()
        changed[:, place] = x[:, place] % 8 + 1
        after = model(changed).scores
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place:], before[:, place:])


def test_without_causality_every_token_sees_every_other() -> None:
    model, x = build(FREE), ids(6)
    changed = x.clone()
    changed[:, 5] = x[:, 5] % 8 + 1
    assert ((model(x).scores - model(changed).scores).abs().amax(-1) > 0).all()


def test_scores_of_a_longer_sequence_begin_with_those_of_its_beginning() -> None:
    model, x = build(CAUSAL), ids(40)
    torch.testing.assert_close(model(x).scores[:, :6], model(x[:, :6]).scores, rtol=1e-4, atol=1e-5)


def test_positions_beyond_training_differ() -> None:
    """The order of far tokens matters: of two equal tokens, one far, one near, the scores differ."""
    model = build(CAUSAL)
    scores = model(torch.full((1, 40), 3)).scores[0]
    assert len(scores.unique(dim=0)) == 40


def test_learned_positions_refuse_longer_sequences() -> None:
    with pytest.raises(ValueError, match=r"model\.positions learned ends at token 6, and the data set tests 40 tokens"):
        build(CAUSAL, positions="learned")
    assert build(FREE, positions="learned")(ids(6)).scores.shape == (3, 6, 5)


def test_padding_changes_no_score() -> None:
    model, x = build(CLASSES), ids(4)
    padded = torch.cat((x, torch.zeros(3, 5, dtype=torch.long)), dim=1)
    torch.testing.assert_close(model(padded, padded != 0).scores, model(x).scores, rtol=1e-4, atol=1e-5)
    garbled = torch.where(padded == 0, 7, padded)
    assert torch.equal(model(garbled, padded != 0).scores, model(padded, padded != 0).scores)
