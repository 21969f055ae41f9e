"""The timeseries domain: forecast the next steps of every channel of a series; headline metric mse.

A series is cut in time order into training, validation and test part and standardised by the training part's mean and
deviation of each channel; errors are of standardised values, as published ones. Every window of the validation and the
test part counts, none is dropped; its targets lie in the part, its lookback may reach into the part before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from cvkan.domains import cache as cache_module
from cvkan.domains import series_csv
from cvkan.domains.cache import Entry, Writer
from cvkan.domains.cached import PARTS, CachedDomain, DataSet, DataSettings, GeneratedSettings, StoredSettings
from cvkan.domains.paths import expanded, listed
from cvkan.domains.seasonal import CHANNELS, seasonal
from cvkan.domains.task import Data, Split, Task
from cvkan.errors import DataError, Problem

Steps = Annotated[int, Field(ge=1, le=1 << 16)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class WindowSettings(DataSettings):
    """Settings of every series."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "seq_len": "lookback",
        "input_length": "lookback",
        "context": "lookback",
        "pred_len": "horizon",
        "prediction_length": "horizon",
        "revin": "reversible",
        "step": "stride",
    }

    lookback: Steps = 96
    """Steps that a model sees."""
    horizon: Steps = 96
    """Steps that it forecasts, those that follow."""
    stride: Steps = 1
    """Steps from one training window to the next; validation and test windows always start at every step."""
    n_train: Annotated[int, Field(ge=1)] | None = None
    """Number of training windows, those nearest to the validation part; all of them without."""
    reversible: bool = False
    """Normalise each window by its own mean and deviation, and scale the forecast back (Kim et al. 2022), whatever the model."""


TINY = float(np.finfo(np.float32).tiny)
"""The smallest number that float32 holds at full precision."""
WINDOWS = frozenset({"lookback", "horizon", "stride", "n_train", "reversible"})


class CutSettings(WindowSettings):
    """Settings of a series without conventional parts."""

    synonyms: ClassVar[Mapping[str, str]] = {**WindowSettings.synonyms, "val": "validation", "validation_fraction": "validation"}

    validation: Fraction = 0.1
    """Fraction of the steps that is the validation part, before the test part."""
    test: Fraction = 0.2
    """Fraction of the steps that is the test part, the last ones."""

    @model_validator(mode="after")
    def _leaves_a_training_part(self) -> Self:
        if self.validation + self.test >= 1:
            text = f"validation {self.validation} and data.test {self.test} leave no training part"
            raise PydanticCustomError("no_training_part", "{text}", {"text": text})
        return self


class SeasonalSettings(CutSettings, GeneratedSettings):
    """7 channels with a trend, a day, a week, shifts of level and noise; generated."""

    synonyms: ClassVar[Mapping[str, str]] = {**CutSettings.synonyms, "seed": "data_seed", "length": "steps"}

    name: Literal["seasonal"] = "seasonal"
    steps: Annotated[int, Field(ge=100, le=1_000_000)] = 4000
    """Steps of the series, an hour each."""


class EttSettings(WindowSettings, StoredSettings):
    """Settings of the electricity transformer data (Zhou et al. 2021)."""

    synonyms: ClassVar[Mapping[str, str]] = {**StoredSettings.synonyms, **WindowSettings.synonyms}


class ETTh1Settings(EttSettings):
    """Oil temperature and loads of a transformer, hourly (Zhou et al. 2021): 12, 4 and 4 months."""

    name: Literal["etth1"] = "etth1"


class ETTh2Settings(EttSettings):
    """As etth1, of a second transformer."""

    name: Literal["etth2"] = "etth2"


class ETTm1Settings(EttSettings):
    """As etth1, every 15 minutes."""

    name: Literal["ettm1"] = "ettm1"


class ETTm2Settings(EttSettings):
    """As etth2, every 15 minutes."""

    name: Literal["ettm2"] = "ettm2"


