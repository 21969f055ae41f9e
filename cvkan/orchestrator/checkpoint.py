"""Checkpoints as safetensors bytes: tensors by name, everything else as JSON. Reading one runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name ("model/head.weight", "optimizer/3/exp_avg", "generator/order") and plain values."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, by the rest of their names."""
        return {key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")}

    def to_bytes(self) -> bytes:
        """The checkpoint as one safetensors file."""
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self.tensors.items()}
        return save(tensors, {"cvkan": json.dumps({"version": VERSION, **self.meta})})


def from_bytes(content: bytes) -> Checkpoint:
    """Reads what `to_bytes` wrote; ValueError for anything else, and for a newer version."""
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        meta = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["cvkan"])
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not a cvkan checkpoint, or a damaged one: {error}") from None
    if not isinstance(meta, dict) or type(meta.get("version")) is not int:
        raise ValueError("not a cvkan checkpoint, or a damaged one: it does not tell its version")
    if meta["version"] > VERSION:
        raise ValueError(f"a checkpoint of version {meta['version']}; this cvkan reads up to {VERSION}")
    return Checkpoint(tensors, meta)


def prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `name/`."""
    return {f"{name}/{key}": value for key, value in tensors.items()}


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state: its tensors by "index/name", and its plain values with the group's counters."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else values)[f"{index}/{name}"] = value
    group = {key: value for key, value in state["param_groups"][0].items() if key != "params"}
    return tensors, {"state": values, "group": group}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Puts back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *values["state"].items()]:
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    group = dict(values["group"])
    if "betas" in group:
        group["betas"] = tuple(group["betas"])
    group["params"] = list(range(len(optimizer.param_groups[0]["params"])))
    optimizer.load_state_dict({"state": state, "param_groups": [group]})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_state` took."""
    torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
