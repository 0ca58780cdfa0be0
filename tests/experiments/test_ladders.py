"""Rows of what depth is worth: the models that are compared have the same size and cost."""

import math

import jax
import jax.numpy as jnp
import pytest

from dlvm_jax.data import Spec
from dlvm_jax.recipes import VAE, Hierarchical
from dlvm_jax.train.cost import flops
from experiments.checks import ladders
from experiments.papers import hierarchical
from experiments.reproduce.registry import every_row

SPEC = Spec("mnist", "dynamic", "", (28, 28, 1), 50_000, 2, True, 1.0)


def cost_of(settings):
    """(layers, parameters, operations of a step of a hundred examples) of a row's model."""
    family = Hierarchical if settings.get("script") == "hierarchical" else VAE
    recipe = family(**{name: value for name, value in settings.items() if name in family.names()})
    model, key = recipe.build(SPEC, {}), jax.random.key(0)
    params = jax.eval_shape(model.init, key)
    step = lambda params, x: jax.grad(lambda p: model.objective(p, key, x, 0)[0])(params)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return recipe.layers, count, flops(step, params, jnp.zeros((100, 28, 28, 1)))


@pytest.mark.slow
def test_all_depths_have_the_same_parameters_and_operations():
    found = {layers: cost_of(ladders.settings(layers)) for layers in ladders.WIDTHS}
    assert tuple(found) == (1, 2, 3, 6, 12) == tuple(layers for layers, _, _ in found.values())
    assert {f"depth-{layers}-mnist" for layers in found} <= set(every_row())
    counts = [count for _, count, _ in found.values()]
    operations = [ladders.steps(layers) * each for layers, _, each in found.values()]
    assert max(counts) < 1.01 * min(counts) and abs(counts[0] / 1e6 - 1) < 0.02
    assert max(operations) < 1.03 * min(operations) and abs(operations[0] / 2.3e13 - 1) < 0.03


def test_static_ladders_have_the_layers_and_parameters_that_their_rows_say():
    for layers, cost in hierarchical.STATIC_COST.items():
        family = hierarchical.static(layers)
        recipe = Hierarchical(**{name: v for name, v in family.items() if name in Hierarchical.names()})
        params = jax.eval_shape(recipe.build(SPEC, {}).init, jax.random.key(0))
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        assert recipe.layers == layers and cost.startswith(f"{count:,} parameters")
        assert f"ladder-{layers}-static-mnist" in every_row()
