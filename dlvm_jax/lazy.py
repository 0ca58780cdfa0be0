"""Sub-modules that load on first use (PEP 562): importing a package costs only what is used of it."""

import importlib
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["attribute"]


def attribute(
    package: str, name: str, modules: Collection[str], members: Mapping[str, str] | None = None
) -> Any:
    """What a package's `__getattr__(name)` returns.

    modules: names of its sub-modules
    members: names that it takes from a sub-module, each with the name of that one

    Raises AttributeError for another name.
    """
    members = members or {}
    if name in members:
        return getattr(importlib.import_module(f"{package}.{members[name]}"), name)
    if name in modules:
        return importlib.import_module(f"{package}.{name}")
    names = ", ".join(sorted([*modules, *members]))
    raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {names}")
