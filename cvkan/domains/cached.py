"""A domain whose data sets are decoded once into arrays of the cache, and opened from there as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from cvkan.domains.cache import Entry, Writer, ensure
from cvkan.domains.paths import expanded, printable
from cvkan.domains.task import Data, Split, Task
from cvkan.errors import DataError
from cvkan.settings import Settings

PARTS = ("train", "validation", "test")


class DataSettings(Settings):
    """Settings of every data set. All have a `root`, so that one --data serves the sweeps over several domains."""

    outside_key: ClassVar[frozenset[str]] = frozenset({"root"})

    name: str
    root: str = "data"
    """Folder that holds the data sets; what is generated or embedded needs none."""


class StoredSettings(DataSettings):
    """Settings of a data set whose files lie on disk."""

    synonyms: ClassVar[Mapping[str, str]] = {"data_dir": "root", "directory": "root", "path": "root"}

    def root_folder(self) -> Path:
        """`root` as a path, with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.root, "data.root")


class GeneratedSettings(DataSettings):
    """Settings of a data set that is drawn from a seed."""

    data_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the examples and of their split, apart from the trial's seed."""


def splits(entry: Entry) -> tuple[Split, Split, Split]:
    """Train, validation and test part from the arrays {train,validation,test}_{x,y}."""
    train, validation, test = (Split(*(torch.from_numpy(entry.array(f"{part}_{axis}")) for axis in "xy")) for part in PARTS)
    return train, validation, test


@dataclass(frozen=True)
class DataSet:
    """A data set of a CachedDomain; the functions take an instance of its `Settings`."""

    Settings: type[DataSettings]
    task: Callable[[Any], Task]
    """The task, without decoding; DataError where files are missing that are needed to tell it."""
    signature: Callable[[Any], dict[str, Any]]
    """Plain JSON values that change when the source does: `cache.signature` of files, a version of what is generated. DataError where
    files are missing."""
    write: Callable[[Any, Writer], dict[str, Any]]
    """Decodes and splits the source into arrays; returns what else `open` needs, plain JSON values. DataError where it is damaged."""
    open: Callable[[Any, Entry], Data]
    """The arrays as tensors."""
    describe: Callable[[Any, Entry], list[str]]
    """Lines for people: each part's size and what is in it."""
    version: int = 1
    """To be raised when `write` makes other arrays of the same source: those in the cache are then written anew."""
    unwritten: frozenset[str] = frozenset()
    """Settings that do not change the arrays, only how they are opened."""
    folder: str | None = None
    """Where its files lie under `root`, or a pattern such as charlm/enwik8*; None where it is embedded, or lies anywhere."""
    embedded: bool = False
    """Whether it needs no files."""


@dataclass(frozen=True)
class CachedDomain:
    """See `cvkan.domains.protocol.Domain`."""

    name: str
    DATA_SETS: Mapping[str, DataSet]

    def task(self, settings: Any) -> Task:
        """The task, without decoding anything."""
        return self.DATA_SETS[settings.name].task(settings)

    def prepare(self, settings: Any, cache: Path) -> Path:
        """Decodes the data set into a folder of the cache, unless it is there; returns the folder. Raises DataError."""
        return self._entry(settings, cache).folder

    def load(self, settings: Any, cache: Path) -> Data:
        """The data set as memory-mapped tensors, decoded first where it is not. Raises DataError."""
        return self.DATA_SETS[settings.name].open(settings, self._entry(settings, cache))

    def check(self, settings: Any, cache: Path) -> list[str]:
        """The folder and its hash, then what is in it; reads everything. Raises DataError where it is damaged."""
        entry = self._entry(settings, cache)
        damaged = entry.damaged()
        if damaged:
            raise DataError(f"{entry.folder}: damaged content ({', '.join(damaged)}); remove this folder, and it is decoded again")
        about = self.DATA_SETS[settings.name].describe(settings, entry)
        return [printable(line) for line in (f"{settings.name}: {entry.folder}, content as written, hash {entry.hash}", *about)]

    def found(self, root: Path) -> dict[str, str]:
        """Data set to "found", "not found" (under `root`) or "embedded"; those that lie anywhere are left out. Raises nothing."""
        state = {}
        for name, data_set in self.DATA_SETS.items():
            if data_set.embedded:
                state[name] = "embedded"
            elif data_set.folder is not None:
                state[name] = "found" if any(root.glob(data_set.folder)) else "not found"
        return state

    def _entry(self, settings: Any, cache: Path) -> Entry:
        data_set = self.DATA_SETS[settings.name]
        left_out = data_set.unwritten | settings.outside_key
        options = settings.model_dump(mode="json", exclude=set(left_out))
        identity = {"source": data_set.signature(settings), "options": options, "version": data_set.version}
        return ensure(cache, f"{self.name}-{settings.name}", identity, partial(data_set.write, settings))
