"""Paths and names that a user gives: a home folder filled in, what cannot be one refused in a line that names the setting."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import ENAMETOOLONG
from pathlib import Path

from cvkan.errors import DataError, Problem


def expanded(text: str, setting: str) -> Path:
    """`text` as a path, a leading ~ replaced by the home folder. DataError, naming `setting` ("data.path"), where it can be none."""
    if not text:
        raise DataError(Problem("", setting, "empty; a path expected"))
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except RuntimeError as error:
        raise DataError(Problem("", setting, f"{text!r}: no home folder of that user is known; write the path in full")) from error
    except ValueError as error:
        raise DataError(Problem("", setting, f"{text!r} can be no path ({error})")) from error
    except OSError as error:  # what is missing or not readable is told with its place, by whoever opens it
        if error.errno == ENAMETOOLONG:
            raise DataError(Problem("", setting, f"{text[:40]!r}... can be no path ({error.strerror})")) from error
    return path


def check_regular(path: Path) -> None:
    """DataError where `path` is there, but no regular file: a pipe would be waited for without end, a device read without end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is no regular file; expected one")


def check_names(folder: Path, names: Iterable[str]) -> None:
    """DataError for the first of the names in `folder` that is not UTF-8."""
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{folder}: the name {os.fsencode(name)!r} is not UTF-8; rename it") from error


def printable(text: str) -> str:
    """`text` with line breaks and control characters escaped: a name must neither break a line nor steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def listed(names: list[str], most: int = 12, longest: int = 40) -> str:
    """The names in quotes, each of at most `longest` characters, no more than `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shortened(name, longest) for name in names[:most]) + more


def shortened(text: str, longest: int = 40) -> str:
    """The text in quotes, cut after `longest` characters."""
    return repr(text if len(text) <= longest else f"{text[:longest]}...")
