"""Summaries as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cvkan.orchestrator.stats import Interval
from cvkan.report.grid import FLAGS
from cvkan.report.summary import ArmSummary, Axis, Best, ClaimSummary, SweepSummary
from cvkan.report.words import (
    NOTHING,
    STATUS_WORDS,
    Scale,
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

JSON_SCHEMA = 1
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]<>|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""An underscore inside a word (n_layers) is no emphasis."""


def render_json(summaries: Sequence[SweepSummary]) -> str:
    """Everything in the summaries; what is not known is null."""
    return json.dumps({"schema": JSON_SCHEMA, "sweeps": [_json(summary) for summary in summaries]}, indent=1, allow_nan=False) + "\n"


def _json(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _json(part) for name, part in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render_csv(summaries: Sequence[SweepSummary]) -> str:
    """One row per arm, full precision, for all sweeps alike; the axes of all of them are columns."""
    axes = list(dict.fromkeys(path for summary in summaries for path in summary.axes))
    rows = [_csv_row(summary, arm, axes) for summary in summaries for arm in summary.arms]
    head = ["sweep", "profile", "arm", *axes, "matched", "width", "n_params", "epochs", "metric", "validation_mean", "mean", "low", "high"]
    head += ["n_seeds", "n_trials", *FLAGS, "median_seconds", "best"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_csv_cell(cell) for cell in row] for row in [head, *rows]])
    return text.getvalue()


def _csv_row(summary: SweepSummary, arm: ArmSummary, axes: Sequence[str]) -> list[Any]:
    flags = {"completed": arm.n_trials - sum(arm.flags.values()), **arm.flags}
    values = [arm.values.get(path) for path in axes]
    figures = [arm.validation, arm.figure.mean, arm.figure.low, arm.figure.high, arm.figure.n, arm.n_trials]
    counts = [flags.get(flag, 0) for flag in FLAGS]
    best = summary.best is not None and summary.best.arm.arm == arm.arm
    names = [summary.name, summary.profile, arm.label, *values, *(arm.matched or (None, None)), arm.n_params, arm.epochs]
    return [*names, summary.metric.column, *figures, *counts, arm.seconds, best]


def _csv_cell(cell: Any) -> str:
    """A string that a spreadsheet would take for a formula gets a leading '."""
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    return str(cell).lower() if isinstance(cell, bool) else repr(cell)


def render_markdown(summaries: Sequence[SweepSummary]) -> str:
    """The terminal's report as GitHub-flavoured Markdown, with every arm and every failure."""
    return "\n".join(line for summary in summaries for line in [*_markdown(summary), ""])


def _markdown(summary: SweepSummary) -> list[str]:
    scale = scale_of(summary.metric, [arm.figure.mean for arm in summary.arms])
    name = f"{summary.name}@{summary.profile}" if summary.profile else summary.name
    lines = [f"## {_escaped(summary.question or name)}", "", _state(summary, name), ""]
    if summary.failures:
        rows = [[item.arm, str(item.seed), STATUS_WORDS[item.status], item.reason, item.log] for item in summary.failures]
        lines += ["### Trials without a result", "", *_table(["arm", "seed", "status", "reason", "log"], "lrlll", rows), ""]
    if summary.dropped:
        lines += ["### Arms not trained", "", *_table(["arm", "reason"], "ll", [[arm.label, arm.reason] for arm in summary.dropped]), ""]
    if summary.best is not None:
        lines += ["### Best arm", "", _best(summary.best, summary, scale), ""]
    if summary.claims:
        lines += ["### Claims", ""]
        for claim in summary.claims:
            lines += [*_claim(claim), ""]
    for axis in summary.tables:
        title = " and ".join(_escaped(path) for path in axis.paths)
        lines += [f"### By {title}", "", *_axis(axis, summary, scale), ""]
    return [*lines, "### Arms", "", *_arms(summary, scale), "", *_notes(summary)]


