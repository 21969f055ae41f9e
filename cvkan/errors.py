"""What a user did wrong, as lines to print. The CLI prints a UserError without a traceback and exits with 2."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands ("sweeps/x.yaml:12", "--set model.norm=ruled"), which setting, what was expected."""

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        return _one_line(": ".join(part for part in (self.where, self.path, self.message) if part))

    @property
    def line(self) -> float:
        """The line of a file that `where` names; infinity where it names none, as for an option of the command."""
        found = re.fullmatch(r"(?!--).*:(\d+)", self.where, re.DOTALL)
        return int(found[1]) if found else math.inf


def _one_line(text: str) -> str:
    """`text` with line breaks and invisible characters escaped: input must neither break a line nor steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class UserError(Exception):
    """Mistakes of the user, each once, in the order of the file's lines. `str()` gives a line for each."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", "", problems)
        found = [problems] if isinstance(problems, Problem) else problems
        self.problems = sorted(dict.fromkeys(found), key=lambda problem: problem.line)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(UserError):
    """A data set that is missing, damaged or empty; the message names the path and what to do."""


def nearest(name: str, valid: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str | None:
    """The valid name nearest to `name`, or the one that a synonym near it stands for; None if nothing is near."""
    known = {valid_name: valid_name for valid_name in valid} | dict(synonyms or {})
    lowered = {key.lower(): key for key in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return known[lowered[found[0]]] if found else None


def did_you_mean(name: str, valid: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """ "did you mean norm?", or the list of valid names where none is near."""
    valid = list(valid)
    found = nearest(name, valid, synonyms)
    return f"did you mean {found}?" if found else f"valid: {', '.join(valid)}"
