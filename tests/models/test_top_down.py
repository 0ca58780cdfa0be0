"""Hierarchical VAEs against exact answers: linear-Gaussian chains of several depths, one layer, two layers, temperature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlvm_jax.functional import densities, linear_gaussian
from dlvm_jax.models import density, gaussian, joint, layered, objectives
from dlvm_jax.models.density import Net
from dlvm_jax.models.top_down import Group, Stage, features_of, top_down
from dlvm_jax.models.vae import vae
from dlvm_jax.models.vamp import vamp
from tests.models.linear_chain import (
    KEY,
    LIKELIHOOD,
    NOISE,
    W,
    X,
    bottom_up,
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


@pytest.mark.parametrize("make", [chain, bottom_up])
@pytest.mark.parametrize("layers", [2, 3, 5])
def test_every_weight_of_the_exact_posterior_is_the_evidence(layers, make):
    model, params = make(layers)
    for seed in range(3):
        weight = model.density.log_prob(params, jax.random.key(seed), X)
        np.testing.assert_allclose(weight, log_evidence(X, layers), atol=1e-12, rtol=0)
        assert float(jnp.std(model.density.terms(params, jax.random.key(seed), X)["rates"])) > 0.01


def test_each_rate_is_a_kl_and_their_closed_form_gives_the_evidence_on_average():
    """20,000 draws of three layers; the bound's spread is that of the likelihood alone.  False alarms: 1e-6 (five errors)."""
    model, params = chain(3, kl="analytic")
    assert model.density.kind == "bound" and model.layers == 3
    terms = jax.vmap(lambda key: model.density.terms(params, key, X))(jax.random.split(KEY, 20_000))
    bound = terms["reconstruction"] - terms["kl"]
    error = bound.std(0) / np.sqrt(len(bound))
    assert (abs(bound.mean(0) - log_evidence(X, 3)) < 5 * error).all() and (terms["rates"] >= 0).all()
    np.testing.assert_allclose(terms["rates"].sum(-1), terms["kl"], rtol=1e-12)
    sampled = chain(3)[0].density
    rates = jax.vmap(lambda key: sampled.terms(params, key, X)["rates"])(jax.random.split(KEY, 20_000))
    difference = rates - terms["rates"]
    error = difference.std(0) / np.sqrt(len(difference))
    assert (abs(difference.mean(0)) < 5 * error).all()


def test_the_best_mean_field_posterior_lies_below_by_its_closed_form():
    """Two layers with independent Gaussians: 1/2 (sum log P_ii - log |P|) under log p(x), P the posterior's precision."""
    slope, noise = (s[0] for s in scales(2))
    square, gap, found = (W**2).sum(0) / NOISE**2, 0.0, []
    for a, s, c in zip(slope, noise, square, strict=True):
        precision = np.array([[1 + a**2 / s**2, -a / s**2], [-a / s**2, 1 / s**2 + c]])
        gap += 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
        found.append((np.linalg.inv(precision)[:, 1], np.diag(precision)))
    gain, precision = (np.array(list(x)).T for x in zip(*found, strict=True))  # [layer, unit]

    def mean(x, layer):
        return gain[layer] * (x @ W) / NOISE**2

    lower = linear_stage(
        2, lambda params, h, f, p: (f, jnp.broadcast_to(-0.5 * jnp.log(precision[1]), f.shape))
    )
    encoder = fixed(lambda x: (x, features_of([mean(x, 1)])))
    top = density.conditional(fixed(lambda x: law(mean(x, 0), 1 / precision[0])), density.normal(), (2,))
    model, params = with_scales(
        top_down(density.standard_normal(2), top, encoder, [lower], LIKELIHOOD, dim=2), 2
    )
    draws = jax.vmap(lambda key: model.density.log_prob(params, key, X))(jax.random.split(KEY, 40_000))
    error = draws.std(0) / np.sqrt(len(draws))
    assert gap > 0.1 and (abs(draws.mean(0) - (log_evidence(X, 2) - gap)) < 5 * error).all()
    # importance-weighted bounds of 1, 4, 16 and 250 draws rise to the evidence
    bounds = [
        (jax.nn.logsumexp(draws.reshape(-1, k, 4), axis=1) - np.log(k)).mean(0) for k in (1, 4, 16, 250)
    ]
    assert all((low < high).all() for low, high in itertools.pairwise(bounds))
    np.testing.assert_allclose(bounds[-1], log_evidence(X, 2), atol=0.02)