def _escaped(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\g<0>", plain(text))


def _table(head: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """`alignment` has an l or r for each column. Cells are escaped here."""
    lines = [[_escaped(cell) for cell in row] for row in (head, *rows)]
    marks = ["---:" if mark == "r" else "---" for mark in alignment]
    return [f"| {' | '.join(cells)} |" for cells in (lines[0], marks, *lines[1:])]


def _state(summary: SweepSummary, name: str) -> str:
    others = counts_words({status: count for status, count in summary.statuses.items() if status != "completed"})
    parts = [f"**{summary.n_done:,} of {number_of(summary.n_trials, 'trial')} done**", *others, trial_time(summary.trial_hours)]
    parts += [_escaped(name), _escaped(summary.file)]
    if summary.earlier_rows:
        parts.append(f"{number_of(summary.earlier_rows, 'row')} of earlier settings not shown")
    return " · ".join(parts)


def _best(best: Best, summary: SweepSummary, scale: Scale) -> str:
    arm, metric = best.arm, summary.metric
    figure = f"{metric_words(metric)} {scale.interval(arm.figure)}{scale.unit}, {arm.figure.n} of {number_of(len(summary.seeds), 'seed')}"
    chosen = f"chosen from {number_of(best.n_arms, 'arm')} by mean {selection_words(metric)}, {scale.number(arm.validation)}{scale.unit}"
    notes = f"; {', '.join(counts_words(arm.flags))}" if arm.flags else ""
    return f"**{_escaped(arm.label)}**: {figure}{notes} ({chosen})"


def _claim(claim: ClaimSummary) -> list[str]:
    sides = (claim.better, claim.than)
    scale = scale_of(claim.metric, [side.figure.mean for side in sides])
    rows = [[values_words(side.values), f"{scale.interval(side.figure)}{scale.unit}", str(side.figure.n)] for side in sides]
    mark = "*" if claim.incomplete else ""
    unit = scale.points if claim.difference.n else ""
    rows.append(["difference", f"{scale.interval(claim.difference, sign=True)}{unit}{mark}", str(claim.difference.n)])
    margin = f" Margin: {scale.number(claim.margin)}{scale.points}." if claim.margin else ""
    better = "higher" if claim.metric.direction == "max" else "lower"
    about = f"*{_escaped(claim.says)}*: paired over seeds, {better} is better.{margin}"
    return [about, "", *_table(["", metric_words(claim.metric), "seeds"], "lrr", rows)]


def _axis(axis: Axis, summary: SweepSummary, scale: Scale) -> list[str]:
    rows = []
    for value in axis.values:
        marks = ("*" if value.incomplete else "") + ("†" if value.unbalanced else "")
        words = [value_word(word) for word in value.values]
        counts = ", ".join(counts_words(value.flags))
        rows.append([*words, scale.interval(value.figure) + marks, str(value.figure.n), str(value.n_arms), counts])
    head = [*short_names(axis.paths), f"{metric_words(summary.metric)}{scale.unit}", "seeds", "arms", "not completed"]
    return _table(head, "l" * len(axis.paths) + "rrrl", rows)


def _arms(summary: SweepSummary, scale: Scale) -> list[str]:
    unit, seconds = time_unit(arm.seconds for arm in summary.arms)
    rows = []
    for arm in summary.arms:
        width = f"{short_names([arm.matched[0]])[0]}={arm.matched[1]}" if arm.matched else ""
        epochs = NOTHING if arm.epochs is None else f"{arm.epochs:g}"
        time = NOTHING if arm.seconds is None else f"{arm.seconds / seconds:.1f}"
        figures = [scale.number(arm.validation), scale.interval(arm.figure) + ("*" if arm.incomplete else "")]
        counts = ", ".join(counts_words(arm.flags))
        rows.append([arm.label, width, f"{arm.n_params:,}", epochs, *figures, str(arm.figure.n), time, counts])
    head = ["arm", "width", "params", "epochs", f"validation{scale.unit}", f"{metric_words(summary.metric)}{scale.unit}", "seeds"]
    return _table([*head, f"median {unit}", "not completed"], "lrrrrrrrl", rows)


def _notes(summary: SweepSummary) -> list[str]:
    values = [value for axis in summary.tables for value in axis.values]
    lines = ["± is half a Student-t 95 % interval over seeds (one seed alone has none)."]
    if any(arm.incomplete for arm in summary.arms) or any(claim.incomplete for claim in summary.claims):
        lines.append("\\* Some planned trials have no figure (yet, or ever): this mean may flatter.")
    if any(value.unbalanced for value in values):
        lines.append("† Over other arms than the rest of its axis (some left out): not like for like.")
    return ["  \n".join(lines)]
