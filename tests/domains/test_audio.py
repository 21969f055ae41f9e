"""The audio domain as a user meets it, on the embedded tones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cvkan.domains import DOMAINS
from cvkan.domains.audio import AUDIO
from cvkan.domains.audio_augment import shift, shift_mask
from cvkan.domains.speech_commands import SpeechCommandsSettings
from cvkan.domains.stft import Transform
from cvkan.domains.task import Data
from cvkan.domains.tones import TonesSettings
from cvkan.errors import DataError
from cvkan.orchestrator.learner import Learner
from cvkan.orchestrator.spec import config_of

SMALL = {"n_train": 200, "n_validation": 60, "n_test": 60}


def tones(**options: object) -> TonesSettings:
    return TonesSettings.model_validate({**SMALL, **options})


def load(cache: Path, **options: object) -> Data:
    return AUDIO.load(tones(**options), cache)


def test_the_names_of_data_sets_and_their_settings() -> None:
    assert list(AUDIO.DATA_SETS) == ["tones", "speech_commands", "folder"]
    for name, data_set in AUDIO.DATA_SETS.items():
        fields = data_set.Settings.model_fields
        assert next(iter(fields)) == "name" and fields["name"].default == name
        assert data_set.Settings.outside_key <= set(fields)
        assert set(data_set.Settings.synonyms.values()) <= set(fields)
    assert DOMAINS["audio"].DATA_SETS is AUDIO.DATA_SETS


def test_tones_are_complex_frames_of_ten_classes_alike(cache_dir: Path) -> None:
    data = load(cache_dir)
    assert data.task == AUDIO.task(tones())
    assert (data.task.input, data.task.shape, data.task.n_outputs) == ("complex", (63, 129, 2), 10)
    assert data.train.x.dtype == torch.int16 and data.train.x.shape == (200, 4000)
    for part, each in ((data.train, 20), (data.validation, 6), (data.test, 6)):
        assert torch.bincount(part.y.long()).tolist() == [each] * 10
    x = data.encode(data.test.x[:7])
    assert x.shape == (7, 63, 129, 2) and x.dtype == torch.float32 and x.isfinite().all()
    assert data.augment is None


def test_a_part_does_not_change_with_the_size_of_any(cache_dir: Path) -> None:
    data, smaller = load(cache_dir), load(cache_dir, n_train=70)
    assert torch.equal(smaller.train.x, data.train.x[:70]) and torch.equal(smaller.train.y, data.train.y[:70])
    assert torch.equal(smaller.test.x, data.test.x)
    assert not torch.equal(data.train.x[:60], data.test.x) and not torch.equal(data.validation.x, data.test.x)


def test_the_hash_follows_the_waveforms_and_nothing_else(cache_dir: Path) -> None:
    few = {"n_train": 20, "n_validation": 20, "n_test": 20}
    first = load(cache_dir, **few).hash
    for same in ({"features": "waveform"}, {"preset": "fast"}, {"compress": "log"}, {"augment": "shift_mask"}, {"precomputed": False}):
        assert load(cache_dir, **few, **same).hash == first
        assert tones(**same).identity() != tones().identity()
    for other in ({"data_seed": 1}, {"noise": 0.0}, {"classes": "sets"}, {"samples": 3999}, {"n_test": 19}):
        assert load(cache_dir, **{**few, **other}).hash != first


def test_neither_loudness_nor_one_vowel_gives_a_class_away(cache_dir: Path) -> None:
    data = load(cache_dir, n_train=400)
    loudness = data.train.x.double().square().mean(1).log()
    of_class = torch.stack([loudness[data.train.y == label].mean() for label in range(10)])
    assert of_class.std() < 0.3 * loudness.std()
    for classes in ("sets", "orders"):
        lines = AUDIO.check(tones(classes=classes, n_train=20, n_validation=20, n_test=20), cache_dir)
        words = [entry.split()[0] for entry in lines[1].split("Hz: ")[1].split(", ")]
        assert len(set(words)) == 10
        assert all(sum(vowel in word for word in words) == 4 for vowel in "ieaou")
        assert all((word[::-1] in words) == (classes == "orders") for word in words)


@pytest.mark.parametrize(("samples", "n_fft", "hop"), [(1000, 256, 64), (1003, 100, 30), (600, 64, 64)])
def test_frames_are_windowed_fourier_sums_about_their_centres(samples: int, n_fft: int, hop: int) -> None:
    clip = np.random.default_rng(0).integers(-20_000, 20_000, samples).astype(np.int16)
    frames = Transform(n_fft, hop)(torch.from_numpy(clip)[None])[0].double().numpy()
    assert frames.shape == (1 + samples // hop, n_fft // 2 + 1, 2)
    padded = np.pad(clip / 32768, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    for place, frame in enumerate(frames):
        expected = np.fft.rfft(window * padded[place * hop : place * hop + n_fft])
        np.testing.assert_allclose(frame[:, 0] + 1j * frame[:, 1], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("compress", ["none", "log"])
@pytest.mark.parametrize("frame", [{}, {"preset": "fast"}, {"n_fft": 200, "hop": 77}])
def test_precomputed_frames_give_the_same_inputs_bit_for_bit(tmp_path: Path, compress: str, frame: dict[str, Any]) -> None:
    def data(precomputed: object) -> Data:
        return load(tmp_path, precomputed=precomputed, compress=compress, **frame)

    on_the_way, before = data(False), data("auto")
    stored = data(True)
    after = data("auto")
    # "auto" takes the frames only where they are.
    assert before.train.x.dtype == torch.int16 and stored.train.x.dtype == after.train.x.dtype == torch.float16
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "validation", "test"):
        raw, frames = getattr(on_the_way, part), getattr(stored, part)
        assert torch.equal(raw.y, frames.y)
        for size in (1, 13, 60):
            rows = torch.randperm(len(raw), generator=generator)[:size]
            expected = on_the_way.encode(raw.x[rows])
            assert torch.equal(stored.encode(frames.x[rows]), expected)
            assert torch.equal(after.encode(getattr(after, part).x[rows]), expected)
    assert on_the_way.hash == before.hash == stored.hash == after.hash


def test_prepare_leaves_waveforms_and_frames(tmp_path: Path) -> None:
    AUDIO.prepare(tones(precomputed=False), tmp_path)
    assert AUDIO.check(tones(), tmp_path)[-1] == "STFT frames (n_fft 256, hop 64): not in the cache"
    assert load(tmp_path).train.x.dtype == torch.int16
    AUDIO.prepare(tones(), tmp_path)
    assert load(tmp_path).train.x.shape == (200, 63, 129, 2)
    lines = AUDIO.check(tones(), tmp_path)
    assert [line.split(" clips")[0] for line in lines[1:4]] == ["train: 200", "validation: 60", "test: 60"]
    assert lines[-1].startswith("STFT frames (n_fft 256, hop 64): ") and lines[-1].endswith("10 MB, content as written")
    path = next(tmp_path.glob("audio-tones-stft-*")) / "test_x.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DataError, match=r"damaged content \(test_x\); remove this folder, and it is computed again"):
        AUDIO.check(tones(), tmp_path)


@pytest.mark.parametrize("options", [{"compress": "none"}, {"compress": "log"}, {"compress": "none", "preset": "fast"}])
def test_training_frames_have_mean_square_1(cache_dir: Path, options: dict[str, Any]) -> None:
    data = load(cache_dir, **options)
    size = data.encode(data.train.x).square().sum(-1)
    assert abs(float(size.mean()) - 1) < 1e-3


def test_log_keeps_phases_and_the_order_of_magnitudes(cache_dir: Path) -> None:
    plain, log = load(cache_dir, compress="none"), load(cache_dir, compress="log")
    z = torch.view_as_complex(plain.encode(plain.test.x))
    y = torch.view_as_complex(log.encode(log.test.x))
    loud = z.abs() > 1e-3
    assert (y[loud] / z[loud]).angle().abs().max() < 1e-5
    rise = y[loud].abs()[z[loud].abs().argsort()].diff()
    assert rise.min() > -1e-5
    assert y.abs().max() < 0.5 * z.abs().max()


def test_waveforms_have_mean_square_1(cache_dir: Path) -> None:
    data = load(cache_dir, features="waveform")
    assert data.task.input == "waveform" and data.task.shape == (4000,)
    x = data.encode(data.train.x)
    assert x.shape == (200, 4000) and abs(float(x.square().mean()) - 1) < 1e-4


def test_silence_is_encoded_as_zeros() -> None:
    from cvkan.domains.stft import EncodeFrames, constants

    silence = torch.zeros(3, 1000, dtype=torch.int16)
    transform = Transform(64, 16)
    scale, gain = constants(transform, silence, "log")
    assert not EncodeFrames(transform, scale, "log", gain)(silence).any()


@pytest.mark.parametrize("shape", [(64, 40), (64, 40, 5, 2)])
def test_a_shift_moves_whole_clips_and_fills_with_zeros(shape: tuple[int, ...]) -> None:
    steps = torch.arange(1.0, 41.0)
    x = steps.view(1, 40, *(1,) * (len(shape) - 2)).expand(shape).contiguous()
    moved = shift(x, torch.Generator().manual_seed(0))
    offsets = set()
    for clip in moved.flatten(2)[:, :, 0] if len(shape) > 2 else moved:
        offset = int(next(value - place for place, value in enumerate(clip.tolist(), start=1) if value))
        offsets.add(offset)
        inside = (steps + offset >= 1) & (steps + offset <= 40)
        assert torch.equal(clip, torch.where(inside, steps + offset, 0.0))
    assert offsets == set(range(-4, 5))


def test_masks_are_one_run_of_frames_and_one_of_bins() -> None:
    x = torch.ones(256, 50, 30, 2)
    y = shift_mask(x.clone(), torch.Generator().manual_seed(0))
    assert torch.equal(y, shift_mask(x.clone(), torch.Generator().manual_seed(0)))
    assert not torch.equal(y, shift_mask(x.clone(), torch.Generator().manual_seed(1)))
    kept = y[..., 0].bool()
    assert torch.equal(kept, y[..., 1].bool())
    widths = []
    for clip in kept:
        frames, bins = clip.any(1), clip.any(0)
        assert torch.equal(clip, frames[:, None] & bins)
        gaps = (~bins).nonzero().flatten()
        widths.append(len(gaps))
        assert not len(gaps) or int(gaps[-1] - gaps[0]) == len(gaps) - 1
    assert min(widths) == 0 and max(widths) == 6
    assert (y.sum() / x.sum()) > 0.7


def test_what_auto_augments(cache_dir: Path) -> None:
    assert load(cache_dir).augment is None
    assert load(cache_dir, augment="shift_mask").augment is shift_mask
    assert load(cache_dir, augment="shift_mask", features="waveform").augment is shift
    assert TonesSettings.AUGMENTED is False and SpeechCommandsSettings.AUGMENTED is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 300}, "hop 300 is more than n_fft, 256"),
        ({"n_fft": 8000}, "n_fft 8000 needs clips of more than 4000 samples; these have 4000"),
        ({"features": "waveform", "n_fft": 512}, "n_fft has no effect on features waveform"),
        ({"features": "waveform", "precomputed": True}, "precomputed has no effect on features waveform"),
        ({"precomputed": "maybe"}, "'auto', True or False"),
    ],
)
def test_settings_that_cannot_go_together_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tones(**options)
    assert message in str(caught.value)


def test_presets_and_what_overrides_them() -> None:
    assert tones().frame() == (256, 64)
    assert tones(preset="fast").frame() == (128, 32)
    assert tones(n_fft=400).frame() == (400, 100)
    assert tones(preset="fast", hop=50).frame() == (128, 50)
    assert SpeechCommandsSettings().frame() == (1024, 256)
    assert SpeechCommandsSettings(preset="fast").frame() == (512, 128)
    assert AUDIO.task(SpeechCommandsSettings()).shape == (63, 513, 2)
    assert AUDIO.task(SpeechCommandsSettings(features="waveform")).shape == (16_000,)


def test_cv_kan_learns_tones_from_frames(cache_dir: Path) -> None:
    data = {"name": "tones", "n_train": 600, "n_validation": 50, "n_test": 100, "noise": 0.05}
    config = config_of(
        {"domain": "audio", "data": data, "model": {}, "optimizer": {"lr": 3e-3}, "train": {"epochs": 6, "batch_size": 32}, "loss": {}}
    )
    learner = Learner(config, [0], AUDIO.load(TonesSettings.model_validate(data), cache_dir), torch.device("cpu"))
    while not learner.done:
        learner.epoch()
    assert learner.test(learner.members[0])["test_accuracy"] > 0.5
    assert math.isfinite(learner.members[0].figures["last_train_loss"])
