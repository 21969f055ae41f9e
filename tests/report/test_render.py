"""The reports that people and programs read. Golden files: `pytest tests/report --accept-golden` accepts a change."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from cvkan.report import SweepSummary, render_csv, render_json, render_markdown, render_terminal, summarise

Golden = Callable[[str, str], None]


def terminal(summaries: Sequence[SweepSummary], width: int = 80, show_all: bool = False, colour: bool = False) -> str:
    """What a terminal shows, without the spaces at the ends of lines."""
    file = io.StringIO()
    Console(
        file=file, width=width, force_terminal=colour, color_system="standard" if colour else None, legacy_windows=False, _environ={}
    ).print(render_terminal(summaries, show_all))
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())


def report(build: Any, plan: Any, rows: Any) -> SweepSummary:
    trials, curves = build.tables(plan, rows)
    return summarise(trials, curves, plan)


def rounded(text: str) -> str:
    """Numbers with nine digits: the last ones differ between processors."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.9g}", text)


def many_arms(build: Any, n: int) -> SweepSummary:
    plan = build.plan({"optimizer.lr": [round(0.001 * (k + 1), 3) for k in range(n)]}, [0])
    rows = [build.row(plan, arm, 0, 0.5 + 0.001 * place) for place, arm in enumerate(plan["arms"])]
    return report(build, plan, rows)


def hostile(build: Any, text: str) -> SweepSummary:
    """A sweep in which everything that a user can write is `text`."""
    plan = build.plan(
        {"model.norm": [text, "none"]}, [0, 1], question=text, file=text, command=text, dropped=[{"label": text, "reason": text}]
    )
    plan["claims"] = [{"says": text, "metric": "loss", "better": {"model.norm": text}, "than": {"model.norm": "none"}, "margin": 0.1}]
    rows = [build.row(plan, arm, seed, 0.5, device=text, host=text) for arm in plan["arms"] for seed in [0, 1]]
    rows[0] |= {"status": "failed", "reason": text}
    return report(build, plan, rows)


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_golden(depth_vs_width: Any, golden: Golden, width: int) -> None:
    golden(f"terminal_{width}.txt", terminal([summarise(*depth_vs_width)], width))


def test_loss_golden(depth_vs_width: Any, golden: Golden) -> None:
    trials, curves, plan = depth_vs_width
    golden("terminal_loss.txt", terminal([summarise(trials, curves, plan, metric="loss")], 100))


def test_markdown_golden(depth_vs_width: Any, golden: Golden) -> None:
    golden("report.md", render_markdown([summarise(*depth_vs_width)]))


def test_csv_golden(depth_vs_width: Any, golden: Golden) -> None:
    golden("report.csv", rounded(render_csv([summarise(*depth_vs_width)])))


def test_json_golden(depth_vs_width: Any, golden: Golden) -> None:
    golden("report.json", rounded(render_json([summarise(*depth_vs_width)])))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(depth_vs_width: Any, width: int) -> None:
    summary = summarise(*depth_vs_width)
    text = terminal([summary], width)
    assert max(len(line) for line in text.splitlines()) <= width
    for arm in summary.arms:
        assert f"{100 * arm.figure.mean:.2f} ± {100 * arm.figure.half:.2f}" in text


def test_without_colour_there_are_no_escapes_and_the_words_are_the_same(depth_vs_width: Any) -> None:
    summary = summarise(*depth_vs_width)
    coloured = terminal([summary], colour=True)
    assert "\x1b[" in coloured
    assert "\x1b" not in terminal([summary])


def test_answers_stand_in_order(depth_vs_width: Any) -> None:
    text = terminal([summarise(*depth_vs_width)])
    titles = ["does CV-KAN gain", "60 of 64 trials done · 2 diverged", "Trials without a result", "Best arm", "Claims", "By model", "Arms,"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/red] [link=file:///etc/passwd]y[/link]", "[", "a[/]b", ":smile:"])
def test_markup_of_users_is_shown_as_it_is_written(build: Any, text: str) -> None:
    assert terminal([hostile(build, text)], 200).count(text) >= 6


def test_escape_sequences_do_not_reach_the_terminal(build: Any) -> None:
    summary = hostile(build, "a\x1b]0;owned\x07b\nc")
    assert not {"\x1b", "\x07"} & set(terminal([summary], 200))
    assert not {"\x1b", "\x07"} & set(render_markdown([summary]))


def test_a_single_seed_has_no_interval(build: Any) -> None:
    text = terminal([many_arms(build, 2)], 100)
    assert "50.10" in text and "50.10 ±" not in text
    assert "nan" not in text.lower()


def test_a_sweep_without_any_result_renders(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0, 1])
    plan["claims"] = [{"says": "x", "metric": "loss", "better": {"model.n_layers": 1}, "than": {"model.n_layers": 2}, "margin": 0.0}]
    summary = report(build, plan, [])
    text = terminal([summary])
    assert "0 of 4 trials done · 4 not run" in text
    assert "To train the other 4 trials: cvkan sweep sweeps/example.yaml" in text
    for rendered in (text, render_markdown([summary]), render_csv([summary]), render_json([summary])):
        assert not re.search(r"\bnan\b", rendered, re.IGNORECASE)


