"""Every compatible choice of parts, on binary images of 2 x 2 pixels: there are 16 of them, so that all is known exactly.

The latent space has two dimensions and the evidence comes from quadrature.  Parameters are random, none at its start value.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.data import Spec
from dlvm_jax.functional import bounds
from dlvm_jax.models import objectives
from dlvm_jax.models.density import join
from dlvm_jax.recipes import VAE
from dlvm_jax.recipes.conditions import CONDITIONS
from dlvm_jax.recipes.networks import NETS
from dlvm_jax.recipes.vae_objectives import OBJECTIVES
from dlvm_jax.recipes.vae_parts import LIKELIHOODS, POSTERIORS, PRIORS
from dlvm_jax.train import checkpoint

IMAGES = np.unpackbits(np.arange(16, dtype=np.uint8)[:, None], axis=1)[:, 4:].reshape(16, 2, 2, 1)


def dataset_of(images, levels=2, discrete=True):
    spec = Spec("toy", "test", "", images.shape[1:], len(images), levels, discrete, 1.0, classes=3)
    labels = np.arange(len(images)) % 3
    return types.SimpleNamespace(
        spec=spec, train=images, train_labels=labels, levels=levels, discrete=discrete
    )


def recipe_of(**options):
    small = {"latent_dim": 2, "hidden": (6,)}
    small |= {"components": 3} if "components" in PRIORS[options.get("prior", "standard")].uses else {}
    small |= {"flow_steps": 2} if "flow_steps" in POSTERIORS[options.get("posterior", "normal")].uses else {}
    return VAE(**{**small, **options})


def compatible(recipe):
    try:
        recipe.check()
    except ValueError:
        return False
    return True


def everywhere(params, key):
    """Parameters shrunk and moved at random: no start value hides a fault, and outputs are of order one."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    scale = lambda x: 0.2 / np.sqrt(x.shape[-2] if x.ndim > 1 else 1)
    moved = [0.6 * x + scale(x) * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def line(n=101, width=10.0):
    """Nodes and weights of the trapezoidal rule: exact to rounding for densities that are smooth and vanish at the ends."""
    nodes = np.linspace(-width, width, n)
    return nodes, np.full(n, nodes[1] - nodes[0])


def space(prior, curvature=1.0):
    """Nodes z [n, *] and weights [n] of a quadrature over the latent space."""
    if prior == "sphere":
        height, weight = np.polynomial.legendre.leggauss(40)
        angle = 2 * np.pi * np.arange(80) / 80
        height, angle = np.repeat(height, 80), np.tile(angle, 40)
        ring = np.sqrt(1 - height**2)
        z = np.stack([height, ring * np.cos(angle), ring * np.sin(angle)], -1)
        return z, np.repeat(weight, 80) * 2 * np.pi / 80
    if (
        prior == "hyperbolic"
    ):  # geodesic polar coordinates of the ball, volume sinh(sqrt(c) r) / sqrt(c) dr dt
        root = np.sqrt(curvature)
        radius, weight = np.polynomial.legendre.leggauss(120)
        radius, weight = 4 * (radius + 1), 4 * weight
        angle = np.repeat(2 * np.pi * np.arange(80) / 80, 120)
        r = np.tile(radius, 80)
        z = (np.tanh(root * r / 2) / root)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        return z, np.tile(weight, 80) * np.sinh(root * r) / root * 2 * np.pi / 80
    nodes, weight = line()
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    return z, np.outer(weight, weight).ravel()


def build(recipe, images=IMAGES, levels=2, discrete=True):
    dataset = dataset_of(images, levels, discrete)
    model = recipe.build(dataset.spec, recipe.constants(dataset, 0))
    x = jnp.asarray(images, jnp.float32)
    batch = model.split((x, jnp.asarray(dataset.train_labels)) if model.labels else x)
    return model, everywhere(model.init(jax.random.key(0)), jax.random.key(1)), batch


def by_quadrature(model, params, batch, prior, key):
    """Of each example log p(x), its ELBO, the logarithms of the masses of prior and posterior, E_q[z], by quadrature over z."""
    x, context = objectives.unpack(batch)
    z, weights = (jnp.asarray(a, jnp.float32) for a in space(prior))
    own = model.parts.tied(params)
    prior_at = jax.jit(
        lambda spread: model.parts.prior.log_prob(own["prior"], key, z, spread) + jnp.log(weights)
    )
    shared = prior_at(None) if context is None else None  # once for all examples: an ODE's is costly

    @jax.jit
    def one(x, context):
        spread = None if context is None else jnp.broadcast_to(context, (len(z), *context.shape))
        log_prior = shared if context is None else prior_at(spread)
        code = z if context is None else (z, spread)
        log_lik = model.parts.decoder.log_prob(own["decoder"], None, x[None], code)
        repeated = jnp.broadcast_to(x, (len(z), *x.shape))
        condition = repeated if context is None else (repeated, spread)
        log_posterior = model.parts.posterior.log_prob(own["posterior"], None, z, condition) + jnp.log(
            weights
        )
        q = jnp.exp(log_posterior)
        elbo = jnp.sum(jnp.where(q > 0, q * (log_lik + log_prior - log_posterior), 0))
        logs = (jax.nn.logsumexp(log_prior + log_lik), jax.nn.logsumexp(log_prior), jnp.log(q.sum()))
        return logs[0], elbo, *logs[1:], q @ z

    with jax.default_matmul_precision("highest"):
        values = [one(x[n], None if context is None else context[n]) for n in range(len(x))]
    return [np.stack(each) for each in zip(*values, strict=True)]


def every_leaf_learns(objective, params, batch):
    """Loss and gradient are finite, and the gradient of no array of parameters is zero."""
    (loss, metrics), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        params, jax.random.key(5), batch
    )
    assert np.isfinite(loss) and all(np.isfinite(v).all() for v in jax.tree.leaves(metrics))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)


