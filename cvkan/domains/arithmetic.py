"""The arithmetic domain: (a + b) mod p and (a * b) mod p from the tokens [a, b, =]; headline metric accuracy.

All p^2 equations are divided once: `fraction` of them is the training part. The others are divided in halves, by the same
seed: the validation part, on which grokking is watched (Power et al. 2022), and the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from cvkan.domains.cache import Entry, Writer
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, GeneratedSettings, splits
from cvkan.domains.task import Data, Task

Operation = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.int64]]


class ArithmeticSettings(GeneratedSettings):
    """Settings of both operations."""

    synonyms: ClassVar[Mapping[str, str]] = {"modulus": "p", "prime": "p", "train_fraction": "fraction", "seed": "data_seed"}

    p: Annotated[int, Field(ge=3, le=1024)] = 31
    """The modulus; a and b run from 0 to p - 1, and `=` is token p."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Share of all equations that is trained on; half of the others is the validation part, half the test part."""


class AdditionSettings(ArithmeticSettings):
    """(a + b) mod p for all a and b; generated."""

    name: Literal["addition"] = "addition"


class MultiplicationSettings(ArithmeticSettings):
    """(a * b) mod p for all a and b; generated."""

    name: Literal["multiplication"] = "multiplication"


def _task(settings: ArithmeticSettings) -> Task:
    return Task(input="tokens", shape=(3,), output="classes", n_outputs=settings.p, vocabulary=settings.p + 1)


def _write(operation: Operation, settings: ArithmeticSettings, writer: Writer) -> dict[str, Any]:
    p = settings.p
    a, b = np.divmod(np.arange(p * p, dtype=np.int64), p)
    x = np.stack((a, b, np.full(p * p, p)), axis=1)
    y = operation(a, b, p)
    order = np.random.default_rng(settings.data_seed).permutation(p * p)
    n_train = min(max(1, round(settings.fraction * p * p)), p * p - 2)
    n_validation = (p * p - n_train) // 2
    train, validation, test = np.split(order, [n_train, n_train + n_validation])
    for part, rows in {"train": train, "validation": validation, "test": test}.items():
        writer.write(f"{part}_x", np.int16, (len(rows), 3), [x[rows]])
        writer.write(f"{part}_y", np.int16, (len(rows),), [y[rows]])
    return {}


def _open(settings: ArithmeticSettings, entry: Entry) -> Data:
    return Data(_task(settings), *splits(entry), entry.hash, encode=torch.Tensor.long)


def _describe(settings: ArithmeticSettings, entry: Entry) -> list[str]:
    return [f"{part}: {entry.arrays[f'{part}_y'].shape[0]} equations mod {settings.p}" for part in PARTS]


def _data_set(settings: type[ArithmeticSettings], operation: Operation) -> DataSet:
    return DataSet(
        Settings=settings,
        task=_task,
        signature=lambda _: {"version": 1},
        write=lambda chosen, writer: _write(operation, chosen, writer),
        open=_open,
        describe=_describe,
        embedded=True,
    )


ARITHMETIC = CachedDomain(
    "arithmetic",
    {
        "addition": _data_set(AdditionSettings, lambda a, b, p: (a + b) % p),
        "multiplication": _data_set(MultiplicationSettings, lambda a, b, p: (a * b) % p),
    },
)
