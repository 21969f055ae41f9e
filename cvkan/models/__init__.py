"""Models: input to scores. A new model is a file, and a line in MODELS."""

from __future__ import annotations

from torch import nn

from cvkan.domains.task import Task
from cvkan.models.cv_kan import CVKAN
from cvkan.models.grok_transformer import GrokTransformer
from cvkan.models.linear_forecast import DLinear, NLinear
from cvkan.models.m5 import M5
from cvkan.models.mlp import MLP
from cvkan.models.protocol import ModelClass
from cvkan.models.real_cartesian import RealCartesian
from cvkan.models.real_polar import RealPolar
from cvkan.models.recurrent import GRU, LSTM
from cvkan.models.resnet import ResNet
from cvkan.models.reversible import Reversible
from cvkan.models.tpi import TPI
from cvkan.models.transformer import Transformer
from cvkan.settings import Settings

MODELS: dict[str, ModelClass] = {
    "cv_kan": CVKAN,
    "real_polar": RealPolar,
    "real_cartesian": RealCartesian,
    "tpi": TPI,
    "transformer": Transformer,
    "mlp": MLP,
    "resnet": ResNet,
    "m5": M5,
    "lstm": LSTM,
    "gru": GRU,
    "dlinear": DLinear,
    "nlinear": NLinear,
    "grok_transformer": GrokTransformer,
}
"""From `model.name` to the model's class."""


def build(name: str, settings: Settings, task: Task) -> nn.Module:
    """A freshly initialised model for a task; its draws come from torch's global generator."""
    model = MODELS[name](settings, task)
    return Reversible(model) if task.reversible else model


def misfit(name: str, task: Task) -> str | None:
    """Why a model cannot serve a task, whatever its settings, and which can; None if it can."""
    reason = _misfit(MODELS[name], task)
    if reason is None:
        return None
    fits = [other for other, model in MODELS.items() if _misfit(model, task) is None]
    return f"{name} {reason}; models that can: {', '.join(fits)}"


OUTPUT_WORDS = {
    "classes": "name the class of an example",
    "token_classes": "name the class of every token",
    "next_token": "predict the next token",
    "forecast": "forecast a series",
}


def _misfit(model: ModelClass, task: Task) -> str | None:
    if task.input not in model.inputs:
        return f"cannot use {task.input} input"
    if task.output not in model.outputs:
        return f"cannot {OUTPUT_WORDS[task.output]}"
    if task.causal and not model.causal:
        return "cannot keep a token from seeing those after it"
    return None