def test_more_than_thirty_arms_show_twenty_and_say_so(build: Any) -> None:
    thirty, more = many_arms(build, 30), many_arms(build, 31)
    assert "not shown" not in terminal([thirty]).partition("Arms,")[2]
    short, full = terminal([more]).partition("Arms,")[2], terminal([more], show_all=True).partition("Arms,")[2]
    assert "11 of 31 arms are not shown; --all shows them" in short
    assert "0.031" in short and "0.011 " not in short  # the best arm has the highest learning rate
    assert "0.011 " in full and "not shown" not in full


def test_many_failures_are_cut_with_a_line_and_shown_on_request(build: Any) -> None:
    plan = build.plan({"model.n_layers": list(range(1, 41))}, [0])
    rows = [build.row(plan, arm, 0, None, status="failed", reason=f"error {place}") for place, arm in enumerate(plan["arms"])]
    summary = report(build, plan, rows)
    assert "30 more like these; --all shows them" in terminal([summary])
    assert "error 39" in terminal([summary], show_all=True)


def test_several_sweeps_in_one_report(depth_vs_width: Any, build: Any) -> None:
    summaries = [summarise(*depth_vs_width), many_arms(build, 2)]
    text = terminal(summaries)
    assert text.index("does CV-KAN") < text.index("Is more better?")
    assert len(json.loads(render_json(summaries))["sweeps"]) == 2
    rows = list(csv.DictReader(io.StringIO(render_csv(summaries))))
    assert len(rows) == 10
    assert rows[0]["optimizer.lr"] == "" and rows[9]["optimizer.lr"] == "0.002" and rows[9]["best"] == "true"


def test_csv_keeps_full_precision(depth_vs_width: Any) -> None:
    summary = summarise(*depth_vs_width)
    for row, arm in zip(csv.DictReader(io.StringIO(render_csv([summary]))), summary.arms, strict=True):
        assert (float(row["mean"]), float(row["low"]), float(row["high"])) == arm.figure[:3]
        assert int(row["completed"]) + sum(int(row[flag]) for flag in ("diverged", "out_of_memory", "missing")) == int(row["n_trials"]) == 8


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1"])
def test_csv_cells_are_no_formulas(build: Any, text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv([hostile(build, text)]))))
    assert rows[0]["model.norm"] == f"'{text}"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row.values())


def test_csv_leaves_negative_numbers_alone(build: Any) -> None:
    plan = build.plan({"optimizer.shift": [-1.5]}, [0])
    rows = csv.DictReader(io.StringIO(render_csv([report(build, plan, [build.row(plan, plan["arms"][0], 0, 0.5)])])))
    assert next(rows)["optimizer.shift"] == "-1.5"


def test_markdown_tables_keep_their_columns_whatever_users_write(build: Any) -> None:
    lines = render_markdown([hostile(build, "a|b\n# c <script>")]).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert tables and not any(line.startswith("# ") for line in lines)
    widths = [line.replace("\\|", "").count("|") for line in tables]
    assert {"| --- | --- |".count("|")} <= set(widths) and all("<script>" not in line for line in lines)
    for before, after in itertools.pairwise(lines):
        if before.startswith("|") and after.startswith("|"):
            assert before.replace("\\|", "").count("|") == after.replace("\\|", "").count("|")


def test_markdown_emphasises_nothing_of_a_name(build: Any) -> None:
    text = render_markdown([hostile(build, "_a_ model.n_layers *b*")])
    assert r"\_a\_ model.n_layers \*b\*" in text


def test_json_is_strict_and_holds_the_figures(depth_vs_width: Any) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    summary = summarise(*depth_vs_width)
    sweep = json.loads(render_json([summary]), parse_constant=refuse)["sweeps"][0]
    assert sweep["arms"][3]["figure"]["mean"] == summary.arms[3].figure.mean
    assert sweep["statuses"]["diverged"] == 2
    assert sweep["claims"][0]["difference"]["n"] == 7
    assert sweep["best"]["arm"]["label"] == "n_layers=1 interaction=broadcast"


def test_json_writes_null_where_nothing_is_known(build: Any) -> None:
    arm = json.loads(render_json([many_arms(build, 2)]))["sweeps"][0]["arms"][0]
    assert arm["figure"] == {"mean": 0.5, "low": None, "high": None, "n": 1}


def test_more_than_one_version_of_the_code_is_said_aloud(build: Any) -> None:
    plan = build.plan({"model.n_layers": [1, 2]}, [0])
    rows = [build.row(plan, arm, 0, 0.5, code_hash=arm["label"]) for arm in plan["arms"]]
    assert "2 versions of the code" in terminal([report(build, plan, rows)], 200)
