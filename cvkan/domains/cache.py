"""Decoded data sets on disk: one folder an entry, `NAME-KEY/{ARRAY.npy, meta.json}`, shared by every process of a machine.

An entry is written beside its place, synced and renamed, so a folder under its final name is whole. Several processes that ask for one
entry at once wait for the first to decode it. The key covers where the data comes from (see `signature`) and the options that shape it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from cvkan.errors import DataError

FORMAT = 1
"""Version of the layout; part of every key."""


@dataclass(frozen=True)
class ArrayInfo:
    """One .npy file of an entry."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    """Size of the file, header included."""
    sha256: str
    """Of the content without the header."""


@dataclass(frozen=True)
class Entry:
    """A whole entry of the cache."""

    folder: Path
    hash: str
    """SHA-256 (hex) over the names, types, shapes and contents of the arrays."""
    arrays: dict[str, ArrayInfo]
    about: dict[str, Any]
    """What the domain noted: plain JSON values."""

    def array(self, name: str) -> NDArray[Any]:
        """The array, memory-mapped copy-on-write: pages are shared by all processes until one writes to them."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return mapped

    def damaged(self) -> list[str]:
        """Names of the arrays whose content is not what was written; reads everything."""
        return [name for name, info in self.arrays.items() if hashlib.sha256(self.array(name).data.cast("B")).hexdigest() != info.sha256]


class Writer:
    """Writes the arrays of one entry, in pieces, so that no array need fit into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, ArrayInfo] = {}

    def write(self, name: str, dtype: DTypeLike, shape: tuple[int, ...], pieces: Iterable[NDArray[Any]]) -> None:
        """Writes NAME.npy of the given shape (N, ...) from pieces (n, ...) whose n add up to N."""
        little_endian = np.dtype(dtype).newbyteorder("<")
        digest, rows, path = hashlib.sha256(), 0, self.folder / f"{name}.npy"
        # Plain writes, not a memory map: on a full disk a write raises, a store into a mapped page kills the process.
        with open(path, "xb") as file:
            header = {"descr": little_endian.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                assert piece.shape[1:] == shape[1:], (piece.shape, shape)
                raw = np.ascontiguousarray(piece, dtype=little_endian).data.cast("B")
                file.write(raw)
                digest.update(raw)
                rows += len(piece)
            assert rows == shape[0], (rows, shape)
            _sync(file.fileno(), file.flush)
        self.arrays[name] = ArrayInfo(little_endian.str, shape, path.stat().st_size, digest.hexdigest())


def signature(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Tells whether files have changed, cheaply: the real folder, and name, size and time of change of each file."""
    stats = [(name, (folder / name).stat()) for name in names]
    return {"folder": str(folder.resolve()), "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}


def place(cache: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """The folder in which `ensure` puts the entry for `identity`."""
    canonical = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
    return cache / f"{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"


def ensure(cache: Path, name: str, identity: Mapping[str, Any], fill: Callable[[Writer], dict[str, Any]]) -> Entry:
    """The entry for `identity` (plain JSON values); `fill` writes its arrays and returns `about` where there is none or a damaged one.

    Raises DataError where the cache cannot be written (not writable, disk full) or memory is short: nothing half-written is left. What else
    `fill` raises passes.
    """
    folder = place(cache, name, identity)
    entry = opened(folder)
    if entry:
        return entry
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{folder.name}.lock"):
            return opened(folder) or _build(folder, fill)
    except MemoryError as error:
        raise DataError(f"{name}: does not fit into memory; ask for smaller examples, or fewer of them, in the settings of data") from error
    except OSError as error:
        raise DataError(
            f"{cache}: cannot write the decoded data set: {error.strerror or error}; free space or choose another cache folder"
        ) from error


def opened(folder: Path) -> Entry | None:
    """The entry in `folder`; None where there is none, or a damaged one (meta.json unreadable, a file missing or of another size)."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {name: ArrayInfo(**{**info, "shape": tuple(info["shape"])}) for name, info in meta["arrays"].items()}
        whole = meta["format"] == FORMAT and all((folder / f"{name}.npy").stat().st_size == info.bytes for name, info in arrays.items())
        return Entry(folder, meta["hash"], arrays, meta["about"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build(folder: Path, fill: Callable[[Writer], dict[str, Any]]) -> Entry:
    """Fills a folder beside `folder` and renames it; the caller holds the entry's lock."""
    for left_over in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(left_over)
    if folder.exists():
        shutil.rmtree(folder)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        writer = Writer(partial)
        about = fill(writer)
        meta = {
            "format": FORMAT,
            "hash": _hash(writer.arrays),
            "about": about,
            "arrays": {name: asdict(info) for name, info in writer.arrays.items()},
        }
        with open(partial / "meta.json", "x", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
            _sync(file.fileno(), file.flush)
        _sync_folder(partial)
        partial.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    entry = opened(folder)
    assert entry is not None, folder
    return entry


def _hash(arrays: Mapping[str, ArrayInfo]) -> str:
    content = {name: [info.dtype, info.shape, info.sha256] for name, info in arrays.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
