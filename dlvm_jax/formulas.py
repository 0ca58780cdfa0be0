"""From a formula to its function: `python -m dlvm_jax.formulas elbo` prints equation, shapes, file:line and source.

Without a name it prints the table of all formulas that stands in the README.
"""

import ast
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Formula", "formulas", "show", "table"]

PACKAGES = ("dlvm_jax.functional", "dlvm_jax.exact")
ROOT = Path(__file__).parent.parent


class Formula(NamedTuple):
    """A public function of the mathematics and what its docstring says."""

    name: str
    module: str
    purpose: str
    equation: str
    source: str
    place: str
    text: str


def _formula(module, name, function):
    text = inspect.getdoc(function)
    purpose, body = text.split("\n\n", 1)
    equation = re.search(r"\$(.+?)\$", body, re.DOTALL).group(1)
    source = re.search(r"Source: (.+?)(?:\.?\s*\n\s*\n|$)", text, re.DOTALL).group(1)
    path = Path(inspect.getsourcefile(function)).relative_to(ROOT)
    return Formula(
        name,
        module,
        purpose.replace("\n", " "),
        " ".join(equation.split()),
        " ".join(source.split()),
        f"{path}:{inspect.getsourcelines(function)[1]}",
        text,
    )


def formulas():
    """Every public function of `functional` and `exact`, in order of file and name."""
    found = []
    for package in PACKAGES:
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            module = importlib.import_module(info.name)
            for name in module.__all__:
                if inspect.isfunction(getattr(module, name)):
                    found.append(_formula(info.name, name, getattr(module, name)))
    return found


@functools.cache
def _used(path):
    """Full names of what a Python file imports, and takes from the modules that it imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    attributes = {
        f"{imported[node.value.id]}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
    }
    return attributes | set(imported.values())


def _test_of(formula):
    """The first test file beside the function's package that uses the function, or None."""
    folder = ROOT / "tests" / formula.module.split(".")[1]
    packages = formula.module.split(".")
    names = {".".join([*packages[:depth], formula.name]) for depth in range(1, len(packages) + 1)}
    used = (path for path in sorted(folder.rglob("test_*.py")) if names & _used(path))
    return next((str(path.relative_to(ROOT)) for path in used), None)


def table():
    """The formulas as a Markdown table: equation, function, test, source."""
    rows = ["| formula | function | test | source |", "|---|---|---|---|"]
    for f in formulas():
        equation = f.equation.replace("\\|", "\\Vert ").replace("|", "\\vert ")
        function = f"{f.module.removeprefix('dlvm_jax.')}.{f.name}"
        path = f.place.split(":")[0]
        test = _test_of(f)
        linked = (
            f"[{Path(test).name}]({test})" if test else "not installed"
        )  # without the repository around it
        rows.append(f"| ${equation}$ | [`{function}`]({path}) | {linked} | {f.source} |")
    return "\n".join(rows)


def show(name):
    """The docstring and place of the functions of a name; ValueError with close names if there is none."""
    found = [f for f in formulas() if f.name == name or f"{f.module}.{f.name}".endswith(f".{name}")]
    if not found:
        names = sorted({f.name for f in formulas()})
        close = difflib.get_close_matches(name, names, 3, 0.4) or names
        raise ValueError(f"no formula named {name!r}; perhaps {', '.join(close)}")
    return "\n\n".join(f"{f.module}.{f.name}  ({f.place})\n\n{f.text}" for f in found)


if __name__ == "__main__":
    try:
        print(show(sys.argv[1]) if len(sys.argv) > 1 else table())
    except ValueError as error:
        sys.exit(f"error: {error}")
