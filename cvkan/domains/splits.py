"""Stratified train, validation and test parts from labels, by a seed of their own, so that every trial sees the same parts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cvkan.errors import DataError, Problem

Indices = NDArray[np.int64]


def held_out(indices: Indices, labels: NDArray[np.int64], fraction: float, seed: int, setting: str) -> tuple[Indices, Indices]:
    """Divides `indices` (n,) into (rest, held out), each class in proportion; `labels` (N,) are those of all examples.

    Raises DataError, naming `setting`, where a class is too small to divide.
    """
    size = round(len(indices) * fraction)
    return _divide(indices, labels, len(indices) - size, seed, f"data.{setting}", f"hold out {size} of {len(indices)} examples")


def subset(indices: Indices, labels: NDArray[np.int64], size: int | None, seed: int, part: str) -> Indices:
    """`size` of the `indices` (n,) of a part, each class in proportion; all of them for None. Raises DataError where there are fewer."""
    if size is None or size == len(indices):
        return indices
    setting = f"data.n_{part}"
    if size > len(indices):
        raise DataError(Problem("", setting, f"{size} asked, but the {part} part has {len(indices)} examples"))
    return _divide(indices, labels, size, seed, setting, f"take {size} of {len(indices)} examples")[0]


def parts(
    labels: NDArray[np.int64], official_test: Indices | None, test: float, validation: float, sizes: Mapping[str, int | None], seed: int
) -> dict[str, Indices]:
    """Indices of the train, validation and test parts, shuffled but for an official test part; `sizes`: of a subset of each part, or None.

    The test part is the official one, else the fraction `test` of all examples; the validation part is that of `validation` of the rest.
    Both are made before any subset is taken, so a smaller training part leaves them as they are.
    """
    every = np.arange(len(labels), dtype=np.int64)
    if official_test is None:
        rest, test_part = held_out(every, labels, test, seed, "test")
    else:
        rest, test_part = np.setdiff1d(every, official_test), official_test
    train_part, validation_part = held_out(rest, labels, validation, seed, "validation")
    whole = {"train": train_part, "validation": validation_part, "test": test_part}
    return {name: subset(indices, labels, sizes[name], seed, name) for name, indices in whole.items()}


def _divide(indices: Indices, labels: NDArray[np.int64], first: int, seed: int, setting: str, aim: str) -> tuple[Indices, Indices]:
    from sklearn.model_selection import train_test_split

    stratify = labels[indices]
    try:
        left, right = train_test_split(indices, train_size=first, test_size=len(indices) - first, random_state=seed, stratify=stratify)
    except ValueError as error:
        classes, counts = np.unique(stratify, return_counts=True)
        smallest = min(first, len(indices) - first)
        cause = f"both parts need at least one of each of the {len(classes)} classes"
        if smallest < len(classes):
            cause += f"; one part has {smallest} examples{_remedy(len(indices), first, len(classes), setting)}"
        else:
            cause += f", and the smallest class has {counts.min()}"
        raise DataError(Problem("", setting, f"cannot {aim}: {cause}")) from error
    return left, right


def _remedy(n: int, first: int, classes: int, setting: str) -> str:
    """What to do so that both parts of n examples, of which `first` are in the first one, have at least one of each class."""
    if n < 2 * classes:
        return f"; give at least {2 * classes} examples"
    if setting.startswith("data.n_"):
        return f"; ask for {classes} or more" if first < classes else f"; ask for {n - classes} or fewer, or for all"
    if n - first < classes:
        return f"; set at least {_fraction(classes, n)}"
    return f"; set at most {round(1 - _fraction(classes, n), 12)}"


def _fraction(size: int, n: int) -> float:
    """The shortest decimal fraction, of two digits or more, of which n examples hold at least `size` and no more than needed."""
    for digits in range(2, 16):
        fraction = math.ceil(size / n * 10.0**digits) / 10.0**digits
        if round(n * fraction) == size:
            return fraction
    raise AssertionError((size, n))
