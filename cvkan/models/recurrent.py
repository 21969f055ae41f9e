"""LSTM and GRU: recurrent baselines, one fused recurrence a layer from the first token to the last.

Symbols: B batch, T tokens, d = d_hidden, h (B, T, d) hidden states, c cell state of an LSTM.
    x (B, T, d)        RealTokens of the input
    LSTM layer         i, f, o = sigmoid(W x_t + U h_{t-1} + b), g = tanh(...); c_t = f c_{t-1} + i g; h_t = o tanh(c_t)
    GRU layer          r, z = sigmoid(W x_t + U h_{t-1} + b), n = tanh(W x_t + b + r (U h_{t-1} + b')); h_t = (1 - z) n + z h_{t-1}
    dropout            between layers
    scores             Readout of the last layer's h: for classes their mean or the last one
Sources: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014. torch's kernels and
its initialisation, uniform in +-1/sqrt(d) (two biases a gate). State at the start: zeros.
Deviations: each layer is a kernel of its own, because cuDNN's dropout between the layers of one kernel draws from a state
that no checkpoint carries. The recurrence runs in float32 whatever autocast says: rounding errors add up over time.
Padding stands at the end, so no state at a real token has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.embeddings import RealTokens
from cvkan.models.output import Output
from cvkan.models.pairs import no_autocast, widen
from cvkan.models.readout import Pooled, Readout
from cvkan.settings import Settings

Count = Annotated[int, Field(ge=1)]
INPUTS = frozenset({"complex", "series", "tokens"})
OUTPUTS = frozenset({"classes", "token_classes", "next_token", "forecast"})
State = tuple[tuple[Tensor, ...], ...]
"""Of each layer, of B sequences after some tokens: (h, c) of an LSTM, (h,) of a GRU, (1, B, d) each."""


class RecurrentSettings(Settings):
    """What LSTM and GRU share."""

    d_hidden: Count = 128
    """Channels of a token and of a layer's state."""
    n_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Recurrent layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a channel between two layers."""
    pooling: Pooled = "mean"
    """What names the class of an example: the mean of all states, or the last one."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "n_layers",
        "layers": "n_layers",
        "width": "d_hidden",
        "hidden": "d_hidden",
        "hidden_size": "d_hidden",
        "dim": "d_hidden",
        "d_model": "d_hidden",
        "d_complex": "d_hidden",
        "drop": "dropout",
        "pool": "pooling",
    }


class LSTMSettings(RecurrentSettings):
    """Long short-term memory, in one direction."""

    name: Literal["lstm"] = "lstm"


class GRUSettings(RecurrentSettings):
    """Gated recurrent units, in one direction."""

    name: Literal["gru"] = "gru"


class Recurrence(nn.Module):
    """Tokens (B, T, d) -> states (B, T, d) of the last of several layers."""

    def __init__(self, settings: RecurrentSettings, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        d = settings.d_hidden
        self.layers = nn.ModuleList(cell(d, d, batch_first=True) for _ in range(settings.n_layers))
        self.dropout = settings.dropout

    def start(self, batch: int) -> State:
        """The states before the first token."""
        return tuple(_zeros(layer, batch) for layer in self.layers)

    def forward(self, h: Tensor, state: State) -> tuple[Tensor, State]:
        """States of the last layer at tokens h, and each layer's state after them."""
        h, after = widen(h), []
        for index, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            if index:
                h = F.dropout(h, self.dropout, self.training)
            with no_autocast(h):
                # torch's GRU takes and returns a tensor, its LSTM a pair.
                h, last = layer(h, before if len(before) == 2 else before[0])
            after.append(last if isinstance(last, tuple) else (last,))
        return h, tuple(after)


def _zeros(layer: nn.Module, batch: int) -> tuple[Tensor, ...]:
    weight = layer.weight_hh_l0
    assert isinstance(weight, Tensor)
    zeros = weight.new_zeros(1, batch, weight.shape[1])
    return (zeros, zeros) if isinstance(layer, nn.LSTM) else (zeros,)


def check_recurrent(settings: RecurrentSettings) -> None:
    """Raises ValueError, naming the setting, where these settings cannot work."""
    if settings.dropout and settings.n_layers == 1:
        raise ValueError(f"model.dropout {settings.dropout} acts between layers, and model.n_layers is 1")


class LSTM(nn.Module):
    """Sequences of any length -> scores."""

    Settings: ClassVar[type[LSTMSettings]] = LSTMSettings
    inputs: ClassVar[frozenset[str]] = INPUTS
    outputs: ClassVar[frozenset[str]] = OUTPUTS
    only: ClassVar[Mapping[str, frozenset[str]]] = {"pooling": frozenset({"classes"})}
    causal: ClassVar[bool] = True
    width: ClassVar[str] = "d_hidden"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: LSTMSettings) -> int:
        """d_hidden may be any number."""
        return 1

    @staticmethod
    def check(settings: LSTMSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work."""
        check_recurrent(settings)

    @staticmethod
    def tiny() -> LSTMSettings:
        """A small configuration for tests."""
        return LSTMSettings(d_hidden=8, n_layers=2)

    def __init__(self, settings: LSTMSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        self.embed = RealTokens(task, settings.d_hidden, embedding="linear", patch_size=1)
        self.mix = Recurrence(settings, nn.LSTM)
        self.readout = Readout(settings.d_hidden, task, settings.pooling)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h, _ = self.mix(self.embed(x), self.start(len(x)))
        return Output(self.readout(h, mask))

    def start(self, batch: int) -> State:
        """The state of `batch` sequences before their first token."""
        return self.mix.start(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token of each sequence, x (B,) ids or (B, ...) numbers: its scores (B, n_outputs), and the state after it."""
        h, state = self.mix(self.embed(x.unsqueeze(1)), state)
        scores: Tensor = self.readout(h)
        return scores.squeeze(1), state


class GRU(nn.Module):
    """Sequences of any length -> scores."""

    Settings: ClassVar[type[GRUSettings]] = GRUSettings
    inputs: ClassVar[frozenset[str]] = INPUTS
    outputs: ClassVar[frozenset[str]] = OUTPUTS
    only: ClassVar[Mapping[str, frozenset[str]]] = {"pooling": frozenset({"classes"})}
    causal: ClassVar[bool] = True
    width: ClassVar[str] = "d_hidden"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: GRUSettings) -> int:
        """d_hidden may be any number."""
        return 1

    @staticmethod
    def check(settings: GRUSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work."""
        check_recurrent(settings)

    @staticmethod
    def tiny() -> GRUSettings:
        """A small configuration for tests."""
        return GRUSettings(d_hidden=8, n_layers=2)

    def __init__(self, settings: GRUSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        self.embed = RealTokens(task, settings.d_hidden, embedding="linear", patch_size=1)
        self.mix = Recurrence(settings, nn.GRU)
        self.readout = Readout(settings.d_hidden, task, settings.pooling)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h, _ = self.mix(self.embed(x), self.start(len(x)))
        return Output(self.readout(h, mask))

    def start(self, batch: int) -> State:
        """The state of `batch` sequences before their first token."""
        return self.mix.start(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token of each sequence, x (B,) ids or (B, ...) numbers: its scores (B, n_outputs), and the state after it."""
        h, state = self.mix(self.embed(x.unsqueeze(1)), state)
        scores: Tensor = self.readout(h)
        return scores.squeeze(1), state