class CsvSettings(CutSettings):
    """A CSV file of your own, a row a step and a column a channel; needs `file`."""

    outside_key: ClassVar[frozenset[str]] = CutSettings.outside_key | {"file"}
    synonyms: ClassVar[Mapping[str, str]] = {**CutSettings.synonyms, "path": "file", "filename": "file", "channels": "columns"}

    name: Literal["csv"] = "csv"
    file: Annotated[str, Field(min_length=1)]
    """The file: names in its first line, commas between cells."""
    date: str | None = "date"
    """The column whose dates (or numbers) must rise from row to row; null where there is none."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """The columns to forecast; without, all that hold a number, but the date."""

    @field_validator("columns")
    @classmethod
    def _each_once(cls, columns: list[str] | None) -> list[str] | None:
        twice = next((name for name in columns or [] if (columns or []).count(name) > 1), None)
        if twice is not None:
            raise PydanticCustomError("twice", "{text}", {"text": f"expected every column once; {twice!r} occurs twice"})
        return columns

    def path(self) -> Path:
        """`file` as a path, with a leading ~ replaced by the home folder. Raises DataError where it can be none."""
        return expanded(self.file, "data.file")


@dataclass(frozen=True)
class Series:
    """A series in its own units, and the steps at which its training, validation and test part end."""

    origin: str
    """Where it comes from, for messages."""
    channels: list[str]
    values: NDArray[np.float64]
    """(steps, channels)"""
    ends: tuple[int, int, int]
    span: tuple[str, str] | None = None
    """First and last date of all steps, where there are dates."""
    left_out: list[str] = field(default_factory=list)
    """Columns of the source that are no channels, as they hold no number."""


def _task(settings: WindowSettings, channels: int) -> Task:
    return Task(
        input="series",
        shape=(settings.lookback, channels),
        output="forecast",
        n_outputs=channels,
        metric="mse",
        direction="min",
        horizon=settings.horizon,
        reversible=settings.reversible,
    )


def _write(series: Callable[[Any], Series], settings: WindowSettings, writer: Writer) -> dict[str, Any]:
    """One array, `series` (steps, channels) float32, standardised: windows are views of it. DataError where float32 cannot hold it."""
    found = series(settings)
    end = found.ends[2]
    # At least a step: `_open` refuses what is too short for a window, as that depends on how long a window is.
    train = found.values[: max(1, found.ends[0])]
    mean = train.mean(0)
    # The deviation of a constant is not exactly 0 in floating point.
    std = np.where(train.max(0) > train.min(0), train.std(0), 0.0)
    # What does not vary, or by less than float32 can tell from 0, is only centred.
    scaled = (found.values[:end] - mean) / np.where(std < TINY, 1.0, std)
    too_large = np.argwhere(np.abs(scaled) > series_csv.LARGEST)
    if len(too_large):
        step, channel = too_large[0]
        text = f"channel {found.channels[channel]!r}: step {step + 1} is {scaled[step, channel]:.3g} deviations of the training part"
        raise DataError(f"{found.origin}: {text} from its mean, more than float32 can hold; mend it, or leave the channel out")
    writer.write("series", np.float32, (end, len(found.channels)), [scaled])
    about = {"origin": found.origin, "channels": found.channels, "ends": found.ends, "span": found.span, "left_out": found.left_out}
    return {**about, "mean": mean.tolist(), "std": std.tolist()}


def _open(settings: WindowSettings, entry: Entry) -> Data:
    series = torch.from_numpy(entry.array("series"))
    train, validation, test = (_split(settings, series, start, end) for start, end in _bounds(settings, entry))
    task = _task(settings, series.shape[1])
    return Data(task, _nearest(settings, train), validation, test, entry.hash, encode=torch.Tensor.contiguous)


def _bounds(settings: WindowSettings, entry: Entry) -> list[tuple[int, int]]:
    """First and last step (exclusive) that the windows of each part reach. DataError where a part is too short for a window."""
    n_train, validation_end, end = entry.about["ends"]
    sizes = {"training": n_train, "validation": validation_end - n_train, "test": end - validation_end}
    lookback, horizon = settings.lookback, settings.horizon
    for part, size in sizes.items():
        start = f"the {part} part has {size:,} of the {end:,} steps of {entry.about['origin']}; one window needs"
        if part == "training" and size < lookback + horizon:
            text = f"{start} {lookback + horizon:,} (lookback {lookback:,} and horizon {horizon:,})"
            raise DataError(Problem("", "data.lookback", text))
        if size < horizon:
            raise DataError(Problem("", "data.horizon", f"{start} {horizon:,} beside its lookback"))
    return [(0, n_train), (n_train - lookback, validation_end), (validation_end - lookback, end)]


def _split(settings: WindowSettings, series: Tensor, start: int, end: int) -> Split:
    """All windows of series[start:end] as overlapping views: x (N, lookback, C), y (N, horizon, C)."""
    windows = series[start:end].unfold(0, settings.lookback + settings.horizon, 1).transpose(1, 2)
    return Split(windows[:, : settings.lookback], windows[:, settings.lookback :])


def _nearest(settings: WindowSettings, train: Split) -> Split:
    """Every `stride`th window, counted back from the last, and the last `n_train` of those."""
    first = (len(train) - 1) % settings.stride
    x, y = train.x[first :: settings.stride], train.y[first :: settings.stride]
    n = len(y) if settings.n_train is None else settings.n_train
    if n > len(y):
        raise DataError(Problem("", "data.n_train", f"{n:,} asked, but the training part has {len(y):,} windows"))
    return Split(x[len(x) - n :], y[len(y) - n :])


def _describe(settings: WindowSettings, entry: Entry) -> list[str]:
    about = entry.about
    moments = zip(about["channels"], about["mean"], about["std"], strict=True)
    channels = ", ".join(f"{name} {mean:.4g} {std:.4g}" for name, mean, std in moments)
    lines = [f"channels, with mean and deviation in the training part: {channels}"]
    if about["left_out"]:
        lines.append(f"left out, as no number stands in them: {listed(about['left_out'])}")
    if about["span"]:
        lines.append(f"from {about['span'][0]} to {about['span'][1]}")
    data = _open(settings, entry)
    starts = [0, *about["ends"]]
    for part, split, start, end in zip(PARTS, (data.train, data.validation, data.test), starts, starts[1:], strict=False):
        lines.append(f"{part}: {end - start} steps, {len(split)} windows of {settings.lookback} and {settings.horizon} steps")
    return lines


def _cut(settings: CutSettings, steps: int) -> tuple[int, int, int]:
    """Ends of the parts, each cut off to whole steps; what is left over belongs to the validation part."""
    n_train, n_test = (int(round(steps * share, 6)) for share in (1 - settings.validation - settings.test, settings.test))
    return n_train, steps - n_test, steps


# Generated.


def _seasonal_task(settings: SeasonalSettings) -> Task:
    return _task(settings, CHANNELS)


def _seasonal(settings: SeasonalSettings) -> Series:
    channels = [f"channel {channel}" for channel in range(CHANNELS)]
    return Series("the generated series", channels, seasonal(settings.steps, settings.data_seed), _cut(settings, settings.steps))


# ETT.

ETT_CHANNELS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
HOURS = 30 * 24
"""Hours of a month of the conventional parts."""


def _ett_task(settings: EttSettings) -> Task:
    return _task(settings, len(ETT_CHANNELS))


def _ett_signature(file: str, settings: EttSettings) -> dict[str, Any]:
    folder = settings.root_folder()
    try:
        return cache_module.signature(folder, [file])
    except OSError as error:
        hint = "save https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/" + file + " there, or set data.root"
        raise DataError(f"{folder / file} not found; {hint}") from error


def _ett(file: str, per_hour: int, settings: EttSettings) -> Series:
    path = settings.root_folder() / file
    names, _ = series_csv.header(path)
    missing = next((name for name in ("date", *ETT_CHANNELS) if name not in names), None)
    if missing is not None:
        raise DataError(f"{path}:1: no column {missing!r}; {series_csv.near(missing, names)}")
    ends = (12 * HOURS * per_hour, 16 * HOURS * per_hour, 20 * HOURS * per_hour)
    table = series_csv.read(path, "date", ETT_CHANNELS, "download it again", limit=ends[2])
    if len(table.values) < ends[2]:
        raise DataError(f"{path}: {len(table.values):,} rows, at least {ends[2]:,} expected: cut short; download it again")
    return Series(str(path), ETT_CHANNELS, table.values, ends, table.span)


def _ett_set(settings: type[EttSettings], file: str, per_hour: int) -> DataSet:
    return DataSet(
        Settings=settings,
        task=_ett_task,
        signature=partial(_ett_signature, file),
        write=partial(_write, partial(_ett, file, per_hour)),
        open=_open,
        describe=_describe,
        version=2,
        unwritten=WINDOWS,
        folder=file,
    )


# A file of the user's own.


def _csv_columns(settings: CsvSettings) -> list[str]:
    """The columns to forecast, see CsvSettings. Raises DataError."""
    path = settings.path()
    names, _ = series_csv.header(path)
    if settings.date is not None and settings.date not in names:
        hint = f"{series_csv.near(settings.date, names)}; null where there are no dates"
        raise DataError(Problem("", "data.date", f"{path}:1: no column {settings.date!r}; {hint}"))
    for name in settings.columns or []:
        if name not in names:
            raise DataError(Problem("", "data.columns", f"{path}:1: no column {name!r}; {series_csv.near(name, names)}"))
    columns = settings.columns or _numeric(settings)[0]
    if not columns:
        raise DataError(f"{path}: no column with a number; expected one or more beside the date")
    return columns


def _numeric(settings: CsvSettings) -> tuple[list[str], list[str]]:
    """The columns with numbers, and those without."""
    return _numeric_of(str(_csv_signature(settings)), settings.path(), settings.date)


@lru_cache(maxsize=64)
def _numeric_of(signed: str, path: Path, date: str | None) -> tuple[list[str], list[str]]:
    """The same, read once for as long as the file's signature, as text in `signed`, stays."""
    return series_csv.numeric(path, date)


