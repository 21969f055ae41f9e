"""Tones: voiced sounds that glide from one vowel to another, in noise; generated.

Symbols: N clips of n samples at RATE, H harmonics, C points of control every BLOCK samples; f0 pitch, F1 to F3 formants.
    voice(t) = sum over h of A(h f0(t), F(t)) cos(h phi(t)), phi' = 2 pi f0;  clip = gain (voice / rms + noise * white)
A class is two of five vowels in order. `sets`: the ten sets of two, each in one order, so that every vowel is in four of the classes.
`orders`: five of these and their reverses, so that a class shares its vowels, hence its mean spectrum, with another.
All voices are equally loud before a random gain.
Source: formants of the vowels after Peterson and Barney 1952 (men), rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cvkan.domains.audio_set import AudioSettings, write_part
from cvkan.domains.cache import Writer
from cvkan.domains.cached import PARTS, GeneratedSettings

Array = NDArray[np.float64]
Count = Annotated[int, Field(ge=1)]

RATE = 8000
"""Samples a second."""
VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010),
    "e": (530, 1840, 2480),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""F1, F2 and F3 in Hz."""
ROUND = ("ie", "ea", "ao", "ou", "ui")
SEQUENCES: dict[str, list[str]] = {
    "sets": ["".join(vowels) for vowels in combinations(VOWELS, 2)],
    "orders": [*ROUND, *(vowels[::-1] for vowels in ROUND)],
}
"""From `classes` to the vowels of every class."""
N_CLASSES = 10
LEVELS = np.array([1.0, 0.6, 0.3])
"""Of the formants, before the fall of the glottis."""
WIDTHS = np.array([80.0, 110.0, 160.0])
"""Of the formants, in Hz."""
BLOCK = 40
"""Samples between points of control."""
CHUNK = 20
"""Clips that are drawn at once, one of each class in every ten; few enough for a processor's cache."""


class TonesSettings(AudioSettings, GeneratedSettings):
    """Voiced sounds at 8 kHz that glide from one vowel to another, in noise; 10 classes, generated."""

    PRESETS: ClassVar[Mapping[str, int]] = {"normal": 256, "fast": 128}
    AUGMENTED: ClassVar[bool] = False
    synonyms: ClassVar[Mapping[str, str]] = {
        **AudioSettings.synonyms,
        "seed": "data_seed",
        "train_size": "n_train",
        "n_val": "n_validation",
        "test_size": "n_test",
        "length": "samples",
        "snr": "noise",
    }

    name: Literal["tones"] = "tones"
    samples: int = Field(default=4000, ge=1000, le=64_000)
    """Samples of a clip, at 8,000 a second."""
    classes: Literal["orders", "sets"] = "orders"
    """orders: five pairs of vowels, each in both orders, so that only the order tells a class from its reverse; sets: ten pairs."""
    noise: float = Field(default=0.15, ge=0, le=100)
    """Deviation of the white noise, over the root mean square of the voice in the clip."""
    n_train: Count = 4000
    """Clips of the training part."""
    n_validation: Count = 500
    """Clips of the validation part."""
    n_test: Count = 1000
    """Clips of the test part."""

    def clip_samples(self) -> int:
        """Samples of every clip."""
        return self.samples


def write_tones(settings: TonesSettings, writer: Writer) -> dict[str, Any]:
    """Draws and writes all parts; each by itself, so that none changes with the size of another."""
    power = {}
    for number, (part, n) in enumerate(zip(PARTS, (settings.n_train, settings.n_validation, settings.n_test), strict=True)):
        power[part] = write_part(writer, part, (n, settings.samples), _pieces(settings, number, n))
    return {"classes": SEQUENCES[settings.classes], "power": power["train"]}


