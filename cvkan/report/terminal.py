"""Summaries as rich renderables, for 80 columns and more, with colour and without. Everything a user wrote is Text, never markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from cvkan.orchestrator.stats import Interval
from cvkan.report.summary import ArmSummary, Axis, Best, ClaimSummary, Failure, SweepSummary
from cvkan.report.words import (
    NOTHING,
    STATUS_WORDS,
    Scale,
    bars,
    counts_words,
    metric_words,
    number_of,
    plain,
    scale_of,
    selection_words,
    short_names,
    time_unit,
    trial_time,
    value_word,
    values_words,
)

MOST_ARMS, SHOWN_ARMS = 30, 20
MOST_FAILURES = 10
MOST_VALUES = 20
RUN_AGAIN = ("missing", "interrupted", "out_of_memory", "timed_out", "failed", "lost")
"""Statuses that the next `cvkan sweep` trains again."""


@dataclass(frozen=True)
class Whisker:
    """An interval drawn on a scale that a table's rows share: ──●──."""

    low: float
    mean: float
    high: float
    start: float
    end: float
    """The scale's ends."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(12, 36)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if math.isnan(self.mean):
            yield Text("")
            return
        width = min(options.max_width, 36)
        span = self.end - self.start

        def place(value: float) -> int:
            return round((value - self.start) / span * (width - 1)) if span > 0 else width // 2

        low, mean, high = (self.mean if math.isnan(value) else value for value in (self.low, self.mean, self.high))
        line, dot = ("-", "o") if options.ascii_only else ("─", "●")
        cells = [" "] * width
        cells[place(low) : place(high) + 1] = line * (place(high) + 1 - place(low))
        cells[place(mean)] = dot
        yield Text("".join(cells), style="cyan", no_wrap=True)


def render_terminal(summaries: Sequence[SweepSummary], show_all: bool = False) -> Group:
    """The summaries one below another; `show_all` shows every arm, axis value and failure."""
    parts: list[RenderableType] = []
    for place, summary in enumerate(summaries):
        if place:
            parts.append(Text())
        parts += _sweep(summary, show_all)
    return Group(*parts)


def _sweep(summary: SweepSummary, show_all: bool) -> list[RenderableType]:
    scale = scale_of(summary.metric, [arm.figure.mean for arm in summary.arms])
    parts: list[RenderableType] = [*_head(summary), *_failures(summary, show_all), *_dropped(summary, show_all)]
    if summary.best is not None:
        parts += _best(summary.best, summary, scale)
    parts += _claims(summary)
    for axis in summary.tables:
        parts += _axis(axis, summary, scale, show_all)
    parts += _arms(summary, scale, show_all)
    return parts + _foot(summary)


def _title(text: str) -> list[RenderableType]:
    return [Text(), Text(text, style="bold")]


def _indented(*parts: RenderableType, level: int = 2) -> list[RenderableType]:
    return [Padding.indent(part, level) for part in parts]


def _head(summary: SweepSummary) -> list[RenderableType]:
    name = f"{summary.name}@{summary.profile}" if summary.profile else summary.name
    size = f"{number_of(len(summary.arms), 'arm')}, {number_of(len(summary.seeds), 'seed')}"
    parts: list[RenderableType] = [Text(plain(summary.question) or name, style="bold")]
    parts.append(Text(f"{plain(name)} · {size} · {plain(summary.file)}", style="dim"))
    parts += [Text(), _state(summary)]
    waiting = sum(summary.statuses.get(status, 0) for status in RUN_AGAIN)
    if waiting:
        parts.append(Text(f"To train the other {number_of(waiting, 'trial')}: {plain(summary.command)}", style="dim"))
    if summary.earlier_rows:
        rows = "1 row of earlier settings is" if summary.earlier_rows == 1 else f"{summary.earlier_rows:,} rows of earlier settings are"
        parts.append(Text(f"{rows} not shown.", style="dim"))
    return parts


def _state(summary: SweepSummary) -> Text:
    """ "60 of 64 trials done · 2 diverged · 1 failed · 1 not run"."""
    complete = summary.n_done == summary.n_trials
    line = Text(f"{summary.n_done:,} of {number_of(summary.n_trials, 'trial')} done", style="bold green" if complete else "bold")
    for status, count in summary.statuses.items():
        if status != "completed":
            style = "" if status in ("missing", "stopped", "interrupted") else "bold red"
            line.append(" · ", style="not bold default").append(f"{count:,} {STATUS_WORDS[status]}", style=f"not bold default {style}")
    return line


def _failures(summary: SweepSummary, show_all: bool) -> list[RenderableType]:
    """The trials without a result, those of an arm with the same end together."""
    if not summary.failures:
        return []

    def end(failure: Failure) -> tuple[str, str, str]:
        return failure.arm, failure.status, failure.reason

    groups = [(key, list(found)) for key, found in groupby(sorted(summary.failures, key=end), end)]
    groups.sort(key=lambda group: summary.failures.index(group[1][0]))
    parts = _title("Trials without a result")
    for (arm, status, reason), found in groups if show_all else groups[:MOST_FAILURES]:
        line = Text(STATUS_WORDS[status], style="red")
        seeds = ("seed " if len(found) == 1 else "seeds ") + ", ".join(str(failure.seed) for failure in found)
        line.append(f"  {plain(arm)}  {seeds}", style="default")
        logs = plain(found[0].log) + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        parts += [*_indented(line), *_indented(*[Text(text, style="dim") for text in (plain(reason), logs) if text], level=4)]
    return parts + _more(len(groups) - MOST_FAILURES, "more like these", show_all)


def _more(count: int, words: str, show_all: bool) -> list[RenderableType]:
    return [] if show_all or count <= 0 else _indented(Text(f"{count:,} {words}; --all shows them", style="italic"))


def _dropped(summary: SweepSummary, show_all: bool) -> list[RenderableType]:
    if not summary.dropped:
        return []
    parts = _title(f"{number_of(len(summary.dropped), 'arm')} not trained")
    for arm in summary.dropped if show_all else summary.dropped[:MOST_FAILURES]:
        parts += [*_indented(Text(plain(arm.label), style="yellow")), *_indented(Text(plain(arm.reason), style="dim"), level=4)]
    return parts + _more(len(summary.dropped) - MOST_FAILURES, "more", show_all)


def _best(best: Best, summary: SweepSummary, scale: Scale) -> list[RenderableType]:
    arm, metric = best.arm, summary.metric
    line = Text(plain(arm.label), style="bold cyan")
    figure = f"{metric_words(metric)} {scale.interval(arm.figure)}{scale.unit}, {_seeds(arm.figure.n, len(summary.seeds))}"
    notes = [f"; {', '.join(counts_words(arm.flags))}"] if arm.flags else []
    chosen = f"chosen from {number_of(best.n_arms, 'arm')} by mean {selection_words(metric)}, {scale.number(arm.validation)}{scale.unit}"
    lines = [line, Text(figure + "".join(notes)), Text(chosen, style="dim")]
    if len(best.curve) > 1:
        (first, low), (last, high) = best.curve[0], best.curve[-1]
        curve = Text(f"{scale.number(low)} ", style="dim").append(bars([value for _, value in best.curve], 30), style="cyan")
        curve.append(f" {scale.number(high)}{scale.unit}  mean {selection_words(metric)}, epochs {first} to {last}", style="dim")
        lines.append(curve)
    return [*_title("Best arm"), *_indented(*lines)]


def _seeds(n: int, planned: int) -> str:
    return number_of(n, "seed") if n == planned else f"{n} of {number_of(planned, 'seed')}"


def _claims(summary: SweepSummary) -> list[RenderableType]:
    parts = _title("Claims") if summary.claims else []
    for claim in summary.claims:
        parts += [*_indented(Text(plain(claim.says), style="italic")), *_indented(*_claim(claim), level=4)]
    return parts


def _claim(claim: ClaimSummary) -> list[RenderableType]:
    sides = (claim.better, claim.than)
    scale = scale_of(claim.metric, [side.figure.mean for side in sides])
    table = Table.grid(Column(overflow="fold"), Column(no_wrap=True), padding=(0, 2, 0, 0))
    figures = [*scale.intervals([side.figure for side in sides]), scale.interval(claim.difference, sign=True)]
    width = max(len(figure) for figure in figures)
    for side, figure in zip(sides, figures, strict=False):
        arms = "" if side.n_arms == 1 else f" (mean of {side.n_arms} arms)" if side.n_arms else " (no such arm)"
        table.add_row(Text(values_words(side.values) + arms), f"{figure:>{width}}{scale.unit}")
    mark = "*" if claim.incomplete else ""
    unit = scale.points if claim.difference.n else ""
    table.add_row(Text("difference", style="bold"), Text(f"{figures[-1]:>{width}}{mark}{unit}", style="bold"))
    better = "higher is better" if claim.metric.direction == "max" else "lower is better"
    about = f"{metric_words(claim.metric)}, {better}; paired over {_seeds(claim.difference.n, claim.n_seeds)}"
    notes = []
    if not math.isnan(claim.difference.half):
        low, high = (scale.number(value, sign=True) for value in (claim.difference.low, claim.difference.high))
        notes.append(f"95 % interval {low} to {high}{scale.points}")
    if claim.margin:
        notes.append(f"margin {scale.number(claim.margin)}{scale.points}")
    return [table, *[Text(line, style="dim") for line in (about, "; ".join(notes)) if line]]


@dataclass(frozen=True)
class Cells:
    """A column of a table: its header and a text for every row."""

    header: str
    texts: Sequence[RenderableType]
    right: bool = False
    whole: bool = False
    """Never wrapped or cut: half a number would be another number."""


@dataclass(frozen=True)
class Fitting:
    """The first of several layouts of a table that is no wider than the terminal; else the last one, wrapped."""

    layouts: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = (
            table for table in self.layouts if console.measure(table, options=options.update(width=10_000)).maximum <= options.max_width
        )
        yield next(fits, self.layouts[-1])


def _table(columns: Sequence[Cells], gap: int = 2, styles: Sequence[str] = ()) -> Table:
    """`styles` has one for each row, or none at all."""
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(
            Text(plain(column.header)), justify="right" if column.right else "left", no_wrap=column.right or column.whole, overflow="fold"
        )
    for place, row in enumerate(zip(*(column.texts for column in columns), strict=True)):
        table.add_row(*row, style=styles[place] if styles else "")
    return table


def _figures(header: str, figures: Sequence[Interval], marks: Sequence[str], scale: Scale) -> Cells:
    """Intervals with footnote marks. All texts are equally wide up to the mark, so that the points stand below one another."""
    texts = [f"{text}{mark}" for text, mark in zip(scale.intervals(figures), marks, strict=True)]
    return Cells(header, texts, whole=True)


def _axis(axis: Axis, summary: SweepSummary, scale: Scale, show_all: bool) -> list[RenderableType]:
    shown = axis.values if show_all else axis.values[:MOST_VALUES]
    ends = [end for value in shown for end in (value.figure.low, value.figure.mean, value.figure.high) if not math.isnan(end)]
    start, end = min(ends, default=0.0), max(ends, default=0.0)
    marks = [("*" if value.incomplete else "") + ("†" if value.unbalanced else "") for value in shown]
    columns = [
        Cells(name, [Text(value_word(value.values[place])) for value in shown]) for place, name in enumerate(short_names(axis.paths))
    ]
    columns.append(_figures(f"{metric_words(summary.metric)}{scale.unit}", [value.figure for value in shown], marks, scale))
    columns.append(Cells("seeds", [str(value.figure.n) for value in shown], right=True))
    arms = {value.n_arms for value in axis.values}
    if len(arms) > 1:
        columns.append(Cells("arms", [str(value.n_arms) for value in shown], right=True))
    columns.append(Cells("", [Whisker(value.figure.low, value.figure.mean, value.figure.high, start, end) for value in shown]))
    if any(value.flags for value in shown):
        columns.append(Cells("not completed", [_flags(value.flags) for value in shown]))
    over = f", mean of {arms.copy().pop()} arms" if len(arms) == 1 and arms != {1} else ""
    title = [Text(), Text(f"By {' and '.join(plain(path) for path in axis.paths)}", style="bold").append(over, style="not bold dim")]
    return [*title, *_indented(_table(columns)), *_more(len(axis.values) - MOST_VALUES, "more values", show_all)]


def _arms(summary: SweepSummary, scale: Scale, show_all: bool) -> list[RenderableType]:
    metric = summary.metric
    sign = -1.0 if metric.direction == "max" else 1.0
    ranked = sorted(summary.arms, key=lambda arm: math.inf if arm.validation is None else sign * arm.validation)
    shown = ranked if show_all or len(ranked) <= MOST_ARMS else ranked[:SHOWN_ARMS]
    parts = [*_title(f"Arms, best {selection_words(metric)} first"), *_indented(_arms_table(shown, summary, scale))]
    return parts + _more(len(ranked) - len(shown), f"of {len(ranked):,} arms are not shown", show_all)


def _arms_table(arms: Sequence[ArmSummary], summary: SweepSummary, scale: Scale) -> Fitting:
    """Columns that a narrow terminal has no room for are left out one by one: the values and figures stay."""
    unit, seconds = time_unit(arm.seconds for arm in arms)
    times = [NOTHING if arm.seconds is None else f"{arm.seconds / seconds:.1f}" for arm in arms]
    axes = [Cells(name, [Text(value_word(arm.values[path])) for arm in arms]) for path, name in _named(summary.axes)]
    widths = [
        Cells(name, [str(arm.matched[1]) if arm.matched and arm.matched[0] == path else "" for arm in arms], right=True)
        for path, name in _named(list(dict.fromkeys(arm.matched[0] for arm in arms if arm.matched)))
    ]
    params = Cells("params", [f"{arm.n_params:,}" for arm in arms], right=True)
    epochs = Cells("epochs", [NOTHING if arm.epochs is None else f"{arm.epochs:g}" for arm in arms], right=True)
    figures = [
        Cells(f"val{scale.unit}", [scale.number(arm.validation) for arm in arms], right=True),
        _figures(f"{_short(summary)}{scale.unit}", [arm.figure for arm in arms], ["*" if arm.incomplete else "" for arm in arms], scale),
        Cells("seeds", [f"{arm.figure.n}/{arm.n_trials}" if arm.incomplete else str(arm.figure.n) for arm in arms], right=True),
    ]
    time = Cells(unit, times, right=True)
    notes = [Cells("not completed", [_flags(arm.flags) for arm in arms])] if any(arm.flags for arm in arms) else []
    axes = axes or [Cells("arm", ["defaults" for _ in arms])]
    full = [*axes, *widths, params, epochs, *figures, time]
    narrow = [
        full,
        [*axes, *widths, params, *figures, time],
        [*axes, *widths, params, *figures],
        [*axes, *widths, *figures],
        [*axes, *figures],
    ]
    best = summary.best.arm.arm if summary.best else None
    styles = ["bold cyan" if arm.arm == best else "" for arm in arms]
    return Fitting([_table([*full, *notes], 2, styles), _table(full, 2, styles), *[_table(columns, 1, styles) for columns in narrow]])


def _named(paths: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(paths, short_names(paths), strict=True)


def _flags(flags: Mapping[str, int]) -> Text:
    return Text(", ".join(counts_words(flags)), style="not bold red")


def _short(summary: SweepSummary) -> str:
    column = summary.metric.column
    parts = {"test_": "test", "best_val_": "best val", "last_val_": "last val", "last_train_": "last train"}
    return next((word for part, word in parts.items() if column.startswith(part)), column)


def _foot(summary: SweepSummary) -> list[RenderableType]:
    values = [value for axis in summary.tables for value in axis.values]
    lines = ["± is half a Student-t 95 % interval over seeds (one seed alone has none)."]
    if any(arm.incomplete for arm in summary.arms) or any(claim.incomplete for claim in summary.claims):
        lines.append("* some planned trials have no figure (yet, or ever): this mean may flatter.")
    if any(value.unbalanced for value in values):
        lines.append("† over other arms than the rest of its axis (some left out): not like for like.")
    lines.append(" · ".join(_seen(summary)))
    return [Text(), *[Text(plain(line), style="dim") for line in lines if line]]


def _seen(summary: SweepSummary) -> Iterable[str]:
    """Versions, devices and hosts of the trials; more than one version of the code is said aloud."""
    seen = summary.provenance
    if summary.trial_hours > 0:
        yield trial_time(summary.trial_hours)
    for name, word in (("cvkan_version", "cvkan "), ("torch", "torch "), ("device", ""), ("host", "on "), ("git_sha", "git ")):
        found = [value[:10] + ("+dirty" if value.endswith("+dirty") else "") if name == "git_sha" else value for value in seen[name]]
        if found:
            yield word + ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    if len(seen["code_hash"]) > 1:
        yield f"{len(seen['code_hash'])} versions of the code: check that they may be compared"
