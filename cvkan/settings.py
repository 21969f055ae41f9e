"""The base of every settings class: frozen, typed, strict, with unknown names refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

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


def one_of(registry: Iterable[str]) -> AfterValidator:
    """Validates a string against the names of a registry: `norm: Annotated[str, one_of(NORMS)] = "none"`."""

    def check(value: str) -> str:
        names = list(registry)
        if value not in names:
            raise PydanticCustomError("unknown_name", "{text}", {"text": f"{value!r} is unknown; {did_you_mean(value, names)}"})
        return value

    return AfterValidator(check)