# What a prior takes from its posterior is its networks: those of a VampPrior and the standard prior meet every posterior.
# The others meet the normal one and one flow each; of a diffusion prior each density is an ODE.
FLOWS = [name for name in POSTERIORS if compatible(recipe_of(posterior=name)) and name != "normal"]
MET = {prior: {"normal", FLOWS[n % len(FLOWS)]} for n, prior in enumerate(PRIORS)}
MET |= dict.fromkeys(("standard", "vamp", "sphere", "hyperbolic"), POSTERIORS) | {"diffusion": {"normal"}}
PAIRS = [
    recipe
    for prior in PRIORS
    for posterior in POSTERIORS
    if compatible(recipe := recipe_of(prior=prior, posterior=posterior)) and posterior in MET[prior]
]
SPECIAL = [
    recipe
    for options in (
        *({"layers": 2, "prior": p, "latent_dim": 1} for p, prior in PRIORS.items() if prior.layers),
        {"layers": 2, "inference": "bottom-up", "latent_dim": 1},
        {"pixel_layers": 1},
        {"pixel_layers": 1, "condition": "label"},
        *(
            {"condition": c, "prior": p, "posterior": q}
            for c in CONDITIONS
            for p, prior in PRIORS.items()
            for q, posterior in POSTERIORS.items()
            if prior.gaussian
            and posterior.conditional
            and (
                c not in ("quadrants-2", "quadrants-3") or (p, q) == ("learned", "normal")
            )  # of other shapes
        ),
    )
    if compatible(recipe := recipe_of(**options))
]


OPTIONS = {
    **{"iwae": {"samples": 3}, "dreg": {"samples": 3}},
    **{
        "renyi": {"samples": 3, "alpha": 0.5},
        "free-bits": {"free_nats": 0.01},
        "total-correlation": {"beta": 4.0},
    },
}
# One flow meets every objective, the others the one that takes their gradient apart.
TRIPLES = [
    recipe
    for pair in PAIRS + SPECIAL
    for objective in list(OBJECTIVES)[1:]  # the first is in the test of pairs
    if (objective == "dreg" or pair.posterior not in FLOWS[:-1])
    and pair.condition not in ("quadrants-2", "quadrants-3")
    and compatible(
        recipe := dataclasses.replace(
            pair, objective=objective, **OPTIONS.get(objective, {"regulariser": 2.0})
        )
    )
]


