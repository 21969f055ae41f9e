"""The ledger keeps every row once, survives what a crash leaves behind, and opens in other people's tools."""

from __future__ import annotations

import json
import multiprocessing
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvkan.errors import UserError
from cvkan.orchestrator.ledger import CORE, HEAD, TAIL, Ledger, Row, axis_type, find

VALUES: dict[str, Any] = {
    "sweep": "s", "arm": '{"model.n_layers":2}', "seed": 0, "status": "completed", "reason": None, "n_params": 10, "flops": 20,
    "epochs": 1, "steps": 5, "best_epoch": 1, "seconds": 1.5, "seconds_train": 1.0, "seconds_eval": 0.1, "peak_memory_mb": 100.0,
    "pack_size": 1, "attempts": 1, "cvkan_version": "0", "git_sha": None, "git_dirty": None, "code_hash": "c", "data_hash": "d",
    "torch": "2", "device": "cpu", "host": "h", "started_utc": datetime(2026, 1, 2), "config": "{}",
}  # fmt: skip


def row(key: str, axes: dict[str, Any] | None = None, accuracy: float = 0.5, **changes: Any) -> Row:
    curve = [{"epoch": 1, "step": 5, "split": "val", "metric": "accuracy", "value": accuracy}]
    return Row({"key": key, **VALUES, **changes}, axes or {"model.n_layers": 2}, {"test_accuracy": accuracy}, curve)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    (tmp_path / "s" / "parts").mkdir(parents=True)
    return Ledger(tmp_path / "s")


def test_every_fixed_column_is_there_in_order(ledger: Ledger) -> None:
    ledger.append([row("a")])
    ledger.merge()
    names = pq.read_schema(ledger.folder / "trials.parquet").names
    assert names == [*HEAD, "model.n_layers", *CORE, "test_accuracy", *TAIL]


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1)), min_size=1, max_size=4), max_size=6), st.booleans())
def test_the_newest_row_of_each_key_wins_with_its_own_curve(batches: list[list[tuple[str, float]]], merge: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        expected: dict[str, float] = {}
        for batch in batches:
            unique = dict(batch)
            ledger.append([row(key, accuracy=value) for key, value in unique.items()])
            expected |= unique
            if merge:
                ledger.merge()
        trials, curves = ledger.tables()
        found = trials["test_accuracy"].to_pylist() if expected else []
        assert dict(zip(trials["key"].to_pylist(), found, strict=True)) == expected
        assert trials["key"].to_pylist() == sorted(expected)
        assert dict(zip(curves["key"].to_pylist(), curves["value"].to_pylist(), strict=True)) == expected
        assert len(curves) == len(expected)


def test_merged_files_do_not_depend_on_how_the_rows_arrived(tmp_path: Path) -> None:
    contents = []
    for place, order in enumerate((["a", "b", "c"], ["c", "a", "b"])):
        ledger = Ledger(tmp_path / str(place))
        for key in order:
            ledger.append([row(key)])
        ledger.merge()
        contents.append([(ledger.folder / name).read_bytes() for name in ("trials.parquet", "curves.parquet")])
        assert list((ledger.folder / "parts").iterdir()) == []
    assert contents[0] == contents[1]


def test_a_new_axis_and_a_changed_type_do_not_lose_rows(ledger: Ledger) -> None:
    ledger.append([row("a", {"model.n_layers": 2})])
    ledger.append([row("b", {"model.n_layers": 2.5, "model.norm": "rms"})])
    ledger.append([row("c", {"model.n_layers": "deep"})])
    trials = ledger.trials()
    assert trials["model.n_layers"].to_pylist() == ["2", "2.5", "deep"]
    assert trials["model.norm"].to_pylist() == [None, "rms", None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], pa.int64()), ([1, 0.5], pa.float64()), (["none", "rms"], pa.string()), ([True, False], pa.bool_()),
        ([1, "auto"], pa.string()), ([True, 2], pa.string()), ([None, 1], pa.int64()),
    ],
)  # fmt: skip
def test_axis_columns_are_typed(values: list[Any], kind: pa.DataType) -> None:
    assert axis_type(values) == kind


def test_pandas_polars_and_duckdb_open_it(ledger: Ledger) -> None:
    ledger.append([row("a"), row("b", status="failed", reason="boom")])
    ledger.merge()
    path = str(ledger.folder / "trials.parquet")
    assert list(pd.read_parquet(path)["status"]) == ["completed", "failed"]
    assert pl.read_parquet(path).filter(pl.col("status") == "failed")["reason"].to_list() == ["boom"]
    found = duckdb.sql(f"select \"model.n_layers\", started_utc from '{path}' where status = 'completed'").fetchall()
    assert found == [(2, datetime(2026, 1, 2))]
    metadata = pq.read_metadata(path)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.metadata[b"cvkan.schema"] == b"1"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_part_is_named_and_the_rest_is_kept(ledger: Ledger, damage: str) -> None:
    ledger.append([row("a")])
    ledger.append([row("b")])
    path = ledger.folder / "parts" / "000002.trials"
    content = path.read_bytes()
    path.write_bytes({"truncate": content[:-20], "empty": b"", "flip": b"\0" * 16 + content[16:-16] + b"\0" * 16}[damage])
    assert ledger.statuses() == {"a": "completed"}
    assert ledger.damaged == [str(path)]
    damaged = path.read_bytes()
    ledger.merge()
    assert path.with_name("000002.trials.damaged").read_bytes() == damaged
    assert Ledger(ledger.folder).trials()["key"].to_pylist() == ["a"]