def test_one_layer_is_the_vae_to_the_last_bit():
    encoder = fixed(lambda x: law(jnp.tanh(x @ W), 0.3))
    posterior = density.conditional(encoder, density.normal(), (2,))
    for kl in ("sampled", "analytic"):
        one = top_down(
            density.standard_normal(2), posterior, fixed(lambda x: (x, ())), [], LIKELIHOOD, dim=2, kl=kl
        )
        old = vae(density.standard_normal(2), posterior, LIKELIHOOD, kl=kl)
        params = {"prior": {}, "posterior": {}, "decoder": {}}
        found = one.density.terms(one.density.init(KEY), KEY, X)
        for name, value in old.terms(params, KEY, X).items():
            np.testing.assert_array_equal(found[name], value)
        assert one.density.kind == old.kind and one.layers == 1 and found["rates"].shape == (4, 1)


def test_two_layers_are_the_two_layer_model_of_densities():
    """At the same latents: p(z2) p(z1 | z2), q(z2 | x) q(z1 | x, z2), p(x | z2, z1), with networks of their own."""
    below, beside = fixed(lambda z: law(jnp.sin(z), 0.4)), fixed(lambda z, x: law(jnp.cos(z) + x @ W, 0.2))
    upper = density.conditional(fixed(lambda x: law(x @ W, 0.5)), density.normal(), (2,))
    decoder = density.conditional(fixed(lambda z: law(z @ np.ones((4, 5)), 0.9)), density.normal(), (5,))
    normal = lambda net: density.conditional(net, density.normal(), (2,))
    prior = joint.joint(density.standard_normal(2), normal(below), 2)
    second = normal(fixed(lambda both: beside.apply({}, *both)))
    posterior = joint.joint(upper, second, 2)
    read = density.normal().normal
    group = Group(  # the state has room for both
        (2,),
        lambda key: {},
        lambda params, h: (read(below.apply({}, h[..., :2])), h),
        lambda params, h, x, p: read(beside.apply({}, h[..., :2], x)),
        lambda params, h, z: h.at[..., 2:].set(z),
    )
    enter = fixed(lambda z: jnp.concatenate([z, 0 * z], axis=-1))
    encoder = fixed(lambda x: (x, features_of([x])))
    model = top_down(density.standard_normal(2), upper, encoder, [Stage(group, 1, enter)], decoder, dim=2)
    key_latent, _ = jax.random.split(KEY)  # the latents as the model draws them
    key_z, _ = jax.random.split(key_latent)
    z2, _ = upper.sample({}, key_z, X)
    mean, log_std = group.posterior({}, enter.apply({}, z2), X, None)
    z = jnp.concatenate(
        [z2, mean + jnp.exp(log_std) * model.noise(jax.random.fold_in(key_z, 1), 4).groups[0][0]], axis=-1
    )
    empty = {"first": {}, "second": {}}
    old = (
        decoder.log_prob({}, None, X, z)
        + prior.log_prob(empty, None, z)
        - posterior.log_prob(empty, None, z, X)
    )
    np.testing.assert_allclose(model.density.log_prob(model.density.init(KEY), KEY, X), old, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0, (1.0, 0.0, 2.0)])
def test_layers_at_a_temperature_have_its_variance(temperature):
    """Of the lowest latent given the top one: sum of t_l^2 s_l^2 and slopes, from 50,000 draws.  False alarms: 1e-5."""
    model, params = chain(3)
    warmth = np.broadcast_to(temperature, 3)
    count, variance = 50_000, np.zeros(2)
    for t, slope, noise in zip(warmth[1:], *scales(3), strict=True):
        variance = slope**2 * variance + (t * noise) ** 2
    top = jnp.ones((count, 2))
    noise = model.noise(KEY, count)
    latents = noise._replace(top=top)
    mean, found = model.decode(params, latents, noise, 1, jnp.asarray(temperature))
    lowest = found.groups[0][-1]
    np.testing.assert_allclose(
        lowest.mean(0), scales(3)[0].prod(0), atol=5 * np.sqrt(variance.max() / count) + 1e-12
    )
    np.testing.assert_allclose(lowest.var(0), variance, rtol=5 * np.sqrt(2 / count), atol=1e-12)
    np.testing.assert_allclose(mean, lowest @ W.T, rtol=1e-12)
    np.testing.assert_allclose(
        model.draw_top(params, KEY, count, 0.5).var(0), 0.25, rtol=5 * np.sqrt(2 / count)
    )


