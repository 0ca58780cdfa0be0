"""What a step of training costs, counted in its program."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.engine import Engine, State

__all__ = ["flops", "training_cost"]


def _product(eqn):
    """Operations of a matrix product: two for each element put out and each one summed over."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _convolution(eqn):
    """Operations of a convolution: two for each element put out and each weight that it sees."""
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * eqn.outvars[0].aval.size * kernel.size // outputs


def _programs(value):
    """The programs in a parameter of an operation: itself, or those of a tuple."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, tuple | list):
        return [program for part in value for program in _programs(part)]
    return [value] if isinstance(value, core.Jaxpr) else []


def _count(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            total += _product(eqn)
        elif eqn.primitive.name == "conv_general_dilated":
            total += _convolution(eqn)
        inner = [_count(program) for value in eqn.params.values() for program in _programs(value)]
        if eqn.primitive.name == "cond":
            total += max(inner, default=0)
        else:
            total += eqn.params.get("length", 1) * sum(inner)
    return total


def flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations in the matrix products and convolutions of one call; arguments may be shapes.

    A multiplication and the addition after it count as two.  A scan counts as often as it turns, of a conditional the most
    expensive branch, the body of an open-ended loop once.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def training_cost(engine: Engine, config: TrainConfig, state: State, data: Any) -> dict[str, int]:
    """What training takes, all seeds together: parameters, steps, and the floating-point operations of a step."""
    batch = (config.batch_size,) if len(config.seeds) == 1 else (len(config.seeds), config.batch_size)
    parameters = state.params[0] if engine.variables else state.params
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        "steps": config.extent()[0],
        "flops_per_step": flops(engine.chunk, state, data, np.zeros((1, *batch), np.int32)),
    }
