"""Numbers and words for people: one scale for a metric, one unit for a column of times, names of statuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cvkan.orchestrator.stats import Interval
from cvkan.report.metric import Metric
from cvkan.report.summary import Scalar

NOTHING = "–"  # noqa: RUF001 (an en dash, the usual mark of an empty cell)

STATUS_WORDS = {
    "completed": "completed", "stopped": "stopped early", "diverged": "diverged", "out_of_memory": "out of memory",
    "timed_out": "timed out", "failed": "failed", "lost": "lost", "interrupted": "interrupted", "missing": "not run",
    "no_figure": "without figure",
}  # fmt: skip

COST_WORDS = {
    "seconds": "time in seconds", "seconds_train": "training time in seconds", "seconds_eval": "evaluation time in seconds",
    "reached_step": "step at which the asked figure was reached",
}  # fmt: skip
"""What columns of costs are called."""
PART_WORDS = {"test_": "test", "best_val_": "best validation", "last_val_": "last validation", "last_train_": "last training"}

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Scale:
    """How the values of one metric are written: the same factor, decimals and unit throughout a sweep."""

    factor: float
    decimals: int
    unit: str
    """Of a value, with its space: " %" or nothing."""
    points: str
    """Of a difference: " points" (percentage points) or nothing."""

    def number(self, value: float | None, sign: bool = False) -> str:
        """The value without its unit."""
        if value is None or math.isnan(value):
            return NOTHING
        return f"{value * self.factor:{'+' if sign else ''}.{self.decimals}f}"

    def interval(self, figure: Interval, sign: bool = False) -> str:
        """ "94.31 ± 0.42"; without ± where there is no interval."""
        return self.intervals([figure], sign)[0].strip()

    def intervals(self, figures: Sequence[Interval], sign: bool = False) -> list[str]:
        """A column of such texts, equally wide, with their decimal points and ± below one another."""
        means = [self.number(figure.mean, sign) for figure in figures]
        halves = ["" if math.isnan(figure.half) else f" ± {self.number(figure.half)}" for figure in figures]
        left, right = (max((len(text) for text in texts), default=0) for texts in (means, halves))
        return [f"{mean:>{left}}{half:<{right}}" for mean, half in zip(means, halves, strict=True)]


def scale_of(metric: Metric, values: Iterable[float | None]) -> Scale:
    """Per cent with two decimals for fractions; else decimals that give the largest value four digits."""
    if metric.is_fraction:
        return Scale(100.0, 2, " %", " points")
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=1.0)
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 4
    return Scale(1.0, min(max(decimals, 0), 10), "", "")


def metric_words(metric: Metric) -> str:
    """ "test accuracy", "best validation loss", "test bpc at 1024", "training time in seconds"."""
    if metric.column in COST_WORDS:
        return COST_WORDS[metric.column]
    part = next(part for part in PART_WORDS if metric.column.startswith(part))
    return f"{PART_WORDS[part]} {metric.column.removeprefix(part).replace('_', ' ')}"


def selection_words(metric: Metric) -> str:
    """What arms are chosen by: "validation accuracy", or the cost itself."""
    return COST_WORDS.get(metric.selection, f"validation {metric.name}")


def plain(text: str) -> str:
    """The text on one line, without control characters (an escape sequence in a reason must not reach the terminal)."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def value_word(value: Scalar) -> str:
    """An axis value as YAML writes it."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else plain(str(value))


def values_words(values: Mapping[str, Scalar]) -> str:
    """ "n_layers=2 interaction=broadcast", as arms are labelled."""
    return " ".join(f"{name}={value_word(value)}" for name, value in zip(short_names(list(values)), values.values(), strict=True))


def short_names(paths: Sequence[str]) -> list[str]:
    """The last word of every path, or the whole path where that word is not unique."""
    last = [path.rsplit(".", 1)[-1] for path in paths]
    return [word if last.count(word) == 1 else path for path, word in zip(paths, last, strict=True)]


def counts_words(flags: Mapping[str, int]) -> list[str]:
    """["2 diverged", "1 not run"]."""
    return [f"{count:,} {STATUS_WORDS[flag]}" for flag, count in flags.items()]


def number_of(count: int, word: str) -> str:
    """ "1 seed", "8 seeds"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def time_unit(seconds: Iterable[float | None]) -> tuple[str, float]:
    """The unit, and its seconds, in which the longest of the times has one to four digits."""
    longest = max((value for value in seconds if value is not None), default=0.0)
    return ("s", 1.0) if longest < 600 else ("min", 60.0) if longest < 36_000 else ("h", 3600.0)


def trial_time(hours: float) -> str:
    """A sum of the trials' times: "4.2 trial hours", "12 trial minutes", "35 trial seconds"."""
    if hours >= 1:
        return f"{hours:,.1f} trial hours"
    return f"{hours * 60:.0f} trial minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} trial seconds"


def bars(values: Sequence[float], width: int) -> str:
    """A curve as block characters, lowest value to highest; at most `width` of them, evenly chosen with both ends."""
    n = min(len(values), width)
    chosen = [values[round(place * (len(values) - 1) / max(n - 1, 1))] for place in range(n)]
    low, high = min(chosen), max(chosen)
    steps = len(BARS) - 1
    return "".join(BARS[round((value - low) / (high - low) * steps) if high > low else 0] for value in chosen)