def _csv_task(settings: CsvSettings) -> Task:
    return _task(settings, len(_csv_columns(settings)))


def _csv_signature(settings: CsvSettings) -> dict[str, Any]:
    path = settings.path()
    try:
        return cache_module.signature(path.parent, [path.name])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; set data.file") from error


def _csv(settings: CsvSettings) -> Series:
    columns = _csv_columns(settings)
    left_out = [] if settings.columns else _numeric(settings)[1]
    table = series_csv.read(settings.path(), settings.date, columns, "set data.columns to leave the column out")
    return Series(str(settings.path()), columns, table.values, _cut(settings, len(table.values)), table.span, left_out)


TIMESERIES = CachedDomain(
    "timeseries",
    {
        "seasonal": DataSet(
            Settings=SeasonalSettings,
            task=_seasonal_task,
            signature=lambda _: {"version": 1},
            write=partial(_write, _seasonal),
            open=_open,
            describe=_describe,
            version=2,
            unwritten=WINDOWS,
            embedded=True,
        ),
        "etth1": _ett_set(ETTh1Settings, "ETT-small/ETTh1.csv", 1),
        "etth2": _ett_set(ETTh2Settings, "ETT-small/ETTh2.csv", 1),
        "ettm1": _ett_set(ETTm1Settings, "ETT-small/ETTm1.csv", 4),
        "ettm2": _ett_set(ETTm2Settings, "ETT-small/ETTm2.csv", 4),
        "csv": DataSet(
            Settings=CsvSettings,
            task=_csv_task,
            signature=_csv_signature,
            write=partial(_write, _csv),
            open=_open,
            describe=_describe,
            version=2,
            unwritten=WINDOWS,
        ),
    },
)