def test_kept_layers_stay_and_the_others_are_drawn_anew():
    model, params = chain(4)
    given = model.infer(params, KEY, X)
    for keep in range(1, 5):
        _, found = model.decode(params, given, model.noise(jax.random.key(5), 4), keep)
        same = [bool((a == b).all()) for a, b in zip(given.groups[0], found.groups[0], strict=True)]
        assert same == [layer < keep for layer in (1, 2, 3)] and (found.top == given.top).all()
    mean, again = model.decode(params, model.unflatten(model.flatten(given)))
    np.testing.assert_array_equal(again.groups[0], given.groups[0])
    np.testing.assert_allclose(mean, given.groups[0][-1] @ W.T, rtol=1e-12)
    with pytest.raises(ValueError, match=r"vectors of 8 numbers, got an array of shape \(2, 3\)"):
        model.unflatten(jnp.ones((2, 3)))


def test_a_pull_towards_the_prior_weighs_both_laws():
    """q p^(1/t^2 - 1) of one group: precisions add; without noise its mean."""
    model, params = chain(2)
    found = model.infer(params, None, X, pull=3.0)
    slope, noise = (s[0] for s in scales(2))
    mean, variance = messages(2)[0]
    above = found.top * slope
    precision = 1 / variance + 4 / noise**2
    expected = (X @ mean.T / variance + above * 4 / noise**2) / precision
    np.testing.assert_allclose(found.groups[0][0], expected, rtol=1e-12)


def test_samples_have_the_covariance_of_the_chain():
    model, params = chain(3)
    x, none = model.density.sample(params, KEY, shape=(20_000,))
    variance = np.ones(2)
    for slope, noise in zip(*scales(3), strict=True):
        variance = slope**2 * variance + noise**2
    covariance = W @ np.diag(variance) @ W.T + NOISE**2 * np.eye(5)
    assert none is None
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=5 * np.sqrt(2 / 20_000) * covariance.max())


