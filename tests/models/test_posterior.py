"""Neural posteriors: their support, their normalisation, resampling and objectives against closed forms."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact import simulators
from dlvm_jax.functional import sbi
from dlvm_jax.models import chains, density, flows, posterior, scalars
from dlvm_jax.nets.mlp import MLP, SMALL
from tests.functional.common import quadrature

KEY = jax.random.key(0)
INF = np.inf
LOW, HIGH = [-1.0, -INF, 0.5, -INF], [3.0, INF, INF, 2.0]
MOMENTS = np.array([[0.3, -0.5], [0.8, 1.2]], np.float32), np.array([[1.0], [2.0]], np.float32)


def test_the_support_is_reached_by_a_bijection_with_the_slope_of_autodiff(x64):
    """An interval, the line, and both half lines; outside the density is zero, far out all stays finite."""
    onto = posterior.support(LOW, HIGH)
    u = jax.random.normal(KEY, (20, 4))
    theta, log_det = jax.jit(onto.forward)({}, u)
    assert ((theta > np.array(LOW)) & (theta < np.array(HIGH))).all()
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda u: onto.forward({}, u)[0])))(u)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-6)
    inverse = jax.jit(onto.inverse)
    back, inverse_log_det = inverse({}, theta)
    np.testing.assert_allclose(back, u, atol=1e-6)
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-5)
    for wrong in ([3.1, 0, 1, 1], [0, 0, 0.4, 1], [0, 0, 1, 2.1]):
        assert inverse({}, jnp.array(wrong))[1] == -INF
    ends = jnp.array([[-1.0, 0, 1, 1], [3.0, 0, 1, 1]])
    assert np.isfinite(jax.grad(lambda t: onto.inverse({}, t)[0].sum())(ends)).all()
    far = jax.grad(lambda u: onto.forward({}, u)[0].sum())(jnp.array([900.0, 900.0, -900.0, -900.0]))
    assert np.isfinite(far).all()
    with pytest.raises(ValueError, match=r"ends low < high, \[D\] each, got \[1.0\] and \[1.0\]"):
        posterior.support([1.0], [1.0])


def of_the_plane(low, high):
    net = density.from_linen(MLP((8,), (1, 11), head_init=SMALL), ((1, 1), (1, 1)))
    flow = flows.stack(flows.coupling(net, scalars.rational_quadratic(4, 4.0), 1), 2, 2)
    inner = flows.transformed(density.standard_normal(2), flow)
    return posterior.neural_posterior(inner, posterior.support(low, high), MOMENTS)


def test_a_posterior_has_all_its_mass_on_the_support():
    """By quadrature over the box for two observations, float32; draws lie inside and know their density."""
    low, high = np.array([-1.0, 2.0]), np.array([1.0, 5.0])
    whole = of_the_plane(low, high)
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(KEY, a.shape), whole.init(KEY))
    nodes, weights = quadrature(-1.0, 1.0, 160)
    s, slope = np.tanh(6 * nodes), 6 / np.cosh(6 * nodes) ** 2  # most of the nodes are near the ends
    weights = weights * slope / 2
    s = (s + 1) / 2
    theta = low + (high - low) * np.stack(np.meshgrid(s, s, indexing="ij"), -1)
    x = jnp.array([[0.0], [2.5]])
    theta = jnp.broadcast_to(jnp.asarray(theta, jnp.float32)[:, :, None], (160, 160, 2, 2))
    value = jnp.exp(jax.jit(whole.log_prob)(params, None, theta, x))
    total = 6 * np.einsum("i,j,ijb->b", weights, weights, np.asarray(value, np.float64))
    np.testing.assert_allclose(total, 1, atol=2e-3)
    draws, log_q = jax.jit(lambda params: whole.sample(params, KEY, x, (500,)))(params)
    assert draws.shape == (500, 2, 2) and ((draws > low) & (draws < high)).all()
    np.testing.assert_allclose(log_q, jax.jit(whole.log_prob)(params, None, draws, x), atol=2e-3)
    assert (whole.log_prob(params, None, jnp.array([[1.2, 3.0]]), x[:1]) == -INF).all()
    assert np.isnan(whole.log_prob(params, None, jnp.array([[np.nan, 3.0]]), x[:1])).all()


def test_resampling_gives_the_target_and_its_effective_sample_size():
    """N(0, 1/2) from N(0, 1): of N weights N sqrt(3) / 2 are effective; moments within 5 standard errors."""
    theta = jax.random.normal(KEY, (20_000, 1))
    log_weights = -0.5 * theta[:, 0] ** 2
    draws, effective, _ = posterior.resampled(KEY, theta, log_weights, 10_000)
    assert float(effective) == pytest.approx(20_000 * np.sqrt(3) / 2, rel=0.02)
    assert abs(draws.mean()) < 5 * np.sqrt(0.5 * (1 / 10_000 + 1 / 17_000))
    assert float(draws.var()) == pytest.approx(0.5, abs=5 * 0.5 * np.sqrt(2 / 6000))
    for bad in (log_weights.at[7].set(jnp.nan), jnp.full(20_000, -jnp.inf)):
        assert np.isnan(posterior.resampled(KEY, theta, bad, 10).draws).all()
    shifted = posterior.resampled(KEY, theta, log_weights + 500, 10_000)
    assert float(shifted.effective) == pytest.approx(float(effective), rel=1e-3)


def test_a_contrast_is_among_the_parameters_of_the_batch():
    theta, x = jax.random.normal(KEY, (2, 6, 1))
    log_ratio = lambda params, theta, x: (params * theta * x).sum(-1)
    loss, _ = posterior.contrastive(log_ratio, 3)(0.7, None, (theta, x))
    t, x = np.asarray(theta[:, 0]), np.asarray(x[:, 0])
    logits = jnp.asarray(np.stack([0.7 * np.roll(t, k) * x for k in range(3)]))
    assert float(loss) == pytest.approx(float(sbi.contrastive_loss(logits).mean()), rel=1e-5)
    all_of_them, _ = posterior.contrastive(log_ratio, 100)(0.0, None, (theta, x[:, None]))
    assert float(all_of_them) == pytest.approx(np.log(6), rel=1e-5)


def test_flow_matching_is_in_units_of_the_parameters():
    """Without a velocity the loss is E |u - noise|^2 = 4 for two standardised parameters, within 5 standard errors."""
    net = density.Net(lambda key: {}, lambda params, u, t, x: params["speed"] * u)
    onto = posterior.support([-1.0, 2.0], [1.0, 5.0])
    u = MOMENTS[0][0] + MOMENTS[0][1] * jax.random.normal(KEY, (4000, 2))
    batch = onto.forward({}, u)[0], jnp.zeros((4000, 1))
    objective = posterior.standardised(posterior.flow_matching(net), onto, MOMENTS)
    loss, _ = objective({"inner": {"flow": {"speed": 0.0}}, "embedding": {}}, jax.random.key(1), batch)
    assert float(loss) == pytest.approx(4, abs=5 * 4 / np.sqrt(4000))


LINE = density.Density(  # N(params * context, I)
    lambda key: jnp.ones(()),
    lambda params, key, context=None, shape=(): (
        params * context + jax.random.normal(key, (*shape, *context.shape)),
        None,
    ),
    lambda params, key, x, context=None: (
        -0.5 * (jnp.square(x - params * context) + jnp.log(2 * jnp.pi)).sum(-1)
    ),
    "exact",
)


def test_several_observations_have_the_product_of_their_densities():
    x, context = jax.random.normal(KEY, (5, 6)), jax.random.normal(jax.random.key(1), (5, 2))
    whole = posterior.several(LINE, 2, 3)
    expected = scipy.stats.norm.logpdf(x.reshape(5, 3, 2) - 0.7 * context[:, None]).sum((1, 2))
    np.testing.assert_allclose(whole.log_prob(0.7, None, x, context), expected, rtol=1e-5)
    draws, _ = whole.sample(0.7, KEY, context, (4000,))
    assert draws.shape == (4000, 5, 6)
    assert (abs(draws.mean(0) - 0.7 * np.tile(context, 3)) < 5 / np.sqrt(4000)).all()  # false alarm 2e-5
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 0, 2])[0, 1]) < 5 / np.sqrt(4000)


def test_a_mean_of_summaries_knows_no_order():
    square = density.Net(lambda key: {}, lambda params, x: params * x**2)
    net = posterior.averaged(square, 2)
    x = jnp.arange(6.0)
    np.testing.assert_allclose(net.apply(3.0, x), [(0 + 4 + 16) * 1.0, (1 + 9 + 25) * 1.0])
    np.testing.assert_allclose(net.apply(3.0, jnp.roll(x, 2)), net.apply(3.0, x))


def test_whole_numbers_get_noise_of_one_unit():
    """The noise has the variance 1 / 12, within 5 standard errors; other numbers and the context stay as they are."""
    seen = lambda params, key, batch, step=None: (batch, step)
    x, context = jnp.tile(jnp.array([3.0, 0.5]), (4000, 1)), jnp.ones((4000, 1))
    noisy = posterior.dequantised(seen, np.array([True, False]))
    ((found, given), step) = noisy(None, KEY, (x, context), 7)
    noise = np.asarray(found[:, 0]) - 3
    assert (abs(noise) <= 0.5).all() and abs(noise.mean()) < 5 / np.sqrt(12 * 4000)
    assert noise.var() == pytest.approx(1 / 12, rel=5 * np.sqrt(0.8 / 4000))
    assert (found[:, 1] == 0.5).all() and given is context and step == 7


def test_an_ensemble_is_the_mixture_of_its_members():
    """Its density by SciPy, its draws by their distribution function: false alarm 1e-4."""
    whole, params, context = posterior.ensemble(LINE), (-2.0, 3.0), jnp.ones((1, 1))
    law = scipy.stats.norm
    x = np.linspace(-4, 5, 7, dtype=np.float32)
    expected = np.log(0.5 * law.pdf(x, -2) + 0.5 * law.pdf(x, 3))
    np.testing.assert_allclose(whole.log_prob(params, None, x[:, None], context), expected, rtol=1e-5)
    assert not whole.reparameterised  # whose draw it is has no gradient
    draws = np.asarray(whole.sample(params, KEY, context, (2000,))[0]).ravel()
    assert scipy.stats.kstest(draws, lambda x: 0.5 * law.cdf(x, -2) + 0.5 * law.cdf(x, 3)).pvalue > 1e-4


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_truncated_proposals_are_the_prior_on_the_region(spread, monkeypatch):
    """A uniform prior, cut off where N(0, s^2 I) in the plane leaves out 1e-4: radius^2 is uniform up to -2 s^2 log(1e-4).

    By rejection, and by resampling where the prior seldom hits it.  Five deviations of the end, then false alarm 1e-4.
    """
    monkeypatch.setattr(posterior, "CHUNK", 20_000)
    log_q = lambda t: -0.5 * jnp.square(t / spread).sum(-1) - jnp.log(2 * jnp.pi * spread**2)
    found = posterior.truncated(
        KEY,
        lambda key, count: jax.random.uniform(key, (count, 2), minval=-20.0, maxval=20.0),
        lambda key, count: spread * jax.random.normal(key, (count, 2)),
        lambda t: jnp.zeros(len(t)),
        log_q,
        500,
    )
    square = np.square(found.draws / spread).sum(-1)
    end = -2 * np.log(1e-4)
    assert found.draws.shape == (500, 2) and abs(square.max() - end) < 8
    if spread == 1.0:
        assert found.effective == 500
        assert scipy.stats.kstest(np.sort(square / square.max())[:-1], "uniform").pvalue > 1e-4
    else:
        assert 500 < found.effective < 40_000
        assert square.mean() == pytest.approx(end / 2, rel=0.25)  # the weights are heavy at the edge


def test_chains_follow_a_gaussian_posterior():
    """gaussian_linear in the plane: mean x / 2 and variance 1 / 20, within 5 standard errors of the effective draws.

    The chains have mixed, and an exact draw would be as good as most of theirs.
    """
    pytest.importorskip("blackjax")
    simulator, x = simulators.gaussian_linear(2), jnp.array([0.6, -0.2])
    joint = lambda theta: simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x)
    onto, start = posterior.support(simulator.low, simulator.high), simulator.posterior_sample(KEY, x, 20)
    drawn = jax.jit(lambda key: posterior.chained(key, joint, onto, start, 2000))(KEY)
    assert drawn.draws.shape == (2000, 2) and drawn.r_hat < 1.05 and drawn.effective > 500
    error = 5 / np.sqrt(drawn.effective)
    assert (abs(drawn.draws.mean(0) - x / 2) < error * np.sqrt(0.05)).all()
    assert (abs(drawn.draws.var(0) / 0.05 - 1) < error * np.sqrt(2)).all()


@pytest.mark.slow
def test_chains_stay_on_the_support_and_in_the_modes_that_they_start_in():
    """two_moons: each moon keeps its chains, and holds half of the draws; radius and angle are those of the simulator.

    Radius N(.1, .01^2) and angle U(-pi / 2, pi / 2), within 5 standard errors of 500 independent draws.  A uniform density on the
    box is uniform by the log-determinant of its bijection.
    """
    pytest.importorskip("blackjax")
    simulator, x = simulators.two_moons(), jnp.array([-0.3, 0.1])
    joint = lambda theta: simulator.prior_log_prob(theta) + simulator.log_likelihood(theta, x)
    onto = posterior.support(simulator.low, simulator.high)
    exact = simulator.posterior_sample(KEY, x, 400)
    moon = exact.sum(-1) > 0
    start = jnp.concatenate([exact[moon][:20], exact[~moon][:20]])
    drawn = jax.jit(lambda key: posterior.chained(key, joint, onto, start, 8000))(KEY)
    theta = np.asarray(drawn.draws)
    assert np.mean(theta.sum(-1) > 0) == pytest.approx(0.5, abs=0.02) and drawn.r_hat > 1.05
    reach, across = abs(theta.sum(-1)) / np.sqrt(2), (theta[:, 1] - theta[:, 0]) / np.sqrt(2)
    p = x[0] + reach - 0.25, x[1] - across
    radius, angle = np.hypot(*p), np.arctan2(p[1], p[0])
    assert radius.mean() == pytest.approx(0.1, abs=5 * 0.01 / np.sqrt(500))
    assert radius.std() == pytest.approx(0.01, rel=5 / np.sqrt(1000))
    assert angle.mean() == pytest.approx(0, abs=5 * np.pi / np.sqrt(12 * 500))
    assert angle.var() == pytest.approx(np.pi**2 / 12, rel=5 * np.sqrt(0.8 / 500))
    flat = lambda theta: jnp.zeros(())
    drawn = jax.jit(lambda key: posterior.chained(key, flat, onto, start, 8000))(KEY)
    assert (abs(drawn.draws) <= 1).all() and drawn.effective > 2000
    np.testing.assert_allclose(drawn.draws.var(0), 1 / 3, rtol=5 * np.sqrt(0.8 / 2000))


def test_chains_without_their_package_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ValueError, match=r"Markov chains need blackjax: pip install 'dlvm_jax\[mcmc\]'"):
        chains.nuts(KEY, lambda u: -0.5 * u @ u, jnp.zeros((2, 2)), 5)
