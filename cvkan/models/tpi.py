"""TPI (temporal phase integration): a causal mixer whose cost is linear in the number of tokens.

Symbols: B batch, T tokens, D = d_model; everything per channel and token t unless said otherwise.
    h (B, T, D)        residual stream, float32; x = LN(h), with shift: x_t <- p x_t + q x_{t-1}, p and q learned (D), 1/2 at the start
    omega_t = W x_t    turn of a token; |a| learned speed (D), 1e-3 at the start
    phi_t              phase, sum_{i<=t} |a| omega_i; with phase_init W_init x_t is added to phi and phi^q, which does not accumulate
    phi^q_t            phase at which the memory is read; phi itself but for three variants
    m_t = 5 sigmoid(W_m x_t)                          how strongly a token writes
    M_t = sum_{i<=t} w_{t,i} m_i x_i e^{i phi_i}      memory; N_t = sum_{i<=t} w_{t,i} m_i + 1e-6
    r_t = M_t e^{-i phi^q_t} / N_t                    what is read, normaliser sum; / sqrt(N_t), normaliser sqrt
    out_t = head([x cos phi, x sin phi, Re r, Im r])  4D -> D, h <- h + out; then, with ffn, h <- h + FFN(LN(h))
A token's phase moves on with what it says, content is written at its phase and read at the present one: terms in phase
add up, others cancel.

variant         phi^q_t
    single          phi_t
    decoupled       sum |a^q| W_q x, with a speed of its own
    query_offset    phi_t + W_o x_t
    constrained     sum |a| (omega + beta W_a x): the gap between both accumulates
    hybrid          phi_t; beside it the associative memory of `associative.py`, which the head reads too (5D -> D)
window          w_{t,i}
    none            1
    hard            1 for t - i < W, else 0
    decay           lambda^(t-i), lambda = 0.05 + 0.95 sigmoid(learned), one for the layer or one a channel
The head normalises the pairs (x cos phi, x sin phi) and (Re r, Im r) each by the root mean square of its 2D numbers.

Source: the decoupling summary (TPI experiments on language and recall).
Deviations: the pairs' normalisation has no gain, since the head's first linear map has one. Projections to phases run in
float32 under autocast. The associative memory keeps everything, whatever the window. Dropout works on what a layer adds.
All linear maps have a bias. That of W turns every phase by a constant per token, a relative position that is learned; there
are no others, so T is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.domains.task import Task
from cvkan.models.associative import AssociativeMemory, MemoryState
from cvkan.models.embeddings import EMBEDDINGS, RealTokens, check_tokens
from cvkan.models.output import Output, Pair
from cvkan.models.precision import no_autocast, widen
from cvkan.models.readout import Pooled, Readout
from cvkan.models.scan import LOWEST_DECAY, decayed_sum, running_sum, window_sum
from cvkan.models.waves import read, unit_pairs, wave, write
from cvkan.settings import Settings, one_of

Count = Annotated[int, Field(ge=1)]
VARIANTS = ("single", "decoupled", "query_offset", "constrained", "hybrid")
WINDOWS = ("none", "hard", "decay")
DECAYS = ("layer", "channel")
NORMALISERS = ("sqrt", "sum")
STRENGTH = 5.0
"""Largest m."""
SPEED = 1e-3
"""|a| at the start."""
LEAST = 1e-6
"""Added to N."""
FFN = 4
"""Hidden units of the feed-forward block, over D."""
MEMORIES = (4.0, 256.0)
"""1/(1 - lambda) at the start: of one lambda the geometric mean, of many from the first to the last channel."""


class TPISettings(Settings):
    """TPI: tokens are written into and read from a memory at phases that their contents add up to; linear in length."""

    name: Literal["tpi"] = "tpi"
    d_model: Count = 64
    """Channels of a token."""
    n_layers: Annotated[int, Field(ge=1, le=512)] = 4
    """Layers."""
    variant: Annotated[str, one_of(VARIANTS)] = "single"
    """Where the memory is read: single, decoupled, query_offset, constrained; or hybrid, with an associative memory beside it."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the difference between reading and writing phases of constrained."""
    n_phases: Count = 32
    """Phases of a key of hybrid's associative memory."""
    window: Annotated[str, one_of(WINDOWS)] = "none"
    """How far back the memory reaches: none (everything), hard (window_size tokens) or decay (learned)."""
    window_size: Count = 64
    """Tokens of the hard window."""
    decay: Annotated[str, one_of(DECAYS)] = "layer"
    """Whether a decay window has one decay a layer or one a channel."""
    normaliser: Annotated[str, one_of(NORMALISERS)] = "sqrt"
    """What the memory is divided by: sqrt (constant scale) or sum (a mean, which shrinks with the number of tokens)."""
    expansion: Annotated[int, Field(ge=0, le=16)] = 4
    """Hidden units of the head (GELU), over d_model; 0 = a linear head."""
    ffn: bool = False
    """Whether a feed-forward block (4 d_model, GELU) follows each mixer."""
    shift: bool = False
    """Whether each layer mixes its input with that of the token before."""
    phase_init: bool = False
    """Whether a token's own content is added to its phase, beside what accumulates."""
    pooling: Pooled = "mean"
    """Which tokens name the class of an example: their mean, or the last."""
    embedding: Annotated[str, one_of(EMBEDDINGS)] = "linear"
    """How image patches become tokens: linear, or conv (two convolutions; patch_size 2 or 4)."""
    patch_size: Count = 2
    """Side of a patch in pixels; it divides the image."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a channel of what a layer adds."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "depth": "n_layers",
        "layers": "n_layers",
        "num_layers": "n_layers",
        "width": "d_model",
        "dim": "d_model",
        "d_complex": "d_model",
        "mode": "variant",
        "keys": "n_phases",
        "windowing": "window",
        "hidden": "expansion",
        "mlp_expansion": "expansion",
        "normalizer": "normaliser",
        "norm": "normaliser",
        "token_shift": "shift",
        "pool": "pooling",
        "embed": "embedding",
        "stem": "embedding",
        "patch": "patch_size",
    }


class LayerState(NamedTuple):
    """What a layer keeps of the tokens read so far. Sums are float64: rounding must not grow with their number."""

    turned: Tensor
    """Accumulated phases (B, D), or (B, 2D) where reading has its own."""
    memory: Tensor
    """re M, im M, N (B, 3D)."""
    ring: Tensor
    """The last terms of the memory (B, W, 3D), of a hard window."""
    last: Tensor
    """x (B, D) of the last token, before shift."""
    associative: MemoryState | None
    """Of variant hybrid."""


def decay_logits(n: int) -> Tensor:
    """(n) at the start, so that 1/(1 - lambda) is as MEMORIES says."""
    first, last = (math.log(memory) for memory in MEMORIES)
    # On the CPU also where a model is only counted.
    share = torch.linspace(0.0, 1.0, n, device="cpu") if n > 1 else torch.full((1,), 0.5, device="cpu")
    decay = 1.0 - (-(first + (last - first) * share.double())).exp()
    return ((decay - LOWEST_DECAY) / (1.0 - LOWEST_DECAY)).logit().float()


class Head(nn.Module):
    """Features (..., 4D), and with hybrid what the associative memory recalls (..., D) -> what a layer adds (..., D)."""

    def __init__(self, settings: TPISettings) -> None:
        super().__init__()
        d, hidden = settings.d_model, settings.expansion * settings.d_model
        self.first = nn.Linear(4 * d, hidden or d)
        self.recalled = nn.Linear(d, hidden or d, bias=False) if settings.variant == "hybrid" else None
        self.last = nn.Linear(hidden, d) if hidden else None

    def forward(self, features: Tensor, recalled: Tensor | None) -> Tensor:
        h: Tensor = self.first(features)
        if self.recalled is not None:
            h = h + self.recalled(recalled)
        return h if self.last is None else self.last(F.gelu(h))


class Mixer(nn.Module):
    """Mixing of one layer: x (B, T, D) -> what a layer adds (B, T, D), and its phases e^(i phi) (B, T, D)."""

    def __init__(self, settings: TPISettings) -> None:
        super().__init__()
        d = settings.d_model
        self.d = d
        self.variant = settings.variant
        self.beta = settings.beta
        self.root = settings.normaliser == "sqrt"
        self.turn = nn.Linear(d, 2 * d if self.variant in ("decoupled", "constrained") else d)
        self.speed = nn.Parameter(torch.full((2 * d if self.variant == "decoupled" else d,), SPEED))
        self.offset = nn.Linear(d, d) if self.variant == "query_offset" else None
        self.initial = nn.Linear(d, d) if settings.phase_init else None
        self.strength = nn.Linear(d, d)
        self.size = settings.window_size if settings.window == "hard" else None
        self.decay_logit = nn.Parameter(decay_logits(d if settings.decay == "channel" else 1)) if settings.window == "decay" else None
        self.taps = nn.Parameter(torch.stack((torch.full((d,), 0.5), torch.full((d,), 0.5)))) if settings.shift else None
        self.associative = AssociativeMemory(d, settings.n_phases) if self.variant == "hybrid" else None
        self.head = Head(settings)

    @property
    def decay(self) -> Tensor | None:
        """lambda (1) or (D) of a decay window."""
        return None if self.decay_logit is None else LOWEST_DECAY + (1.0 - LOWEST_DECAY) * self.decay_logit.sigmoid()

    def turns(self, x: Tensor) -> Tensor:
        """What a token x (..., D) adds to the phase (..., D), and to that of reading where it has its own (..., 2D)."""
        weight: Tensor = self.turn.weight
        bias: Tensor = self.turn.bias
        speed = self.speed.abs()
        if self.variant == "constrained":
            # W, and W + beta W_a below it.
            weight = torch.cat((weight[: self.d], weight[: self.d] + self.beta * weight[self.d :]))
            bias = torch.cat((bias[: self.d], bias[: self.d] + self.beta * bias[self.d :]))
            speed = speed.repeat(2)
        # The speed goes into the weights: a product with every token's turns costs a pass over memory, and two back.
        return F.linear(x, weight * speed.unsqueeze(-1), bias * speed)

    def phases(self, turned: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """phi and phi^q (..., D) of the accumulated turns and the token x (..., D); the same tensor where they are equal."""
        own = None if self.initial is None else self.initial(x)
        write = turned[..., : self.d]
        read = turned[..., self.d :] if turned.shape[-1] > self.d else write
        if own is not None:
            separate = read is not write
            write = write + own
            read = read + own if separate else write
        return write, read if self.offset is None else read + self.offset(x)

    def sums(self, terms: Tensor) -> Tensor:
        """Sums of terms (B, T, D) within the window."""
        decay = self.decay
        if decay is not None:
            return decayed_sum(terms, decay)
        return running_sum(terms) if self.size is None else window_sum(terms, self.size)

    def mixed(self, x: Tensor, before: Tensor) -> Tensor:
        """x (..., D) with the token before it, where the layer shifts."""
        return x if self.taps is None else torch.addcmul(x * self.taps[0], before, self.taps[1])

    def forward(self, x: Tensor) -> tuple[Tensor, Pair]:
        x = widen(x)
        if self.taps is not None:
            x = self.mixed(x, F.pad(x[..., :-1, :], (0, 0, 1, 0)))
        with no_autocast(x):
            phi, phi_read = self.phases(running_sum(self.turns(x)), x)
        at = wave(phi)
        at_read = at if phi_read is phi else wave(phi_read)
        content, written, m = write(x, widen(self.strength(x)), phi, at, STRENGTH)
        memory = Pair(self.sums(written.re), self.sums(written.im))
        found = read(memory, self.sums(m) + LEAST, phi_read, at_read, self.root)
        return self.head(unit_pairs(content, found), None if self.associative is None else self.associative(x)), at

    def start(self, batch: int) -> LayerState:
        """The state before the first token."""
        zeros = self.strength.weight.new_zeros
        turned = zeros(batch, self.turn.out_features, dtype=torch.float64)
        ring = zeros(batch, self.size or 0, 3 * self.d, dtype=torch.float64)
        associative = None if self.associative is None else self.associative.start(batch)
        return LayerState(turned, zeros(batch, 3 * self.d, dtype=torch.float64), ring, zeros(batch, self.d), associative)

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """x (B, D) of one token -> what the layer adds (B, D), and the state after it."""
        x = own = widen(x)
        if self.taps is not None:
            x = self.mixed(x, state.last)
        with no_autocast(x):
            turned = state.turned + self.turns(x)
            phi, phi_read = self.phases(turned, x)
        at, at_read = (Pair(*(part.to(x.dtype) for part in wave(angle))) for angle in (phi, phi_read))
        content, written, m = write(x, widen(self.strength(x)), phi, at, STRENGTH)
        memory, ring = self.remembered(torch.cat((*written, m), dim=-1).double(), state)
        re, im, n = memory.to(x.dtype).chunk(3, dim=-1)
        found = read(Pair(re, im), n + LEAST, phi_read, at_read, self.root)
        recalled, associative = None, None
        if self.associative is not None and state.associative is not None:
            recalled, associative = self.associative.step(x, state.associative)
        return self.head(unit_pairs(content, found), recalled), LayerState(turned, memory, ring, own, associative)

    def remembered(self, terms: Tensor, state: LayerState) -> tuple[Tensor, Tensor]:
        """Memory (B, 3D) and ring (B, W, 3D) after a token's terms (B, 3D)."""
        if self.size is not None:
            ring = torch.cat((state.ring[:, 1:], terms.unsqueeze(1)), dim=1)
            return ring.sum(1), ring
        decay = self.decay
        kept = state.memory if decay is None else state.memory * decay.double().expand(self.d).repeat(3)
        return kept + terms, state.ring