def covering(recipes, *options):
    """As few of them, first come, as hold every objective with every value of each option that it goes with."""
    seen, kept = set(), []
    for recipe in recipes:
        pairs = {(recipe.objective, option, getattr(recipe, option)) for option in options}
        kept += [recipe] * bool(pairs - seen)
        seen |= pairs
    return kept


# A network ends in as many channels as the likelihood asks for: all networks with bits, two with every other likelihood.
DECODERS = [
    recipe_of(likelihood=likelihood, net=net, hidden=(4, 4))
    for likelihood in LIKELIHOODS
    for net in NETS
    if likelihood == "bernoulli" or net in ("mlp", list(NETS)[-1])
]


def name_of(recipe):
    names = [recipe.prior, recipe.posterior]
    names += [f"layers-{recipe.layers}"] * (recipe.layers > 1)
    names += [f"pixels-{recipe.pixel_layers}"] * (recipe.pixel_layers > 0)
    names += [recipe.inference] * (recipe.inference != "top-down")
    names += [recipe.condition] * (recipe.condition is not None)
    return "-".join([*names, recipe.objective] if recipe.objective != "elbo" else names)


def quick(recipes, *options):
    """All of them, but what adds no new name of an option to those before it runs only with the slow tests."""
    seen, marked = set(), []
    for recipe in recipes:
        names = {(option, getattr(recipe, option)) for option in options}
        marked.append(pytest.param(recipe, marks=() if names - seen else pytest.mark.slow))
        seen |= names
    return marked


QUICK = ("standard-normal", "vamp-normal", "sphere-von-mises-fisher", "standard-normal-layers-2")


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(c, marks=() if name_of(c) in QUICK else pytest.mark.slow) for c in PAIRS + SPECIAL],
    ids=name_of,
)
def test_pair_of_prior_and_posterior(recipe, tmp_path):
    """The whole chain of one model: gradient, evidence, bound, samples, checkpoint.

    Quadrature is right to 1e-3 in float32.  The mean bound of n draws is within 6 standard errors of the exact one for each
    image, importance-weighted ones stay below the evidence, counts of n samples are within 6 standard deviations of the
    model's probabilities: false alarms are below 1e-6 a model.
    """
    model, params, batch = build(recipe)
    every_leaf_learns(model.objective, params, batch)
    x, context = objectives.unpack(batch)

    evidence, elbo, mass, mass_posterior, mean = by_quadrature(
        model, params, batch, recipe.prior, jax.random.key(9)
    )
    np.testing.assert_allclose(mass_posterior, 0, atol=1e-3)
    assert mean.shape[-1] == recipe.code_dim
    if model.parts.posterior.mean is not None and recipe.layers == 1:
        claimed = model.parts.posterior.mean(params["posterior"], join(x, context))
        np.testing.assert_allclose(claimed, mean, atol=1e-3)
    if model.density.kind == "bound":  # the normaliser of an implicit prior is bounded by its samples
        assert (np.abs(mass) < 0.3).all()
        evidence, elbo = evidence - mass, elbo - mass
    else:
        np.testing.assert_allclose(mass, 0, atol=1e-3)
    if context is None:
        assert np.exp(evidence).sum() == pytest.approx(1, abs=2e-3)

    draw = jax.jit(jax.vmap(lambda key: model.density.log_prob(params, key, x, context)))
    # an implicit prior draws 256 points for each of its own, a diffusion prior solves an ODE for each
    n = 400 if model.density.kind == "bound" else 200 if recipe.prior == "diffusion" else 4000
    log_w = draw(jax.random.split(jax.random.key(2), n))
    error = log_w.std(0) / np.sqrt(n)
    assert (elbo < evidence).all() and (log_w.mean(0) < elbo + 6 * error + 1e-3).all()
    if model.density.kind == "weight":
        assert (log_w.mean(0) > elbo - 6 * error - 1e-3).all()
        ten = bounds.importance_weighted(log_w.reshape(10, n // 10, -1))
        assert (ten.mean(0) < evidence + 6 * ten.std(0) / np.sqrt(n // 10)).all()

    if context is None:
        samples, _ = model.density.sample(params, jax.random.key(3), shape=(n,))
        assert samples.shape == (n, 2, 2, 1)
        counts = np.bincount((samples.reshape(-1, 4) @ np.array([8, 4, 2, 1])).astype(int), minlength=16)
        p = np.exp(evidence)
        assert (np.abs(counts - n * p) < 6 * np.sqrt(n * p * (1 - p)) + 4).all()
    else:
        samples, _ = model.density.sample(params, jax.random.key(3), context, (7,))
        assert samples.shape == (7, *x.shape) and np.isin(samples, (0, 1)).all()

    kept = checkpoint.Checkpoints(tmp_path / "checkpoints", {"prior": recipe.prior})
    kept.save(1, params)
    kept.wait()
    _, restored = kept.restore(jax.tree.map(jnp.zeros_like, params))
    kept.close()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, restored))


PARTS = ("prior", "posterior", "layers", "inference", "condition")


@pytest.mark.parametrize("recipe", quick(covering(TRIPLES, *PARTS), "objective"), ids=name_of)
def test_objective_trains_every_array(recipe):
    model, params, batch = build(recipe)
    every_leaf_learns(model.objective, params, batch)
    assert np.isfinite(model.validation(params, jax.random.key(1), batch)[0])


FIRST = [(likelihood, "mlp") for likelihood in ("bernoulli", "normal", "logistic-mixture")]


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(c, marks=() if (c.likelihood, c.net) in FIRST else pytest.mark.slow) for c in DECODERS],
    ids=lambda c: f"{c.likelihood}-{c.net}",
)
def test_decoder_and_network(recipe):
    """Images of 8 x 8 pixels and 4 levels: gradients in every array, draws in the range of the data, probabilities below 1."""
    levels = 2 if recipe.likelihood == "bernoulli" else 4
    discrete = LIKELIHOODS[recipe.likelihood].data != "reals"
    images = np.random.RandomState(0).randint(0, levels, (16, 8, 8, 1)).astype(np.float32)
    images = images if discrete else (images + 0.5) / levels
    model, params, batch = build(recipe, images, levels, discrete)
    every_leaf_learns(model.objective, params, batch)
    x, _ = model.density.sample(params, jax.random.key(1), shape=(6,))
    assert x.shape == (6, 8, 8, 1) and np.isfinite(x).all()
    if discrete:
        assert np.isin(x, np.arange(levels)).all()
        assert model.density.log_prob(params, jax.random.key(2), batch).max() < 0


