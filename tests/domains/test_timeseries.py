"""Series: the real ETTh1, generated ones, and CSV files that are damaged or asked for in the wrong way."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cvkan.domains.cached import DataSettings
from cvkan.domains.timeseries import ETT_CHANNELS, TIMESERIES, CsvSettings, ETTh1Settings, ETTm1Settings, SeasonalSettings
from cvkan.errors import DataError, UserError
from cvkan.orchestrator.load import parse
from cvkan.orchestrator.plan import make_plan
from cvkan.orchestrator.run import cached_hash
from cvkan.orchestrator.sweep import sweep_from

STEPS = 100


def rows(n: int = STEPS) -> list[list[str]]:
    """A table with a date, a rising channel, a constant one, a column of words and a small one."""
    return [["date", "up", "flat", "place", "small"]] + [
        [f"2020-01-{1 + hour // 24:02} {hour % 24:02}:00", str(hour), "0.1", "cellar", str((hour % 7) / 1e6)] for hour in range(n)
    ]


def save(folder: Path, table: list[list[str]]) -> Path:
    path = folder / "mine.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return path


def mine(path: Path, **options: Any) -> CsvSettings:
    return CsvSettings.model_validate({"name": "csv", "file": str(path), "lookback": 4, "horizon": 3, **options})


def message(settings: DataSettings, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        TIMESERIES.load(settings, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The parts and their windows.


def test_etth1_has_the_conventional_parts(sample_root: Path, cache_dir: Path) -> None:
    data = TIMESERIES.load(ETTh1Settings(root=str(sample_root)), cache_dir)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8449, 2785, 2785]
    assert data.task == TIMESERIES.task(ETTh1Settings())
    assert (data.task.shape, data.task.horizon, data.task.n_outputs, data.task.metric, data.task.direction) == (
        (96, 7),
        96,
        7,
        "mse",
        "min",
    )
    with open(sample_root / "ETT-small" / "ETTh1.csv", newline="", encoding="utf-8") as file:
        raw = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=np.float64)
    scaled = torch.from_numpy((raw - raw[:8640].mean(0)) / raw[:8640].std(0)).float()
    for part, start in ((data.train, 0), (data.validation, 8640 - 96), (data.test, 11520 - 96)):
        for window in (0, 17, len(part) - 1):
            at = start + window
            assert torch.allclose(part.x[window], scaled[at : at + 96], atol=1e-6)
            assert torch.allclose(part.y[window], scaled[at + 96 : at + 192], atol=1e-6)
    # The last step that any training target shows is the last of the training part; validation targets start right after it.
    assert torch.allclose(data.train.y[-1, -1], scaled[8639], atol=1e-6) and torch.allclose(
        data.validation.y[0, 0], scaled[8640], atol=1e-6
    )
    assert torch.allclose(data.test.y[-1, -1], scaled[14399], atol=1e-6)
    repeated = (data.test.y - data.test.x[:, -1:]).square().mean()
    assert 1.25 < repeated < 1.35, "repeating the last step has a published error of about 1.29"


def test_windows_share_the_memory_of_one_series(tmp_path: Path) -> None:
    data = TIMESERIES.load(SeasonalSettings(lookback=300, horizon=30), tmp_path)
    assert len({part.untyped_storage().data_ptr() for part in (data.train.x, data.train.y, data.test.x, data.test.y)}) == 1
    assert data.train.x.untyped_storage().nbytes() == 4000 * 7 * 4
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.npy")) < 4000 * 7 * 4 + 1000


def test_how_windows_are_cut_decodes_nothing_again(tmp_path: Path) -> None:
    first = TIMESERIES.prepare(SeasonalSettings(), tmp_path)
    assert TIMESERIES.prepare(SeasonalSettings(lookback=48, horizon=12, stride=5, n_train=9, reversible=True), tmp_path) == first
    assert TIMESERIES.prepare(SeasonalSettings(validation=0.2), tmp_path) != first


def test_stride_and_n_train_keep_the_latest_training_windows(tmp_path: Path) -> None:
    whole, fewer = (TIMESERIES.load(settings, tmp_path) for settings in (SeasonalSettings(), SeasonalSettings(stride=24, n_train=10)))
    kept = torch.arange(len(whole.train) - 1 - 9 * 24, len(whole.train), 24)
    assert torch.equal(fewer.train.x, whole.train.x[kept]) and torch.equal(fewer.train.y, whole.train.y[kept])
    every = TIMESERIES.load(SeasonalSettings(stride=24), tmp_path)
    assert len(every.train) == -(-len(whole.train) // 24)
    for part in ("validation", "test"):
        assert torch.equal(getattr(fewer, part).x, getattr(whole, part).x)


def test_parts_follow_each_other_without_gap_or_overlap(tmp_path: Path) -> None:
    data = TIMESERIES.load(mine(save(tmp_path, rows()), columns=["up"], validation=0.3, test=0.3), tmp_path)
    moments = TIMESERIES._entry(mine(tmp_path / "mine.csv", columns=["up"], validation=0.3, test=0.3), tmp_path).about
    hours = [
        torch.unique((part.y * moments["std"][0] + moments["mean"][0]).round()).int().tolist()
        for part in (data.train, data.validation, data.test)
    ]
    assert hours == [list(range(4, 40)), list(range(40, 70)), list(range(70, 100))]


def test_only_the_training_part_sets_the_scale(tmp_path: Path) -> None:
    table = rows()
    data = TIMESERIES.load(mine(save(tmp_path, table)), tmp_path)
    for row in table[71:]:
        row[1] = str(1000 * float(row[1]))
    again = TIMESERIES.load(mine(save(tmp_path, table)), tmp_path / "other")
    assert torch.equal(data.train.x, again.train.x) and not torch.equal(data.test.y, again.test.y)
    assert data.hash != again.hash


def test_a_constant_channel_is_only_centred(tmp_path: Path) -> None:
    table = rows()
    table[-1][2] = "2.1"
    data = TIMESERIES.load(mine(save(tmp_path, table)), tmp_path)
    assert data.train.x[..., 1].abs().max() < 1e-6
    assert data.test.y[-1, -1, 1].item() == pytest.approx(2.0)
    assert data.train.x[..., 2].std() == pytest.approx(1, abs=0.1), "small values are no constant"


def test_all_columns_of_numbers_but_the_date_are_channels(tmp_path: Path) -> None:
    path = save(tmp_path, rows())
    assert TIMESERIES.task(mine(path)).n_outputs == 3
    assert TIMESERIES.task(mine(path, columns=["small", "up"])).n_outputs == 2
    swapped, straight = (TIMESERIES.load(mine(path, columns=columns), tmp_path).train.x for columns in (["small", "up"], ["up", "small"]))
    assert torch.equal(swapped, straight.flip(-1))


def test_dates_may_be_written_in_several_ways(tmp_path: Path) -> None:
    table = rows(60)
    for hour, row in enumerate(table[1:]):
        row[0] = f"1990/{1 + hour // 28}/{1 + hour % 28} 0:00"
    assert len(TIMESERIES.load(mine(save(tmp_path, table)), tmp_path).train)
    for hour, row in enumerate(table[1:]):
        row[0] = str(1_600_000_000 + 3600 * hour)
    assert len(TIMESERIES.load(mine(save(tmp_path, table)), tmp_path / "numbers").train)


def test_a_byte_order_mark_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, rows())
    plain = TIMESERIES.load(mine(path), tmp_path)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8").replace("\n", "\n\n") + "\n", encoding="utf-8")
    assert TIMESERIES.load(mine(path), tmp_path / "other").hash == plain.hash


# The generated series.


def test_the_seed_sets_the_generated_series(tmp_path: Path) -> None:
    first, again, other = (
        TIMESERIES.load(SeasonalSettings(data_seed=seed), tmp_path / place).hash for seed, place in ((1, "a"), (1, "b"), (2, "a"))
    )
    assert first == again != other


def test_the_generated_series_has_a_day_a_week_and_levels_that_move(tmp_path: Path) -> None:
    series = np.load(next(TIMESERIES.prepare(SeasonalSettings(), tmp_path).glob("*.npy")))
    spectrum = np.abs(np.fft.rfft(series[: 168 * 23] - series[: 168 * 23].mean(0), axis=0)) ** 2
    spectrum[:10] = 0  # levels and trend
    share = spectrum / spectrum.sum(0)
    assert (share[23] + share[23 * 7] > 0.2).all(), "a period of 168 and one of 24 steps"
    days = series[: 24 * 160].reshape(-1, 24, 7).mean(1)
    assert (np.abs(days[:20].mean(0) - days[-20:].mean(0)) > 0.3).any()


def test_check_tells_what_the_parts_are(tmp_path: Path) -> None:
    text = "\n".join(TIMESERIES.check(mine(save(tmp_path, rows())), tmp_path))
    assert "training part: up 34.5 20.21, flat 0.1 0, small" in text and "from 2020-01-01 00:00 to 2020-01-05 03:00" in text
    assert "left out, as no number stands in them: 'place'" in text
    assert "train: 70 steps, 64 windows of 4 and 3 steps" in text
    assert "validation: 10 steps, 8 windows" in text and "test: 20 steps, 18 windows" in text


# What is wrong is told in one line.


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    text = message(ETTm1Settings(root=str(tmp_path / "no")), tmp_path)
    assert text.startswith(f"{tmp_path / 'no' / 'ETT-small' / 'ETTm1.csv'} not found") and "data.root" in text
    with pytest.raises(DataError, match=r"no\.csv: cannot be read: No such file.*"):
        TIMESERIES.task(mine(tmp_path / "no.csv"))
    assert "cannot be read: Is a directory" in message(mine(tmp_path), tmp_path)


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = save(tmp_path, rows())
    assert message(mine(path, columns=["up", "smal"]), tmp_path) == f"data.columns: {path}:1: no column 'smal'; did you mean 'small'?"
    assert "data.date: " in (text := message(mine(path, date="Date"), tmp_path)) and "did you mean 'date'?" in text
    assert "the file has 'date', 'up', 'flat'" in message(mine(path, columns=["zzz"]), tmp_path)


@pytest.mark.parametrize(
    ("row", "column", "cell", "expected"),
    [
        (5, 1, "abc", "column 'up': 'abc' is no number"),
        (5, 1, "1,5", "column 'up': '1,5' is no number"),
        (7, 4, "", "column 'small': empty cell"),
        (7, 4, "  ", "column 'small': empty cell"),
        (8, 1, "NaN", "column 'up': nan is no finite number"),
        (8, 1, "-inf", "column 'up': -inf is no finite number"),
        (8, 1, "1e300", "column 'up': 1e+300 is too large"),
        (9, 0, "2020-01-01 00:00", "column 'date': 2020-01-01 00:00 does not follow 2020-01-01 07:00"),
        (9, 0, "2020-01-01 07:00", "column 'date': 2020-01-01 07:00 occurs twice"),
        (9, 0, "31.12.2020", "column 'date': '31.12.2020' is no date; expected one such as 2016-07-01 02:00:00"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(tmp_path: Path, row: int, column: int, cell: str, expected: str) -> None:
    table = rows()
    table[row][column] = cell
    path = save(tmp_path, table)
    assert message(mine(path), tmp_path).startswith(f"{path}:{row + 1}: {expected}")


def test_an_empty_cell_in_the_first_row_is_told_and_not_left_out(tmp_path: Path) -> None:
    table = rows()
    table[1][4] = ""
    assert "mine.csv:2: column 'small': empty cell" in message(mine(save(tmp_path, table)), tmp_path)


@pytest.mark.parametrize(
    ("cell", "shown"), [("NA", "'NA'"), ("", "empty cell"), ("n\0", r"'n\x00'"), ("x" * 90, f"'{'x' * 40}...'"), ("1,5", "point before")]
)
def test_a_channel_whose_first_cell_is_no_number_is_told_and_not_left_out(tmp_path: Path, cell: str, shown: str) -> None:
    table = rows()
    table[1][4] = cell
    text = message(mine(save(tmp_path, table)), tmp_path)
    assert "mine.csv:2: column 'small': " in text and shown in text and "set data.columns to leave the column out" in text
    assert TIMESERIES.load(mine(tmp_path / "mine.csv", columns=["up"]), tmp_path).task.n_outputs == 1


@pytest.mark.parametrize("cell", ["1,5", "1,000", "1.000,5", "1 000", "7\0"])
def test_a_channel_of_numbers_in_another_style_is_told_and_not_left_out(tmp_path: Path, cell: str) -> None:
    table = [[*row[:4], cell] if hour else row for hour, row in enumerate(rows())]
    assert "mine.csv:2: column 'small': " in message(mine(save(tmp_path, table)), tmp_path)


def test_a_file_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert "pipe.csv is no regular file" in message(mine(tmp_path / "pipe.csv"), tmp_path)
    assert "/dev/zero is no regular file" in message(mine(Path("/dev/zero")), tmp_path)


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x.csv", "a\0b", "x" * 5000])
def test_what_can_be_no_path_is_refused(tmp_path: Path, text: str) -> None:
    assert message(CsvSettings(file=text), tmp_path).startswith("data.file: ")
    assert message(ETTh1Settings(root=text), tmp_path).startswith("data.root: ")
    assert message(ETTh1Settings(root=""), tmp_path) == "data.root: empty; a path expected"


def test_a_channel_that_varies_by_less_than_float32_can_tell_is_only_centred(tmp_path: Path) -> None:
    table = rows()
    for hour, row in enumerate(table[1:]):
        row[4] = str(1e-200 * (hour % 2))
    assert not TIMESERIES.load(mine(save(tmp_path, table)), tmp_path).train.x[..., 2].any()


def test_a_channel_that_scaling_makes_too_large_is_named(tmp_path: Path) -> None:
    table = rows()
    table[-1][4] = "3e38"
    text = message(mine(save(tmp_path, table)), tmp_path)
    assert "channel 'small': step 100 is 1.5e+44 deviations of the training part from its mean, more than float32 can hold" in text


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    table = rows()
    table[0][1] = "up\n\x1b[31m"
    lines = TIMESERIES.check(mine(save(tmp_path, table)), tmp_path)
    assert all(line.isprintable() for line in lines) and any(r"up\n\x1b[31m 34.5" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty; expected a first line"),
        ("date,up\n", "no column with a number"),
        ("date;up\n1;2\n", "cells must be separated by commas"),
        ("date|up\n1|2\n", "cells must be separated by commas"),
        ("date  up\n1  2\n", "cells must be separated by commas"),
        (f"{'x' * 90};up\n1;2\n", f"one column, '{'x' * 40}...'"),
        ("date,up,up\n1,2,3\n", "two columns are called 'up'"),
        ("date,up\n1,2\n2\n", "mine.csv:3: 1 cell, 2 expected"),
        ("date,up\n1,2\n2,3,4\n", "mine.csv:3: 3 cells, 2 expected"),
        ("date,up\nx,y\n", "no column with a number"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    assert expected in message(mine(path), tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(b"date,up\n1,\xff\xfe\n")
    assert "no text in UTF-8" in message(mine(path), tmp_path)


def test_a_series_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("date,up\n", encoding="utf-8")
    assert "no rows below the names" in message(mine(path, columns=["up"]), tmp_path)


def test_a_part_too_short_for_a_window_tells_both_numbers(tmp_path: Path) -> None:
    path = save(tmp_path, rows())
    text = message(mine(path, lookback=60, horizon=20), tmp_path)
    assert text.startswith("data.lookback: the training part has 70 of the 100 steps") and "needs 80 (lookback 60 and horizon 20)" in text
    assert "data.horizon: the validation part has 10 of the 100 steps" in message(mine(path, horizon=11), tmp_path)
    assert "data.horizon: the test part has 5 of" in message(mine(path, horizon=7, test=0.05), tmp_path)
    assert "data.n_train: 65 asked, but the training part has 64 windows" in message(mine(path, n_train=65), tmp_path)
    assert len(TIMESERIES.load(mine(path, n_train=64, horizon=3), tmp_path).train) == 64
    tiny = save(tmp_path, rows(3))
    assert "the training part has 2 of the 3 steps" in message(mine(tiny), tmp_path)


def test_a_truncated_ett_file_is_refused(sample_root: Path, tmp_path: Path) -> None:
    (tmp_path / "ETT-small").mkdir()
    cut = tmp_path / "ETT-small" / "ETTh1.csv"
    shutil.copy(sample_root / "ETT-small" / "ETTh1.csv", cut)
    lines = cut.read_text(encoding="utf-8").splitlines(keepends=True)
    cut.write_text("".join(lines[:9001]), encoding="utf-8")
    assert "9,000 rows, at least 14,400 expected" in message(ETTh1Settings(root=str(tmp_path)), tmp_path)
    cut.write_text("".join([lines[0].replace("MULL", "MUL"), *lines[1:]]), encoding="utf-8")
    assert "ETTh1.csv:1: no column 'MULL'; did you mean 'MUL'?" in message(ETTh1Settings(root=str(tmp_path)), tmp_path)
    assert lines[0].strip().split(",") == ["date", *ETT_CHANNELS]


def test_fractions_that_leave_nothing_and_columns_named_twice_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"validation 0\.5 and data\.test 0\.5 leave no training part"):
        SeasonalSettings(validation=0.5, test=0.5)
    with pytest.raises(ValidationError, match="'a' occurs twice"):
        CsvSettings(file="x.csv", columns=["a", "b", "a"])


def test_a_sweep_names_the_line_of_the_setting(tmp_path: Path) -> None:
    text = (
        f"name: x\ntrial:\n  domain: timeseries\n  model: {{name: nlinear}}\n  data:\n    name: csv\n    file: {save(tmp_path, rows())}\n"
    )
    for line, expected in (
        ("    lookback: 90\n", r"x\.yaml:8: data\.lookback: the training part has 70"),
        ("    lookback: 4\n    horizon: 4\n    columns: [up, smal]\n", r"x\.yaml:10: data\.columns: .*did you mean 'small'"),
        ("    validation: 0.9\n", r"x\.yaml:8: data\.validation: 0\.9 and data\.test 0\.2 leave no training part"),
        ("    seq_len: 9\n", r"x\.yaml:8: data\.seq_len: unknown setting; did you mean lookback\?"),
    ):
        with pytest.raises(UserError, match=expected):
            make_plan(sweep_from(parse(text + line, "x.yaml"), "x.yaml"), cached_hash(tmp_path))
