"""The charlm domain: predict each byte of a text from the bytes before it; headline metric bpc, bits per byte.

The text b is stored once, as bytes, and cut in text order into train, validation and test part. A sequence of length T
is a window of its part: x = b[i : i+T], y = b[i+1 : i+T+1]; windows do not overlap, the bytes after a part's last one
are left out, and a model starts every sequence anew. Bytes at the start of a sequence are therefore predicted from little
context. The further test part `sliding` has windows T/2 apart, of which the second half is scored, so that each byte
but the first half window's is scored once, with at least T/2 bytes before it. The parts 90/5/5 are those usual for enwik8
(Al-Rfou et al. 2019), the windows at half their length a coarser kind of the stride-one evaluation found there.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from cvkan.domains.cache import Entry, Writer, signature
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, DataSettings, StoredSettings
from cvkan.domains.objectives import UNASKED
from cvkan.domains.paths import expanded
from cvkan.domains.task import Data, Split, Task
from cvkan.errors import DataError, Problem

VOCABULARY = 256
PIECE = 1 << 24
"""Bytes that are read and written at a time."""

Length = Annotated[int, Field(ge=2, le=1 << 20)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=0.5)]


def _distinct(lengths: list[int]) -> list[int]:
    if len(set(lengths)) < len(lengths):
        raise PydanticCustomError("repeated", "expected lengths that differ")
    return lengths


class CharSettings(DataSettings):
    """Settings of every text."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "seq_len": "length", "sequence_length": "length", "context": "length", "block_size": "length", "bytes": "prefix", "size": "prefix",
        "val": "validation", "eval_lengths": "test_lengths",
    }  # fmt: skip

    length: Length = 256
    """Bytes of a sequence."""
    prefix: Count | None = None
    """Use only the first so many bytes of the text; null uses all."""
    validation: Share = 0.05
    """Share of the text that is the validation part; it follows the training part."""
    test: Share = 0.05
    """Share of the text, at its end, that is the test part."""
    test_lengths: Annotated[list[Length], AfterValidator(_distinct)] = Field(default=[], max_length=16)
    """The test part also cut into sequences of these lengths: [512] adds the figure test_bpc_at_512. Training keeps to `length`."""
    n_train: Count | None = None
    """Use only so many sequences of the training part, evenly spaced over it; null uses all."""
    n_validation: Count | None = None
    """The same of the validation part."""
    n_test: Count | None = None
    """The same of the test part; of its other cuts as many as score the same number of bytes."""


class PydocSettings(CharSettings):
    """The help topics of the running Python (pydoc_data.topics), some 465 kB; embedded, and another text in each version."""

    name: Literal["pydoc"] = "pydoc"


class StoredText(CharSettings, StoredSettings):
    """Settings of a text that lies under `root`."""

    synonyms: ClassVar[Mapping[str, str]] = {**CharSettings.synonyms, **StoredSettings.synonyms}


class TinyShakespeareSettings(StoredText):
    """1.1 MB of Shakespeare's plays (Karpathy 2015), in ROOT/charlm/tinyshakespeare.txt."""

    name: Literal["tinyshakespeare"] = "tinyshakespeare"


class Enwik8Settings(StoredText):
    """The first 100 MB of a Wikipedia dump (Hutter 2006), in ROOT/charlm/enwik8, or its first 10 MB in ROOT/charlm/enwik8_10M."""

    name: Literal["enwik8"] = "enwik8"


class Text8Settings(StoredText):
    """100 MB of Wikipedia's words, lower-case letters and spaces only (Mahoney 2011), in ROOT/charlm/text8."""

    name: Literal["text8"] = "text8"


class FileSettings(CharSettings):
    """A file of your own, of any kind, read as bytes; needs `file`."""

    outside_key: ClassVar[frozenset[str]] = CharSettings.outside_key | {"file"}
    synonyms: ClassVar[Mapping[str, str]] = {**CharSettings.synonyms, "path": "file", "filename": "file"}

    name: Literal["file"] = "file"
    file: str
    """The file."""


