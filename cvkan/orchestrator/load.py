"""YAML text -> a tree of located values. Safe (no tags, bounded anchors); every value remembers its line.

A sweep file, a profile and `--set path=value` are all such trees, so merging them keeps for each value the place
that a message must name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cvkan.errors import Problem, UserError

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Values of one file after its anchors are expanded; nested anchors that multiply without end are refused here."""
MAX_DEPTH = 50
"""Mappings and lists inside each other."""
MAX_INT = 2**63 - 1
"""Columns of the ledger hold no larger integers."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a YAML escape can put into text, and no file name, table or UTF-8 file can hold."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Node:
    """A YAML value and where it stands: `value` is a dict of Nodes, a list of Nodes or a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    where: str

    def plain(self) -> Any:
        """The value without its places, as dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def where_of(self, path: tuple[str | int, ...]) -> str:
        """The place of the value at `path`, or of the nearest value above it that exists."""
        node = self
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                break
        return node.where


class _Yaml(yaml.SafeLoader):
    """YAML's safe subset with the scalars that people mean: 1e-3 is a number, `no` and `on` are words, 1:30 is text."""


_Yaml.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9][0-9_]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*(\.([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        "-+.0123456789",
    ),
):
    _regexp = re.compile(rf"^(?:{_pattern})$")
    for _character in _first:
        _Yaml.yaml_implicit_resolvers.setdefault("" if _character == "\0" else _character, []).append(
            (f"tag:yaml.org,2002:{_tag}", _regexp)
        )


class _Builder:
    """Turns composed YAML nodes into Nodes, counting every value so that anchors cannot multiply without end."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.count = 0
        self.open: set[int] = set()

    def where(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"

    def build(self, node: yaml.Node) -> Node:
        self.count += 1
        if self.count > MAX_VALUES:
            raise UserError(Problem(self.where(node), "", f"anchors expand to more than {MAX_VALUES:,} values"))
        if id(node) in self.open:
            raise UserError(Problem(self.where(node), "", "an anchor contains itself"))
        if len(self.open) >= MAX_DEPTH:
            raise UserError(Problem(self.where(node), "", f"nested more than {MAX_DEPTH} deep"))
        self.open.add(id(node))
        try:
            return self._build(node)
        finally:
            self.open.discard(id(node))

    def _build(self, node: yaml.Node) -> Node:
        where = self.where(node)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return Node(dict(self._items(node)), where)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return Node([self.build(child) for child in node.value], where)
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "int", "float", "bool", "null"):
            return Node(_scalar(kind, node.value, where), where)
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise UserError(Problem(where, "", f"the YAML tag {tag} is not allowed; write plain values"))

    def _items(self, node: yaml.MappingNode) -> Iterator[tuple[str, Node]]:
        seen: dict[str, str] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                raise UserError(Problem(where, "", "a key must be a plain word"))
            key = _text(key_node.value, where)
            if key == "<<":
                raise UserError(Problem(where, "<<", "merge keys are not supported; write the settings out, or use a profile"))
            if key in seen:
                raise UserError(Problem(where, key, f"stands twice; first at {seen[key]}"))
            seen[key] = where
            child = self.build(value_node)
            # A mapping or list is best pointed at by its key's line, not by its first entry's; no value stands nowhere.
            yield key, child if isinstance(child.value, str | int | float) else Node(child.value, where)


def _scalar(kind: str, text: str, where: str) -> Scalar:
    digits = text.replace("_", "")
    try:
        match kind:
            case "int":
                # Length first: Python refuses to read thousands of digits.
                number = int(digits) if len(digits) < 40 else MAX_INT + 1
                if abs(number) > MAX_INT:
                    raise UserError(Problem(where, "", f"an integer beyond {MAX_INT:,} is too large"))
                return number
            case "float":
                return float(digits.replace(".inf", "inf").replace(".Inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
    except ValueError:
        raise UserError(Problem(where, "", f"{text[:40]!r} is no number")) from None
    return _text(text, where)


def _text(text: str, where: str) -> str:
    found = CONTROL.search(text)
    if found:
        raise UserError(Problem(where, "", f"text must not hold the control character {found[0]!r}"))
    return text


def parse(text: str, source: str) -> Node:
    """The tree of one YAML document; `source` names it in messages. UserError for text that is not such a document."""
    try:
        loader = _Yaml(text)
        root = loader.get_single_node()
        if root is None:
            raise UserError(Problem(source, "", "is empty; expected a sweep (see sweeps/depth_vs_width.yaml)"))
        return _Builder(source).build(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise UserError(Problem(place, "", _yaml_message(error))) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(Problem(f"{source}:{line}", "", f"not valid YAML: the character U+{error.character:04X} is not allowed")) from None
    except RecursionError:
        raise UserError(Problem(source, "", f"nested more than {MAX_DEPTH} deep")) from None


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or ""
    if "'\\t'" in problem:
        return "not valid YAML: a tab; indent with spaces"
    if "another document" in problem:
        return "not valid YAML: a second document starts here; a file holds one sweep"
    return f"not valid YAML: {problem}"


def read(path: Path) -> Node:
    """The tree of a sweep file. UserError if it cannot be read, is no text, or is larger than a megabyte."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(Problem(str(path), "", f"is larger than {MAX_BYTES:,} bytes; that is no sweep file"))
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(Problem(str(path), "", "no such file; `cvkan list sweeps` names the sweeps at hand")) from None
    except UnicodeDecodeError:
        raise UserError(Problem(str(path), "", "is not UTF-8 text")) from None
    except IsADirectoryError:
        raise UserError(Problem(str(path), "", "is a folder; expected a sweep file")) from None
    except OSError as error:
        raise UserError(Problem(str(path), "", f"cannot be read: {error.strerror}")) from None
    return parse(text, str(path))


def merge(base: Node, over: Node) -> Node:
    """`over` laid upon `base`: mappings merge key by key, anything else replaces what was there."""
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        merged: dict[str, Node] = dict(base.value)
        for key, child in over.value.items():
            merged[key] = merge(merged[key], child) if key in merged else child
        return Node(merged, base.where)
    return over


def put(base: Node, path: tuple[str, ...], value: Node) -> Node:
    """`base` with `value` laid at `path`; mappings on the way are made where they do not stand."""
    for part in reversed(path):
        value = Node({part: value}, value.where)
    return merge(base, value)


def replace(base: Node, path: tuple[str, ...], value: Node) -> Node:
    """`base` with the value at `path` replaced as a whole (an axis that lists whole mappings)."""
    if not path:
        return value
    children: Mapping[str, Node] = base.value if isinstance(base.value, dict) else {}
    child = children.get(path[0], Node({}, value.where))
    return Node({**children, path[0]: replace(child, path[1:], value)}, base.where)
