"""What a tree of arrays is made of, to compare two of them in words."""

from collections.abc import Mapping
from typing import Any

import jax

__all__ = ["arrays", "first_difference"]


def arrays(tree: Any) -> dict[str, str]:
    """Type and shape of each array by its place, such as {"params/w": "float32[5, 5]"}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def first_difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """The first array in which two trees differ, each as `arrays` describes it, in words; None where all are the same."""
    for name in [*ours, *theirs]:
        there, here = theirs.get(name, "absent"), ours.get(name, "absent")
        if there != here:
            return f"{name} is {there} there, {here} here"
    return None
