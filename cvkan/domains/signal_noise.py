"""The signal_noise domain: which tokens are signal, told by their phases alone; generated, headline metric token accuracy.

Symbols: T tokens, S of them signal, D dims, mu_d a common direction, drawn afresh for each example and dimension.
    z_td = r_td e^(i theta_td)
    theta_td = mu_d + phase_std n_td     of a signal token, n normal
    theta_td uniform in [0, 2 pi)        of any other token
    r_td = exp(magnitude_std n_td)       of every token
No token tells by itself what it is: mu is known only from the tokens that agree. The target is 1 at signal tokens, else 0.
Source: the separation task of the CV-KAN research log.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cvkan.domains.cache import Entry, Writer
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, GeneratedSettings, splits
from cvkan.domains.task import Data, Task

Count = Annotated[int, Field(ge=1)]
Spread = Annotated[float, Field(ge=0, le=10)]
CHUNK = 512
"""Examples drawn at once, fewer of large ones; always all of them, so that a part begins with the examples of a smaller one."""
MOST = 1 << 22
"""Complex numbers drawn at once, of some 60 bytes while they are; but never less than an example."""


class CoherentSettings(GeneratedSettings):
    """Tokens whose phases agree among tokens of random phase; generated."""

    name: Literal["coherent"] = "coherent"
    tokens: Annotated[int, Field(ge=2, le=4096)] = 16
    """Tokens of an example."""
    signal: Count = 4
    """Signal tokens of an example, at random places; fewer than `tokens`."""
    dims: Annotated[int, Field(ge=1, le=4096)] = 8
    """Complex numbers of a token."""
    phase_std: Spread = 0.5
    """Standard deviation of a signal token's phases from the common direction, in radians."""
    magnitude_std: Spread = 0.0
    """Standard deviation of log-magnitudes; 0: all magnitudes are 1."""
    n_train: Count = 8000
    """Examples of the training part."""
    n_validation: Count = 1000
    """Examples of the validation part."""
    n_test: Count = 1000
    """Examples of the test part."""

    synonyms: ClassVar[dict[str, str]] = {
        "seed": "data_seed",
        "n_tokens": "tokens",
        "n_signal": "signal",
        "dim": "dims",
        "d": "dims",
        "std": "phase_std",
        "noise": "phase_std",
        "train_size": "n_train",
        "n_val": "n_validation",
        "test_size": "n_test",
    }

    @model_validator(mode="after")
    def _some_noise(self) -> Self:
        if self.signal >= self.tokens:
            text = f"signal {self.signal} leaves no other token; tokens is {self.tokens}"
            raise PydanticCustomError("signal", "{text}", {"text": text})
        return self


def draw(settings: CoherentSettings, n: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """n examples: tokens (n, T, D, 2), re and im last, and targets (n, T)."""
    shape = (n, settings.tokens, settings.dims)
    places = np.argsort(generator.random(shape[:2]), axis=1)
    is_signal = places < settings.signal
    common = generator.uniform(0, 2 * np.pi, (n, 1, settings.dims))
    coherent = common + settings.phase_std * generator.standard_normal(shape)
    phase = np.where(is_signal[:, :, None], coherent, generator.uniform(0, 2 * np.pi, shape))
    magnitude = np.exp(settings.magnitude_std * generator.standard_normal(shape))
    x = magnitude[..., None] * np.stack((np.cos(phase), np.sin(phase)), axis=-1)
    return x.astype(np.float32), is_signal.astype(np.int8)


def chunk(settings: CoherentSettings) -> int:
    """Examples to draw at once. It hangs on the size of an example alone, see CHUNK."""
    return max(1, min(CHUNK, MOST // (settings.tokens * settings.dims)))


def _task(settings: CoherentSettings) -> Task:
    return Task(input="complex", shape=(settings.tokens, settings.dims, 2), output="token_classes", n_outputs=2)


def _write(settings: CoherentSettings, writer: Writer) -> dict[str, Any]:
    size = chunk(settings)
    for part, (name, n) in enumerate(zip(PARTS, (settings.n_train, settings.n_validation, settings.n_test), strict=True)):
        for axis, (dtype, shape) in enumerate(((np.float32, _task(settings).shape), (np.int8, (settings.tokens,)))):
            generator = np.random.default_rng([settings.data_seed, part])
            pieces = (draw(settings, size, generator)[axis][: n - start] for start in range(0, n, size))
            writer.write(f"{name}_{'xy'[axis]}", dtype, (n, *shape), pieces)
    return {}


def _open(settings: CoherentSettings, entry: Entry) -> Data:
    return Data(_task(settings), *splits(entry), entry.hash, encode=torch.Tensor.float)


def _describe(settings: CoherentSettings, entry: Entry) -> list[str]:
    sizes = [
        f"{part}: {entry.arrays[f'{part}_y'].shape[0]} examples of {settings.tokens} tokens, {settings.signal} of them signal"
        for part in PARTS
    ]
    share = settings.signal / settings.tokens
    return [*sizes, f"accuracy of one answer to all: {max(share, 1 - share):.3g}"]


SIGNAL_NOISE = CachedDomain(
    "signal_noise",
    {
        "coherent": DataSet(
            Settings=CoherentSettings,
            task=_task,
            signature=lambda _: {"version": 1},
            write=_write,
            open=_open,
            describe=_describe,
            version=2,
            embedded=True,
        )
    },
)
