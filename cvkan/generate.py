"""Text from the best weights of a trained language model over bytes.

A run is found by its folder or its key, rebuilt from the settings in its checkpoint (reading one runs no code), and read
from byte by byte: a model that streams keeps its state, any other reads the last bytes again for each new one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from cvkan.domains import DOMAINS
from cvkan.domains.task import Task
from cvkan.errors import Problem, UserError
from cvkan.models import build
from cvkan.models.protocol import Streaming
from cvkan.orchestrator.checkpoint import from_bytes
from cvkan.orchestrator.ledger import Ledger, find
from cvkan.orchestrator.spec import TrialConfig, config_of

NEWLINE = b"\n"
"""What stands for an empty prompt: a model must read something before it can tell what follows."""
BYTES = 256
TEXTS = "charlm"
"""The domain whose tasks are text of bytes."""
RANK = "best_val_bpc"
"""The figure by which its trials are ranked; less is better."""
NO_TEXT = f"which is no text of bytes; generate needs a trial of the domain {TEXTS}"
OTHER_VERSION = "was written by another version of cvkan, or is damaged"
LISTED = 5
"""Keys that a message names at most."""

Pick = Callable[[Tensor], int]


@dataclass(frozen=True)
class Run:
    """A trial whose best weights are there."""

    key: str
    checkpoint: Path
    note: str | None = None
    """Why it is this one, where several could have been meant."""


@dataclass(frozen=True)
class Trained:
    """A model with its best weights, and the settings that it was trained with."""

    config: TrialConfig
    task: Task
    model: nn.Module


def find_run(run: str, results: Path) -> Run:
    """The trial that `run` names: a folder of checkpoints or of a sweep, or the beginning of a key under `results`.

    UserError where there is none, or several.
    """
    if not run.strip():
        raise UserError(Problem("RUN", "", "is empty; expected a trial's key or its beginning, or a folder"))
    path = Path(run)
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        return _by_key(run, find(results), results)
    if path.absolute().parent.name == "checkpoints":
        return _of(Ledger(path.absolute().parent.parent), path.absolute().name)
    ledgers = find(path)
    if len(ledgers) > 1:
        names = ", ".join(ledger.name for ledger in ledgers)
        raise UserError(Problem(run, "", f"holds several sweeps ({names}); name one of them, such as {path / ledgers[0].name}"))
    return _best_of(ledgers[0])


def _by_key(prefix: str, ledgers: Iterable[Ledger], results: Path) -> Run:
    found: dict[str, Ledger] = {}
    damaged: list[str] = []
    for ledger in ledgers:
        for key in ledger.statuses():
            # One key in two sweeps is one and the same trial.
            if key.startswith(prefix) and (key not in found or ledger.checkpoint_path(key, "best").exists()):
                found[key] = ledger
        damaged += ledger.damaged
    if not found:
        text = f"no folder of this name, and no trial under {results} whose key begins so{_lost(damaged)}"
        raise UserError(Problem(prefix, "", text))
    if len(found) > 1:
        listed = [f"{key} in {ledger.name}" for key, ledger in sorted(found.items())[:LISTED]]
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UserError(Problem(prefix, "", f"{len(found)} keys begin so: {', '.join(listed)}{more}"))
    ((key, ledger),) = found.items()
    return _of(ledger, key)


def _lost(damaged: Sequence[str]) -> str:
    """What to add to a message about trials that are not there, where files of the ledger cannot be read."""
    return f"; {', '.join(damaged)} cannot be read, being damaged: its trials are missing here" if damaged else ""


def _of(ledger: Ledger, key: str) -> Run:
    path = ledger.checkpoint_path(key, "best")
    if not path.exists():
        status = ledger.statuses().get(key, "unknown to the ledger")
        text = f"there are no best weights of this trial ({status}); a sweep keeps them unless checkpoints is none"
        raise UserError(Problem(str(path), "", text + _lost(ledger.damaged)))
    return Run(key, path)


def _best_of(ledger: Ledger) -> Run:
    """Of a sweep's completed trials on text the one with the best validation figure."""
    rows = ledger.trials().to_pylist()
    kept = [row for row in rows if row["status"] == "completed" and ledger.checkpoint_path(row["key"], "best").exists()]
    if not kept:
        text = f"no completed trial of this sweep has kept its best weights{_lost(ledger.damaged)}"
        raise UserError(Problem(str(ledger.folder), "", text))
    texts = [row for row in kept if _recorded_domain(row["config"]) == TEXTS]
    if not texts:
        text = f"no trial here was trained on text of bytes; generate needs a trial of the domain {TEXTS}{_lost(ledger.damaged)}"
        raise UserError(Problem(str(ledger.folder), "", text))
    best = min(texts, key=lambda row: math.inf if row.get(RANK) is None else float(row[RANK]))
    figure = "which none has" if best.get(RANK) is None else f"{best[RANK]:.4g}"
    note = f"{best['key']}, the best of {len(texts)} trials by {RANK} ({figure}), from {ledger.folder}" if len(texts) > 1 else None
    return Run(best["key"], ledger.checkpoint_path(best["key"], "best"), note)


