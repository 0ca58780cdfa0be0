"""Parts put together: each draw has its own randomness, and what would give a wrong likelihood is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.evaluate import diagnostics
from dlvm_jax.functional import densities
from dlvm_jax.functional.flows import autoregressive
from dlvm_jax.models import (
    curved,
    density,
    flows,
    gaussian,
    joint,
    latent_diffusion,
    objectives,
    sphere_flows,
    vamp,
)
from dlvm_jax.models.vae import Parts, dreg, vae


def law(function, dim=1):
    """The diagonal Gaussian of the mean and log-deviation that a function without parameters gives."""

    def apply(params, context):
        mean, log_std = function(context)
        return jnp.stack([mean, jnp.broadcast_to(log_std, mean.shape)], axis=-1)

    return density.conditional(density.Net(lambda key: {}, apply), density.normal(), (dim,))


def constant(*out):
    """A network that puts out zeros."""

    def apply(params, context):
        first = jax.tree.leaves(context)[0]
        return jnp.zeros((*first.shape[:-1], *out))

    return density.Net(lambda key: {}, apply)


def test_prior_and_posterior_of_different_spaces_are_refused():
    """Their densities are on different volumes, and the difference would be no KL; what is made of them keeps its space."""
    round_, bent = curved.von_mises_fisher(constant(4), 3), curved.wrapped_normal(constant(3, 2), 3, 2.0)
    flat, bits = (
        density.conditional(constant(3, n), family(), (3,))
        for n, family in ((2, density.normal), (1, density.bernoulli))
    )
    decoder, sphere, normal = (
        density.conditional(constant(4, 1), density.bernoulli(), (4,)),
        curved.uniform_sphere(3),
        density.standard_normal(3),
    )
    for prior, posterior, message in (
        (normal, round_, r"on R\^M and a posterior on the sphere in R\^3"),
        (sphere, flat, r"on the sphere in R\^3 and a posterior on R\^M"),
        (curved.uniform_sphere(4), round_, r"sphere in R\^4 and a posterior on the sphere in R\^3"),
        (curved.standard_wrapped_normal(3, 0.5), bent, r"curvature -0\.5 and a posterior on .* curvature -2"),
        (flows.uniform_torus(3), flat, "a prior on the torus of 3 angles"),
        (flows.transformed(sphere, sphere_flows.exponential(2)), flat, "a prior on the sphere"),
        (vamp.vamp(round_, jnp.zeros((2, 4))), flat, "a prior on the sphere"),
        (
            curved.uniform_sphere(6),
            joint.joint(round_, round_, 3),
            "sphere in R.3 and the sphere in R.3",
        ),
        (
            joint.joint(sphere, normal, 3),
            joint.joint(flat, round_, 3),
            "one latent space",
        ),
        (bits, flat, "a prior on bits 0 and 1"),
        (vae(normal, flat, bits), flat, "a prior on bits 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            vae(prior, posterior, decoder)
    for prior, posterior in (
        (curved.standard_wrapped_normal(3, 2.0), bent),
        (sphere, round_),
        (joint.joint(normal, sphere, 3), joint.joint(flat, round_, 3)),
        (vae(normal, flat, flat), flat),
    ):
        assert vae(prior, posterior, decoder).kind == "weight"


def test_maps_of_other_spaces_are_refused():
    sphere = curved.uniform_sphere(3)
    with pytest.raises(ValueError, match=r"only vectors of R\^M are reordered, got a density on the sphere"):
        joint.reorder(joint.joint(sphere, sphere, 3), 3)
    with pytest.raises(
        ValueError, match=r"only vectors of R\^M are standardised, got a density on the sphere"
    ):
        latent_diffusion.standardised(sphere, jnp.zeros(3), jnp.ones(3))
    with pytest.raises(ValueError, match="got a base of bits 0 and 1"):
        flows.transformed(density.conditional(constant(2, 1), density.bernoulli(), (2,)), flows.actnorm(2))


def test_widths_that_would_broadcast_are_refused():
    for of_three in (
        latent_diffusion.standardised(density.standard_normal(3), jnp.zeros(3), jnp.ones(3)),
        flows.transformed(density.standard_normal(3), flows.actnorm(3)),
    ):
        params = of_three.init(jax.random.key(0))
        assert of_three.log_prob(params, None, jnp.zeros((5, 3))).shape == (5,)
        with pytest.raises(ValueError, match=r"got an array of shape \(5, 1\)"):
            of_three.log_prob(params, None, jnp.zeros((5, 1)))
    parts = Parts(density.standard_normal(1), law(lambda x: (x[..., :3], 0.0), 3), None)
    with pytest.raises(ValueError, match=r"vectors of 1 numbers, got an array of shape \(5, 3\)"):
        diagnostics.unit_kl(parts, {"prior": {}, "posterior": {}}, jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match="one latent space"):
        diagnostics.diagnose(
            parts._replace(prior=curved.uniform_sphere(3), decoder=law(lambda z: (z, 0.0))),
            {},
            jnp.zeros((5, 4)),
            key=jax.random.key(0),
        )


def test_trained_pseudo_inputs_start_where_they_can_be():
    posterior = law(lambda x: (x, 0.0))
    for outside in (-2.0, 3.0):
        with pytest.raises(ValueError, match=r"start in \[0, 1\], got .* give their scale"):
            vamp.vamp(posterior, jnp.array([[0.5], [outside]]))
        vamp.vamp(posterior, jnp.array([[0.5], [outside]]), train=False)
    vamp.vamp(posterior, jnp.array([[0.5], [3.0]]), scale=3.0)


def test_each_draw_of_a_joint_density_has_its_own_randomness():
    """The inner part is a VAE whose latent variable is its second number, up to e^-9: 15 different numbers, of any shape."""

    def inner_decoder(given):
        first, *others = jax.tree.leaves(given)
        shape = jnp.broadcast_shapes(first.shape, *((*leaf.shape[:-1], 1) for leaf in others))
        return jnp.broadcast_to(first, shape), -9.0

    inner = vae(density.standard_normal(1), law(lambda x: (jax.tree.leaves(x)[0], 0.0)), law(inner_decoder))
    both = joint.joint(density.standard_normal(1), inner, 1)
    params = both.init(jax.random.key(0))
    for context, shape in (
        (None, (15,)),
        (None, (3, 5)),
        (None, ()),
        (jnp.zeros((5, 1)), (3,)),
        (jnp.zeros((5, 1)), (3, 1)),
    ):
        z, _ = both.sample(params, jax.random.key(1), context, shape)
        assert z.shape == (*shape, *(() if context is None else (5,)), 2)
        ordered = np.sort(z[..., 1].reshape(-1))
        assert (np.diff(ordered) > 2e-3).all()  # shared draws are 1e-4 apart
    drawn = joint.joint(density.standard_normal(1), law(lambda z: (0.5 * z, -1.0)), 1)
    z, value = drawn.sample({"first": {}, "second": {}}, jax.random.key(2), None, (2, 3))
    exact = densities.normal_log_prob(z[..., :1], 0.0, 0.0) + densities.normal_log_prob(
        z[..., 1:], 0.5 * z[..., :1], -1.0
    )
    np.testing.assert_allclose(value, exact, rtol=1e-5)


def test_dreg_draws_what_is_inside_the_decoder_for_each_sample():
    """A decoder that is a VAE of its own, whose latent variable is drawn from x alone: both estimate the same bound.

    64,000 draws each, five standard errors of the difference, false alarm 6e-7; one inner draw for all samples: 17 more.
    """
    tied = lambda given: (sum(jnp.broadcast_arrays(*given)), -1.0)
    decoder = vae(density.standard_normal(1), law(lambda given: (0.3 * given[0], 0.2)), law(tied))
    parts = density.standard_normal(1), law(lambda x: (0.3 * x, 0.2)), decoder
    params = vae(*parts).init(jax.random.key(0))
    batch = jnp.full((2000, 1), 0.7)
    found = []
    for loss in (objectives.importance_weighted(vae(*parts), 50), dreg(*parts, samples=50)):
        values = jax.lax.map(
            lambda key, loss=loss: loss(params, key, batch)[0], jax.random.split(jax.random.key(1), 32)
        )
        found.append((values.mean(), values.std(ddof=1) / math.sqrt(32)))
    (iwae, error), (ours, other) = found
    assert abs(iwae - ours) < 5 * math.hypot(error, other)


def test_the_second_stage_of_a_latent_diffusion_sees_the_context():
    seen = lambda params, key, batch, step=None: (batch[0].sum() + 100 * batch[1].sum(), {})
    posterior = law(lambda given: (given[0] + given[1], -20.0))
    x, label = jnp.ones((4, 1)), jnp.full((4, 1), 2.0)
    loss, _ = latent_diffusion.encoded(seen, posterior, {})({}, jax.random.key(0), (x, label))
    assert float(loss) == pytest.approx(4 * 3 + 100 * 8, rel=1e-5)


@pytest.mark.parametrize("log_std", [-5.0, -12.0, -16.0])
def test_a_narrow_full_normal_has_its_density(log_std):
    """At the mean: -M (log s + log(2 pi) / 2), in float32."""
    full = gaussian.full_normal(density.Net(lambda key: {}, lambda params, x: x), 2)
    raw_params = jnp.array([[0.0, 0.0, log_std, 0.3, log_std]])
    value = full.log_prob({}, None, jnp.zeros((1, 2)), raw_params)
    np.testing.assert_allclose(value, -2 * log_std - math.log(2 * math.pi), rtol=1e-6)


def test_a_narrow_type_is_inverted_in_float32():
    """Values that bfloat16 holds, with a scale that multiplies what rounding leaves."""
    x = jnp.array([[1.0, -0.5, 2.0, 0.25, -1.0, 0.75]])
    conditioner = lambda z: (jnp.cumsum(z, -1) - z, jnp.full(z.shape, -0.7))
    exact, narrow = (
        autoregressive.autoregressive_inverse(x.astype(t), conditioner)[0]
        for t in (jnp.float32, jnp.bfloat16)
    )
    np.testing.assert_array_equal(exact, narrow)
