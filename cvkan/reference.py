"""The page of all settings of data sets, models and optimizers, written from the settings classes themselves."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cvkan.domains import DOMAINS
from cvkan.models import MODELS
from cvkan.optimizers import OPTIMIZERS
from cvkan.settings import Settings

HEAD = """# Settings of data sets, models and optimizers

What `data`, `model` and `optimizer` of a [trial](sweep_file.md#the-trial) take; `name` chooses the entry. This page is written from the
code: `pytest tests/test_docs.py --accept-golden` writes it anew.
"""


def page() -> str:
    """The whole page as Markdown, with a final newline."""
    parts = [HEAD]
    for name, domain in DOMAINS.items():
        sets = {entry: data_set.Settings for entry, data_set in domain.DATA_SETS.items()}
        parts += _group(f"Data: {name}", f"{about(domain)} The first data set needs no files.", sets)
    models = {name: model.Settings for name, model in MODELS.items()}
    parts += _group("Models", "", models, {name: _serves(name) for name in MODELS})
    parts += _group("Optimizers", "", OPTIMIZERS)
    return "\n".join(parts)


def _serves(name: str) -> str:
    model = MODELS[name]
    text = f"Inputs: {_listed(sorted(model.inputs))}. Outputs: {_listed(sorted(model.outputs))}."
    text += " Serves causal tasks." if model.causal else ""
    return f"{text} `match` solves `{model.width}`." if model.width else text


def _group(title: str, about: str, classes: Mapping[str, type[Settings]], notes: Mapping[str, str] | None = None) -> Iterator[str]:
    """A heading, the settings that all entries share, and a section for each entry."""
    yield f"## {title}\n"
    if about:
        yield f"{about}\n"
    schemas = {name: _properties(cls) for name, cls in classes.items()}
    first, *others = schemas.values()
    shared = {field: schema for field, schema in first.items() if others and all(other.get(field) == schema for other in others)}
    if shared:
        yield "Settings of all of them:\n"
        yield _table(shared)
    for name, cls in classes.items():
        yield f"### `{name}`\n"
        yield f"{_doc(cls)}{f' {notes[name]}' if notes else ''}\n"
        own = {field: schema for field, schema in schemas[name].items() if field not in shared}
        yield _table(own) if own else "No settings of its own.\n"


def _properties(cls: type[Settings]) -> dict[str, dict[str, Any]]:
    """The JSON schema of every field but `name`."""
    schema = cls.model_json_schema()
    required = schema.get("required", [])
    found = {name: dict(prop) for name, prop in schema["properties"].items() if name != "name"}
    for name, prop in found.items():
        prop["required"] = name in required
        assert prop.get("description"), f"{cls.__name__}.{name} has no docstring"
    return found


def _table(properties: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, schema in properties.items():
        default = "required" if schema["required"] else f"`{json.dumps(schema['default'], ensure_ascii=False)}`".replace('"', "")
        meaning = " ".join(schema["description"].split())
        cells = (f"`{name}`", _kind(schema), default, meaning if meaning.endswith(".") else f"{meaning}.")
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def _kind(schema: Mapping[str, Any]) -> str:
    """What a field takes, in words."""
    if "anyOf" in schema:
        return ", or ".join(_kind(branch) for branch in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`".replace('"', "")
    if "enum" in schema:
        return _listed(schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("prefixItems")
        return f"{len(items)} values, each: {_kind(items[0])}" if items else f"list of: {_kind(schema.get('items', {'type': 'string'}))}"
    if "minimum" in schema and "maximum" in schema:
        return f"{WORDS[schema['type']]} from {schema['minimum']} to {schema['maximum']}"
    limits = [f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema]
    return f"{WORDS[schema['type']]}{' ' if limits else ''}{', '.join(limits)}"


LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def _listed(names: Iterable[object]) -> str:
    *head, last = [f"`{name if isinstance(name, str) else json.dumps(name)}`" for name in names]
    return f"{', '.join(head)} or {last}" if head else last


def _doc(cls: type[Settings]) -> str:
    return " ".join((inspect.getdoc(cls) or "").split())


def about(domain: object) -> str:
    """A domain in a sentence: the first of the module that it is, or that its data sets are built in."""
    module = domain if inspect.ismodule(domain) else inspect.getmodule(next(iter(domain.DATA_SETS.values())).task)  # type: ignore[attr-defined]
    line = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
    return line if line.endswith(".") else f"{line}."