def _recorded_domain(config: Any) -> Any:
    """The domain in a row's settings; None where they cannot be read."""
    try:
        settings = json.loads(config)
    except (TypeError, ValueError):
        return None
    return settings.get("domain") if isinstance(settings, dict) else None


def load_run(run: Run) -> Trained:
    """The model of a run, ready to be read from. UserError where the file is no checkpoint, or its task is not text."""
    try:
        checkpoint = from_bytes(run.checkpoint.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(run.checkpoint), "", str(error))) from None
    config = _config(run, checkpoint.meta.get("config"))
    task = config.task()
    if task.output != "next_token" or task.vocabulary != BYTES:
        raise UserError(Problem(run.key, "", f"was trained on {config.domain}, {NO_TEXT}"))
    model = _built(run, config, task, checkpoint.part("model"))
    return Trained(config, task, model.eval())


def _config(run: Run, recorded: Any) -> TrialConfig:
    """The settings in a checkpoint. UserError where this version does not know them."""
    if not isinstance(recorded, dict):
        raise UserError(Problem(str(run.checkpoint), "", f"tells no settings: it {OTHER_VERSION}"))
    domain = recorded.get("domain")
    if isinstance(domain, str) and domain in DOMAINS and domain != TEXTS:
        raise UserError(Problem(run.key, "", f"was trained on {domain}, {NO_TEXT}"))
    try:
        return config_of(recorded)
    except UserError as error:
        text = f"it {OTHER_VERSION}"
        raise UserError([Problem(str(run.checkpoint), problem.path, f"{problem.message}; {text}") for problem in error.problems]) from None


def _built(run: Run, config: TrialConfig, task: Task, weights: dict[str, Tensor]) -> nn.Module:
    """The model with its weights. UserError where they are not of its sizes."""
    name = config.model.identity()["name"]
    try:
        with torch.device("meta"):  # sizes are compared before there is memory for them: a damaged file may ask for any
            build(name, config.model, task).load_state_dict(weights, assign=True)
        model = build(name, config.model, task)
        model.load_state_dict(weights)
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[-1].strip()
        raise UserError(Problem(str(run.checkpoint), "", f"does not fit this version's model: {reason}")) from None
    return model


def picker(temperature: float, top_k: int | None, seed: int) -> Pick:
    """Draws a token from scores (V): softmax(scores / temperature) over the `top_k` best; temperature 0 takes the best one."""
    generator = Generator().manual_seed(seed)

    def pick(scores: Tensor) -> int:
        if not scores.isfinite().all():
            raise UserError("the model's scores are not finite; its training has diverged")
        if temperature == 0:
            return int(scores.argmax())
        best, ids = scores.double().topk(min(top_k or len(scores), len(scores)))
        chances = ((best - best[0]) / temperature).softmax(0)
        return int(ids[torch.multinomial(chances, 1, generator=generator)])

    return pick


@torch.no_grad()
def continued(model: nn.Module, prompt: bytes, context: int, length: int, pick: Pick) -> bytes:
    """`length` bytes after `prompt`; a model that does not stream reads the last `context` bytes for each of them."""
    source = _streamed(model, prompt, pick) if isinstance(model, Streaming) else _read_again(model, prompt, context, pick)
    return bytes(itertools.islice(source, length))


def _streamed(model: Streaming, prompt: bytes, pick: Pick) -> Iterator[int]:
    state = model.start(1)
    *before, last = prompt or NEWLINE
    for byte in before:
        _, state = model.step(torch.tensor([byte]), state)
    while True:
        scores, state = model.step(torch.tensor([last]), state)
        last = pick(scores[0])
        yield last


def _read_again(model: nn.Module, prompt: bytes, context: int, pick: Pick) -> Iterator[int]:
    text = bytearray(prompt or NEWLINE)
    while True:
        byte = pick(model(torch.tensor([list(text[-context:])])).scores[0, -1])
        text.append(byte)
        yield byte


def prompt_notes(prompt: bytes, task: Task, streams: bool) -> list[str]:
    """What a user should know of a prompt that is longer than the sequences of training."""
    trained = task.shape[0]
    if streams and len(prompt) > trained:
        return [f"the prompt has {len(prompt)} bytes, and the model was trained on sequences of {trained}; it reads all of them"]
    if not streams and len(prompt) > task.length:
        return [f"the prompt has {len(prompt)} bytes, of which this model reads the last {task.length}"]
    return []


def unseen(prompt: bytes, train: Tensor) -> list[str]:
    """Bytes of the prompt that the training part never shows, as people write them."""
    return [repr(bytes([byte]))[2:-1] for byte in sorted(set(prompt)) if not (train == byte).any()]


def shown(text: bytes) -> str:
    """Bytes as text: what is no UTF-8 is replaced, and no control character may steer a terminal."""
    decoded = text.decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in decoded)