@functools.cache
def pydoc_text() -> bytes:
    """The help topics of the running Python, by name. Raises DataError where the interpreter comes without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("this Python has no help topics (pydoc_data.topics); choose another data.name") from error
    return "\n".join(f"{name}\n\n{topics[name]}" for name in sorted(topics)).encode()


def _task(settings: CharSettings) -> Task:
    longest = max(settings.test_lengths, default=0)
    return Task(
        input="tokens",
        shape=(settings.length,),
        output="next_token",
        n_outputs=VOCABULARY,
        metric="bpc",
        direction="min",
        causal=True,
        vocabulary=VOCABULARY,
        further=("sliding", *(f"at_{length}" for length in settings.test_lengths)),
        longest=longest if longest > settings.length else 0,
    )


@dataclass(frozen=True)
class TextFile:
    """A file, of which the first `size` bytes are used."""

    path: Path
    size: int

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Its bytes, in order. Raises DataError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                for start in range(0, self.size, PIECE):
                    yield np.frombuffer(file.read(min(PIECE, self.size - start)), np.uint8)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error


def _found(settings: CharSettings, paths: list[Path], hint: str) -> TextFile:
    """The first of the files that is there. Raises DataError where there is none, or it has too few bytes."""
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise DataError(f"{paths[0]} not found; {hint}")
    if not path.is_file():
        raise DataError(f"{path} is no file; {hint}")
    return TextFile(path, _size(settings, path.stat().st_size, str(path)))


def _size(settings: CharSettings, size: int, origin: str) -> int:
    """Bytes of a text that are used. Raises DataError where there are none, or fewer than asked."""
    if not size:
        raise DataError(f"{origin} is empty")
    if settings.prefix is not None and settings.prefix > size:
        raise DataError(Problem("", "data.prefix", f"{settings.prefix} bytes asked, but {origin} has {size}"))
    return settings.prefix or size


@dataclass(frozen=True)
class Parts:
    """Where the parts of a text of `size` bytes end."""

    train: int
    validation: int
    test: int

    def slices(self) -> dict[str, slice]:
        """The bytes of each part."""
        ends = [0, self.train, self.validation, self.test]
        return {part: slice(*ends[place : place + 2]) for place, part in enumerate(PARTS)}


def divided(settings: CharSettings, size: int) -> Parts:
    """The parts of a text of `size` bytes. Raises DataError where one is shorter than one sequence."""
    n_test, n_validation = round(size * settings.test), round(size * settings.validation)
    parts = Parts(size - n_test - n_validation, size - n_test, size)
    for part, place in parts.slices().items():
        asked = {"data.length": settings.length}
        if part == "test" and settings.test_lengths:
            asked["data.test_lengths"] = max(settings.test_lengths)
        for setting, length in asked.items():
            if place.stop - place.start < length + 1:
                text = f"{length} needs {length + 1} bytes a part, but the {part} part has {place.stop - place.start} of the text's {size}"
                raise DataError(Problem("", setting, f"{text}; ask for shorter sequences or give more text"))
    return parts


def windows(part: Tensor, length: int, count: int | None) -> Split:
    """Sequences of a part (n,): x and y (N, length), N = (n - 1) // length, views of it; or `count` of them, evenly spaced.

    `count` may be at most N.
    """
    n = (len(part) - 1) // length
    x, y = part[: n * length].view(n, length), part[1 : n * length + 1].view(n, length)
    if count is None or count == n:
        return Split(x, y)
    chosen = _spaced(n, count)
    return Split(x[chosen], y[chosen])


def sliding(part: Tensor, length: int, count: int | None) -> Split:
    """Windows of a part (n,) half a length apart: x uint8 and y int16 (N, length), y UNASKED but for its last length // 2.

    The last window ends with the part and asks only for what those before left over, so each of the bytes after the first half
    window is asked for once. `count` of the windows, evenly spaced, at most all of them.
    """
    step, last = length // 2, len(part) - 1 - length
    starts = torch.arange(0, last + 1, step)
    left_over = last - int(starts[-1])
    asked = torch.full((len(starts),), step)
    if left_over:
        starts, asked = torch.cat((starts, torch.tensor([last]))), torch.cat((asked, torch.tensor([left_over])))
    if count is not None and count < len(starts):
        chosen = _spaced(len(starts), count)
        starts, asked = starts[chosen], asked[chosen]
    x, y = (part[shift:].unfold(0, length, 1)[starts] for shift in (0, 1))
    skipped = torch.arange(length) < length - asked[:, None]
    return Split(x, y.to(torch.int16).masked_fill(skipped, UNASKED))


def _spaced(n: int, count: int) -> Tensor:
    """`count` of n places, evenly spaced from the first."""
    return torch.arange(count) * n // count


def _subset(settings: CharSettings, part: str, available: int) -> int | None:
    """How many sequences of a part are asked for; None for all. Raises DataError where there are fewer."""
    asked: int | None = getattr(settings, f"n_{part}")
    if asked is not None and asked > available:
        raise DataError(Problem("", f"data.n_{part}", f"{asked} asked, but the {part} part has {available} sequences of {settings.length}"))
    return asked


def _open(settings: CharSettings, entry: Entry) -> Data:
    text, length = torch.from_numpy(entry.array("bytes")), settings.length
    parts = {name: text[place] for name, place in divided(settings, len(text)).slices().items()}
    count = {name: _subset(settings, name, (len(part) - 1) // length) for name, part in parts.items()}
    n_test, test = count["test"], parts["test"]
    further = {"sliding": sliding(test, length, None if n_test is None else 2 * n_test)}
    for other in settings.test_lengths:
        further[f"at_{other}"] = windows(test, other, None if n_test is None else max(1, n_test * length // other))
    train, validation, test_part = (windows(part, length, count[name]) for name, part in parts.items())
    return Data(_task(settings), train, validation, test_part, entry.hash, encode=Tensor.long, further=further)


def _describe(settings: CharSettings, entry: Entry) -> list[str]:
    data = _open(settings, entry)
    text = entry.array("bytes")
    lines = [f"{entry.about['origin']}: {len(text)} bytes, {len(np.unique(text))} kinds of them, SHA-256 {entry.arrays['bytes'].sha256}"]
    slices = divided(settings, len(text)).slices()
    for part, split in {"train": data.train, "validation": data.validation, "test": data.test}.items():
        place = slices[part]
        lines.append(f"{part}: {len(split)} sequences of {settings.length}, from {place.stop - place.start} bytes")
    return [*lines, *(f"test_{name}: {len(split)} sequences of {split.x.shape[1]}" for name, split in data.further.items())]


def _write(settings: CharSettings, writer: Writer, size: int, origin: str, pieces: Iterator[NDArray[np.uint8]]) -> dict[str, Any]:
    divided(settings, size)
    writer.write("bytes", np.uint8, (size,), pieces)
    return {"origin": origin}


UNWRITTEN = frozenset(CharSettings.model_fields) - {"name", "prefix"}
"""How the text is cut; all cuts share one entry of the cache."""


def _in_root(*names: str) -> Callable[[StoredText], list[Path]]:
    """Where a text may lie under `root`, best first."""
    return lambda settings: [settings.root_folder() / name for name in names]


def _of_user(settings: FileSettings) -> list[Path]:
    return [expanded(settings.file, "data.file")]


def _stored(settings: type[CharSettings], paths: Callable[[Any], list[Path]], hint: str, folder: str | None) -> DataSet:
    """A text in the first of the files `paths(settings)` that is there."""

    def signed(chosen: CharSettings) -> dict[str, Any]:
        path = _found(chosen, paths(chosen), hint).path
        return signature(path.parent, [path.name])

    def write(chosen: CharSettings, writer: Writer) -> dict[str, Any]:
        text = _found(chosen, paths(chosen), hint)
        return _write(chosen, writer, text.size, str(text.path), text.pieces())

    return DataSet(settings, _task, signed, write, _open, _describe, unwritten=UNWRITTEN, folder=folder)


def _write_pydoc(settings: PydocSettings, writer: Writer) -> dict[str, Any]:
    origin = f"help topics of Python {platform.python_version()}"
    size = _size(settings, len(pydoc_text()), origin)
    return _write(settings, writer, size, origin, iter([np.frombuffer(pydoc_text(), np.uint8)[:size]]))


CHARLM = CachedDomain(
    "charlm",
    {
        "pydoc": DataSet(
            Settings=PydocSettings,
            task=_task,
            signature=lambda _: {"sha256": hashlib.sha256(pydoc_text()).hexdigest()},
            write=_write_pydoc,
            open=_open,
            describe=_describe,
            unwritten=UNWRITTEN,
            embedded=True,
        ),
        "tinyshakespeare": _stored(
            TinyShakespeareSettings,
            _in_root("charlm/tinyshakespeare.txt"),
            "save https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt there, or set data.root",
            "charlm/tinyshakespeare.txt",
        ),
        "enwik8": _stored(
            Enwik8Settings,
            _in_root("charlm/enwik8", "charlm/enwik8_10M"),
            "unpack http://mattmahoney.net/dc/enwik8.zip there, or set data.root",
            "charlm/enwik8*",
        ),
        "text8": _stored(
            Text8Settings,
            _in_root("charlm/text8"),
            "unpack http://mattmahoney.net/dc/text8.zip there, or set data.root",
            "charlm/text8",
        ),
        "file": _stored(FileSettings, _of_user, "set data.file to the text", None),
    },
)
