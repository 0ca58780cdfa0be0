"""Flows as densities: log-determinants against autodiff, round trips, integrals, samples against densities, flows in a VAE."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.models import density, flows, scalars
from dlvm_jax.models.vae import vae
from dlvm_jax.nets.masked import MADE
from dlvm_jax.nets.mlp import MLP

DIM, AS_GIVEN = 3, None  # the compute type of networks: that of their inputs, double where a test is
TURNS = {
    "circular_spline": scalars.circular_spline(4),
    "moebius": scalars.moebius(3),
    "ncp": scalars.non_compact_projection(3),
}
LINE = {
    "shift": scalars.shift(),
    "affine": scalars.affine(),
    "spline": scalars.rational_quadratic(4, 3.0),
    "umnn": scalars.umnn(
        density.from_linen(MLP((8,), (1,), activation=jax.nn.elu, dtype=AS_GIVEN), (1, 4)), 3, 16
    ),
}
SCALARS = {**LINE, **TURNS}


def moved(init, key=0, scale=0.5):
    """Parameters away from where they start, in the precision of the test."""
    params = init(jax.random.key(key))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.RandomState(key)
    return jax.tree.unflatten(tree, [jnp.asarray(a + scale * rng.randn(*a.shape), float) for a in leaves])


def coupling(scalar, context=0):
    size = DIM // 2
    shapes = (1, size) if not context else ((1, size), (1, context))
    net = MLP((8,), (DIM - size, scalar.width), dtype=AS_GIVEN)
    return flows.coupling(density.from_linen(net, shapes), scalar, size)


def autoregressive(scalar, context=0, dim=DIM):
    shapes = (1, dim) if not context else ((1, dim), (1, context))
    made = MADE((12,), dim, scalar.width, periodic=scalar in TURNS.values(), dtype=AS_GIVEN)
    return flows.masked_autoregressive(density.from_linen(made, shapes), scalar)


FLOWS = {
    **{f"coupling {name}": lambda c, s=s: coupling(s, c) for name, s in SCALARS.items()},
    **{f"autoregressive {name}": lambda c, s=s: autoregressive(s, c) for name, s in SCALARS.items()},
    "inverse autoregressive": lambda c: flows.inverted(autoregressive(scalars.affine(), c)),
    "actnorm": lambda c: flows.actnorm(DIM),
    "lu": lambda c: flows.lu_linear(DIM),
    "reverse": lambda c: flows.reverse(DIM),
    "alternating": lambda c: flows.repeated(coupling(scalars.affine(), c), 3, alternate=True),
    "repeated spline couplings": lambda c: flows.repeated(
        flows.chain(
            flows.actnorm(DIM), flows.lu_linear(DIM), coupling(scalars.rational_quadratic(4, 3.0), c)
        ),
        3,
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("name", FLOWS)
def test_bijection(name, context):
    """Log-determinants of both directions against slogdet of the autodiff Jacobian; round trip; a batch is row by row."""
    flow = FLOWS[name](context)
    params = moved(flow.init)
    z = jnp.asarray(np.random.RandomState(1).randn(2, 2, DIM))
    given = jnp.asarray(np.random.RandomState(2).randn(2, 2, context)) if context else None

    @jax.jit
    def both(params, z, given):
        x, log_det = flow.forward(params, z, given)
        back, log_det_back = flow.inverse(params, x, given)
        return x, log_det, back, log_det_back

    x, log_det, back, log_det_back = both(params, z, given)
    np.testing.assert_allclose(back, z, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-9)
    one = None if given is None else given[1, 0]
    jacobian = jax.jit(jax.jacfwd(lambda z: flow.forward(params, z, one)[0]))(z[1, 0])
    np.testing.assert_allclose(log_det[1, 0], np.linalg.slogdet(jacobian)[1], atol=1e-9)
    np.testing.assert_allclose(flow.forward(params, z[1, 0], one)[0], x[1, 0], atol=1e-9)


def test_affine_autoregressive_flow_with_linear_nets_is_a_gaussian():
    """z = x - m(x) with a strictly triangular linear m is N(0, (I - A)^-1 (I - A)^-T), and samples come from it."""
    dim = 4
    flow = autoregressive(scalars.affine(), dim=dim)
    linear = density.from_linen(MADE((), dim, 2), (1, dim))
    flow = flows.masked_autoregressive(linear, scalars.affine())
    dens = flows.transformed(density.standard_normal(dim), flow)
    params = moved(dens.init)
    kernel = params["flow"]["made"]["params"]["MaskedDense_0"]["kernel"].reshape(dim, dim, 2)
    bias = params["flow"]["made"]["params"]["MaskedDense_0"]["bias"].reshape(dim, 2)
    kernel = kernel.at[..., 1].set(0.0)
    params["flow"]["made"]["params"]["MaskedDense_0"]["kernel"] = kernel.reshape(dim, 2 * dim)
    a = np.triu(np.asarray(kernel[..., 0]), 1).T
    scale = np.diag(np.exp(3 * np.tanh(np.asarray(bias[:, 1]) / 3)))
    lower = np.linalg.solve(np.eye(dim) - a, scale)
    mean = np.linalg.solve(np.eye(dim) - a, np.asarray(bias[:, 0]))
    law = scipy.stats.multivariate_normal(mean, lower @ lower.T)
    x, log_prob = dens.sample(params, jax.random.key(3), shape=(50,))
    np.testing.assert_allclose(log_prob, law.logpdf(x), atol=1e-4)
    np.testing.assert_allclose(dens.log_prob(params, None, x), law.logpdf(x), atol=1e-4)


@pytest.mark.parametrize("name", TURNS)
def test_density_on_the_torus(name):
    """Integral one by the trapezoid rule, no seam, and samples in the cells of a grid as the density says (chi-square).

    The test of the samples has a false-alarm rate of 1e-4.
    """
    flow = autoregressive(TURNS[name], dim=2)
    dens = flows.transformed(flows.uniform_torus(2), flow)
    params = moved(dens.init, scale=0.3)
    log_prob = jax.jit(lambda x: dens.log_prob(params, None, x))
    cells, fine = 12, 20
    side = -np.pi + 2 * np.pi * (np.arange(cells * fine) + 0.5) / (cells * fine)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).astype(np.float32)
    mass = np.exp(np.asarray(log_prob(grid), np.float64)) * (side[1] - side[0]) ** 2
    # splines are smooth to first order only: the rule errs by h^2 |(d/dx)^2 p| / 12 at kinks, some 1e-5; the others by rounding
    assert abs(mass.sum() - 1) < 2e-5
    other = np.linspace(-3, 3, 7, dtype=np.float32)
    for axis in (0, 1):
        ends = [np.insert(other[:, None], axis, end, axis=1) for end in (-np.pi + 1e-5, np.pi - 1e-5)]
        np.testing.assert_allclose(
            *(log_prob(np.float32(e)) for e in ends), atol=2e-4
        )  # 2e-5 apart, slopes below 10
    x, stated = jax.jit(lambda key: dens.sample(params, key, shape=(20_000,)))(jax.random.key(5))
    np.testing.assert_allclose(
        stated, log_prob(x), atol=5e-5
    )  # slopes of the spline's log-density, times 1e-6
    assert (np.abs(x) <= np.pi + 1e-6).all()
    expected = 20_000 * mass.reshape(cells, fine, cells, fine).sum((1, 3)) / mass.sum()
    found, _, _ = np.histogram2d(*np.asarray(x).T, bins=cells, range=[[-np.pi, np.pi]] * 2)
    kept = expected > 5
    chi = ((found - expected) ** 2 / expected)[kept].sum()
    assert chi < scipy.stats.chi2(kept.sum() - 1).ppf(1 - 1e-4)


def test_random_biases_set_the_numbers_of_the_first_element_apart():
    """They are biases alone: the same whatever the input, and by default all zero."""
    x = jax.random.normal(jax.random.key(1), (5, 3))
    for bias_init, spread in ((nn.initializers.zeros, 0.0), (nn.initializers.normal(0.5), 0.5)):
        made = MADE((8,), 3, 2000, bias_init=bias_init)
        first = made.apply(made.init(jax.random.key(0), x), x)[:, 0]
        np.testing.assert_array_equal(first, np.repeat(first[:1], 5, axis=0))
        assert np.std(first[0]) == pytest.approx(spread, rel=0.1)  # six standard errors


def test_periodic_network_sees_no_seam():
    made = MADE((8,), 2, 1, periodic=True)
    params = moved(lambda key: made.init(key, jnp.zeros((1, 2))))
    x = jnp.array([[-np.pi, 0.3]])
    np.testing.assert_allclose(made.apply(params, x), made.apply(params, x + 2 * np.pi), atol=1e-5)


def test_rows_of_a_masked_network():
    """A row alone is that row of all, with a context too."""
    made = MADE((8,), 4, 3)
    z, h = jnp.asarray(np.random.RandomState(0).randn(5, 4)), jnp.ones((5, 2))
    for inputs in (z, (z, h)):
        params = moved(lambda key, inputs=inputs: made.init(key, inputs))
        whole = made.apply(params, inputs)
        for row in range(4):
            np.testing.assert_allclose(made.apply(params, inputs, row), whole[:, row], atol=1e-6)


def test_actnorm_is_set_by_data():
    """Latent points of every actnorm in a repeated chain have mean 0 and variance 1, under jit."""
    layer = flows.chain(flows.actnorm(DIM), flows.lu_linear(DIM))
    flow = flows.repeated(layer, 2)
    x = 5 + jnp.array([1.0, 20.0, 0.1]) * jax.random.normal(jax.random.key(0), (500, DIM))
    params = jax.jit(flow.adapt)(moved(flow.init), x)
    z, _ = jax.jit(flow.inverse)(params, x)
    first = jax.tree.map(lambda a: a[0], params)
    z_before, _ = layer.inverse(jax.tree.map(lambda a: a[1], params), x)
    undone = flows.actnorm(DIM).inverse(first[0], flows.lu_linear(DIM).inverse(first[1], z_before)[0])[0]
    np.testing.assert_allclose(undone, z, atol=1e-4)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)
    dens = flows.transformed(density.standard_normal(DIM), flow)
    with pytest.raises(ValueError, match="cannot be inverted"):
        flows.inverted(flow)
    adapted = flows.data_dependent_init(dens.init(jax.random.key(0)), flow, x)
    assert np.isfinite(jax.jit(dens.log_prob)(adapted, None, x)).all()


def test_depth_does_not_cost_compilation():
    """A flow of 16 layers is the same program as one of 2 but for the length of its scan."""
    size = {}
    for depth in (2, 16):
        flow = flows.repeated(flows.chain(coupling(scalars.rational_quadratic(4)), flows.reverse(DIM)), depth)
        params = flow.init(jax.random.key(0))
        size[depth] = len(jax.jit(flow.inverse).lower(params, jnp.zeros((2, DIM))).as_text().splitlines())
    assert size[2] == size[16]
    unrolled = flows.repeated(
        flows.chain(coupling(scalars.rational_quadratic(4)), flows.reverse(DIM)), 16, unroll=16
    )
    z = jax.random.normal(jax.random.key(1), (2, DIM))
    for one, other in zip(flow.forward(params, z), unrolled.forward(params, z), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # 16 layers of rounding
    with pytest.raises(ValueError, match="at least one layer, got depth=0, unroll=1"):
        flows.repeated(flows.reverse(3), 0)


def test_a_stack_is_its_layers_repeated():
    """A layer, the mixing of the last axis, actnorm where it is asked for: the same parameters and the same function."""
    layer, z = coupling(scalars.affine()), jax.random.normal(jax.random.key(1), (5, DIM))
    by_hand = {
        ("lu", False): flows.chain(layer, flows.lu_linear(DIM)),
        ("reverse", False): flows.chain(layer, flows.reverse(DIM)),
        ("lu", True): flows.chain(layer, flows.lu_linear(DIM), flows.actnorm(DIM)),
    }
    for (mixing, normalise), one in by_hand.items():
        stack = flows.stack(layer, DIM, 2, mixing=mixing, normalise=normalise, unroll=2)
        expected = flows.repeated(one, 2)
        params = expected.init(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, stack.init(jax.random.key(0)), params)
        params = moved(lambda key, params=params: params)
        for value, wanted in zip(stack.forward(params, z), expected.forward(params, z), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
        assert (stack.adapt is not None) == normalise
    with pytest.raises(ValueError, match=r"unknown mixing 'revers'; .* did you mean 'reverse'"):
        flows.stack(layer, DIM, 2, mixing="revers")


def test_alternating_layers_are_set_by_data_in_their_own_order():
    """Of identities that note the mean of the data: the second layer, next to the data, sees it reversed, the first does not."""
    same = lambda params, z, context=None: (z, jnp.zeros(z.shape[:-1]))
    noting = flows.Bijection(
        lambda key: jnp.zeros(DIM), same, same, lambda params, x, context=None: x.mean(0)
    )
    x = jax.random.normal(jax.random.key(0), (5, DIM))
    first, second = flows.repeated(noting, 2, alternate=True).adapt(jnp.zeros((2, DIM)), x)
    np.testing.assert_allclose(second, x.mean(0)[::-1], atol=1e-6)
    np.testing.assert_allclose(first, x.mean(0), atol=1e-6)


def test_an_affine_bijection_takes_the_mean_to_the_mean():
    """`affine` is claimed by a chain of affine maps alone, and then forward is affine: checked on three points of a line."""
    maps = flows.chain(flows.actnorm(DIM), flows.lu_linear(DIM), flows.reverse(DIM))
    flow = flows.repeated(maps, 2)
    assert flow.affine and flows.inverted(flows.lu_linear(DIM)).affine
    assert not flows.chain(maps, coupling(scalars.affine())).affine
    params = moved(flow.init)
    a, b = jax.random.normal(jax.random.key(1), (2, DIM))
    middle = flow.forward(params, (a + b) / 2)[0]
    ends = (flow.forward(params, a)[0] + flow.forward(params, b)[0]) / 2
    np.testing.assert_allclose(middle, ends, rtol=1e-4, atol=1e-4)


def test_a_coupling_by_a_perceptron_moves_the_second_half():
    layer = flows.mlp_coupling(5, scalars.affine(), (8,))
    params = moved(layer.init)
    z = jax.random.normal(jax.random.key(1), (4, 5))
    x, _ = layer.forward(params, z)
    np.testing.assert_array_equal(x[:, :2], z[:, :2])
    assert (jnp.abs(x[:, 2:] - z[:, 2:]) > 1e-3).all()
    np.testing.assert_allclose(layer.inverse(params, x)[0], z, atol=1e-5)
    with pytest.raises(ValueError, match="at least two coordinates, one to keep and one to move, got dim=1"):
        flows.mlp_coupling(1, scalars.affine(), (8,))


def test_a_flow_is_prior_posterior_and_decoder_of_a_vae():
    """With no glue: the VAE of a flow prior, a flow posterior and a flow decoder has a finite weight of every point."""
    layer = flows.chain(coupling(scalars.rational_quadratic(4), 2), flows.reverse(DIM))
    conditional = flows.repeated(layer, 2)
    prior = flows.transformed(
        density.standard_normal(DIM),
        flows.repeated(flows.chain(coupling(scalars.affine()), flows.reverse(DIM)), 2),
    )
    encoder = density.from_linen(MLP((8,), (DIM, 2)), (1, 2))
    base = density.conditional(encoder, density.normal(), (DIM,))
    posterior = flows.transformed(base, conditional)
    back = density.conditional(density.from_linen(MLP((8,), (2, 2)), (1, DIM)), density.normal(), (2,))
    decoder = flows.transformed(
        back,
        flows.coupling(density.from_linen(MLP((8,), (1, 2)), ((1, 1), (1, DIM))), scalars.affine(), 1),
    )
    model = vae(prior, posterior, decoder)
    params = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 2))
    weight = jax.jit(model.log_prob)(params, jax.random.key(2), x)
    assert weight.shape == (5,) and np.isfinite(weight).all()
    with pytest.raises(ValueError, match="only over an exact base"):
        flows.transformed(model, flows.reverse(2))
    with pytest.raises(ValueError, match=r"vectors of 2 numbers, got an array of shape \(5, 3\)"):
        flows.reverse(2).forward({}, jnp.zeros((5, 3)))
    narrow = density.Net(lambda key: {}, lambda params, x: jnp.zeros((*x.shape[:-1], 1, 2)))
    layer = flows.coupling(narrow, scalars.affine(), 1)
    with pytest.raises(ValueError, match=r"must give \[\*batch, 3, 2\], got \(5, 1, 2\)"):
        layer.forward(layer.init(jax.random.key(0)), jnp.zeros((5, 4)))
