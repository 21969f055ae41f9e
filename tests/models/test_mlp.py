"""The MLP beyond images: answers of every shape, padding, sequences of other lengths."""

from __future__ import annotations

import pytest
import torch

from cvkan.domains.task import Task
from cvkan.models.mlp import MLP

TOKENS = Task("tokens", (6,), "classes", 5, vocabulary=9, padding=0)
FRAMES = Task("complex", (6, 4, 2), "token_classes", 3)
SERIES = Task("series", (6, 4), "forecast", 4, horizon=7)


def build(task: Task) -> MLP:
    torch.manual_seed(0)
    return MLP(MLP.tiny(), task).eval()


def test_scores_have_the_shape_of_what_is_asked() -> None:
    assert build(TOKENS)(torch.ones(2, 6, dtype=torch.long)).scores.shape == (2, 5)
    assert build(FRAMES)(torch.randn(2, 6, 4, 2)).scores.shape == (2, 6, 3)
    assert build(SERIES)(torch.randn(2, 6, 4)).scores.shape == (2, 7, 4)


def test_tokens_are_classed_and_series_forecast_from_the_whole_input() -> None:
    for task in (FRAMES, SERIES):
        x = torch.randn(2, *task.shape, requires_grad=True)
        (gradient,) = torch.autograd.grad(build(task)(x).scores[:, 1].sum(), x)
        assert (gradient != 0).all()


def test_scores_of_a_token_do_not_move_to_another() -> None:
    """The last layer's rows belong to (token, class) in this order."""
    model = build(FRAMES)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(18))
    torch.testing.assert_close(model(torch.randn(1, 6, 4, 2)).scores, torch.arange(18.0).reshape(1, 6, 3))


def test_padding_counts_as_nothing() -> None:
    model, x = build(TOKENS), torch.randint(1, 9, (3, 4))
    padded = torch.cat((x, torch.zeros(3, 2, dtype=torch.long)), dim=1)
    scores = model(padded, padded != 0).scores
    assert torch.equal(model(torch.where(padded == 0, 7, padded), padded != 0).scores, scores)
    torch.testing.assert_close(model(x).scores, scores)
    frames, mask = torch.randn(3, 6, 4, 2), torch.arange(6) < 4
    model = build(FRAMES)
    torch.testing.assert_close(model(frames, mask.expand(3, 6)).scores[:, :4], model(frames[:, :4]).scores)


def test_longer_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="mlp needs examples of one length, and the data set tests 9 tokens"):
        build(Task("tokens", (6,), "classes", 5, vocabulary=9, longest=9))
