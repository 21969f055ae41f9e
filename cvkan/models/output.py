"""What every model returns, and the type of a complex tensor."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """A complex tensor as two real ones of equal shape and dtype: z = re + i im."""

    re: Tensor
    im: Tensor


class Output(NamedTuple):
    """Scores float32: classes (B, n_outputs); token_classes and next_token (B, T, n_outputs); forecast (B, horizon, n_outputs).

    tokens (B, T, D): those of the last layer, for phase regularisers; None for real-valued models.
    """

    scores: Tensor
    tokens: Pair | None = None
