"""Speech Commands and folders of audio: real clips, and files that are damaged or missing."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torchaudio.datasets import speechcommands

from cvkan.domains import speech_commands
from cvkan.domains.audio import AUDIO
from cvkan.domains.speech_commands import SpeechCommandsSettings
from cvkan.domains.task import Data
from cvkan.domains.wave_folder import FolderSettings
from cvkan.errors import DataError

WORDS = ("go", "no", "yes")
CORE = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


def noise(seed: int, samples: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)


def test_the_real_speech_commands(sample_root: Path, cache_dir: Path) -> None:
    settings = SpeechCommandsSettings(root=str(sample_root), words=CORE, features="waveform", n_train=200)
    data = AUDIO.load(settings, cache_dir)
    folder = sample_root / "SpeechCommands" / "speech_commands_v0.02"
    listed = [line for line in (folder / "testing_list.txt").read_text().split() if line.split("/")[0] in CORE]
    assert data.task.n_outputs == 10 and data.task.shape == (16_000,)
    assert len(data.test) == len(listed) > 100
    counts = torch.bincount(data.train.y.long(), minlength=10)
    assert int(counts.sum()) == 200 and 18 <= int(counts.min()) <= int(counts.max()) <= 22
    # Each clip of the official list is in the test part, sample for sample, under its word.
    stored = {(int(y), x.numpy().tobytes()) for x, y in zip(data.test.x, data.test.y, strict=True)}
    for name in listed:
        clip, rate = soundfile.read(folder / name, dtype="int16")
        assert rate == 16_000
        whole = np.pad(clip, (0, 16_000 - len(clip)))
        assert (sorted(CORE).index(name.split("/")[0]), whole.tobytes()) in stored
    assert data.augment is not None
    assert data.augment(data.encode(data.train.x[:4]), torch.Generator().manual_seed(0)).shape == (4, 16_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in the layout of Speech Commands: three words of twelve clips, some shorter or longer than a second."""
    folder = tmp_path / "root" / "SpeechCommands" / "speech_commands_v0.02"
    for word in WORDS:
        (folder / word).mkdir(parents=True)
        for index in range(12):
            soundfile.write(folder / word / f"{index:02}.wav", noise(index, 15_000 + 200 * index), 16_000)
    (folder / "validation_list.txt").write_text("".join(f"{word}/{index:02}.wav\n" for word in WORDS for index in (0, 1)))
    (folder / "testing_list.txt").write_text("".join(f"{word}/{index:02}.wav\n" for word in WORDS for index in (10, 11)))
    return tmp_path / "root"


def spoken(root: Path, **options: object) -> Data:
    settings = SpeechCommandsSettings.model_validate({"root": str(root), "words": list(WORDS), "features": "waveform", **options})
    return AUDIO.load(settings, root.parent / "cache")


def test_the_lists_make_the_parts(root: Path) -> None:
    data = spoken(root)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [24, 6, 6]
    longer, shorter = noise(10, 17_000)[:16_000], np.pad(noise(0, 15_000), (0, 1000))
    assert torch.equal(data.test.x[0], torch.from_numpy(longer))
    assert torch.equal(data.validation.x[0], torch.from_numpy(shorter))
    assert data.test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(spoken(root, words=["yes", "no"]).train) == 16
    assert torch.bincount(spoken(root, n_train=9).train.y.long()).tolist() == [3, 3, 3]


def test_the_order_of_words_and_where_they_lie_are_no_settings() -> None:
    first = SpeechCommandsSettings(words=["yes", "no"])
    assert first.identity() == SpeechCommandsSettings(words=["no", "yes"], root="/mnt", download=True).identity()
    assert first.identity() != SpeechCommandsSettings(words=["no", "up"]).identity()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yes", "rigth"], "'rigth' is no word of the set; did you mean right?"),
        (["yes", "no", "yes"], "'yes' is named twice"),
        (["yes"], "at least 2"),
    ],
)
def test_a_word_that_is_no_class_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SpeechCommandsSettings(words=words)
    assert message in str(caught.value)


def test_a_missing_root_names_path_command_and_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        spoken(tmp_path / "nowhere")
    path = f"{tmp_path}/nowhere/SpeechCommands/speech_commands_v0.02"
    assert str(caught.value) == f"{path} not found; `cvkan data prepare speech_commands --download` fetches it, or set data.root"


