"""Transformer: a pre-norm encoder, causal where the task is; on image patches it is a ViT.

Symbols: B batch, T tokens, d = d_model, h heads, e = d/h channels of a head.
    h (B, T, d)        residual stream, float32
    q, k, v            (B, h, T, e) each, linear maps of LN(h)
    attention          softmax(q k^T / sqrt(e)) v over real tokens, and over those up to its own where the task is
                       causal; heads side by side, linear d -> d, added to h
    MLP                linear d -> mlp_ratio d, GELU, linear back, of LN(h), added to h
    scores             Readout of LN(h)
Sources: Vaswani et al. 2017; Dosovitskiy et al. 2021 (ViT); mean instead of a class token: Beyer et al. 2022.
Deviations: attention is written out (T is small) because the fused kernels' backward pass is not deterministic on
every device and has no rule under vmap. `embedding: conv` gives the baseline the very stem that CV-KAN has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.embeddings import EMBEDDINGS, RealTokens, check_tokens, sinusoidal_angles, token_grid
from cvkan.models.output import Output
from cvkan.models.pairs import widen
from cvkan.models.readout import Readout
from cvkan.settings import Settings, one_of

Count = Annotated[int, Field(ge=1)]
POSITION_NAMES = ("sinusoidal", "learned", "none")


class TransformerSettings(Settings):
    """Transformer encoder, causal for language; a ViT on image patches."""

    name: Literal["transformer"] = "transformer"
    d_model: Count = 64
    """Channels of a token; a multiple of n_heads."""
    n_layers: Annotated[int, Field(ge=1, le=512)] = 4
    """Encoder layers."""
    n_heads: Count = 4
    """Attention heads."""
    mlp_ratio: Count = 4
    """Hidden units of a layer's MLP, over d_model."""
    embedding: Annotated[str, one_of(EMBEDDINGS)] = "linear"
    """How image patches become tokens: linear (ViT), or conv (two convolutions; patch_size 2 or 4)."""
    patch_size: Count = 2
    """Side of a patch in pixels; it divides the image."""
    positions: Annotated[str, one_of(POSITION_NAMES)] = "learned"
    """Position codes added to tokens: sinusoidal, learned or none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a channel of what attention and MLP add."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "n_layers",
        "layers": "n_layers",
        "width": "d_model",
        "dim": "d_model",
        "d_complex": "d_model",
        "hidden": "mlp_ratio",
        "mlp_expansion": "mlp_ratio",
        "expansion": "mlp_ratio",
        "heads": "n_heads",
        "num_heads": "n_heads",
        "embed": "embedding",
        "stem": "embedding",
        "patch": "patch_size",
        "position": "positions",
    }


class EncoderLayer(nn.Module):
    """h (B, T, d) -> h (B, T, d)."""

    def __init__(self, settings: TransformerSettings, causal: bool) -> None:
        super().__init__()
        d = settings.d_model
        self.causal = causal
        self.n_heads = settings.n_heads
        self.dropout = settings.dropout
        self.norm_1 = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.norm_2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, settings.mlp_ratio * d)
        self.down = nn.Linear(settings.mlp_ratio * d, d)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, d) -> (B, T, d); no token attends to padding."""
        batch, tokens, d = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Scaled before the product: float16 would overflow where it is scaled after it.
        scores = widen(torch.matmul(q * (d // self.n_heads) ** -0.5, k.transpose(-2, -1)))
        low = torch.finfo(scores.dtype).min
        if self.causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, low)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], low)
        mixed = torch.matmul(scores.softmax(-1).to(v.dtype), v)
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, d))
        return attended

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h = h + F.dropout(self.attend(self.norm_1(h), mask), self.dropout, self.training)
        return h + F.dropout(self.down(F.gelu(self.up(self.norm_2(h)))), self.dropout, self.training)


class Transformer(nn.Module):
    """Any input that is, or is cut into, tokens -> scores."""

    Settings: ClassVar[type[TransformerSettings]] = TransformerSettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "complex", "series", "tokens"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes", "token_classes", "next_token", "forecast"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {"embedding": frozenset({"image"}), "patch_size": frozenset({"image"})}
    causal: ClassVar[bool] = True
    width: ClassVar[str] = "d_model"
    has_phases: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: TransformerSettings) -> int:
        """d_model must be a multiple of this: it is cut into heads, and in four by sinusoidal positions."""
        halves = 2 if settings.embedding == "conv" else 1
        quarters = 4 if settings.positions == "sinusoidal" else halves
        step = settings.n_heads
        while step % quarters:
            step += settings.n_heads
        return step

    @staticmethod
    def check(settings: TransformerSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_tokens(task, settings.embedding, settings.patch_size, settings.positions)
        if settings.d_model % settings.n_heads:
            raise ValueError(f"model.d_model {settings.d_model} is not divisible by model.n_heads {settings.n_heads}")
        step = Transformer.width_step(settings)
        if settings.d_model % step:
            raise ValueError(f"model.d_model {settings.d_model} must be a multiple of {step} with these positions and embedding")

    @staticmethod
    def tiny() -> TransformerSettings:
        """A small configuration for tests."""
        return TransformerSettings(d_model=8, n_layers=2, n_heads=2, mlp_ratio=2)

    def __init__(self, settings: TransformerSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d, grid = settings.d_model, token_grid(task, settings.patch_size)
        self.embed = RealTokens(task, d, settings.embedding, settings.patch_size)
        self.positions: Tensor | None
        if settings.positions == "learned":
            self.positions = nn.Parameter(torch.randn(math.prod(grid), d) * 0.02)
        elif settings.positions == "sinusoidal":
            angles = sinusoidal_angles(d // 2, grid)
            self.register_buffer("positions", torch.cat((angles.cos(), angles.sin()), dim=-1).float(), persistent=False)
        else:
            self.positions = None
        self.layers = nn.ModuleList(EncoderLayer(settings, task.causal) for _ in range(settings.n_layers))
        self.norm = nn.LayerNorm(d)
        self.readout = Readout(d, task)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h = widen(self.embed(x))
        if self.positions is not None:
            h = h + self.positions[: h.shape[-2]]
        for layer in self.layers:
            h = layer(h, mask)
        return Output(self.readout(self.norm(h), mask))
