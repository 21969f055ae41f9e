"""What every domain offers: its data sets by name, the task they pose, and their data as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cvkan.domains.task import Data, Task
from cvkan.settings import Settings


class DataSet(Protocol):
    """An entry of a domain's DATA_SETS."""

    @property
    def Settings(self) -> type[Settings]: ...


class Domain(Protocol):
    """A module of cvkan.domains. `settings` is an instance of the `Settings` of one of its DATA_SETS."""

    @property
    def DATA_SETS(self) -> Mapping[str, DataSet]:
        """Data sets by their name in `data: {name: ...}`; the first is embedded and needs no download."""
        ...

    def task(self, settings: Any) -> Task:
        """The task, without decoding anything."""
        ...

    def prepare(self, settings: Any, cache: Path) -> Path:
        """Decodes the data set into a folder of the cache, unless it is there; returns the folder. Raises DataError."""
        ...

    def load(self, settings: Any, cache: Path) -> Data:
        """The data set as memory-mapped tensors, decoded first where it is not. Raises DataError."""
        ...

    def check(self, settings: Any, cache: Path) -> list[str]:
        """Lines that describe the decoded data set; reads all of it again. Raises DataError where it is damaged."""
        ...

    def found(self, root: Path) -> dict[str, str]:
        """Data set to "found", "not found" (under root) or "embedded"; cheap, raises nothing."""
        ...
