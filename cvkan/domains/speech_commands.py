"""Speech Commands v0.02 (Warden 2018) in torchaudio's layout: SpeechCommands/speech_commands_v0.02/WORD/CLIP.wav, and two lists of clips.

The clips of validation_list.txt and testing_list.txt are those parts; all others are the training part.
"""

from __future__ import annotations

import http.client
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from filelock import FileLock
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cvkan.domains.audio_set import AudioSettings, Clips, write_clips
from cvkan.domains.cache import Writer, signature
from cvkan.domains.cached import StoredSettings
from cvkan.domains.splits import subset
from cvkan.domains.wave_files import read_clip
from cvkan.errors import DataError, did_you_mean

FOLDER = "SpeechCommands/speech_commands_v0.02"
URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
"""torchaudio knows its SHA-256 and refuses any other content."""
RATE = 16_000
"""Samples a second; clips are cut or filled to one second."""
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy", "house", "learn",
    "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up",
    "visual", "wow", "yes", "zero",
)  # fmt: skip


def _words(words: list[str] | None) -> list[str] | None:
    """Sorted, so that the order in which they are named is no setting of its own."""
    for place, word in enumerate(words or ()):
        if word not in WORDS:
            raise PydanticCustomError("unknown_name", "{text}", {"text": f"{word!r} is no word of the set; {did_you_mean(word, WORDS)}"})
        if word in (words or ())[:place]:
            raise PydanticCustomError("unknown_name", "{text}", {"text": f"{word!r} is named twice"})
    return None if words is None else sorted(words)


class SpeechCommandsSettings(AudioSettings, StoredSettings):
    """Speech Commands v0.02 (Warden 2018): spoken words of one second at 16 kHz, 35 classes, with the official parts."""

    outside_key: ClassVar[frozenset[str]] = StoredSettings.outside_key | {"download"}
    synonyms: ClassVar[Mapping[str, str]] = {
        **AudioSettings.synonyms,
        **StoredSettings.synonyms,
        "classes": "words",
        "seed": "split_seed",
        "subset": "n_train",
    }

    name: Literal["speech_commands"] = "speech_commands"
    download: bool = False
    """Fetch what is missing from the internet."""
    words: Annotated[Annotated[list[str], Field(min_length=2)] | None, AfterValidator(_words)] = None
    """The classes, such as [yes, no, up, down, left, right, on, off, stop, go]; clips of other words are left out. null: all 35."""
    n_train: int | None = Field(default=None, ge=1)
    """Size of a class-balanced subset of the training part; all of it without."""
    n_validation: int | None = Field(default=None, ge=1)
    """The same of the validation part."""
    n_test: int | None = Field(default=None, ge=1)
    """The same of the test part."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the subsets, apart from the trial's seed."""

    def clip_samples(self) -> int:
        """Samples of every clip."""
        return RATE

    def classes(self) -> list[str]:
        """The words that are asked for, sorted."""
        return list(WORDS) if self.words is None else self.words

    def folder(self) -> Path:
        """The folder of the words."""
        return self.root_folder() / FOLDER


def speech_signature(settings: SpeechCommandsSettings) -> dict[str, Any]:
    """Names, sizes and times of change of the lists and of all clips; fetches them first if that is asked for."""
    folder = settings.folder()
    if settings.download and not folder.exists():
        _fetch(settings.root_folder())
    if not folder.is_dir():
        raise DataError(f"{folder} not found; `cvkan data prepare speech_commands --download` fetches it, or set data.root")
    try:
        return signature(folder, [*LISTS.values(), *_clips(settings)])
    except OSError as error:
        raise DataError(f"{error.filename} not found; remove {folder} and download it again") from error


def write_speech(settings: SpeechCommandsSettings, writer: Writer) -> dict[str, Any]:
    """Decodes and writes the three parts. Raises DataError where a list or a clip is damaged."""
    folder, classes, names = settings.folder(), settings.classes(), _clips(settings)
    labels = np.array([classes.index(name.split("/")[0]) for name in names])
    place = {name: index for index, name in enumerate(names)}
    part_of = np.zeros(len(names), dtype=np.int64)
    for number, file_name in enumerate(LISTS.values(), start=1):
        for line, name in _listed(folder / file_name, classes):
            if name not in place:
                raise DataError(f"{folder / file_name}:{line}: {name} is not there; {_AGAIN}")
            if part_of[place[name]]:
                raise DataError(f"{folder / file_name}:{line}: {name} is listed before; {_AGAIN}")
            part_of[place[name]] = number
    sizes = {"train": settings.n_train, "validation": settings.n_validation, "test": settings.n_test}
    indices = {}
    for number, (part, size) in enumerate(sizes.items()):
        chosen = np.flatnonzero(part_of == number)
        missing = [word for word, count in zip(classes, np.bincount(labels[chosen], minlength=len(classes)), strict=True) if not count]
        # A word that is never held out only lowers what the figures cover; one that is never trained on is a mistake.
        if missing and (part == "train" or not len(chosen)):
            raise DataError(f"{folder}: the {part} part has no clip of {', '.join(missing)}; {_AGAIN}, or leave them out of data.words")
        indices[part] = subset(chosen, labels, size, settings.split_seed, part)
    clips = Clips(classes, labels, lambda index: read_clip(folder / names[index], RATE, RATE, "the set has no other rate: " + _AGAIN))
    return write_clips(writer, RATE, clips, indices)


_AGAIN = "remove the folder and download it again"


def _clips(settings: SpeechCommandsSettings) -> list[str]:
    """WORD/CLIP.wav of every clip, sorted. Raises DataError where a word has none."""
    folder, names = settings.folder(), []
    for word in settings.classes():
        found = sorted(f"{word}/{path.name}" for path in (folder / word).glob("*.wav"))
        if not found:
            raise DataError(f"{folder / word}: no clip (.wav) found; {_AGAIN}, or leave {word} out of data.words")
        names += found
    return names


def _listed(path: Path, classes: list[str]) -> list[tuple[int, str]]:
    """Line number and name of the clips in a list that are of the words asked for. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, name in numbered:
        if name.split("/")[0] not in WORDS or not name.endswith(".wav"):
            raise DataError(f"{path}:{number}: {name[:60]!r} found, expected WORD/CLIP.wav; {_AGAIN}")
    return [(number, name) for number, name in numbered if name.split("/")[0] in classes]


def _fetch(root: Path) -> None:
    """Makes the folder of the words under `root`: unpacked beside its place, then renamed. Raises DataError."""
    from torchaudio.datasets import SPEECHCOMMANDS

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"), tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            if (root / FOLDER).exists():  # another process was faster
                return
            SPEECHCOMMANDS(scratch, url=URL, download=True)
            (root / FOLDER).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / FOLDER).rename(root / FOLDER)
    except (OSError, RuntimeError, EOFError, ValueError, http.client.HTTPException, tarfile.TarError) as error:
        raise DataError(f"{root / FOLDER}: download from {URL} failed ({error}); put the data there by hand, or set data.root") from error
