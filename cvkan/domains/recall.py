"""The recall domain: what stood earlier in a sequence is asked for later; generated, headline metric accuracy.

`pairs`, associative recall: with 3 pairs, 2 queries and 1 distractor an example reads

    input    k1 v1 d k2 v2 k3 v3 k3 k1
    target   .  .  . .  .  .  .  v3 v1

The keys of an example differ, its queries are keys of its own, and a distractor is a value that follows no key directly.
`copy`: a segment, a gap of noise from symbols of its own, and a marker for each token of the segment, whose target it is:

    input    s1 s2 s3 n n n n | |  |
    target   .  .  .  . . . . s1 s2 s3

Sources: Ba et al. 2016 and Arora et al. 2023 (associative recall); Arjovsky et al. 2016 (copying over a gap, there of blanks).
Every part is drawn by itself from (data_seed, part, its pairs or gap), so a part does not change with another, and a larger
one begins with the examples of a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from cvkan.domains.cache import Entry, Writer
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, GeneratedSettings, splits
from cvkan.domains.objectives import UNASKED
from cvkan.domains.task import Data, Split, Task

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=4096)]
Gap = Annotated[int, Field(ge=0, le=65_536)]
Alphabet = Annotated[int, Field(ge=2, le=4096)]
ListOf = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Before a tuple: YAML has lists alone."""
Examples = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Token ids and targets, (N, T) each."""
CHUNK = 512
"""Examples drawn at once; always all of them, so that a part begins with the examples of a smaller one."""


class RecallSettings(GeneratedSettings):
    """How many examples each part has."""

    n_train: Count = 8000
    """Examples of the training part."""
    n_validation: Count = 1000
    """Examples of the validation part."""
    n_test: Count = 1000
    """Examples of the test part, and of each further one."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "seed": "data_seed",
        "train_size": "n_train",
        "n_val": "n_validation",
        "test_size": "n_test",
    }

    def sizes(self) -> tuple[int, int, int]:
        """Examples of the training, validation and test part."""
        return self.n_train, self.n_validation, self.n_test


class PairsSettings(RecallSettings):
    """Key-value pairs, then keys whose values are asked (associative recall); generated."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **RecallSettings.synonyms,
        "n_pairs": "pairs",
        "n_queries": "queries",
        "n_keys": "keys",
        "n_values": "values",
        "noise": "distractors",
    }

    name: Literal["pairs"] = "pairs"
    pairs: Size = 8
    """Pairs of an example."""
    queries: Size = 4
    """Keys of an example that are asked for, each once; at most `pairs`."""
    distractors: Annotated[int, Field(ge=0, le=4096)] = 0
    """Values that belong to no key, at random places between the pairs."""
    keys: Size = 32
    """Symbols for keys; at least `pairs`."""
    values: Alphabet = 32
    """Symbols for values."""
    test_pairs: Annotated[tuple[Size, ...], ListOf] = ()
    """Numbers of pairs of further test parts; their figures are test_accuracy_at_16 and the like."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, pairs in (("pairs", self.pairs), *(("test_pairs", pairs) for pairs in self.test_pairs)):
            if pairs > self.keys:
                raise PydanticCustomError("keys", "{text}", {"text": f"{name} {pairs} needs as many different keys; keys is {self.keys}"})
            if pairs < self.queries:
                raise PydanticCustomError("queries", "{text}", {"text": f"queries {self.queries} is more than {name} {pairs}"})
        _refuse_twice("test_pairs", self.test_pairs)
        return self


