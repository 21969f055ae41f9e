"""For each model a data set that it can use, for tests that run over all models."""

from __future__ import annotations

from typing import Any

from cvkan.domains import DOMAINS
from cvkan.domains.task import Task
from cvkan.models import misfit

CHOICES: list[dict[str, Any]] = [
    *({"domain": name, "data": {"name": next(iter(domain.DATA_SETS))}} for name, domain in DOMAINS.items()),
    {"domain": "audio", "data": {"name": "tones", "features": "waveform"}},
]
"""Every domain's embedded data set, and the one that gives waveforms."""


def task_of(choice: dict[str, Any]) -> Task:
    """The task of one of CHOICES."""
    domain = DOMAINS[choice["domain"]]
    return domain.task(domain.DATA_SETS[choice["data"]["name"]].Settings.model_validate(choice["data"]))


def choice_for(model: str) -> dict[str, Any]:
    """The first of CHOICES that the model can serve."""
    return next(choice for choice in CHOICES if misfit(model, task_of(choice)) is None)
