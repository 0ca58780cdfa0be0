"""VQ-VAEs against enumeration of all grids of codes, hand formulas of the objective, and Lloyd's algorithm for the book."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.functional import densities
from dlvm_jax.models import density, vq_vae
from dlvm_jax.models.autoregressive import autoregressive
from dlvm_jax.nets import MADE

KEY = jax.random.key(0)
PLACES, DIM, BITS = 3, 2, 4
X = np.array(list(itertools.product((0.0, 1.0), repeat=BITS)))


def linear(inputs, *shape):
    """A network of one matrix, from what is flattened to a shape."""
    size = math.prod(shape)

    def apply(params, x):
        x = x.reshape(*x.shape[: x.ndim - len(inputs)], -1)
        return (x @ params["w"]).reshape(*x.shape[:-1], *shape)

    return density.Net(lambda key: {"w": jax.random.normal(key, (math.prod(inputs), size))}, apply)


def parts_of(quantiser, prior=None):
    """Of four bits, three places of two numbers."""
    return vq_vae.Parts(
        linear((BITS,), PLACES, DIM),
        quantiser,
        prior or vq_vae.uniform_codes(quantiser.levels, (PLACES,)),
        density.conditional(linear((PLACES, DIM), BITS, 1), density.bernoulli(), (BITS,)),
    )


def made_prior():
    net = density.from_linen(MADE((8,), PLACES, 2, dtype=jnp.result_type(float)), (1, PLACES))
    return autoregressive(net, density.categorical(2), (PLACES,))


MODELS = {
    "trained book": lambda: parts_of(vq_vae.trained_book(2, DIM)),
    "followed book": lambda: parts_of(vq_vae.averaged_book(2, DIM, gradient="rotation")),
    "learned prior": lambda: parts_of(vq_vae.trained_book(2, DIM), made_prior()),
    "fixed grid": lambda: parts_of(vq_vae.finite_scalars((2, 2))),
}


def enumerated(parts, params):
    """log p(k) + log p(x | e_k) of every x and every grid k, [X, grids], and the grids."""
    levels, whole = parts.quantiser.levels, parts.whole(params)
    grids = np.array(list(itertools.product(range(levels), repeat=PLACES)))
    log_prior = parts.prior.log_prob(whole["prior"], None, grids.astype(float))
    vectors = parts.quantiser.codes(whole["book"], jnp.asarray(grids))
    logits = parts.decoder.mean(whole["decoder"], vectors)
    logits = np.log(logits) - np.log1p(-np.asarray(logits))
    log_lik = np.stack([densities.bernoulli_log_prob(x, logits) for x in X])
    return log_lik + np.asarray(log_prior), grids


@pytest.mark.parametrize("name", ["learned prior", "trained book", "followed book", "fixed grid"])
def test_the_bound_is_a_term_of_the_evidence_and_never_exceeds_it(x64, name):
    """All 16 values and all 8 grids (64 of the fixed grid), in double precision; the values' evidence sums to one."""
    parts = MODELS[name]()
    model = vq_vae.vq_vae(parts)
    assert model.kind == "bound"
    params = jax.tree.map(lambda a: jnp.asarray(a, float) + 0.3, jax.jit(model.init)(KEY))
    each, grids = enumerated(parts, params)
    evidence = np.logaddexp.reduce(each, axis=1)
    assert np.exp(evidence).sum() == pytest.approx(1, abs=1e-12)
    found = np.asarray(jax.jit(model.log_prob)(params, KEY, X))
    assert (found <= evidence).all() and (found < evidence - 1e-3).any()
    index = np.asarray(parts.encode(params, X).index)
    own = (grids[None] == index[:, None]).all(-1).argmax(1)
    assert len(set(own)) > 1
    np.testing.assert_allclose(found, each[np.arange(len(X)), own], atol=1e-10)
    terms = jax.jit(lambda params: model.terms(params, None, X))(params)
    np.testing.assert_allclose(terms["reconstruction"] - terms["kl"], found, atol=1e-12)
    if name != "learned prior":
        np.testing.assert_allclose(terms["kl"], PLACES * np.log(parts.quantiser.levels))


