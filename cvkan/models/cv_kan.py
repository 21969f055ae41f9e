"""CV-KAN: tokens interact through a shared complex context, phase alignment and growing magnitudes, without softmax attention.

Symbols, with B batch, T tokens, D = d_complex channels, n = task.n_outputs:
    Z (B, T, D)        complex tokens, the residual stream; float32 whatever autocast says
    layer              Z -> Z; a block (blocks.py) with heads (heads.py)

Model: input -> re and im embeddings (B, T, D) -> positions e^(i theta) -> n_layers x (layer, norm) -> centred magnitudes
    classes, and a forecast read from the pool    pooling (B, D) -> |pooled| (and re, im) -> scores
    token_classes, next_token, other forecasts    |Z| (and re, im) of every token -> scores
Source: the CV-KAN research log and the image log (conv stem, attention pooling).
Deviations: centring with `causal` aggregation subtracts the running mean, as a mean over all tokens would show the
future. Pooling and scores run in float32: tokens are not bounded and overflow float16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from cvkan.domains.task import Task
from cvkan.models.aggregations import AGGREGATIONS
from cvkan.models.blocks import BLOCKS, Layout, PolarSettings
from cvkan.models.embeddings import POSITIONS, ComplexTokens, Grid, token_grid
from cvkan.models.heads import HEADS
from cvkan.models.norms import NORMS
from cvkan.models.output import Output, Pair
from cvkan.models.pairs import log_magnitude, magnitude, running_mean, scale, token_mean
from cvkan.models.poolings import POOLINGS
from cvkan.models.twins import INPUTS, ONLY, OUTPUTS, Count, Scores, check_twin, pools, resolved, width_step
from cvkan.settings import one_of


class CVKANSettings(PolarSettings):
    """CV-KAN: tokens interact by aggregation, phase alignment and growth of magnitudes, without a softmax matrix."""

    name: Literal["cv_kan"] = "cv_kan"
    block: Annotated[str, one_of(BLOCKS)] = "polarizing"
    """What a layer does: polarizing, gated (tokens decide how much), phase_attention (in place of aggregation) or hierarchical (groups)."""
    head: Annotated[str, one_of(HEADS)] = "emergent"
    """emergent: one block; phase_offset: one block under n_heads rotations; factored: n_heads groups of channels with a block each."""
    n_heads: Count = 4
    """Rotations of phase_offset, groups of factored (a divisor of d_complex); no effect on emergent."""
    norm: Annotated[str, one_of(NORMS)] = "none"
    """Normalisation after each block: none, layer, rms, batch or logmag."""
    aggregation: Annotated[str, one_of(("auto", *AGGREGATIONS))] = "auto"
    """How tokens make the context: mean, magnitude_weighted, attention, local_window, causal; auto is causal or mean, as the task asks."""
    window: Count = 3
    """Side of the window of local_window, in tokens; odd."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **PolarSettings.synonyms,
        "block_type": "block",
        "head_type": "head",
        "heads": "n_heads",
        "num_heads": "n_heads",
        "window_size": "window",
        "kernel_size": "window",
    }


def check_window(settings: CVKANSettings, grid: Grid, task: Task) -> None:
    """Raises ValueError, naming the setting, where local_window cannot be used."""
    if settings.block == "hierarchical":
        raise ValueError("model.aggregation local_window cannot be used with model.block hierarchical, which has groups in its place")
    if settings.window // 2 >= min(grid):
        raise ValueError(f"model.window {settings.window} is too wide for {' x '.join(map(str, grid))} tokens")
    if task.input != "image" and task.length > task.shape[0]:
        raise ValueError(f"model.aggregation local_window cannot be used on sequences of several lengths, up to {task.length}")


