"""Sub-modules that load on first use (PEP 562): importing a package costs only what is used of it."""

import importlib
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["attribute"]


def attribute(
    package: str, name: str, names: Collection[str], module_of: Mapping[str, str] | None = None
) -> Any:
    """What a package's `__getattr__(name)` returns: a sub-module, or what it takes from one.

    names: all that the package has
    module_of: the sub-module of each name that is none itself

    Raises AttributeError for another name.
    """
    if name not in names:
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
    if module_of and name in module_of:
        return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
    return importlib.import_module(f"{package}.{name}")
