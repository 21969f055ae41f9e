"""Domains: where data comes from, and what is asked of a model."""

from __future__ import annotations

from cvkan.domains import image
from cvkan.domains.protocol import Domain

DOMAINS: dict[str, Domain] = {"image": image}
