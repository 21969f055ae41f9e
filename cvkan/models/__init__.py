"""Models: image (or other input) to scores. A new model is a file, and a line in MODELS."""

from __future__ import annotations

from cvkan.models.cv_kan import CVKAN
from cvkan.models.mlp import MLP
from cvkan.models.protocol import ModelClass
from cvkan.models.resnet import ResNet
from cvkan.models.transformer import Transformer

MODELS: dict[str, ModelClass] = {
    "cv_kan": CVKAN,
    "transformer": Transformer,
    "mlp": MLP,
    "resnet": ResNet,
}
"""From `model.name` to the model's class."""
