"""Associative memory in phase space: the second half of TPI's variant `hybrid`.

Symbols: B batch, T tokens, D channels, P = n_phases; all per token t.
    theta_t = pi tanh(W_k x_t)                            (P) the token's key
    psi_t = [cos theta_t; sin theta_t]                    (2P); psi_s . psi_t = sum_p cos(theta_s - theta_t)
    v_t = W_v x_t                                         (D) what it stores, g_t = sigmoid(w_g x_t) how much of it
    F_t = F_{t-1} + g_t psi_{t-1} v_t^T                   (2P, D) each token is stored under the key of the one before it
    read_t = psi_t^T F_t / (sqrt(max(1, sum_{i<=t} g_i)) sqrt(P))
Source: the shift-by-one keys and phase outer product of the decoupling summary; it is linear attention (Katharopoulos
et al. 2020) with phases as features.
Method: F is kept at the ends of chunks of c tokens only, T/c matrices; within a chunk psi_t^T F_t is a causal (c, c)
product. Cost and memory are linear in T. Nothing is stored at the first token, which has none before it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvkan.models.precision import no_autocast, widen
from cvkan.models.scan import running_sum

CHUNK = 64
"""Tokens between two states: the matrices of all chunks are 2P/c times as large as the tokens."""


class MemoryState(NamedTuple):
    """What is left of the tokens read so far."""

    matrix: Tensor
    """F (B, 2P, D) float64."""
    total: Tensor
    """sum g (B, 1) float64."""
    last: Tensor
    """psi (B, 2P) of the last token; 0 before the first."""


class AssociativeMemory(nn.Module):
    """x (B, T, D) -> what its keys find (B, T, D), at least float32; causal."""

    def __init__(self, d: int, n_phases: int) -> None:
        super().__init__()
        self.n_phases = n_phases
        self.key = nn.Linear(d, n_phases)
        self.value = nn.Linear(d, d)
        self.gate = nn.Linear(d, 1)

    def features(self, x: Tensor) -> Tensor:
        """psi (..., 2P) of x (..., D)."""
        with no_autocast(x):
            theta = math.pi * torch.tanh(self.key(widen(x)))
        return torch.cat((theta.cos(), theta.sin()), dim=-1)

    def stored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g v (..., D) and g (..., 1) of x (..., D)."""
        g = widen(self.gate(x)).sigmoid()
        return g * widen(self.value(x)), g

    def scaled(self, found: Tensor, total: Tensor) -> Tensor:
        """psi^T F and sum g to what is read."""
        return found * (total.clamp(min=1.0) * self.n_phases).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        psi = self.features(x)
        values, g = self.stored(x)
        keys = F.pad(psi[..., :-1, :], (0, 0, 1, 0))
        with no_autocast(psi):
            found = causal_product(psi, keys, values)
        return self.scaled(found, running_sum(g))

    def start(self, batch: int) -> MemoryState:
        """The state of an empty memory."""
        weight = self.value.weight
        matrix = weight.new_zeros(batch, 2 * self.n_phases, weight.shape[0], dtype=torch.float64)
        return MemoryState(matrix, matrix.new_zeros(batch, 1), weight.new_zeros(batch, 2 * self.n_phases))

    def step(self, x: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """x (B, D) of one token -> what it finds (B, D), and the state after it."""
        psi = self.features(x)
        values, g = self.stored(x)
        matrix = state.matrix + state.last.double().unsqueeze(-1) * values.double().unsqueeze(-2)
        total = state.total + g.double()
        found = torch.matmul(psi.double().unsqueeze(-2), matrix).squeeze(-2)
        return self.scaled(found, total).to(psi.dtype), MemoryState(matrix, total, psi)


def causal_product(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """sum_{i<=t} (q_t . k_i) v_i for q and k (B, T, K), v (B, T, D) -> (B, T, D), in chunks."""
    batch, tokens = values.shape[:2]
    size = min(CHUNK, tokens)
    queries, keys, values = (F.pad(z, (0, 0, 0, -tokens % size)).reshape(batch, -1, size, z.shape[-1]) for z in (queries, keys, values))
    earlier = torch.ones(size, size, dtype=values.dtype, device=values.device).tril()
    found = torch.matmul(torch.matmul(queries, keys.transpose(-2, -1)) * earlier, values)
    if tokens > size:
        totals = torch.matmul(keys.transpose(-2, -1), values)
        ended = running_sum(totals.flatten(-2))
        before = F.pad(ended[..., :-1, :], (0, 0, 1, 0)).reshape(totals.shape)
        found = found + torch.matmul(queries, before)
    return found.flatten(1, 2)[:, :tokens]
