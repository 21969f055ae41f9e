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
        r"[-+]?([0-9][0-9_]*)?\.?[0-9]+([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
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
        raise UserError(Problem(where, "", f"YAML tag {node.tag!r} is not allowed in a sweep file; write plain values"))

    def _items(self, node: yaml.MappingNode) -> Iterator[tuple[str, Node]]:
        seen: dict[str, str] = {}
        for key_node, value_node in node.value:
            where = self.where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(Problem(where, "", "a key must be a plain word"))
            key = str(key_node.value)
            if key == "<<":
                raise UserError(Problem(where, "<<", "merge keys are not supported; write the settings out, or use a profile"))
            if key in seen:
                raise UserError(Problem(where, key, f"stands twice; first at {seen[key]}"))
            seen[key] = where
            child = self.build(value_node)
            # A mapping or list is best pointed at by its key's line, not by its first entry's.
            yield key, Node(child.value, where)


def _scalar(kind: str, text: str, where: str) -> Scalar:
    try:
        match kind:
            case "int":
                return int(text.replace("_", ""))
            case "float":
                return float(
                    text.replace("_", "").replace(".inf", "inf").replace(".Inf", "inf").replace(".nan", "nan").replace(".NaN", "nan")
                )
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
    except ValueError:
        raise UserError(Problem(where, "", f"{text!r} is not a readable {kind}")) from None
    return text


def parse(text: str, source: str) -> Node:
    """The tree of one YAML document; `source` names it in messages. UserError for text that is not such a document."""
    loader = _Yaml(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise UserError(Problem(source, "", "is empty; expected a sweep (see sweeps/depth_vs_width.yaml)"))
        return _Builder(source).build(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise UserError(Problem(place, "", f"not valid YAML: {error.problem or error.context}")) from None
    except yaml.YAMLError as error:
        raise UserError(Problem(source, "", f"not valid YAML: {' '.join(str(error).split())}")) from None
    except RecursionError:
        raise UserError(Problem(source, "", "not valid YAML: nested too deeply")) from None
    finally:
        loader.dispose()


def read(path: Path) -> Node:
    """The tree of a sweep file. UserError if it cannot be read, is no text, or is larger than a megabyte."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(Problem(str(path), "", f"is larger than {MAX_BYTES:,} bytes; that is no sweep file"))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(Problem(str(path), "", "no such file; `cvkan list sweeps` names the sweeps at hand")) from None
    except UnicodeDecodeError:
        raise UserError(Problem(str(path), "", "is not UTF-8 text")) from None
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