@pytest.mark.slow
def test_training_from_a_random_start_reaches_the_optimum_of_the_linear_model():
    """Two layers of two units over rows in R^3: no linear-Gaussian model of rank two is above pPCA (Tipping & Bishop 1999).

    Closed KLs, four draws a row, and a falling rate; the bound is within 1e-3 nats of pPCA's.
    """
    rng = np.random.RandomState(3)
    rows = jnp.asarray(rng.randn(200, 2) @ rng.randn(2, 3) + 0.5 * rng.randn(200, 3))
    rows = rows - rows.mean(0)
    best = linear_gaussian.log_evidence(linear_gaussian.ppca_fit(rows, 2), rows).mean()
    dense = lambda n, m: Net(
        lambda key: {"w": 0.3 * jax.random.normal(key, (n, m)), "s": jnp.zeros(m)},
        lambda params, x: jnp.stack(
            [x @ params["w"], jnp.broadcast_to(params["s"], (*x.shape[:-1], m))], axis=-1
        ),
    )
    read = density.normal().normal
    down, up = dense(2, 2), dense(5, 2)
    group = Group(
        (2,),
        lambda key: {"p": down.init(key), "q": up.init(jax.random.fold_in(key, 1))},
        lambda params, h: (read(down.apply(params["p"], h)), h),
        lambda params, h, x, p: read(up.apply(params["q"], jnp.concatenate([h, x], axis=-1))),
        lambda params, h, z: z,
    )
    likelihood = density.with_shared_scale(
        Net(lambda key: 0.3 * jax.random.normal(key, (2, 3)), lambda w, h: (h @ w)[..., None])
    )
    parts = (
        density.standard_normal(2),
        density.conditional(dense(3, 2), density.normal(), (2,)),
        fixed(lambda x: (x, features_of([x]))),
        [Stage(group, 1, fixed(lambda z: z))],
        density.conditional(likelihood, density.normal(), (3,)),
    )
    model, weight = (top_down(*parts, dim=2, kl=kl).density for kl in ("analytic", "sampled"))
    objective = objectives.negative_elbo(model)
    steps = 3000
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def loss(params, key):
        return jax.vmap(lambda k: objective(params, k, rows)[0])(jax.random.split(key, 4)).mean()

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        keys = jax.random.split(KEY, steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return jax.vmap(lambda key: weight.log_prob(params, key, rows).mean())(jax.random.split(KEY, 100))

    bound = train(model.init(KEY))  # where the posterior is exact every draw is the evidence
    assert float(bound.std()) / 10 < 2e-4
    assert float(bound.mean()) == pytest.approx(float(best), abs=1e-3)


def test_any_prior_may_stand_on_top():
    """A VampPrior over pseudo-inputs is the explicit mixture of the top posterior."""
    _, params = chain(2)
    posterior = density.conditional(fixed(lambda x: law(x @ W, 0.5)), density.normal(), (2,))
    inputs = np.random.RandomState(4).rand(3, 5)
    prior = vamp(posterior, inputs, train=False)
    stage = linear_stage(2, lambda params, h, f, p: p)
    mixed = top_down(prior, posterior, fixed(lambda x: (x, features_of([x]))), [stage], LIKELIHOOD, dim=2)
    own = mixed.density.init(KEY) | {"stages": params["stages"]}
    rates = mixed.density.terms(own, KEY, X)["rates"]
    z = jnp.linspace(-1, 1, 8).reshape(4, 2)
    each = densities.normal_log_prob(z[:, None], jnp.asarray(inputs, jnp.float32) @ W, 0.5 * np.log(0.5))
    np.testing.assert_allclose(
        prior.log_prob({"posterior": {"encoder": {}, "posterior": {}}}, None, z),
        jax.nn.logsumexp(each, axis=-1) - np.log(3),
        rtol=1e-6,
    )
    assert rates.shape == (4, 2) and (rates[:, 1] == 0).all()  # the group's posterior is its prior
    assert (
        top_down(
            gaussian.mixture(2, 3),
            posterior,
            fixed(lambda x: (x, features_of([x]))),
            [stage],
            LIKELIHOOD,
            dim=2,
        ).density.kind
        == "weight"
    )


def test_layers_are_weighed_one_by_one():
    model, params = chain(3)
    terms = model.density.terms(params, KEY, X)
    rates, log_lik = np.asarray(terms["rates"].mean(0)), float(terms["reconstruction"].mean())
    loss, metrics = layered.layered_elbo(model.density, 0.5, 0.3)(params, KEY, X)
    assert float(loss) == pytest.approx(0.5 * np.maximum(rates, 0.3).sum() - log_lik)
    assert float(metrics["bound"]) == pytest.approx(log_lik - rates.sum())
    sizes = [1.0, 2.0, 2.0]
    weight = (0.01 + np.asarray(abs(terms["rates"]).mean(0))) / sizes
    loss, _ = layered.layered_elbo(model.density, 0.5, None, sizes)(params, KEY, X)
    assert float(loss) == pytest.approx(0.5 * (rates * weight / weight.mean()).sum() - log_lik, rel=1e-6)
    loss, _ = layered.layered_elbo(model.density, 1.0, None, sizes)(params, KEY, X)
    assert float(loss) == pytest.approx(rates.sum() - log_lik)
    below = density.standard_normal(5)._replace(  # the estimate of a batch may lie below zero
        terms=lambda *_: {"reconstruction": jnp.zeros(2), "kl": -jnp.ones(2), "rates": -jnp.ones((2, 1))}
    )
    assert float(layered.layered_elbo(below)({}, KEY, X)[0]) == -1.0
    flat = layered.layered_elbo(density.standard_normal(5))
    with pytest.raises(ValueError, match="layers are weighed where a density has several"):
        flat({}, KEY, X)


@pytest.mark.parametrize("case, message", [
    ("counts", "at least one group, got \\[0\\]"),
    ("chain", "a density for each of the 2 layers, got 1"),
    ("weight", "a posterior needs a density of kind exact, got kind 'weight'"),
    ("kl", "kl is 'sampled' or 'analytic', got 'closed'"),
    ("analytic", "an analytic KL needs a Gaussian prior and posterior"),
    ("context", "takes no context; leave it out"),
    ("temperature", "only a Gaussian top prior has a temperature, got 0.5"),
    ("pull", "only inference from the top down is pulled"),
])  # fmt: skip
def test_parts_that_do_not_go_together_are_refused(case, message):
    model, params = chain(2)
    posterior = density.conditional(fixed(lambda x: law(x @ W, 0.5)), density.normal(), (2,))
    encoder, stage = fixed(lambda x: (x, features_of([x]))), linear_stage(2, lambda params, h, f, p: p)
    normal = density.standard_normal(2)
    make = lambda prior=normal, q=posterior, e=encoder, s=stage, **options: top_down(
        prior, q, e, [s], LIKELIHOOD, dim=2, **options
    )
    with pytest.raises(ValueError, match=message):
        {
            "counts": lambda: make(s=stage._replace(count=0)),
            "chain": lambda: make(q=[posterior], e=None),
            "weight": lambda: make(q=model.density),
            "kl": lambda: make(kl="closed"),
            "analytic": lambda: make(gaussian.mixture(2, 3), kl="analytic"),
            "context": lambda: model.density.log_prob(params, KEY, X, X),
            "temperature": lambda: make(gaussian.mixture(2, 3)).draw_top(
                {"prior": gaussian.mixture(2, 3).init(KEY)}, KEY, 3, 0.5
            ),
            "pull": lambda: bottom_up(2)[0].infer(params, KEY, X, 1.0),
        }[case]()