def test_draws_have_the_evidence_of_all_grids():
    """Counts of 20,000 draws of 16 values within 6 deviations; false alarms 1e-7."""
    parts = MODELS["learned prior"]()
    model = vq_vae.vq_vae(parts)
    params = jax.tree.map(lambda a: a + 0.3, jax.jit(model.init)(KEY))
    p = np.exp(np.logaddexp.reduce(enumerated(parts, params)[0], axis=1))
    x, value = jax.jit(lambda params: model.sample(params, KEY, shape=(100, 200)))(params)
    assert x.shape == (100, 200, BITS) and value is None
    counts = np.bincount((np.asarray(x).reshape(-1, BITS) @ 2.0 ** np.arange(BITS)[::-1]).astype(int))
    assert (abs(counts - 20_000 * p) < 6 * np.sqrt(20_000 * p * (1 - p))).all()


def shifted_by_a_context(levels):
    """Parts whose decoder adds its context, one of two, to its logits; the same parts without; the two contexts."""
    parts, net = parts_of(vq_vae.trained_book(levels, DIM)), linear((PLACES, DIM), BITS, 1)
    given = density.Net(net.init, lambda params, zc: net.apply(params, zc[0]) + zc[1][..., None])
    decoder = density.conditional(given, density.bernoulli(), (BITS,))
    return parts._replace(decoder=decoder), parts, np.array([[2.0, -1, 0.5, 0], [-3, 0, 1, 2]])


def test_a_context_is_the_decoders_alone(x64):
    """The bound, the mean and the objective under a context are those of the logits with it."""
    shifted, parts, shifts = shifted_by_a_context(5)
    context = shifts[np.arange(len(X)) % 2]

    @jax.jit
    def both(params):
        mean = parts.decode(params, parts.encode(params, X).index)
        logits = jnp.log(mean) - jnp.log1p(-mean) + context
        bound = vq_vae.vq_vae(shifted).log_prob(params, KEY, X, context)
        _, metrics = vq_vae.objective(shifted)(params, KEY, (X, context))
        found = shifted.decode(params, shifted.encode(params, X).index, context)
        return logits, densities.bernoulli_log_prob(X, logits), bound, metrics["bound"], found

    params = jax.tree.map(lambda a: jnp.asarray(a, float), jax.jit(parts.init)(KEY))
    logits, log_lik, bound, in_training, mean = both(params)
    np.testing.assert_allclose(bound, log_lik - PLACES * np.log(5), atol=1e-10)
    assert in_training == pytest.approx(float(bound.mean()), rel=1e-12)
    np.testing.assert_allclose(mean, 1 / (1 + np.exp(-logits)), atol=1e-12)


def test_draws_under_contexts_follow_each_of_them():
    """Means of 20,000 draws of the bits under each of two contexts within 6 deviations; false alarms 1e-7."""
    shifted, parts, shifts = shifted_by_a_context(2)
    params = jax.tree.map(lambda a: a + 0.3, jax.jit(parts.init)(KEY))
    draw = jax.jit(vq_vae.vq_vae(shifted).sample, static_argnums=3)
    x, _ = draw(params, KEY, jnp.asarray(shifts), (100, 200))
    assert x.shape == (100, 200, 2, BITS)
    grids = jnp.array(list(itertools.product(range(2), repeat=PLACES)))
    decode = jax.jit(shifted.decode)
    p = np.array([decode(params, grids, np.tile(c, (len(grids), 1))).mean(0) for c in shifts])
    assert (abs(np.asarray(x).mean((0, 1)) - p) < 6 * 0.5 / np.sqrt(20_000)).all()
    assert abs(p[0] - p[1]).max() > 0.5


def test_the_objective_and_its_gradients_by_hand(x64):
    """Straight through: at z it is the decoder's at the codes plus 2 beta (z - e) / N, at e 2 (e - z) / N."""
    beta = 0.7
    parts = parts_of(vq_vae.trained_book(5, DIM, beta))
    params = jax.tree.map(lambda a: jnp.asarray(a, float), parts.init(KEY))
    both = jax.jit(jax.value_and_grad(vq_vae.objective(parts), has_aux=True))
    (loss, metrics), gradient = both(params, KEY, X)
    book, count = np.asarray(params["book"]), len(X)
    z = (X @ np.asarray(params["encoder"]["w"])).reshape(count, PLACES, DIM)
    index = np.square(z[:, :, None] - book).sum(-1).argmin(-1)
    code = book[index]

    def reconstruction(code):
        return densities.bernoulli_log_prob(X, code.reshape(count, -1) @ params["decoder"]["w"]).mean()

    distance, log_lik = np.square(z - code).sum(-1).mean(), float(reconstruction(code))
    assert loss == pytest.approx(-log_lik + (1 + beta) * distance, rel=1e-12)
    assert metrics["bound"] == pytest.approx(log_lik - PLACES * np.log(5), rel=1e-12)
    given = np.bincount(index.ravel(), minlength=5) / index.size
    given = given[given > 0]
    assert metrics["perplexity"] == pytest.approx(np.exp(-(given * np.log(given)).sum()))
    assert "variables" not in metrics
    slope = -np.asarray(jax.jit(jax.grad(reconstruction))(jnp.asarray(code)))
    at_z = slope + 2 * beta * (z - code) / (PLACES * count)
    np.testing.assert_allclose(gradient["encoder"]["w"], X.T @ at_z.reshape(count, -1), atol=1e-12)
    moved = np.zeros_like(book)
    np.add.at(moved, index, 2 * (code - z) / (PLACES * count))
    np.testing.assert_allclose(gradient["book"], moved, atol=1e-12)


