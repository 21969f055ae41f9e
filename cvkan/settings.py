"""The base of every settings class: frozen, typed, strict, with unknown names refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cvkan.errors import did_you_mean


class Settings(BaseModel):
    """Frozen settings. Strict: "3" is no number and 1 is no boolean; an int is accepted where a float is asked."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    synonyms: ClassVar[Mapping[str, str]] = {}
    """Words that people write for a field ("depth": "n_layers"): they serve the suggestions of error messages."""

    outside_key: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change a trial's result (where a data set lies), so they are left out of its key."""

    def identity(self) -> dict[str, Any]:
        """The settings that determine a result, as plain JSON values, defaults filled in."""
        values: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name not in self.outside_key:
                value = getattr(self, name)
                values[name] = value.identity() if isinstance(value, Settings) else json.loads(json.dumps(value))
        return values


class one_of:
    """Validates a string against the names of a registry: `norm: Annotated[str, one_of(NORMS)] = "none"`."""

    def __init__(self, registry: Iterable[str]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.registry)}

    def _check(self, value: str) -> str:
        names = list(self.registry)
        if value not in names:
            raise PydanticCustomError("unknown_name", "{text}", {"text": f"{value!r} is unknown; {did_you_mean(value, names)}"})
        return value
