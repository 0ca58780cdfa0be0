"""Hierarchies under a context, against the closed form of a linear-Gaussian chain whose means the context moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional.hierarchical import precision_weighted
from dlvm_jax.models import density
from dlvm_jax.models.top_down import features_of, top_down
from dlvm_jax.models.vae import vae
from tests.models.linear_chain import (
    KEY,
    NOISE,
    W,
    X,
    chain,
    fixed,
    law,
    linear_stage,
    log_evidence,
    messages,
    scales,
    with_scales,
)

pytestmark = pytest.mark.usefixtures("x64")

CONTEXT = jnp.array([[0.0], [1.0], [-2.0], [0.5]])  # of each example of X
TOP, ENTRY, PIXELS = np.array([1.0, -0.5]), np.array([0.3, 2.0]), np.array([1.0, 0.0, -1.0, 0.5, 2.0])


def centres(layers):
    """By how much a context of one moves the mean of each latent, [layers, 2], from the top down."""
    found = [TOP, *([] if layers == 1 else [scales(layers)[0][0] * (TOP + ENTRY)])]
    for slope in scales(layers)[0][1:]:
        found.append(slope * found[-1])
    return np.stack(found)


def moved(function):
    """A network of (input, context)."""
    return fixed(lambda both: function(*both))


def parts(layers):
    """Prior, the way into the groups, and likelihood of the moved chain."""
    prior = density.conditional(fixed(lambda c: law(c * TOP, 1.0)), density.normal(), (2,))
    image = moved(lambda h, c: law(h @ W.T + c * PIXELS, NOISE**2))
    return prior, moved(lambda z, c: z + c * ENTRY), density.conditional(image, density.normal(), (5,))


def given_top_down(layers, kl="sampled"):
    """The moved chain with its exact posterior from the top down."""
    prior, enter, likelihood = parts(layers)
    heard = messages(layers)[::-1]

    def encode(x, c):
        x = x - c * PIXELS
        own = jnp.stack([law(x @ mean.T, variance) for mean, variance in heard[1:]])
        above = law(x @ heard[0][0].T - c * ENTRY, heard[0][1])
        top = precision_weighted(above[..., 0], above[..., 1], c * TOP, 0.0)
        return jnp.stack(top, axis=-1), features_of([None], [own])

    stage = linear_stage(layers, lambda params, h, f, p: precision_weighted(f[..., 0], f[..., 1], *p))
    posterior = density.conditional(fixed(lambda f: f), density.normal(), (2,))
    model = top_down(
        prior,
        posterior,
        moved(encode),
        [stage._replace(enter=enter)],
        likelihood,
        dim=2,
        kl=kl,
        conditional=True,
    )
    return with_scales(model, layers)


def given_bottom_up(layers):
    """The same from the bottom up: each law of the chain that is not moved, about the moved means."""
    prior, enter, likelihood = parts(layers)
    slope, noise = scales(layers)
    variances, mu = [np.ones(2)], centres(layers)
    for a, s in zip(slope, noise, strict=True):
        variances.append(a**2 * variances[-1] + s**2)
    mean, variance = messages(layers)[0]
    share = variances[-1] / (variances[-1] + variance)
    nets = [
        moved(
            lambda x, c: law(
                c * mu[-1] + share * ((x - c * (PIXELS + mu[-1] @ W.T)) @ mean.T), share * variance
            )
        )
    ]
    for layer in range(layers - 2, -1, -1):
        a, s, v = slope[layer], noise[layer], variances[layer]
        gain = a * v / (a**2 * v + s**2)
        nets.append(
            moved(
                lambda z, c, gain=gain, left=(1 - gain * a) * v, at=layer: law(
                    c * mu[at] + gain * (z - c * mu[at + 1]), left
                )
            )
        )
    posterior = [density.conditional(net, density.normal(), (2,)) for net in nets]
    stages = [linear_stage(layers)._replace(enter=enter)]
    model = top_down(prior, posterior, None, stages, likelihood, dim=2, conditional=True)
    return with_scales(model, layers)


def evidence(layers):
    """log p(x | c): that of the chain that is not moved, at x less its moved mean."""
    return log_evidence(X - CONTEXT * (PIXELS + centres(layers)[-1] @ W.T), layers)


@pytest.mark.parametrize("make", [given_top_down, given_bottom_up])
def test_every_weight_given_a_context_is_the_evidence_given_it(make):
    model, params = make(3)
    assert model.density.kind == "weight" and model.laws is None
    weight = model.density.log_prob(params, KEY, X, CONTEXT)
    np.testing.assert_allclose(weight, evidence(3), atol=1e-12, rtol=0)
    other = model.density.log_prob(params, KEY, X, CONTEXT + 1)
    assert (abs(other - evidence(3)) > 0.01).all()
    latents = model.infer(params, None, (X, CONTEXT))
    mean, again = model.decode(params, latents, context=CONTEXT)
    np.testing.assert_array_equal(again.groups[0], latents.groups[0])
    np.testing.assert_allclose(mean, latents.groups[0][-1] @ W.T + CONTEXT * PIXELS, rtol=1e-12)


@pytest.mark.slow
def test_a_closed_kl_given_a_context_is_that_of_the_draws():
    """Means of 20,000 draws within five errors; false alarms 1e-5."""
    exact, params = given_top_down(3, kl="analytic")
    sampled = given_top_down(3)[0].density
    keys = jax.random.split(KEY, 20_000)
    rates, closed = (
        jax.vmap(lambda key, model=model: model.terms(params, key, X, CONTEXT)["rates"])(keys)
        for model in (sampled, exact.density)
    )
    difference = rates - closed
    assert exact.density.kind == "bound" and (closed >= 0).all()
    assert (abs(difference.mean(0)) < 5 * difference.std(0) / np.sqrt(len(keys))).all()


@pytest.mark.slow
def test_samples_given_a_context_are_about_its_mean():
    """For each row of the context so many: means of 20,000 within five errors; false alarms 1e-5."""
    model, params = given_top_down(3)
    x, none = model.density.sample(params, KEY, CONTEXT, (20_000,))
    assert none is None and x.shape == (20_000, 4, 5)
    wanted = CONTEXT * (PIXELS + centres(3)[-1] @ W.T)
    assert (abs(x.mean(0) - wanted) < 5 * x.std(0) / np.sqrt(len(x))).all()
    assert model.density.sample(params, KEY, CONTEXT)[0].shape == (4, 5)
    np.testing.assert_allclose(model.draw_top(params, KEY, 4, 0.0, CONTEXT), CONTEXT * TOP, rtol=1e-12)
    assert float(model.draw_top(params, KEY, 4, context=CONTEXT).std()) > 0.1


def test_one_layer_given_a_context_is_the_conditional_vae_to_the_last_bit():
    prior, _, likelihood = parts(1)
    net = moved(lambda x, c: law(jnp.tanh(x @ W) + c, 0.3))
    posterior = density.conditional(net, density.normal(), (2,))
    encoder = moved(lambda x, c: ((x, c), ()))
    one = top_down(prior, posterior, encoder, [], likelihood, dim=2, conditional=True)
    old = vae(prior, posterior, likelihood)
    params = {"prior": {}, "posterior": {}, "decoder": {}}
    found = one.density.terms(one.density.init(KEY), KEY, X, CONTEXT)
    for name, value in old.terms(params, KEY, X, CONTEXT).items():
        np.testing.assert_array_equal(found[name], value)


def test_a_context_that_is_missing_or_of_no_use_is_refused():
    for model, params, context, message in (
        (*given_top_down(2), None, "this model is conditional; give a context"),
        (*given_bottom_up(2), None, "this model is conditional; give a context"),
        (*chain(2), CONTEXT, "takes no context; leave it out"),
    ):
        examples = X if context is None else (X, context)
        for use in (
            lambda m=model, p=params, c=context: m.density.log_prob(p, KEY, X, c),
            lambda m=model, p=params, c=context: m.density.sample(p, KEY, c, (4,)),
            lambda m=model, p=params, e=examples: m.infer(p, None, e),
            lambda m=model, p=params, c=context: m.decode(p, m.noise(KEY, 4), context=c),
        ):
            with pytest.raises(ValueError, match=message):
                use()