class CopySettings(RecallSettings):
    """A segment to reproduce after a gap of noise; generated."""

    synonyms: ClassVar[Mapping[str, str]] = {**RecallSettings.synonyms, "length": "segment", "delay": "gap", "vocabulary": "alphabet"}

    name: Literal["copy"] = "copy"
    segment: Size = 8
    """Tokens to reproduce."""
    gap: Gap = 16
    """Tokens of noise between the segment and the first marker."""
    alphabet: Alphabet = 8
    """Symbols of the segment; the noise has as many of its own."""
    test_gaps: Annotated[tuple[Gap, ...], ListOf] = ()
    """Gaps of further test parts; their figures are test_accuracy_at_64 and the like."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        _refuse_twice("test_gaps", self.test_gaps)
        return self


def _refuse_twice(name: str, values: Sequence[int]) -> None:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise PydanticCustomError("twice", "{text}", {"text": f"{name} names {twice} twice"})


def _distinct(draw: np.random.Generator, n: int, below: int, count: int) -> NDArray[np.int64]:
    """n rows of `count` different numbers below `below`, in random order -> (n, count)."""
    return np.argsort(draw.random((n, below)), axis=1)[:, :count]


def draw_pairs(settings: PairsSettings, pairs: int, n: int, draw: np.random.Generator) -> Examples:
    """n examples with this many pairs. Ids: keys from 0, then values; targets are values from 0."""
    keys = _distinct(draw, n, settings.keys, pairs)
    values = draw.integers(settings.values, size=(n, pairs))
    stray = draw.integers(settings.values, size=(n, settings.distractors))
    # Sorting puts each distractor, a place of its own, before or after whole pairs.
    blocks = pairs + settings.distractors
    is_pair = np.sort(_distinct(draw, n, blocks, pairs), axis=1)
    width = np.ones((n, blocks), dtype=np.int64)
    np.put_along_axis(width, is_pair, 2, axis=1)
    start = np.cumsum(width, axis=1) - width
    listed = 2 * pairs + settings.distractors
    x = np.empty((n, listed + settings.queries), dtype=np.int64)
    at = np.take_along_axis(start, is_pair, axis=1)
    np.put_along_axis(x, at, keys, axis=1)
    np.put_along_axis(x, at + 1, settings.keys + values, axis=1)
    np.put_along_axis(x, start[width == 1].reshape(n, settings.distractors), settings.keys + stray, axis=1)
    asked = _distinct(draw, n, pairs, settings.queries)
    x[:, listed:] = np.take_along_axis(keys, asked, axis=1)
    y = np.full_like(x, UNASKED)
    y[:, listed:] = np.take_along_axis(values, asked, axis=1)
    return x, y


def draw_copy(settings: CopySettings, gap: int, n: int, draw: np.random.Generator) -> Examples:
    """n examples with this gap. Ids: symbols of the segment from 0, then of the noise, then the marker."""
    segment = draw.integers(settings.alphabet, size=(n, settings.segment))
    noise = settings.alphabet + draw.integers(settings.alphabet, size=(n, gap))
    x = np.concatenate((segment, noise, np.full_like(segment, 2 * settings.alphabet)), axis=1)
    y = np.full_like(x, UNASKED)
    y[:, -settings.segment :] = segment
    return x, y


Draw = Callable[[Any, int, int, np.random.Generator], Examples]


def _write(draw: Draw, settings: RecallSettings, usual: int, others: Sequence[int], writer: Writer) -> dict[str, Any]:
    """Writes the usual parts, and a further test part for each other number of pairs or gap."""
    parts = [(name, usual, n) for name, n in zip(PARTS, settings.sizes(), strict=True)]
    parts += [(f"at_{other}", other, settings.n_test) for other in others]
    for name, size, n in parts:
        # A further part draws as the test part does: at the usual size it is the same examples.
        part = PARTS.index(name) if name in PARTS else PARTS.index("test")
        _, y = draw(settings, size, 1, np.random.default_rng(0))
        for axis in (0, 1):
            generator = np.random.default_rng([settings.data_seed, part, size])
            pieces = (draw(settings, size, CHUNK, generator)[axis][: n - start] for start in range(0, n, CHUNK))
            writer.write(f"{name}_{'xy'[axis]}", np.int16, (n, y.shape[1]), pieces)
    return {}


def _open(task: Task, entry: Entry) -> Data:
    further = {name: Split(*(torch.from_numpy(entry.array(f"{name}_{axis}")) for axis in "xy")) for name in task.further}
    return Data(task, *splits(entry), entry.hash, encode=torch.Tensor.long, further=further)


def _task(length: int, others: dict[str, int], n_outputs: int, vocabulary: int) -> Task:
    """`others`: tokens of an example of each further test part."""
    return Task(
        input="tokens",
        shape=(length,),
        output="token_classes",
        n_outputs=n_outputs,
        causal=True,
        vocabulary=vocabulary,
        further=tuple(others),
        longest=max(others.values(), default=0),
    )


def _pairs_task(settings: PairsSettings) -> Task:
    rest = settings.distractors + settings.queries
    others = {f"at_{pairs}": 2 * pairs + rest for pairs in settings.test_pairs}
    return _task(2 * settings.pairs + rest, others, settings.values, settings.keys + settings.values)


def _copy_task(settings: CopySettings) -> Task:
    others = {f"at_{gap}": 2 * settings.segment + gap for gap in settings.test_gaps}
    return _task(2 * settings.segment + settings.gap, others, settings.alphabet, 2 * settings.alphabet + 1)


def _describe(task: Task, entry: Entry, guesses: Sequence[str]) -> list[str]:
    shapes = {part: entry.arrays[f"{part}_x"].shape for part in (*PARTS, *task.further)}
    sizes = [f"{part}: {n} examples of {length} tokens" for part, (n, length) in shapes.items()]
    return [*sizes, f"chance level of accuracy: {1 / task.n_outputs:.3g}", *guesses]


def _describe_pairs(settings: PairsSettings, entry: Entry) -> list[str]:
    guess = (
        f"a value of the example at random, without its key: about {1 / settings.pairs + (1 - 1 / settings.pairs) / settings.values:.3g}"
    )
    return _describe(_pairs_task(settings), entry, [guess])


RECALL = CachedDomain(
    "recall",
    {
        "pairs": DataSet(
            Settings=PairsSettings,
            task=_pairs_task,
            signature=lambda _: {"version": 1},
            write=lambda settings, writer: _write(draw_pairs, settings, settings.pairs, settings.test_pairs, writer),
            open=lambda settings, entry: _open(_pairs_task(settings), entry),
            describe=_describe_pairs,
            embedded=True,
        ),
        "copy": DataSet(
            Settings=CopySettings,
            task=_copy_task,
            signature=lambda _: {"version": 1},
            write=lambda settings, writer: _write(draw_copy, settings, settings.gap, settings.test_gaps, writer),
            open=lambda settings, entry: _open(_copy_task(settings), entry),
            describe=lambda settings, entry: _describe(_copy_task(settings), entry, []),
            embedded=True,
        ),
    },
)
