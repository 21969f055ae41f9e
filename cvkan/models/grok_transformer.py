"""Grokking transformer: one layer without norms or biases, as small as a model that learns modular addition can be read.

Symbols: B batch, T tokens, d = d_model, h heads, e = d/h channels of a head, n = task.n_outputs.
    h (B, T, d)      learned embedding + learned position of every token
    q, k, v          (B, h, T, e) each, linear maps of h
    pattern          softmax(q k^T / sqrt(e)) over real tokens (B, h, T, T)
    attention        pattern v, heads side by side, linear d -> d, added to h
    neurons          relu(linear d -> d_mlp) (B, T, d_mlp); linear d_mlp -> d, added to h
    scores           linear d -> n of h at the last real token, `=` in [a, b, =]; its matrix is not the embedding's
Weights are normal at the start, with deviation init_scale / sqrt(n) for n inputs of a map, d of embedding and positions.
Sources: Power et al. 2022; Nanda et al. 2023, whose model this is.
Deviation: no causal mask. With one layer, nothing is read but what the last token sees, and it sees all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.output import Output
from cvkan.models.pairs import no_autocast, widen
from cvkan.models.readout import last_token
from cvkan.settings import Settings

Count = Annotated[int, Field(ge=1)]


class GrokTransformerSettings(Settings):
    """One transformer layer without norms and biases, for arithmetic and other short token inputs."""

    name: Literal["grok_transformer"] = "grok_transformer"
    d_model: Count = 64
    """Channels of a token; a multiple of n_heads."""
    n_heads: Count = 4
    """Attention heads."""
    d_mlp: Count = 128
    """Neurons of the MLP."""
    init_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.8
    """Standard deviation of the weights at the start, times the root of a map's inputs."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "width": "d_model",
        "dim": "d_model",
        "d_hidden": "d_mlp",
        "hidden": "d_mlp",
        "neurons": "d_mlp",
        "heads": "n_heads",
        "num_heads": "n_heads",
        "init": "init_scale",
    }


class GrokTransformer(nn.Module):
    """Token ids (B, T) -> scores (B, n_outputs)."""

    Settings: ClassVar[type[GrokTransformerSettings]] = GrokTransformerSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {}
    causal: ClassVar[bool] = False
    width: ClassVar[str] = "d_model"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: GrokTransformerSettings) -> int:
        """d_model must be a multiple of this: it is cut into heads."""
        return settings.n_heads

    @staticmethod
    def check(settings: GrokTransformerSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        if settings.d_model % settings.n_heads:
            raise ValueError(f"model.d_model {settings.d_model} is not divisible by model.n_heads {settings.n_heads}")
        if task.length > task.shape[0]:
            raise ValueError(f"model.name grok_transformer has {task.shape[0]} positions, and the data set tests {task.length} tokens")

    @staticmethod
    def tiny() -> GrokTransformerSettings:
        """A small configuration for tests."""
        return GrokTransformerSettings(d_model=8, n_heads=2, d_mlp=16)

    def __init__(self, settings: GrokTransformerSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d = settings.d_model
        self.n_heads = settings.n_heads
        self.embed = nn.Embedding(task.vocabulary, d)
        self.positions = nn.Parameter(torch.empty(task.shape[0], d))
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.up = nn.Linear(d, settings.d_mlp, bias=False)
        self.down = nn.Linear(settings.d_mlp, d, bias=False)
        self.unembed = nn.Linear(d, task.n_outputs, bias=False)
        for parameter in self.parameters():
            # The columns are the inputs of a map, or the channels of embedding and positions.
            nn.init.normal_(parameter, std=settings.init_scale / parameter.shape[-1] ** 0.5)

    def attend(self, h: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """h (B, T, d) -> what attention adds (B, T, d), and the pattern (B, heads, T, T) from query to key."""
        batch, tokens, d = h.shape
        q, k, v = self.qkv(h).reshape(batch, tokens, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Scaled before the product: float16 would overflow where it is scaled after it.
        scores = widen(torch.matmul(q * (d // self.n_heads) ** -0.5, k.transpose(-2, -1)))
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        pattern = scores.softmax(-1)
        mixed = torch.matmul(pattern.to(v.dtype), v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, d)), pattern

    def neurons(self, h: Tensor) -> Tensor:
        """h (B, T, d) after attention -> activations (B, T, d_mlp)."""
        return torch.relu(self.up(h))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h = widen(self.embed(x)) + self.positions[: x.shape[-1]]
        h = h + self.attend(h, mask)[0]
        h = h + self.down(self.neurons(h))
        with no_autocast(h):
            scores: Tensor = self.unembed(last_token(h, mask))
        return Output(scores.float())
