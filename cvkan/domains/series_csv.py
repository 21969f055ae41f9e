"""Series in CSV files: one row a step, one column a channel, commas between cells, names in the first line.

Every mistake is a DataError of one line that names the file, its line and the column.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvkan.domains.paths import check_regular, listed, shortened
from cvkan.errors import DataError, nearest

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that float32 holds."""

Row = tuple[int, list[str]]
"""The number of a row's last line, and its cells."""


@dataclass(frozen=True)
class Table:
    """The content of a file."""

    values: NDArray[np.float64]
    """(steps, columns), finite."""
    span: tuple[str, str] | None
    """First and last date as they are written; None without a column of dates."""


def header(path: Path) -> tuple[list[str], list[str]]:
    """The names of all columns, and the cells of the first row; reads no further. Raises DataError."""
    with _rows(path) as rows:
        names, cells = _names(path, rows), next(rows, (0, []))[1]
    if len(names) == len(cells) == 1 and len(names[0].split()) > 1 and len(cells[0].split()) > 1:
        raise _one_column(path, names[0])
    return names, cells


def numeric(path: Path, date: str | None) -> tuple[list[str], list[str]]:
    """The columns other than `date` in which a number stands, and those in which none does, as a column of words.

    Reads until each column has shown a number. One that is written in another way (1,5) counts: `read` names it, where the column would
    else be left out unseen. Raises DataError.
    """
    with _rows(path) as rows:
        names = _names(path, rows)
        words = {place for place, name in enumerate(names) if name != date}
        for _, cells in rows:
            words -= {place for place in words if place < len(cells) and _is_number(re.sub(r"[,'%\s\0]", "", cells[place]))}
            if not words:
                break
    numbers = [name for place, name in enumerate(names) if place not in words and name != date]
    return numbers, [names[place] for place in sorted(words)]


def near(name: str, names: list[str]) -> str:
    """ "did you mean 'OT'?", or the columns that there are."""
    found = nearest(name, names)
    return f"did you mean {found!r}?" if found else f"the file has {listed(names)}"


def read(path: Path, date: str | None, columns: list[str], remedy: str, limit: int | None = None) -> Table:
    """The columns as numbers, in the order asked. `date`: a column whose values must rise from row to row; None asks for no order.
    `remedy`: what may be done about a cell that is no number. `limit`: read no more rows than this.

    DataError where a cell is empty or no finite number, a row has another number of cells, a date is unreadable or does not rise.
    """
    lines, values, span = array("q"), array("d"), None
    with _rows(path) as rows:
        names = _names(path, rows)
        places = [names.index(name) for name in columns]
        at_date = names.index(date) if date is not None else None
        last = -math.inf
        for line, cells in islice(rows, limit):
            if len(cells) != len(names):
                raise DataError(f"{path}:{line}: {_count(len(cells), 'cell')}, {len(names)} expected as in the first line")
            try:
                values.extend([float(cells[place]) for place in places])
            except ValueError:
                place = next(place for place in places if not _is_number(cells[place]))
                raise _bad_cell(path, line, names[place], cells[place], remedy) from None
            if at_date is not None:
                moment = _moment(path, line, names[at_date], cells[at_date])
                if not moment > last:
                    text = "occurs twice" if moment == last else f"does not follow {span[1] if span else ''}"
                    raise DataError(f"{path}:{line}: column {date!r}: {cells[at_date]} {text}; rows must be sorted by date, each date once")
                last, span = moment, (span[0] if span else cells[at_date], cells[at_date])
            lines.append(line)
    if not lines:
        raise DataError(f"{path}: no rows below the names of columns")
    table = np.array(values, dtype=np.float64).reshape(len(lines), len(columns))
    with np.errstate(invalid="ignore"):
        bad = np.argwhere(~(np.abs(table) <= LARGEST))
    if len(bad):
        row, column = bad[0]
        raise _bad_cell(path, lines[row], columns[column], str(table[row, column]), remedy)
    return Table(table, span)


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[Row]]:
    """The rows that are not blank."""
    try:
        check_regular(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            yield ((reader.line_num, cells) for cells in reader if cells)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text in UTF-8 (byte {error.start}); expected a CSV file") from error
    except csv.Error as error:
        raise DataError(f"{path}: no CSV file: {error}") from error


def _names(path: Path, rows: Iterator[Row]) -> list[str]:
    names = [name.strip() for name in next(rows, (0, []))[1]]
    if not names:
        raise DataError(f"{path}: empty; expected a first line with the names of columns")
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise _one_column(path, names[0])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: two columns are called {twice!r}; rename one of them")
    return names


def _one_column(path: Path, name: str) -> DataError:
    return DataError(f"{path}:1: one column, {shortened(name)}; cells must be separated by commas")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _bad_cell(path: Path, line: int, column: str, cell: str, remedy: str) -> DataError:
    what = f"{shortened(cell)} is no number" if cell.strip() else "empty cell"
    if re.fullmatch(r"\s*[-+]?[\d.]*\d(,\d+)+(\.\d+)?\s*", cell):
        what += " (write a point before decimals, and nothing between thousands)"
    if cell in ("nan", "inf", "-inf"):
        what = f"{cell} is no finite number"
    elif cell.strip() and _is_number(cell):
        what = f"{cell} is too large"
    return DataError(f"{path}:{line}: column {column!r}: {what}; every step needs a value; {remedy}")


def _moment(path: Path, line: int, column: str, cell: str) -> float:
    """A date as a number that grows with time: what is a number is taken as it is, a date without a zone as UTC."""
    padded = re.sub(r"\b(\d)\b", r"0\1", cell.strip().replace("/", "-"))
    for text in (cell.strip(), padded):
        try:
            moment = float(text)
        except ValueError:
            try:
                when = datetime.fromisoformat(text)
            except ValueError:
                continue
            moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if math.isfinite(moment):
            return moment
    raise DataError(f"{path}:{line}: column {column!r}: {cell!r} is no date; expected one such as 2016-07-01 02:00:00, or a number")


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
