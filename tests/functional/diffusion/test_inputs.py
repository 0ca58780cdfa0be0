"""Inputs of other types give what the same numbers in float32 give; other shapes are refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import (
    guidance,
    inverse,
    objectives,
    ode,
    quantised,
    schedules,
    score_matching,
    sde,
    targets,
    times,
    variational,
)
from dlvm_jax.functional.diffusion import process as p

VP = schedules.variance_preserving()
KEY = jax.random.key(0)
LAW = exact.gaussian(np.zeros(2, int), np.diag([2, 1]))


def reverse(x, s, t):
    return 0.5 * x, variational.reverse_log_std(VP, "small", s, t)


# functions of points [1, 2]
OF_POINTS = {
    "diffuse": lambda x: p.diffuse(VP, x, 0.3, x),
    "posterior": lambda x: p.posterior(VP, x, x, 0.2, 0.3)[0],
    "prior_log_prob": lambda x: p.prior_log_prob(VP, x),
    "from_x0": lambda x: targets.from_x0(VP, "v", x, x, 0.3),
    "to_x0": lambda x: targets.to_x0(VP, "v", x, x, 0.3),
    "denoising_loss": lambda x: objectives.denoising_loss(VP, "epsilon", x, x, x, 0.3, 1),
    "discrete_bound": lambda x: variational.discrete_bound(
        KEY, VP, reverse, lambda z: z.sum(-1), x, np.array([0.1, 0.5, 1.0])
    ),
    "continuous_bound": lambda x: variational.continuous_bound(
        KEY, VP, lambda x, t: 0.5 * x, lambda z: z.sum(-1), x, 0.5
    ),
    "gaussian_decoder": lambda x: quantised.gaussian_decoder(x, 0, 0),
    "categorical_decoder": lambda x: quantised.categorical_decoder(VP, x, np.zeros((1, 2)), 0.3),
    "expected_in_bins": lambda x: quantised.expected_in_bins(VP, np.zeros((1, 2, 4), int), x, 0.3, -0.5, 0.5),
    "langevin": lambda x: sde.langevin(x, x, 2, x),
    "implicit": lambda x: score_matching.implicit_score_matching(jnp.sin, x),
    "sliced": lambda x: score_matching.sliced_score_matching(jnp.sin, x, np.ones((1, 2), int)),
    "denoising_score": lambda x: score_matching.denoising_score_matching(jnp.sin, x, x, 2),
    "classifier_free": lambda x: guidance.classifier_free(lambda x, t: x, lambda x, t: 0 * x, 2)(x, 0.3),
    "classifier": lambda x: guidance.classifier(
        VP, lambda x, t: x, lambda x, t: jax.nn.log_sigmoid(x.sum(-1) / 100)
    )(x, 0.3),
    "blur": lambda x: inverse.blur(np.full((1, 3), 1 / 3))(x[..., None]),
    "inpainting": lambda x: inverse.inpainting([0.5, 1.0])(x),
    "probability_flow": lambda x: ode.probability_flow(VP, lambda x, t: 0.5 * x, x, 0.3),
    "exact denoiser": lambda x: exact.denoiser(LAW, VP, x, 0.3),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_integers_are_numbers(dtype):
    """200 and 3: products and differences of them wrap in 8 bits, and halves have no integers."""
    run = jax.jit(lambda x: {name: function(x) for name, function in OF_POINTS.items()})
    x = np.array([[200, 3]]).astype(dtype)
    got, right = run(x), run(x.astype(np.float32))
    for name in OF_POINTS:
        for one, other in zip(jax.tree.leaves(got[name]), jax.tree.leaves(right[name]), strict=True):
            assert one.dtype == jnp.float32, name
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)


def test_narrow_levels_and_points_have_likelihoods_in_single_precision():
    x = jnp.array([[3.0, 250.0]], jnp.bfloat16)
    names = ("gaussian_decoder", "categorical_decoder", "expected_in_bins", "discrete_bound")
    for leaf in jax.tree.leaves(jax.jit(lambda x: [OF_POINTS[name](x) for name in names])(x)):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    drawn = times.uniform_times(VP, jnp.array(0.5, jnp.bfloat16))
    assert drawn.dtype == jnp.float32 and abs(drawn - 0.500005) < 1e-7


def test_what_is_no_level_has_no_probability():
    for bad in (-1.0, 256.0, 2.7, np.nan):
        x = jnp.array([[3.0, bad]])
        assert np.isnan(OF_POINTS["categorical_decoder"](x)).all(), bad


POINTS = jnp.zeros((3, 2))


def test_shapes_that_would_broadcast_are_refused():
    one, column = jnp.zeros((3, 1)), jnp.full((3, 1), 0.3)
    denoise, decoder = lambda x, t: 0.5 * x, lambda z: z.sum(-1)
    for call, message in [
        (
            lambda: objectives.denoising_loss(VP, "x0", POINTS, POINTS, POINTS, 0.3, column),
            "have the batch's shape",
        ),
        (lambda: objectives.denoising_loss(VP, "x0", one, one, one, column, 1.0), "have the batch's shape"),
        (
            lambda: objectives.denoising_loss(VP, "x0", POINTS[:, None], POINTS, POINTS, 0.3, 1.0),
            "have one shape",
        ),
        (
            lambda: variational.continuous_bound(KEY, VP, denoise, decoder, POINTS, 0.5, column),
            "t_weight is a scalar",
        ),
        (
            lambda: variational.discrete_bound(KEY, VP, reverse, decoder, POINTS, [0.1, 1.0], uniform=column),
            "uniform is one number for each example",
        ),
        (
            lambda: variational.discrete_bound(KEY, VP, reverse, decoder, POINTS, [0.1, 1.5]),
            "the times of this process lie in",
        ),
        (lambda: score_matching.sliced_score_matching(jnp.sin, POINTS, POINTS[0]), "a probe has the shape"),
        (lambda: exact.denoiser(LAW, VP, POINTS[:2], jnp.array([0.3, 0.4])), "all points are at one time"),
        (lambda: exact.output_law(lambda x, z: x, np.ones(2), np.ones(2), (1,)), r"a covariance \[D, D\]"),
        (lambda: inverse.blur(np.ones((1, 1)))(POINTS), r"images have shape \[\*batch, H, W, C\]"),
        (lambda: inverse.average_pooling(2)(POINTS), r"images have shape \[\*batch, H, W, C\]"),
        (lambda: inverse.average_pooling(0), "one pixel or more, got 0"),
        (lambda: quantised.unit_levels(POINTS, 1), "two or more, got 1"),
        (lambda: schedules.linear_betas(2.5), r"a whole number of steps, one or more, got 2\.5"),
        (lambda: schedules.cosine_betas(0), "a whole number of steps, one or more, got 0"),
        (lambda: schedules.from_recursion([0.1, np.inf], [1, 1]), "must be finite"),
        (lambda: schedules.from_recursion([0.1] * 3, [1e-300] * 3), "must be finite"),
        (lambda: schedules.piecewise_log_snr(-5.0, 5.0, np.array([0.0, np.nan])), "logits are finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