def _pieces(settings: TonesSettings, part: int, n: int) -> Iterator[tuple[NDArray[np.int16], NDArray[np.int64]]]:
    for chunk, start in enumerate(range(0, n, CHUNK)):
        draw = np.random.default_rng([settings.data_seed, part, chunk])
        labels = draw.permuted(np.tile(np.arange(N_CLASSES), (CHUNK // N_CLASSES, 1)), axis=1).ravel()
        clips = draw_tones([SEQUENCES[settings.classes][label] for label in labels], settings.samples, settings.noise, draw)
        yield clips[: n - start], labels[: n - start]


def draw_tones(vowels: Sequence[str], samples: int, noise: float, draw: np.random.Generator) -> NDArray[np.int16]:
    """Clips (N, samples) that pass the vowels of a word each, N of them such as "ie".

    In float64, so that the rounding of a machine's cosine does not show in the 16 bits of the result.
    """
    n = len(vowels)
    voiced = draw.uniform(0.55, 0.9, (n, 1))  # share of the clip: the tempo
    onset = draw.uniform(0, 1, (n, 1)) * (1 - voiced)
    blocks = -(-samples // BLOCK)
    seconds = blocks * BLOCK / RATE
    base = 90 * (240 / 90) ** draw.uniform(0, 1, (n, 1))
    drift = draw.uniform(-0.15, 0.15, (n, 1))
    formants = _formants(vowels, np.linspace(0, 1, blocks + 1) - onset, voiced, draw)  # (N, C, 3)
    t = np.arange(blocks * BLOCK) / (blocks * BLOCK)  # share of the clip
    phase = 2 * np.pi * seconds * base * (t + drift * t * t / 2)
    pitch = base * (1 + drift * np.linspace(0, 1, blocks + 1))  # (N, C)
    voice = _harmonics(phase, pitch, formants) * _swell(t - onset, voiced)
    voice /= np.sqrt(np.square(voice).mean(1, keepdims=True))
    gain = 0.02 * 10 ** draw.uniform(0, 1, (n, 1))
    clips = gain * (voice + noise * draw.standard_normal(voice.shape))
    return np.rint(clips[:, :samples] * 32768).clip(-32768, 32767).astype(np.int16)


def _formants(vowels: Sequence[str], since: Array, voiced: Array, draw: np.random.Generator) -> Array:
    """Formants (N, C, 3) in Hz, at times `since` (N, C) the onset; steps from vowel to vowel are smooth."""
    n = len(vowels)
    targets = np.array([[VOWELS[vowel] for vowel in word] for word in vowels])  # (N, 2 vowels, 3 formants)
    # The length of the speaker's tract, then the utterance.
    targets = targets * draw.uniform(0.94, 1.06, (n, 1, 1)) * draw.uniform(0.98, 1.02, (n, 2, 3))
    change = voiced * draw.uniform(0.35, 0.65, (n, 1))
    glide = voiced * draw.uniform(0.1, 0.25, (n, 1))
    moved = _smooth((since - change) / glide + 0.5)[:, :, None]
    return targets[:, :1] + moved * (targets[:, 1:] - targets[:, :1])


def _harmonics(phase: Array, pitch: Array, formants: Array) -> Array:
    """The voice (N, n) from the phase (N, n) of its pitch, and pitch (N, C) and formants (N, C, 3) at the points of control."""
    n, samples = phase.shape
    within = np.arange(BLOCK) / BLOCK
    now = np.cos(phase)
    before, twice = np.ones_like(now), 2 * now
    voice, work = np.zeros_like(now), np.empty_like(now)
    for h in range(1, int(RATE / 2 / pitch.min()) + 1):
        level = _envelope(h * pitch, formants)
        level = level[:, :-1, None] * (1 - within) + level[:, 1:, None] * within
        voice += np.multiply(level.reshape(n, samples), now, out=work)
        # cos((h + 1) phi) = 2 cos(phi) cos(h phi) - cos((h - 1) phi)
        before, now, work = now, np.subtract(np.multiply(twice, now, out=work), before, out=work), before
    return voice


def _envelope(frequency: Array, formants: Array) -> Array:
    """Level (N, C) of a harmonic: resonances on the fall of the glottis, and nothing at half the sample rate."""
    off = (frequency[:, :, None] - formants) / WIDTHS
    resonances: Array = (LEVELS / (1 + off * off)).sum(2) + 0.01
    return resonances / (1 + frequency / 1000) * np.clip((RATE / 2 - frequency) / 400, 0, 1)


def _swell(since: Array, voiced: Array) -> Array:
    """Loudness (N, n): up at the onset, down at the end."""
    return _smooth(since / (0.1 * voiced)) * _smooth((voiced - since) / (0.15 * voiced))


def _smooth(x: Array) -> Array:
    """0 up to 0, 1 from 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
