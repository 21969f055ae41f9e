"""YAML text to located values: what people write, what attackers write, and the laws of laying one tree upon another."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cvkan.errors import UserError
from cvkan.orchestrator.load import MAX_BYTES, MAX_DEPTH, MAX_INT, Node, merge, parse, put, read, replace

# PyYAML writes the text "1e5" bare, and takes it for text again; here it is a number, as in every other language.
words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8).filter(lambda text: not re.fullmatch(r"[-+.\w]*\d", text))
scalars = st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.floats(allow_nan=False) | words
keys = st.text(st.characters(categories=("L", "N"), include_characters="._ "), min_size=1, max_size=8)
jsons = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)
mappings = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers(0, 9), max_size=3),
    max_leaves=8,
)


def node(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({key: node(child) for key, child in value.items()}, "x")
    return Node([node(child) for child in value], "x") if isinstance(value, list) else Node(value, "x")


def mistake(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text, "x.yaml")
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(jsons)
def test_what_pyyaml_writes_reads_back_equal(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, width=10_000, sort_keys=False)
    assert repr(parse(text, "x.yaml").plain()) == repr(value)


@settings(deadline=None)
@given(st.text() | st.text("[]{}:,-&*!<>|'\"%@`#?~ \n\tab01.e", max_size=60))
def test_no_text_raises_anything_but_a_users_mistake(text: str) -> None:
    try:
        parse(text, "x.yaml").plain()
    except UserError as error:
        assert "x.yaml" in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("2_000", 2000),
        ("-.5", -0.5),
        ("3.", 3.0),
        (".inf", math.inf),
        ("007", "007"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        ("1e", "1e"),
        ("True", True),
        ("~", None),
        ("'1'", "1"),
        ("!!str 3", "3"),
        ("NaN", "NaN"),
        ("1_000.5", 1000.5),
        ("-.inf", -math.inf),
        (".", "."),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_are_what_people_mean(text: str, value: object) -> None:
    found = parse(text, "x.yaml").plain()
    assert (type(found), found) == (type(value), value)


def test_every_value_knows_its_line() -> None:
    tree = parse("a: 1\nb:\n  - x\n  - {c: 2}\nd:\n  e:\n    3\nf:\n", "x.yaml")
    places = {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1, "c"): 4, ("d",): 5, ("d", "e"): 7, ("f",): 8}
    assert {path: tree.where_of(path) for path in places} == {path: f"x.yaml:{line}" for path, line in places.items()}
    assert tree.where_of(("d", "nothing", "here")) == "x.yaml:5"
    assert tree.where_of(("b", 7)) == "x.yaml:2"


def test_an_alias_is_the_value_it_stands_for() -> None:
    assert parse("a: &a [1, 2]\nb: *a\n", "x.yaml").plain() == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: !!python/object/apply:os.system [touch pwned]\n", 2, "YAML tag !!python/object/apply:os.system is not allowed"),
        ("a: !foo 1", 1, "YAML tag !foo is not allowed"),
        ("a: !!binary aGk=", 1, "not allowed"),
        ("a: !!set {b}", 1, "not allowed"),
        ("a: !!int abc", 1, "'abc' is no number"),
        ("a: &a [*a]", 1, "contains itself"),
        ("&a {b: *a}", 1, "contains itself"),
        ("b: 1\na: *b", 2, "undefined alias 'b'"),
        ("a: 1\nb: 2\na: 3", 3, "a: stands twice; first at x.yaml:1"),
        ("a:\n  <<: {b: 1}", 2, "merge keys are not supported"),
        ("a: 1\n? [b, c]\n: 3", 2, "a key must be a plain word"),
        ("a: 1\n'': 3", 2, "a key must be a plain word"),
        ("a: 1\n\tb: 3", 2, "a tab; indent with spaces"),
        ("a: 1\n---\nb: 2", 2, "a second document starts here"),
        ("a: 1\nb: [1, 2", 2, "expected ',' or ']'"),
        ("a: b: c", 1, "not valid YAML"),
        ("a: 1\nb: \0", 2, "the character U+0000 is not allowed"),
        ('a: "\\0"', 1, "control character"),
        ('a: "\\ud800"', 1, "control character"),
        ('a: "\\e[31m"', 1, "control character"),
        (f"a: {MAX_INT + 1}", 1, "too large"),
        ("a: " + "9" * 10_000, 1, "too large"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    message = mistake(text)
    assert message.startswith(f"x.yaml:{line}: ")
    assert words in message
    assert len(message) < 200


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n", "---\n"])
def test_an_empty_file_says_so(text: str) -> None:
    if text == "---\n":
        assert parse(text, "x.yaml").plain() is None
    else:
        assert "is empty; expected a sweep" in mistake(text)


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 3_000, "a: " + "[" * 60 + "]" * 60])
def test_deep_nesting_ends_in_a_message(text: str) -> None:
    assert "nested more than 50 deep" in mistake(text)


def test_depth_that_people_write_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse("[" * depth + "]" * depth, "x.yaml").where == "x.yaml:1"


def test_anchors_cannot_multiply_without_end() -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    assert "expand to more than 100,000 values" in mistake(laughs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: caf\xe9\n", "is not UTF-8 text"),
        (bytes(range(256)), "is not UTF-8 text"),
        ("name: x\n".encode("utf-16"), "is not UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), "is larger than 1,000,000 bytes"),
        (b"", "is empty"),
    ],
)
def test_files_that_are_no_sweeps(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; `cvkan list sweeps`"):
        read(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="is a folder; expected a sweep file"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("content", ["\ufeffname: x\n", "name: x\r\n", "name: x", "---\nname: x\n...\n"])
def test_a_file_of_any_editor(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content.encode())
    assert read(path).plain() == {"name": "x"}


@settings(deadline=None)
@given(mappings)
def test_laying_a_tree_upon_itself_or_upon_nothing_changes_nothing(a: dict[str, Any]) -> None:
    assert merge(node(a), node(a)).plain() == a
    assert merge(node({}), node(a)).plain() == a
    assert merge(node(a), node({})).plain() == a


@settings(deadline=None)
@given(mappings, mappings, mappings)
def test_overlays_may_be_combined_first(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    # A scalar in b between mappings in a and c forgets a, whichever is laid first, unless c stands where b ended a mapping.
    left, right = merge(merge(node(a), node(b)), node(c)).plain(), merge(node(a), merge(node(b), node(c))).plain()
    assume(not _scalar_between(a, b, c))
    assert left == right


def _scalar_between(a: Any, b: Any, c: Any) -> bool:
    if isinstance(a, dict) and isinstance(c, dict):
        if not isinstance(b, dict):
            return True
        return any(_scalar_between(a[key], b[key], c[key]) for key in a.keys() & b.keys() & c.keys())
    return False


@settings(deadline=None)
@given(mappings, mappings)
def test_an_overlay_wins_and_the_rest_stays(a: dict[str, Any], b: dict[str, Any]) -> None:
    merged = merge(node(a), node(b)).plain()
    assert merged.keys() == a.keys() | b.keys()
    for key in merged:
        if key not in b:
            assert merged[key] == a[key]
        elif not (isinstance(b[key], dict) and isinstance(a.get(key), dict)):
            assert merged[key] == b[key]


def test_a_merged_value_keeps_its_own_place() -> None:
    merged = merge(parse("a: {b: 1, c: 2}", "file"), parse("\n\na: {b: 3}", "profile"))
    assert merged.plain() == {"a": {"b": 3, "c": 2}}
    assert (merged.where_of(("a", "b")), merged.where_of(("a", "c"))) == ("profile:3", "file:1")


@settings(deadline=None)
@given(mappings, st.lists(st.sampled_from("abc"), min_size=1, max_size=3), mappings)
def test_put_merges_and_replace_replaces(base: dict[str, Any], path: list[str], value: dict[str, Any]) -> None:
    replaced = replace(node(base), tuple(path), node(value)).plain()
    laid = put(node(base), tuple(path), node(value)).plain()
    for part in path:
        replaced, laid = replaced[part], laid[part]
    assert replaced == value
    assert laid.keys() >= value.keys()
