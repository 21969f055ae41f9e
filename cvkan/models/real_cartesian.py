"""real_cartesian: CV-KAN with two real numbers in the place of each complex one, and plain MLPs.

Symbols, with B batch, T tokens, D = d_complex, H = kan_hidden * mlp_expansion, n = task.n_outputs:
    h (B, T, 2D)       real tokens, carried as two halves (B, T, D); the residual stream, float32
    A (B, 1 or T, 2D)  context
    psi                MLP 2D -> H -> 2D with GELU (2 -> H -> 2 on each pair of channels where per_dim is false)
    s                  learned scalar, 0.1 at the start

Block, with interaction broadcast:
    A = mean_t h_t, or the running mean where the task is causal
    h <- h + s psi(A)
pointwise: psi reads (h, A), 4D -> H -> 2D, so every token gets its own update.
Model: input -> CV-KAN's embedding and positions, re and im side by side -> n_layers x (block, norm) -> pooling (B, 2D) -> scores.
`norm`: layer, nn.LayerNorm over the 2D channels; rms, h / sqrt(2 mean h^2), as CV-KAN's.
`pooling`: as CV-KAN's, but query is softmax_t of the real inner product <h_t, q>.
Source: this project's; the question is whether CV-KAN's polar form and its interference matter.
Deviations from CV-KAN beside the block: no magnitudes are centred, as there are none; scores are made of all 2D numbers;
psi starts with Xavier's gain 1, as nothing normalises what it writes, and runs in float32, as nothing bounds what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.embeddings import POSITIONS, ComplexTokens, token_grid
from cvkan.models.norms import NoNorm, RMSNorm
from cvkan.models.output import Output, Pair
from cvkan.models.pairs import add, masked_softmax, no_autocast, running_mean, scale, token_mean, weighted_sum, widened
from cvkan.models.poolings import AttentionPooling, MaxPooling, MeanPooling
from cvkan.models.twins import INPUTS, ONLY, OUTPUTS, STEP, Psi, Scores, TwinWithMeans, check_twin, pools, resolved, width_step
from cvkan.settings import one_of


class LayerNorm(nn.Module):
    """nn.LayerNorm over all 2D channels."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * d)

    def forward(self, h: Pair, mask: Tensor | None = None) -> Pair:
        re, im = torch.chunk(self.norm(torch.cat(h, -1)), 2, dim=-1)
        return Pair(re, im)


class QueryPooling(nn.Module):
    """sum_t w_t h_t with w = softmax_t <h_t, q>, q (2D) real and learned."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(2, d) * d**-0.5)

    def forward(self, h: Pair, mask: Tensor | None = None) -> Pair:
        h = widened(h)
        with no_autocast(h.re):
            scores = F.linear(h.re, self.query[:1]) + F.linear(h.im, self.query[1:])
        weights = masked_softmax(scores.squeeze(-1), mask)
        return Pair(weighted_sum(weights, h.re), weighted_sum(weights, h.im))


REAL_NORMS: dict[str, Callable[[int], nn.Module]] = {"none": NoNorm, "layer": LayerNorm, "rms": RMSNorm}
"""From the name of a norm to its module, built from D."""
REAL_POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
    "query": QueryPooling,
}
"""From the name of a pooling, the same as CV-KAN's, to its module, built from D. None but query mixes re and im there."""


class RealCartesianSettings(TwinWithMeans):
    """Real-valued twin of CV-KAN with two real channels for each complex one and plain MLPs: does polar form matter?"""

    name: Literal["real_cartesian"] = "real_cartesian"
    norm: Annotated[str, one_of(REAL_NORMS)] = "none"
    """Normalisation after each block: none, layer or rms."""


class RealCartesianBlock(nn.Module):
    """h <- h + s psi(A); see the head of this file."""

    def __init__(self, settings: RealCartesianSettings, causal: bool) -> None:
        super().__init__()
        self.pointwise = settings.interaction == "pointwise"
        self.token_mean = running_mean if causal else token_mean
        self.psi = Psi(settings, settings.d_complex, 4 if self.pointwise else 2, 2, gain=1.0)
        self.step = nn.Parameter(torch.tensor(STEP))

    def forward(self, h: Pair, mask: Tensor | None = None) -> Pair:
        context = Pair(self.token_mean(h.re, mask), self.token_mean(h.im, mask))
        # In float32: tokens are not bounded, and psi reads them as they are.
        with no_autocast(context.re):
            re, im = self.psi(*h, *context) if self.pointwise else self.psi(*context)
        return add(h, scale(Pair(re, im), self.step))


class RealCartesian(nn.Module):
    """Any input that is, or is cut into, tokens -> scores."""

    Settings: ClassVar[type[RealCartesianSettings]] = RealCartesianSettings
    inputs: ClassVar[frozenset[str]] = INPUTS
    outputs: ClassVar[frozenset[str]] = OUTPUTS
    only: ClassVar[Mapping[str, frozenset[str]]] = ONLY
    causal: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    width: ClassVar[str] = "d_complex"
    has_phases: ClassVar[bool] = False

    @staticmethod
    def width_step(settings: RealCartesianSettings) -> int:
        """d_complex must be a multiple of this: sinusoidal positions and the conv stem halve it."""
        return width_step(settings)

    @staticmethod
    def check(settings: RealCartesianSettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_twin(settings, settings.aggregation, task)

    @staticmethod
    def tiny() -> RealCartesianSettings:
        """A small configuration for tests."""
        return RealCartesianSettings(d_complex=8, n_layers=2, kan_hidden=4)

    def __init__(self, settings: RealCartesianSettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        d = settings.d_complex
        causal = resolved(settings.aggregation, task) == "causal"
        self.tokens = ComplexTokens(task, d, settings.embedding, settings.patch_size)
        self.place = POSITIONS[settings.positions](d, token_grid(task, settings.patch_size))
        self.blocks = nn.ModuleList(RealCartesianBlock(settings, causal) for _ in range(settings.n_layers))
        self.norms = nn.ModuleList(REAL_NORMS[settings.norm](d) for _ in range(settings.n_layers))
        self.pool = REAL_POOLINGS[settings.pooling](d) if pools(settings, task) else None
        self.head = Scores(settings, 2 * d, task)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h: Pair = self.place(self.tokens(x))
        for block, norm in zip(self.blocks, self.norms, strict=True):
            h = norm(block(h, mask), mask)
        if self.pool is not None:
            h = self.pool(h, mask)
        return Output(self.head(torch.cat(h, -1)))
