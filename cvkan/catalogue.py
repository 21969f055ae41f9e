"""What `cvkan list` names: registry entries and sweep files, each with a line about it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvkan.errors import UserError
from cvkan.orchestrator import load


@dataclass(frozen=True)
class Entry:
    """A name of a kind, and what it is."""

    kind: str
    name: str
    about: str


def catalogue(kinds: Sequence[str], sweeps: Path) -> list[Entry]:
    """Entries of the kinds asked for. Only sweeps are read without importing torch."""
    entries: list[Entry] = []
    for kind in kinds:
        entries += _sweeps(sweeps) if kind == "sweeps" else _registered(kind)
    return entries


def _sweeps(folder: Path) -> list[Entry]:
    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            tree = load.read(path).plain()
            question = " ".join(str(tree.get("question", "")).split()) if isinstance(tree, dict) else "is no sweep"
        except UserError as error:
            question = f"cannot be read: {error.problems[0]}"
        found.append(Entry("sweeps", path.as_posix(), question))
    return found


def _registered(kind: str) -> list[Entry]:
    from cvkan.domains import DOMAINS
    from cvkan.reference import about

    if kind == "domains":
        return [Entry(kind, name, about(domain)) for name, domain in DOMAINS.items()]
    if kind == "data":
        return [
            Entry(kind, f"{domain}: {name}", _first_line(entry.Settings))
            for domain, module in DOMAINS.items()
            for name, entry in module.DATA_SETS.items()
        ]
    # A model's settings say in a line what it is; the class itself begins with its shapes.
    return [Entry(kind, name, _first_line(getattr(entry, "Settings", entry))) for name, entry in _registry(kind).items()]


def _registry(kind: str) -> Mapping[str, Any]:
    from cvkan.models import MODELS
    from cvkan.models.aggregations import AGGREGATIONS
    from cvkan.models.embeddings import EMBEDDINGS, POSITIONS
    from cvkan.models.norms import NORMS
    from cvkan.models.poolings import POOLINGS
    from cvkan.optimizers import OPTIMIZERS, SCHEDULES

    registries: dict[str, Mapping[str, Any]] = {
        "models": MODELS,
        "norms": NORMS,
        "poolings": POOLINGS,
        "aggregations": AGGREGATIONS,
        "embeddings": EMBEDDINGS,
        "positions": POSITIONS,
        "optimizers": OPTIMIZERS,
        "schedules": SCHEDULES,
    }
    return registries[kind]


def _first_line(entry: object) -> str:
    lines: Iterable[str] = (inspect.getdoc(entry) or "").splitlines()
    return next(iter(lines), "")