class TPILayer(nn.Module):
    """h (B, T, D) -> h (B, T, D), and the phases e^(i phi) (B, T, D)."""

    def __init__(self, settings: TPISettings) -> None:
        super().__init__()
        d = settings.d_model
        self.norm = nn.LayerNorm(d)
        self.mixer = Mixer(settings)
        self.ffn = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, FFN * d), nn.GELU(), nn.Linear(FFN * d, d)) if settings.ffn else None
        self.dropout = settings.dropout

    def added(self, h: Tensor, mixed: Tensor) -> Tensor:
        """h (..., D) with what the mixer and then the feed-forward block add."""
        h = h + F.dropout(mixed, self.dropout, self.training)
        return h if self.ffn is None else h + F.dropout(self.ffn(h), self.dropout, self.training)

    def forward(self, h: Tensor) -> tuple[Tensor, Pair]:
        mixed, phases = self.mixer(self.norm(h))
        return self.added(h, mixed), phases

    def step(self, h: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """h (B, D) of one token through the layer, and the state after it."""
        mixed, state = self.mixer.step(self.norm(h), state)
        return self.added(h, mixed), state


class TPI(nn.Module):
    """Any input that is, or is cut into, tokens -> scores, and the last layer's phases (B, T, D)."""

    Settings: ClassVar[type[TPISettings]] = TPISettings
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "complex", "series", "tokens"})
    outputs: ClassVar[frozenset[str]] = frozenset({"classes", "token_classes", "next_token", "forecast"})
    only: ClassVar[Mapping[str, frozenset[str]]] = {
        "embedding": frozenset({"image"}), "patch_size": frozenset({"image"}), "pooling": frozenset({"classes"}),
        "window_size": frozenset({"window=hard"}), "decay": frozenset({"window=decay"}),
        "beta": frozenset({"variant=constrained"}), "n_phases": frozenset({"variant=hybrid"}),
    }  # fmt: skip
    causal: ClassVar[bool] = True
    stacks: ClassVar[bool] = True
    width: ClassVar[str] = "d_model"
    has_phases: ClassVar[bool] = True

    @staticmethod
    def width_step(settings: TPISettings) -> int:
        """d_model must be a multiple of this: the conv stem halves it."""
        return 2 if settings.embedding == "conv" else 1

    @staticmethod
    def check(settings: TPISettings, task: Task) -> None:
        """Raises ValueError, naming the setting, where these settings cannot work on this task."""
        check_tokens(task, settings.embedding, settings.patch_size, "none")
        if task.input == "image" and settings.d_model % TPI.width_step(settings):
            raise ValueError(f"model.d_model {settings.d_model} must be even with model.embedding conv")

    @staticmethod
    def tiny() -> TPISettings:
        """A small configuration for tests."""
        return TPISettings(d_model=8, n_layers=2, expansion=2, n_phases=4)

    def __init__(self, settings: TPISettings, task: Task) -> None:
        super().__init__()
        self.check(settings, task)
        self.output = task.output
        self.embed = RealTokens(task, settings.d_model, settings.embedding, settings.patch_size)
        self.layers = nn.ModuleList(TPILayer(settings) for _ in range(settings.n_layers))
        self.norm = nn.LayerNorm(settings.d_model)
        self.readout = Readout(settings.d_model, task, settings.pooling)

    def blocks(self) -> list[TPILayer]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, TPILayer)]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        h = widen(self.embed(x))
        if mask is not None:
            # Padding comes after all real tokens, which do not see it; it only must not overflow.
            h = h.masked_fill(~mask.unsqueeze(-1), 0.0)
        phases = None
        for layer in self.blocks():
            h, phases = layer(h)
        return Output(self.readout(self.norm(h), mask), phases)

    def start(self, batch: int) -> list[LayerState]:
        """The state of `batch` sequences before their first token. ValueError where scores do not belong to tokens."""
        if self.output not in ("next_token", "token_classes"):
            raise ValueError(f"a model for {self.output} has no scores of a single token")
        return [layer.mixer.start(batch) for layer in self.blocks()]

    def step(self, x: Tensor, state: list[LayerState]) -> tuple[Tensor, list[LayerState]]:
        """The next token of each sequence, ids (B,) or (B, ...) -> scores (B, n_outputs), and the state after it."""
        h = widen(self.embed(x.unsqueeze(1))).squeeze(1)
        after = []
        for layer, before in zip(self.blocks(), state, strict=True):
            h, kept = layer.step(h, before)
            after.append(kept)
        scores: Tensor = self.readout(self.norm(h).unsqueeze(1)).squeeze(1)
        return scores, after

    def windows(self) -> Tensor | None:
        """1/(1 - lambda) of a decay window, in tokens, (n_layers, 1 or D) without gradient; None for the other windows."""
        decays = [decay.detach() for layer in self.blocks() if (decay := layer.mixer.decay) is not None]
        return 1.0 / (1.0 - torch.stack(decays)) if decays else None
