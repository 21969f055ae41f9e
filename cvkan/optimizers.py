"""Optimizers and learning-rate schedules. A new optimizer is a settings class with `build`, and a line in OPTIMIZERS.

torch's fused kernels are used where they exist: they take the loss scaler's verdict (fp16) as a tensor, so a step
needs no host-device synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from torch.nn import Parameter
from torch.optim import Optimizer

from cvkan.settings import Settings, one_of

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Betas = Annotated[tuple[Decay, Decay], BeforeValidator(_pair)]


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1.0 - progress


ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1.0 / 25.0
ONE_CYCLE_END = 1e-4 / 25.0


def one_cycle(progress: float) -> float:
    """From 1/25 up to 1 over the first 30%, then down to 4e-6, both along half a cosine (Smith and Topin 2018)."""
    if progress < ONE_CYCLE_RISE:
        return ONE_CYCLE_START + (1.0 - ONE_CYCLE_START) * (1.0 - cosine(progress / ONE_CYCLE_RISE))
    return ONE_CYCLE_END + (1.0 - ONE_CYCLE_END) * cosine((progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
}
"""From progress after warm-up in [0, 1] to the factor of the learning rate."""


class OptimizerSettings(Settings):
    """What all optimizers share."""

    name: str
    lr: Positive = 1e-3
    """Learning rate at its height."""
    weight_decay: NonNegative = 0.0
    """Decay of the weights per step; `adamw`, `lion` and `adopt` decouple it from the gradient."""
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    """How the learning rate moves over a trial: constant, cosine, linear or one_cycle."""
    warmup: Decay = 0.0
    """Fraction of all steps over which the learning rate rises from near 0, before the schedule starts."""

    synonyms: ClassVar[Mapping[str, str]] = {"learning_rate": "lr", "decay": "weight_decay", "scheduler": "schedule", "wd": "weight_decay"}

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        """The optimizer over `parameters`, all in one group."""
        raise NotImplementedError

    def learning_rate(self, step: int, steps: int) -> float:
        """The rate for the update `step` (0-based) of a trial of `steps` updates."""
        warm = round(self.warmup * steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * SCHEDULES[self.schedule]((step - warm) / max(1, steps - warm))


class SGD(OptimizerSettings):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 1e-2
    """Learning rate at its height."""
    momentum: Decay = 0.9
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Look-ahead momentum; needs momentum above 0."""

    @model_validator(mode="after")
    def _look_ahead_of_something(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov: true needs momentum above 0")
        return self

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        optimizer = torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=True
        )
        if self.momentum > 0:
            # The fused kernel leaves its first buffer uninitialised when the loss scaler skips the first step.
            for parameter in optimizer.param_groups[0]["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class Adam(OptimizerSettings):
    """Adam with the decay inside the gradient (Kingma and Ba 2015)."""

    name: Literal["adam"] = "adam"
    betas: Betas = (0.9, 0.999)
    """Smoothing of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        return torch.optim.Adam(parameters, self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


class AdamW(OptimizerSettings):
    """Adam with decoupled decay (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NonNegative = 0.01
    """Decay of the weights per step, apart from the gradient."""
    betas: Betas = (0.9, 0.999)
    """Smoothing of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        return torch.optim.AdamW(parameters, self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)


class RMSprop(OptimizerSettings):
    """RMSprop (Tieleman and Hinton 2012)."""

    name: Literal["rmsprop"] = "rmsprop"
    alpha: Decay = 0.99
    """Smoothing of the squared gradient."""
    momentum: Decay = 0.0
    """Share of the last update that is kept."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        return torch.optim.RMSprop(
            parameters, self.lr, alpha=self.alpha, momentum=self.momentum, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )


class Lion(OptimizerSettings):
    """Sign of an interpolated momentum (Chen et al. 2023): adaptive in effect, with no second moment."""

    name: Literal["lion"] = "lion"
    lr: Positive = 3e-4
    """Learning rate at its height."""
    betas: Betas = (0.9, 0.99)
    """Weights of the momentum in the update and in its own average."""

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        # Imported here: the library takes a second to import, and most trials do not use it.
        from pytorch_optimizer.optimizer.lion import Lion as Implementation

        return Implementation(list(parameters), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, foreach=True)


class Adopt(OptimizerSettings):
    """Adam whose second moment leaves out the newest gradient, so that it converges for every beta2 (Taniguchi et al. 2024)."""

    name: Literal["adopt"] = "adopt"
    betas: Betas = (0.9, 0.9999)
    """Smoothing of the gradient and of its square."""
    eps: Positive = 1e-6
    """Added to the denominator."""

    def build(self, parameters: Iterable[Parameter]) -> Optimizer:
        from pytorch_optimizer.optimizer.adopt import ADOPT

        return ADOPT(
            list(parameters), lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, weight_decouple=True, foreach=True
        )


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "lion": Lion,
    "adopt": Adopt,
}