def drop_clip(folder: Path) -> None:
    (folder / "no" / "10.wav").unlink()


def drop_list(folder: Path) -> None:
    (folder / "testing_list.txt").unlink()


def list_twice(folder: Path) -> None:
    with open(folder / "testing_list.txt", "a") as file:
        file.write("no/00.wav\n")


def list_nonsense(folder: Path) -> None:
    (folder / "validation_list.txt").write_text("go/00.wav\n\n<html>\n")


def empty_list(folder: Path) -> None:
    (folder / "validation_list.txt").write_text("")


def empty_word(folder: Path) -> None:
    for path in (folder / "no").iterdir():
        path.unlink()


def other_rate(folder: Path) -> None:
    soundfile.write(folder / "no" / "05.wav", noise(0, 8000), 8000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_clip, r"testing_list\.txt:3: no/10\.wav is not there"),
        (drop_list, r"testing_list\.txt not found; remove"),
        (list_twice, r"testing_list\.txt:7: no/00\.wav is listed before"),
        (list_nonsense, r"validation_list\.txt:3: '<html>' found, expected WORD/CLIP\.wav"),
        (empty_list, "the validation part has no clip of go, no, yes"),
        (empty_word, r"v0\.02/no: no clip \(\.wav\) found; .* leave no out of data\.words"),
        (other_rate, r"no/05\.wav: 8000 Hz, expected 16000 Hz"),
    ],
)
def test_damage_is_named_with_its_file(root: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(root / "SpeechCommands" / "speech_commands_v0.02")
    with pytest.raises(DataError, match=message) as caught:
        spoken(root)
    assert "\n" not in str(caught.value)


def test_download_unpacks_what_the_address_gives(
    root: Path, tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = served[0] / "speech_commands_v0.02.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in (root / "SpeechCommands" / "speech_commands_v0.02").iterdir():
            tar.add(path, f"./{path.name}")
    assert speech_commands.URL in speechcommands._CHECKSUMS  # torchaudio compares what it gets from there
    monkeypatch.setattr(speech_commands, "URL", served[1] + archive.name)
    fetched = tmp_path / "fetched"
    assert len(spoken(fetched, download=True).train) == 24
    assert [path.name for path in fetched.iterdir() if path.suffix != ".lock"] == ["SpeechCommands"]


def test_a_download_that_fails_names_the_address_and_leaves_nothing(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (served[0] / "speech_commands_v0.02.tar.gz").write_bytes(b"no archive")
    monkeypatch.setattr(speech_commands, "URL", served[1] + "speech_commands_v0.02.tar.gz")
    with pytest.raises(DataError, match=f"download from {served[1]}speech_commands_v0.02.tar.gz failed"):
        spoken(tmp_path / "fetched", download=True)
    assert [path.name for path in (tmp_path / "fetched").iterdir() if path.suffix != ".lock"] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 clips of each of two classes at 8 kHz, one in a deeper folder, some of them flac or stereo."""
    root = tmp_path / "sounds"
    for name, size in {"high": 8000, "low": 2000}.items():
        (root / name / "deeper").mkdir(parents=True)
        for index in range(20):
            inner = "deeper/" if index == 0 else ""
            soundfile.write(root / name / f"{inner}{index}.{'flac' if index % 2 else 'wav'}", np.full(900, size, np.int16), 8000)
    stereo = np.stack((np.full(900, 1000, np.int16), np.full(900, 3000, np.int16)), axis=1)
    soundfile.write(root / "low" / "2.wav", stereo, 8000)
    (root / "low" / "notes.txt").write_text("no audio")
    (root / ".hidden").mkdir()
    return root


def own(folder: Path, **options: object) -> Data:
    values = {"path": str(folder), "sample_rate": 8000, "seconds": 0.125, "features": "waveform", **options}
    return AUDIO.load(FolderSettings.model_validate(values), folder.parent / "cache")


def test_a_folder_of_sounds(folder: Path) -> None:
    data = own(folder)
    assert data.task.n_outputs == 2 and data.task.shape == (1000,)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [29, 3, 8]
    for part in (data.train, data.validation, data.test):
        for x, y in zip(part.x, part.y, strict=True):
            # wav, flac and the mean of two channels alike; zeros after the end.
            assert x[:900].tolist() == [(8000, 2000)[int(y)]] * 900 and not x[900:].any()
    assert own(folder, seconds=0.05).train.x.shape == (29, 400)
    assert own(folder, n_train=10).train.y.bincount().tolist() == [5, 5]
    frames = own(folder, features="stft", n_fft=128)
    assert frames.encode(frames.train.x).shape == (29, 32, 65, 2)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT"])
def test_other_sample_types_become_16_bits(folder: Path, subtype: str) -> None:
    for path in (folder / "low").glob("*.wav"):
        soundfile.write(path, np.full(900, 2000 / 32768), 8000, subtype=subtype)
    data = own(folder)
    assert all(x[0] in (8000, 2000) for x in data.train.x)


def test_the_path_is_no_part_of_a_trial_but_the_content_is(folder: Path) -> None:
    before = own(folder).hash
    moved = folder.rename(folder.parent / "moved")
    assert own(moved).hash == before
    soundfile.write(moved / "low" / "4.wav", np.full(900, 2001, np.int16), 8000)
    assert own(moved).hash != before


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (write(b""), "unreadable audio"),
        (write(b"no audio at all"), "unreadable audio"),
        (cut, "cut short: it holds less than its header says"),
        (lambda path: soundfile.write(path, np.zeros(0, np.int16), 8000), "holds no samples; remove it"),
        (lambda path: soundfile.write(path, noise(0, 900), 44_100), "44100 Hz, expected 8000 Hz; resample it, or set data.sample_rate"),
        (lambda path: soundfile.write(path, np.full(900, np.nan), 8000, subtype="FLOAT"), "samples that are no numbers"),
        (lambda path: soundfile.write(path, noise(0, 900), 8000, format="AIFF"), "is neither wav nor flac"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_left(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder / "low" / "4.wav")
    with pytest.raises(DataError, match=rf"low/4\.wav: .*{message}") as caught:
        own(folder)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (folder.parent / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cut_flac_is_named(folder: Path) -> None:
    soundfile.write(folder / "low" / "5.flac", noise(0, 900), 8000)
    cut(folder / "low" / "5.flac")
    with pytest.raises(DataError, match=r"low/5\.flac: (unreadable|cut short)"):
        own(folder)


def test_a_class_without_audio_is_named(folder: Path) -> None:
    (folder / "silent").mkdir()
    with pytest.raises(DataError, match=r"silent: empty class: no audio \(\.wav, \.flac\) found"):
        own(folder)


def test_a_missing_folder_and_a_single_class_are_told_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/none: No such file or directory; set data.path"):
        AUDIO.task(FolderSettings(path=str(tmp_path / "none")))
    (tmp_path / "only").mkdir()
    with pytest.raises(DataError, match="1 sub-folders found; at least two"):
        AUDIO.task(FolderSettings(path=str(tmp_path)))


@pytest.mark.parametrize("name", [b"caf\xe9", b"low/caf\xe9.wav", b"low/pipe.wav"])
def test_names_that_are_not_utf8_and_pipes_are_named(folder: Path, name: bytes) -> None:
    (os.mkfifo if name.endswith(b".wav") else os.mkdir)(os.fsencode(folder) + b"/" + name)
    expected = r"low/pipe\.wav is no regular file" if b"pipe" in name else r"sounds.*: the name b'caf\\xe9(\.wav)?' is not UTF-8; rename it"
    with pytest.raises(DataError, match=expected):
        own(folder)


@pytest.mark.parametrize("kind", ["file", "class"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    soundfile.write(outside / "secret.wav", noise(0, 900), 8000)
    if kind == "file":
        (folder / "low" / "link.wav").symlink_to(outside / "secret.wav")
    else:
        (folder / "link").symlink_to(outside)
    with pytest.raises(DataError, match="outside the folder, is refused"):
        own(folder)


def test_found_tells_what_lies_under_a_root(root: Path, tmp_path: Path) -> None:
    assert AUDIO.found(root) == {"tones": "embedded", "speech_commands": "found"}
    assert AUDIO.found(tmp_path) == {"tones": "embedded", "speech_commands": "not found"}
