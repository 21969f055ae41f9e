"""Text from the best weights of a trained language model over bytes.

A run is found by its folder or its key, rebuilt from the settings in its checkpoint (reading one runs no code), and read
from byte by byte: a model that streams keeps its state, any other reads the last bytes again for each new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

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
    for ledger in ledgers:
        for key in ledger.statuses():
            # One key in two sweeps is one and the same trial.
            if key.startswith(prefix) and (key not in found or ledger.checkpoint_path(key, "best").exists()):
                found[key] = ledger
    if not found:
        raise UserError(Problem(prefix, "", f"no folder of this name, and no trial under {results} whose key begins so"))
    if len(found) > 1:
        listed = [f"{key} in {ledger.name}" for key, ledger in sorted(found.items())[:LISTED]]
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UserError(Problem(prefix, "", f"{len(found)} keys begin so: {', '.join(listed)}{more}"))
    ((key, ledger),) = found.items()
    return _of(ledger, key)


def _of(ledger: Ledger, key: str) -> Run:
    path = ledger.checkpoint_path(key, "best")
    if not path.exists():
        status = ledger.statuses().get(key, "unknown to the ledger")
        raise UserError(
            Problem(str(path), "", f"there are no best weights of this trial ({status}); a sweep keeps them unless checkpoints is none")
        )
    return Run(key, path)


def _best_of(ledger: Ledger) -> Run:
    """Of a sweep's completed trials the one with the best validation figure."""
    rows = ledger.trials().to_pylist()
    kept = [row for row in rows if row["status"] == "completed" and ledger.checkpoint_path(row["key"], "best").exists()]
    if not kept:
        raise UserError(Problem(str(ledger.folder), "", "no completed trial of this sweep has kept its best weights"))
    metric = ledger.read_plan()["metric"]
    sign, column = (1.0 if metric["direction"] == "max" else -1.0), f"best_val_{metric['name']}"
    best = max(kept, key=lambda row: _rank(row.get(column), sign))
    note = (
        f"{best['key']}, the best of {len(kept)} trials by {column} ({best.get(column):.4g}), from {ledger.folder}"
        if len(kept) > 1
        else None
    )
    return Run(best["key"], ledger.checkpoint_path(best["key"], "best"), note)


def _rank(value: Any, sign: float) -> float:
    return -float("inf") if value is None else sign * float(value)


def load_run(run: Run) -> Trained:
    """The model of a run, ready to be read from. UserError where the file is no checkpoint, or its task is not text."""
    try:
        checkpoint = from_bytes(run.checkpoint.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(run.checkpoint), "", str(error))) from None
    config = config_of(checkpoint.meta["config"])
    task = config.task()
    if task.output != "next_token" or task.vocabulary != BYTES:
        text = f"was trained on {config.domain}, which is no text of bytes; generate needs a trial of the domain charlm"
        raise UserError(Problem(run.key, "", text))
    model = build(config.model.identity()["name"], config.model, task)
    try:
        model.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        raise UserError(
            Problem(str(run.checkpoint), "", f"does not fit this version's model: {str(error).splitlines()[-1].strip()}")
        ) from None
    return Trained(config, task, model.eval())


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