class CVKAN(nn.Module):
    """Any input that is, or is cut into, tokens -> scores, and the last tokens (B, T, D)."""

    Settings: ClassVar[type[CVKANSettings]] = CVKANSettings
    inputs: ClassVar[frozenset[str]] = INPUTS
    outputs: ClassVar[frozenset[str]] = OUTPUTS
    only: ClassVar[Mapping[str, frozenset[str]]] = {
        **ONLY, "window": frozenset({"aggregation=local_window"}), "n_heads": frozenset({"head=phase_offset", "head=factored"}),
        "aggregation": frozenset({"block=polarizing", "block=gated", "block=hierarchical"}),
    }  # fmt: skip
    causal: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    width: ClassVar[str] = "d_complex"
    has_phases: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: CVKANSettings) -> int:
        """d_complex must be a multiple of this: sinusoidal positions and the conv stem halve it, factored heads divide it."""
        return math.lcm(width_step(settings), settings.n_heads if settings.head == "factored" else 1)

    @staticmethod
    def check(settings: CVKANSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_twin(settings, settings.aggregation, task)
        if settings.head == "factored" and settings.d_complex % settings.n_heads:
            raise ValueError(
                f"model.n_heads {settings.n_heads} does not divide model.d_complex {settings.d_complex}, as model.head factored needs"
            )
        if settings.window % 2 == 0:
            raise ValueError(f"model.window {settings.window} must be odd")
        aggregation = resolved(settings.aggregation, task)
        if aggregation == "local_window":
            check_window(settings, token_grid(task, settings.patch_size), task)
        if aggregation == "causal" and settings.norm == "batch":
            raise ValueError("model.norm batch mixes all tokens and so cannot be used with model.aggregation causal")

    @staticmethod
    def tiny() -> CVKANSettings:
        """A small configuration for tests."""
        return CVKANSettings(d_complex=8, n_layers=2, kan_hidden=4)

    def __init__(self, settings: CVKANSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d, grid = settings.d_complex, token_grid(task, settings.patch_size)
        aggregation = resolved(settings.aggregation, task)
        self.tokens = ComplexTokens(task, d, settings.embedding, settings.patch_size)
        self.place = POSITIONS[settings.positions](d, grid)
        layouts = [Layout(d, layer, aggregation, settings.window, grid) for layer in range(settings.n_layers)]
        self.blocks = nn.ModuleList(self._layer(settings, layout) for layout in layouts)
        self.norms = nn.ModuleList(NORMS[settings.norm](d) for _ in range(settings.n_layers))
        self.center = settings.center_magnitudes
        self.token_mean = running_mean if aggregation == "causal" else token_mean
        self.both = settings.head_features == "both"
        self.pool = POOLINGS[settings.pooling](d) if pools(settings, task) else None
        self.head = Scores(settings, 3 * d if self.both else d, task)

    @staticmethod
    def _layer(settings: CVKANSettings, layout: Layout) -> nn.Module:
        def block(d: int) -> nn.Module:
            return BLOCKS[settings.block](settings, replace(layout, d=d))

        return HEADS[settings.head](block, layout.d, settings.n_heads)

    def embed(self, x: Tensor) -> Pair:
        """Model inputs to tokens (B, T, D) that know their place."""
        z: Pair = self.place(self.tokens(x))
        return z

    def mix(self, z: Pair, mask: Tensor | None = None) -> Pair:
        """Tokens (B, T, D) through all layers and the centring of magnitudes. `mask` (B, T) bool, True = real token."""
        for block, norm in zip(self.blocks, self.norms, strict=True):
            z = norm(block(z, mask), mask)
        if self.center:
            z = scale(z, (-self.token_mean(log_magnitude(z), mask)).exp())
        return z

    def score(self, z: Pair, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, T, D) to scores, as `Output` says, float32."""
        read: Pair = z if self.pool is None else self.pool(z, mask)
        h = magnitude(read)
        if self.both:
            h = torch.cat((h, read.re, read.im), dim=-1)
        scores: Tensor = self.head(h)
        return scores

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        z = self.mix(self.embed(x), mask)
        return Output(self.score(z, mask), z)
