"""Domains: where data comes from, and what is asked of a model."""

from __future__ import annotations

from cvkan.domains import image
from cvkan.domains.arithmetic import ARITHMETIC
from cvkan.domains.audio import AUDIO
from cvkan.domains.charlm import CHARLM
from cvkan.domains.protocol import Domain
from cvkan.domains.recall import RECALL
from cvkan.domains.signal_noise import SIGNAL_NOISE
from cvkan.domains.text import TEXT
from cvkan.domains.timeseries import TIMESERIES

DOMAINS: dict[str, Domain] = {
    "image": image,
    "audio": AUDIO,
    "timeseries": TIMESERIES,
    "arithmetic": ARITHMETIC,
    "recall": RECALL,
    "signal_noise": SIGNAL_NOISE,
    "text": TEXT,
    "charlm": CHARLM,
}
"""From `domain` to what offers its data sets."""
