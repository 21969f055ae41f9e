"""The in-process backend: packs one after another in this process, without ray. For tests, debugging and `--local`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cvkan.errors import Problem, UserError
from cvkan.orchestrator.queue import Job, Queue
from cvkan.orchestrator.worker import Event, Order, train


class LocalBackend:
    """Trains on `device` in this process."""

    def __init__(self, device: str) -> None:
        self.device = device

    def run(self, queue: Queue, order: Callable[[Job], Order], on_event: Callable[[Event], None]) -> None:
        """See `run.Backend`."""
        while (job := queue.next()) is not None:
            for event in train(order(job), lambda: queue.interrupted):
                on_event(event)

    def close(self) -> None:
        """Nothing is held."""


def local_device(gpus: float | str) -> str:
    """cuda if GPUs are asked for, or left to choice and there; else cpu. UserError if one is asked and none is there."""
    there = torch.cuda.is_available()
    if gpus not in ("auto", 0) and not there:
        raise UserError(Problem("", "resources.gpus", f"{gpus} asked, and torch finds no GPU on this machine"))
    return "cuda" if there and gpus != 0 else "cpu"