@pytest.mark.slow
def test_pixels_of_a_decoder_depend_on_those_before_them_and_on_z():
    """Given z the 16 probabilities sum to one without being a product; draws of many codes and of several batches are scored."""
    model, params, batch = build(recipe_of(pixel_layers=1))
    decoder, own = model.parts.decoder, jax.tree.map(lambda a: 3 * a, params["decoder"])
    z = jnp.asarray([[0.5, -1.0], [2.0, 1.0]])
    log_prob = jax.jit(lambda x, z: decoder.log_prob(own, None, x, z))
    p = jnp.exp(log_prob(jnp.repeat(batch[:, None], 2, axis=1), z))
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)
    assert abs(np.log(p[:, 0]) - np.log(p[:, 1])).max() > 0.1
    first, last = batch[:, 0, 0, 0], batch[:, 1, 1, 0]
    both = np.log([[p[:, 0][(first == a) & (last == b)].sum() for b in (0, 1)] for a in (0, 1)])
    assert (
        abs(both[0, 0] + both[1, 1] - both[0, 1] - both[1, 0]) > 0.1
    )  # the log-odds ratio of first and last pixel
    x, found = jax.jit(lambda z: decoder.sample(own, jax.random.key(0), z, (3,)))(jnp.stack([z, z + 1]))
    assert x.shape == (3, 2, 2, 2, 2, 1)
    np.testing.assert_allclose(log_prob(x, jnp.stack([z, z + 1])), found, atol=1e-5)
    with pytest.raises(ValueError, match="no mean in closed form"):
        model.decode(params, z)
    with pytest.raises(ValueError, match=r"pixel_layers needs images"):
        recipe_of(pixel_layers=1).check_data(dataset_of(IMAGES.reshape(16, 4)).spec)