def test_damaged_curves_are_put_aside_and_the_trials_stay(ledger: Ledger) -> None:
    ledger.append([row("a"), row("b")])
    ledger.merge()
    path = ledger.folder / "curves.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    ledger.append([row("c")])
    ledger.merge()
    trials, curves = Ledger(ledger.folder).tables()
    assert trials["key"].to_pylist() == ["a", "b", "c"]
    assert curves["key"].to_pylist() == ["c"]
    assert ledger.damaged == [str(path)]
    assert path.with_name("curves.parquet.damaged").exists()


def test_a_reader_does_not_mind_a_merge_under_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append([row("a")])
    ledger.append([row("b")])
    reader = Ledger(ledger.folder)
    listed = reader._parts()
    answers = iter([listed])
    ledger.merge()
    monkeypatch.setattr(Ledger, "_parts", lambda self: next(answers, []))
    assert reader.statuses() == {"a": "completed", "b": "completed"}
    assert reader.damaged == []


@pytest.mark.parametrize("batches", [[["a", "b"]], [["a"], ["b"]], [["b"], ["a"]]])
def test_a_null_on_an_axis_keeps_its_type(tmp_path: Path, batches: list[list[str]]) -> None:
    ledger = Ledger(tmp_path)
    for keys in batches:
        ledger.append([row(key, {"train.patience": None if key == "a" else 5}) for key in keys])
    ledger.merge()
    column = pq.read_table(tmp_path / "trials.parquet")["train.patience"]
    assert column.type == pa.int64()
    assert column.to_pylist() == [None, 5]


def test_a_damaged_part_does_not_stop_new_rows(ledger: Ledger) -> None:
    ledger.append([row("a")])
    (ledger.folder / "parts" / "000001.trials").write_bytes(b"PAR1")
    ledger.append([row("b")])
    assert ledger.statuses() == {"b": "completed"}


def test_what_a_crash_between_the_two_files_of_a_part_leaves_is_no_row(ledger: Ledger) -> None:
    ledger.append([row("a")])
    ledger.append([row("b")])
    (ledger.folder / "parts" / "000002.trials").unlink()
    (ledger.folder / "parts" / ".000003.trials.123").write_bytes(b"half")
    trials, curves = ledger.tables()
    assert trials["key"].to_pylist() == ["a"]
    assert curves["key"].to_pylist() == ["a"]


def test_a_crash_in_the_middle_of_a_merge_loses_and_doubles_nothing(ledger: Ledger) -> None:
    ledger.append([row("a", accuracy=0.1)])
    ledger.merge()
    ledger.append([row("a", accuracy=0.2), row("b")])
    parts = {path: path.read_bytes() for path in (ledger.folder / "parts").iterdir()}
    ledger.merge()
    for path, content in parts.items():
        path.write_bytes(content)
    trials, curves = ledger.tables()
    assert trials["test_accuracy"].to_pylist() == [0.2, 0.5]
    assert curves["value"].to_pylist() == [0.2, 0.5]


def test_many_small_parts_are_merged_on_the_way(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvkan.orchestrator.ledger.MERGE_PARTS", 10)
    for number in range(35):
        ledger.append([row(f"{number:03d}")])
    assert len(list((ledger.folder / "parts").iterdir())) < 20
    assert len(ledger.trials()) == 35


def test_a_newer_schema_is_refused(ledger: Ledger) -> None:
    table = pa.table({"key": ["a"]}).replace_schema_metadata({"cvkan.schema": "99"})
    pq.write_table(table, ledger.folder / "trials.parquet")
    with pytest.raises(UserError, match=r"trials\.parquet: has schema 99"):
        ledger.trials()
    (ledger.folder / "plan.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match=r"plan\.json: has schema 99"):
        ledger.read_plan()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "x"}', "\x00"])
def test_a_broken_plan_is_named(ledger: Ledger, text: str) -> None:
    (ledger.folder / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json"):
        ledger.read_plan()


def _hold(folder: Path, held: Any, leave: Any) -> None:
    with Ledger(folder).writing():
        held.set()
        leave.wait(30)


def test_a_second_driver_is_refused_and_a_dead_one_is_not_waited_for(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(ledger.folder, held, leave))
    process.start()
    assert held.wait(60)
    with pytest.raises(UserError, match="another cvkan is running this sweep"), ledger.writing():
        pass
    process.kill()
    process.join()
    with ledger.writing():
        pass


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), Ledger(tmp_path / "file" / "s").writing():
        pass


def test_find(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(UserError, match="holds no results yet"):
        find(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find(tmp_path / "nowhere")
    ledger.write_plan({"schema": 1})
    assert [found.folder for found in find(tmp_path)] == [ledger.folder]
    assert [found.folder for found in find(ledger.folder)] == [ledger.folder]


def test_opening_changes_nothing(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "new").statuses() == {}
    assert not (tmp_path / "new").exists()
