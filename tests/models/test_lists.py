"""Lists of numbers are arrays, for every density; a network says in one line what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, recipes
from dlvm_jax.models import (
    curved,
    density,
    diffusion,
    flows,
    gaussian,
    implicit,
    joint,
    latent_diffusion,
    ppca,
)
from dlvm_jax.models.autoregressive import autoregressive
from dlvm_jax.models.draw import draw
from dlvm_jax.models.vamp import vamp
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP
from dlvm_jax.recipes.vae_parts import latent_denoiser
from tests.models.test_batches import CONDITIONAL, CONTEXT, Z
from tests.models.test_draw import parts_of

KEY = jax.random.key(0)
BITS = data.from_arrays(np.random.RandomState(0).rand(60, 4, 4) < 0.3)
LEVELS = data.from_arrays(np.random.RandomState(1).randint(0, 8, (60, 4, 4)).astype(np.uint8), levels=8)
ROWS = data.from_arrays(np.random.RandomState(2).randn(60, 2).astype(np.float32))


def built(source, recipe):
    return recipe.build(source.spec, recipe.constants(source, 0)).density


DENSITIES = {  # of vectors in the plane, or of 4 x 4 bits or levels
    "standard normal": lambda: density.standard_normal(2),
    "learned normal": lambda: gaussian.learned_normal(2),
    "mixture": lambda: gaussian.mixture(2, 3),
    "uniform sphere": lambda: curved.uniform_sphere(2),
    "wrapped prior": lambda: curved.standard_wrapped_normal(2, 1.0),
    "uniform torus": lambda: flows.uniform_torus(2),
    "flow": lambda: built(ROWS, recipes.Flow(width=4, depth=1, hidden=1, bins=4)),
    "reversed": lambda: flows.transformed(density.standard_normal(2), flows.reverse(2)),
    "pPCA": lambda: ppca.ppca((2,), 1),
    "two layers": lambda: joint.joint(
        density.standard_normal(1),
        density.conditional(density.from_linen(MLP((), (1, 2)), (1, 1)), density.normal(), (1,)),
        1,
    ),
    "reordered": lambda: joint.reorder(density.standard_normal(2), 1),
    "standardised": lambda: latent_diffusion.standardised(
        density.standard_normal(2), jnp.zeros(2), jnp.ones(2)
    ),
    "VampPrior": lambda: vamp(CONDITIONAL["full"](), CONTEXT[:2], train=False),
    "implicit": lambda: implicit.implicit_prior(density.from_linen(MLP((4,), ()), (1, 2)), 2),
    "autoregressive": lambda: autoregressive(
        density.from_linen(MADE((4,), 2, 2), (1, 2)), density.normal(), (2,)
    ),
    "diffusion by its ODE": lambda: diffusion.ode_density(latent_denoiser(2), None, 2),
    "VAE": lambda: built(BITS, recipes.VAE(latent_dim=2, hidden=(4,))),
    "DRAW": lambda: draw(parts_of((4, 4, 1), density.bernoulli(), 1, 4, 2)),
    "VQ-VAE": lambda: built(BITS, recipes.VQVAE(codes=3, code_dim=2, width=4, depth=0)),
    "groups": lambda: built(BITS, recipes.Hierarchical()),
    "groups of levels": lambda: built(LEVELS, recipes.Hierarchical()),
    "diffusion": lambda: built(BITS, recipes.Diffusion(width=4, depth=1)),
    "diffusion of vectors": lambda: built(ROWS, recipes.Diffusion(net="mlp", width=4, depth=1)),
    **CONDITIONAL,
}


def test_a_list_is_an_array_and_another_width_is_refused():
    wrong = []
    for name, make in DENSITIES.items():
        law = make()
        x, wide = (np.zeros((3, n, n, 1) if law.space.levels else (3, n)) for n in (4, 5))
        x = x if law.space.levels else Z
        context = CONTEXT.tolist() if name in CONDITIONAL else None
        params = jax.eval_shape(law.init, KEY)
        if name == "VampPrior":
            params = law.share(params, jax.eval_shape(CONDITIONAL["full"]().init, KEY))
        log_prob = lambda x: jax.eval_shape(lambda p: law.log_prob(p, KEY, x, context), params)  # noqa: B023
        try:
            shape = log_prob(x.tolist()).shape
            if context:
                jax.eval_shape(lambda p: law.sample(p, KEY, context), params)  # noqa: B023
        except Exception as error:
            wrong.append((name, repr(error)[:200]))
        else:
            wrong += [(name, shape)] * (shape != (3,))
        try:
            wrong.append((name, "accepts", log_prob(wide)))
        except ValueError as error:
            if "got" not in str(error) or "\n" in str(error).split("\n---")[0]:
                wrong.append((name, str(error)[:200]))
        except Exception as error:
            wrong.append((name, repr(error)[:200]))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_draw_comes_with_its_own_log_density():
    """Of every exact density: the value that `sample` returns is `log_prob` of the draw, to rounding of float32."""
    wrong, compared = [], 0
    for name, make in DENSITIES.items():
        law = make()
        if law.kind != "exact" or name == "diffusion by its ODE":  # it was made without a sampler
            continue
        params = law.init(KEY)
        if name == "VampPrior":
            params = law.share(params, CONDITIONAL["full"]().init(KEY))
        keys = jax.random.split(KEY, 1 + len(jax.tree.leaves(params)))[1:]
        leaves, tree = jax.tree.flatten(params)
        moved = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
        params = jax.tree.unflatten(tree, moved)
        context, shape = (CONTEXT, ()) if name in CONDITIONAL else (None, (5,))
        both = lambda params: law.sample(params, KEY, context, shape)  # noqa: B023
        x, value = jax.jit(both)(params)
        if value is not None:
            compared += 1
            found = jax.jit(law.log_prob)(params, KEY, x, context)
            if not np.allclose(found, value, rtol=1e-4, atol=1e-4):
                wrong.append((name, found, value))
    assert not wrong and compared > 10, wrong


def test_a_network_names_the_width_that_it_takes():
    encoder = density.conditional(density.from_linen(MLP((4,), (2, 2)), (1, 5)), density.normal(), (2,))
    params = encoder.init(KEY)
    message = r"^the network MLP is of inputs of shape \(1, 5\), got \(3, 4\); give it inputs of that width"
    for ask in (lambda: encoder.log_prob(params, None, Z, CONTEXT), lambda: encoder.mean(params, CONTEXT)):
        with pytest.raises(ValueError, match=message):
            ask()
    with pytest.raises(ValueError, match=message):
        jax.jit(encoder.sample)(params, KEY, CONTEXT)
    pairs = density.from_linen(MLP((), (2,)), ((1, 5), (1, 3)))
    with pytest.raises(ValueError, match=r"shape \(\(1, 5\), \(1, 3\)\), got \(\(3, 4\), \(3, 3\)\)"):
        pairs.apply(pairs.init(KEY), (CONTEXT, np.zeros((3, 3))))