def test_a_followed_book_and_a_fixed_grid_add_what_they_should(x64):
    """A followed book has no loss of its own, and the rotation's value is the code; a fixed grid adds nothing."""
    parts = parts_of(vq_vae.averaged_book(5, DIM, 0.7, "rotation"))
    params = jax.tree.map(lambda a: jnp.asarray(a, float), vq_vae.vq_vae(parts).init(KEY))
    loss, metrics = jax.jit(vq_vae.objective(parts))(params, KEY, X)
    found = jax.jit(parts.encode)(params, X)
    codes = np.asarray(params[1].codes)[found.index]
    np.testing.assert_allclose(found.code, codes, rtol=1e-9)
    distance = np.square(np.asarray(found.z) - codes).sum(-1).mean()
    assert loss + metrics["reconstruction"] == pytest.approx(0.7 * distance, rel=1e-9)
    grid = parts_of(vq_vae.finite_scalars((3, 4)))
    params = grid.init(KEY)
    (loss, metrics), slope = jax.jit(jax.value_and_grad(vq_vae.objective(grid), has_aux=True))(params, KEY, X)
    assert loss == -metrics["reconstruction"] and metrics["quantisation"] == 0
    assert (slope["encoder"]["w"] != 0).all()


def test_without_memory_a_step_of_the_model_is_one_of_lloyd(x64):
    parts = parts_of(vq_vae.averaged_book(9, DIM, decay=0.0, restart=0.0))
    params = jax.tree.map(lambda a: jnp.asarray(a, float), vq_vae.vq_vae(parts).init(KEY))
    book = jax.jit(vq_vae.objective(parts))(params, KEY, X)[1]["variables"]
    found = jax.jit(parts.encode)(params, X)
    z, index = np.asarray(found.z).reshape(-1, DIM), np.asarray(found.index).ravel()
    before = np.asarray(params[1].codes)
    means = [z[index == k].mean(0) if (index == k).any() else before[k] for k in range(9)]
    assert not np.isin(np.arange(9), index).all()
    np.testing.assert_allclose(book.codes, means, atol=1e-12)
    np.testing.assert_array_equal(book.counts, np.bincount(index, minlength=9))


def test_a_restart_leaves_used_codes_as_they_are():
    """Codes below half the mean count lie on vectors of the batch, with the mean count; the others are those without restarts."""
    books = {}
    for restart in (0.0, 0.5):
        parts = parts_of(vq_vae.averaged_book(9, DIM, decay=0.5, restart=restart))
        params = jax.jit(vq_vae.vq_vae(parts).init)(KEY)
        books[restart] = jax.jit(vq_vae.objective(parts))(params, KEY, X)[1]["variables"]
        z = np.asarray(jax.jit(parts.encode)(params, X).z).reshape(-1, DIM)
    plain, anew = books[0.0], books[0.5]
    dead = np.asarray(plain.counts) < 0.5 * np.asarray(plain.counts).mean()
    assert 1 < dead.sum() < 8
    for before, after in zip(plain, anew, strict=True):
        np.testing.assert_array_equal(before[~dead], after[~dead])
    near = np.abs(np.asarray(anew.codes)[dead][:, None] - z).max(-1).min(1)
    assert (near < 1e-6).all()
    np.testing.assert_allclose(anew.counts[dead], np.asarray(plain.counts).mean(), rtol=1e-6)
    np.testing.assert_allclose(anew.sums[dead], anew.counts[dead][:, None] * anew.codes[dead], rtol=1e-6)


def test_a_prior_of_other_levels_is_refused():
    with pytest.raises(ValueError, match=r"the prior is of 5 codes, got one of bits 0 and 1"):
        vq_vae.vq_vae(parts_of(vq_vae.trained_book(5, DIM), made_prior()))
