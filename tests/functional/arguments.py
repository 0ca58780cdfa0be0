"""Arrays for every public function of `functional` and `exact`."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import exact
from dlvm_jax.exact.diffusion import GaussianMixture
from dlvm_jax.exact.discrete import DiscreteMixture
from dlvm_jax.functional import divergences
from dlvm_jax.functional.bounds import Weights
from dlvm_jax.functional.diffusion.schedules import edm
from dlvm_jax.functional.flows.linear import LU
from dlvm_jax.functional.flows.spline import Knots
from dlvm_jax.functional.linear_gaussian import LinearGaussian
from dlvm_jax.functional.vector_quantisation import Averages

KEY, ORDER = jax.random.key(0), np.array([1, 0])
X, V, B = np.ones((3, 2), np.float32), np.ones(2, np.float32), np.ones(3, np.float32)
ONE, EYE = np.float32(1), np.eye(2, dtype=np.float32)
K, KX = np.ones((4, 2), np.float32), np.ones((3, 4), np.float32)  # K of them; for each of three
IMAGE = np.ones((1, 2, 4, 4), np.float32)
POINT = np.ones((3, 3), np.float32)
MODEL = LinearGaussian(np.ones((2, 1), np.float32), V, ONE)
TOP = LinearGaussian(np.ones((1, 1), np.float32), ONE[None], ONE)
MIXTURE = GaussianMixture(ONE[None], V[None], V[None], EYE[None])
BITS = DiscreteMixture(B, X)
KNOTS, WEIGHTS = Knots(B, B, B), Weights(V, V, V, V)
TURN = LU(ORDER, EYE, EYE, V, V)
normal = lambda z: -0.5 * jnp.square(z).sum(-1)
shift = lambda z: (0 * z, 0 * z)
g = lambda t: 1 + jnp.square(t)
one = lambda x, *rest: (x, jnp.zeros(x.shape[:-1]))
height = lambda h: (h, 0 * h)
velocity = lambda x, t: -x


def lu(function):
    """Of the factors only the order is made of integers."""
    return lambda z, *parts: function(z, LU(ORDER, *parts))


def diffusion(name):
    return lambda x, *law: getattr(exact.diffusion, name)(GaussianMixture(*law), edm(), x, 1.0)


# The arrays of each function, and the function where it has other arguments too.
TABLE = {
    "adversarial": {"discriminator_loss": (B, B), "generator_loss": (B,)},
    "annealing": {
        "adapt_step_size": (X, lambda f: lambda z: f(KEY, normal, normal, z, [0.0, 0.5, 1.0])),
        "ais": (X, lambda f: lambda z: f(KEY, normal, normal, z, [0.0, 0.5, 1.0], 0.5)),
    },
    "attention": {
        "filterbank": (B, B, B, lambda f: lambda *a: f(*a, 2, 4)),
        "read_patch": (IMAGE, KX[None, :, :2], KX[None]),
        "window": (np.ones((3, 5), np.float32), lambda f: lambda raw: f(raw, (4, 2), 3)),
        "write_patch": (np.ones((1, 3, 3, 4), np.float32), KX[None, :, :2], KX[None]),
    },
    "autoencoding": {
        "contractive_penalty": (X, lambda f: lambda x: f(jnp.square, x)),
        "gaussian_corruption": (X, V, lambda f: lambda *a: f(KEY, *a)),
        "masking_corruption": (ONE, lambda f: lambda rate: f(KEY, X, rate)),
        "soft_threshold": (X, V),
        "sparse_code": (X, EYE, V),
        "sparse_penalty": (X,),
        "squared_error": (X, V),
    },
    "bounds": {
        "accumulate": (*WEIGHTS, X, lambda f: lambda *a: f(Weights(*a[:4]), a[4])),
        "dreg": (X, lambda f: lambda z: f(normal, z)),
        "elbo": (X, V, ONE),
        "elbo_sampled": (X, X, X, ONE),
        "evidence": (X,),
        "importance_weighted": (X,),
        "log_weight": (X, X, V),
        "naive_evidence": (X,),
        "renyi": (X, lambda f: lambda w: f(w, 0.5)),
        "summarise": (*WEIGHTS, lambda f: lambda *a: f(Weights(*a))),
    },
    "calibration": {
        "contraction": (X, V),
        "coverage": (X, V, lambda f: lambda ranks, levels: f(ranks, 3, levels)),
        "distances": (X, V, V),
        "local_c2st": (X,),
        "predictive_p_value": (V, X),
        "rank": (V, X),
        "rank_uniformity": (X, lambda f: lambda ranks: f(ranks, 3, 2)),
        "z_score": (X, V, V),
    },
    "chains": {"effective_sample_size": (KX,), "split_r_hat": (KX,)},
    "conditioning": {
        "gaussian_condition": (X, EYE, X[:, :1], lambda f: lambda mean, tril, x: f(mean, tril, [1], x)),
        "gaussian_marginal": (X, EYE, EYE, V, EYE),
        "gaussian_posterior": (X, EYE, EYE, V, EYE, X),
    },
    "densities": {
        "bernoulli_log_prob": (X, V),
        "bernoulli_sample": (X, lambda f: lambda *a: f(KEY, *a)),
        "bits_per_dim": (B, lambda f: lambda x: f(x, (2,))),
        "categorical_log_prob": (X, np.ones((2, 3), np.float32)),
        "categorical_sample": (X, lambda f: lambda *a: f(KEY, *a)),
        "discretised_logistic_log_prob": (X, V, V),
        "discretised_logistic_mixture_log_prob": (X, K.T, K.T, K.T),
        "discretised_logistic_mixture_sample": (K.T, K.T, K.T, lambda f: lambda *a: f(KEY, *a)),
        "discretised_logistic_sample": (V, V, lambda f: lambda *a: f(KEY, *a)),
        "discretised_normal_log_prob": (X, V, V),
        "discretised_normal_sample": (V, V, lambda f: lambda *a: f(KEY, *a)),
        "multivariate_normal_log_prob": (X, V, EYE),
        "multivariate_normal_sample": (V, EYE, lambda f: lambda *a: f(KEY, *a)),
        "normal_log_prob": (X, V, V),
        "normal_sample": (V, V, lambda f: lambda *a: f(KEY, *a)),
        "reparameterise": (X, V, V),
    },
    "divergences": {
        "inverse_multiquadratic_kernel": (X, X, ONE),
        "kl_bernoulli": (X, V),
        "kl_categorical": (X, V),
        "kl_monte_carlo": (X, X),
        "kl_multivariate_normal": (X, EYE, V, EYE),
        "kl_normal": (X, V, V, V),
        "kl_standard_normal": (X, V),
        "mmd": (X, X, lambda f: lambda x, y: f(x, y, lambda a, b: divergences.rbf_kernel(a, b, 1.0))),
        "rbf_kernel": (X, X, ONE),
    },
    "hierarchical": {
        "balancing_coefficients": (X, V),
        "free_bits": (X, ONE),
        "kl_residual": (X, V, V),
        "power_iteration": (X, B),
        "precision_weighted": (X, V, V, V),
        "tempered": (X, ONE),
    },
    "hyperbolic": {
        "distance": (X, V, ONE),
        "end_distance": (X, V, ONE),
        "exp_map": (X, V, ONE),
        "log_map": (X, V, ONE),
        "log_volume_change": (X, ONE),
        "mobius_add": (X, V, ONE),
        "tangent_log_prob": (X, V, ONE),
        "wrapped_normal_log_prob": (X, V, V, ONE),
        "wrapped_normal_sample": (X, V, ONE, lambda f: lambda *a: f(KEY, *a)),
    },
    "linear_gaussian": {
        "beta_vae_optimum": (B, ONE, lambda f: lambda e, s: f(e, 2, s)),
        "code": (*MODEL, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), a[3], 0.5)),
        "log_evidence": (*MODEL, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), a[3])),
        "log_evidence_observed": (*MODEL, X, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), *a[3:])),
        "posterior": (*MODEL, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), a[3])),
        "posterior_mean_variance": (*MODEL, lambda f: lambda *a: f(LinearGaussian(*a))),
        "ppca_em_step": (*MODEL, X, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), *a[3:])),
        "ppca_fit": (X, lambda f: lambda x: f(x, 1)),
        "reconstruct": (*MODEL, X, lambda f: lambda *a: f(LinearGaussian(*a[:3]), a[3])),
        "sample": (*MODEL, lambda f: lambda *a: f(LinearGaussian(*a), KEY)),
    },
    "mixtures": {"normal_mixture_log_prob": (X, K, K, KX)},
    "numerics": {
        "inner_product": (X, V),
        "log1mexp": (X,),
        "log_mean_exp": (X,),
        "log_normal_cdf": (X,),
        "log_normal_interval": (B, B, B),
        "runge_kutta": (B, B, lambda f: lambda state, times: f(velocity, state, times, 1.0)),
        "sum_event": (X, lambda f: lambda x: f(x, 1)),
    },
    "pixels": {
        "pixel_mixture_log_prob": (
            X,
            K[:3],
            *2 * (np.ones((3, 2, 2), np.float32),),
            np.ones((3, 2, 2, 2), np.float32),
        ),
        "pixel_mixture_mean": (V, EYE, np.ones((2, 2, 2), np.float32)),
        "pixel_mixture_sample": (
            V,
            EYE,
            EYE,
            np.ones((2, 2, 2), np.float32),
            lambda f: lambda *a: f(KEY, *a),
        ),
        "pixel_mixture_tables": (V, V, EYE, EYE, np.ones((2, 2, 2), np.float32)),
    },
    "restoration": {
        "data_step": (V, X, V, lambda f: lambda y, m, g: f(jnp.negative, y, 0.5, m, g, event_ndim=1)),
        "data_step_masked": (V, V, ONE, X, V),
        "pnp": (X, lambda f: lambda x: f(lambda x: (x / 2, x), lambda m, g: m, x, event_ndim=1)),
    },
    "sbi": {
        "atomic_loss": (X, X),
        "balance": (B, V),
        "contrastive_loss": (X,),
        "ratio_loss": (X, X, ONE),
        "truncation": (X,),
        "weighted_loss": (X, X, V),
    },
    "spherical": {
        "mean_resultant_length": (B, lambda f: lambda k: f(k, 3)),
        "to_sphere": (X,),
        "uniform_sphere_log_prob": (X,),
        "von_mises_fisher_kl_uniform": (B, lambda f: lambda k: f(k, 3)),
        "von_mises_fisher_log_prob": (X, V, B),
        "von_mises_fisher_sample": (X, B, lambda f: lambda *a: f(KEY, *a)),
    },
    "total_correlation": {
        "gaussian_total_correlation": (EYE,),
        "total_correlation_terms": (X, X, X, B, POINT),
    },
    "vector_quantisation": {
        "codebook_loss": (X, V),
        "codes_of": (V, EYE, EYE, lambda f: lambda counts, sums, codes: f(Averages(counts, sums), codes)),
        "commitment_loss": (X, V),
        "finite_scalar": (X, lambda f: lambda z: f(z, (2, 3))),
        "finite_scalar_code": (V, lambda f: lambda index: f(index, (2, 3))),
        "finite_scalar_index": (X, lambda f: lambda z: f(z, (2, 3))),
        "moving_averages": (
            V,
            EYE,
            X,
            lambda f: lambda counts, sums, z: f(Averages(counts, sums), z, [0, 1, 1], 0.5),
        ),
        "nearest_codes": (X, K),
        "perplexity": (B,),
        "restart": (EYE, V, X, lambda f: lambda codes, counts, z: f(KEY, codes, counts, z, 0.5)),
        "rotation": (X, V),
        "straight_through": (X, V),
    },
    "flows.autoregressive": {
        "autoregressive": (X, lambda f: lambda z: f(z, shift)),
        "autoregressive_inverse": (X, lambda f: lambda z: f(z, shift)),
        "forward_substitution": (X, lambda f: lambda x: f(lambda z, x, i: (x, 0 * x), x)),
        "gate": (X, V),
    },
    "flows.circle": {
        "moebius": (B, V),
        "moebius_inverse": (B, V),
        "moebius_mixture": (B, K, K[:, 0]),
        "moebius_mixture_inverse": (B, K, K[:, 0]),
        "non_compact_projection": (B, ONE, ONE),
        "non_compact_projection_inverse": (B, ONE, ONE),
        "non_compact_projection_mixture": (B, KX, KX, KX),
        "non_compact_projection_mixture_inverse": (B, KX, KX, KX),
        "rotation": (B, ONE),
        "wrap": (B,),
    },
    "flows.constraints": {
        "moebius_centre": (X,),
        "planar_u_hat": (X, V),
        "positive": (X,),
        "radial_beta_hat": (B, B),
        "sylvester_triangle": (EYE,),
    },
    "flows.continuous": {
        "continuous": (X, lambda f: lambda z: f(z, velocity)),
        "continuous_inverse": (X, lambda f: lambda z: f(z, velocity)),
        "flow_matching_loss": (X, X, B, lambda f: lambda *a: f(velocity, *a)),
    },
    "flows.image": {
        "checkerboard_merge": (IMAGE, IMAGE),
        "checkerboard_split": (IMAGE,),
        "depth_to_space": (IMAGE, lambda f: lambda x: f(x, 2)),
        "dequantise": (IMAGE, lambda f: lambda x: f(KEY, x)),
        "logit": (IMAGE,),
        "logit_inverse": (IMAGE,),
        "space_to_depth": (IMAGE, lambda f: lambda x: f(x, 2)),
        "squeeze": (IMAGE,),
        "unsqueeze": (IMAGE,),
    },
    "flows.linear": {
        "actnorm_statistics": (X,),
        "affine": (X, V, V),
        "affine_inverse": (X, V, V),
        "lu_from_matrix": (EYE,),
        "lu_linear": (X, *TURN[1:], lu),
        "lu_linear_inverse": (X, *TURN[1:], lu),
        "permute": (X, lambda f: lambda x: f(x, ORDER)),
        "permute_inverse": (X, lambda f: lambda x: f(x, ORDER)),
    },
    "flows.monotonic": {
        "monotonic": (B, ONE, lambda f: lambda z, b: f(z, g, b)),
        "monotonic_inverse": (B, ONE, lambda f: lambda z, b: f(z, g, b)),
    },
    "flows.orthogonal": {
        "householder": (X, V),
        "householder_product": (X, EYE),
        "householder_product_inverse": (X, EYE),
        "orthonormal": (EYE,),
    },
    "flows.planar": {"planar": (X, V, V, ONE), "planar_inverse": (X, V, V, ONE)},
    "flows.radial": {"radial": (X, V, ONE, ONE), "radial_inverse": (X, V, ONE, ONE)},
    "flows.roots": {"monotone_root": (B, ONE, ONE, lambda f: lambda *a: f(lambda x: 2 * x, *a))},
    "flows.sphere": {
        "exponential_map": (POINT, lambda f: lambda x: f(x, lambda x: 0.1 * x)),
        "exponential_map_inverse": (POINT, lambda f: lambda x: f(x, lambda x: 0.1 * x)),
        "from_cylinder": (B, X),
        "on_circle": (X, lambda f: lambda side: f(lambda angle, h: (angle, 0 * angle))(side, 0.0)),
        "polynomial_gradient": (POINT, B, POINT),
        "radial_gradient": (X, K, K[:, 0], K[:, 0]),
        "recursive_sphere": (POINT, lambda f: lambda x: f(x, height, one)),
        "recursive_sphere_inverse": (POINT, lambda f: lambda x: f(x, height, one)),
        "to_cylinder": (POINT,),
    },
    "flows.spline": {
        "circular_slopes": (X,),
        "linear_tails": (X,),
        "rational_quadratic": (X, *KNOTS, lambda f: lambda z, *knots: f(z, Knots(*knots))),
        "rational_quadratic_inverse": (X, *KNOTS, lambda f: lambda z, *knots: f(z, Knots(*knots))),
        "spline_knots": (V, V, B, lambda f: lambda *a: f(*a, -1.0, 1.0)),
    },
    "flows.sylvester": {
        "sylvester": (X, EYE, EYE, EYE, V),
        "sylvester_inverse": (X, EYE, EYE, EYE, V),
    },
    "exact.cosmology": {
        "growth": (V, lambda f: lambda share: f(share, -1.0)),
        "matter_power": (X, V, V),
    },
    "exact.diffusion": {
        **{
            name: (X, *MIXTURE, lambda f: diffusion(f.__name__))
            for name in ("denoiser", "log_marginal", "posterior_covariance", "responsibilities", "score")
        },
        "gaussian": (V, EYE),
        "mixture": (ONE[None], V[None], EYE[None]),
        "ode_map": (X, *MIXTURE, lambda f: lambda x, *law: f(GaussianMixture(*law), edm(), x, 1.0, 2.0)),
        "point_masses": (X,),
    },
    "exact.discrete": {
        **{
            name: (*BITS, X, lambda f: lambda *a: f(DiscreteMixture(*a[:2]), a[2]))
            for name in ("log_evidence", "log_joint", "posterior")
        },
        "sample": (*BITS, lambda f: lambda *a: f(DiscreteMixture(*a), KEY)),
    },
    "exact.energies": {
        "ring": (X,),
        "sphere_modes": (POINT,),
        "torus_correlated": (X,),
        "torus_modes": (X, K),
        "wave": (X,),
        "waves": (X, lambda f: lambda z: f(z, lambda t: 0 * t, (0.4, 0.3))),
    },
    "exact.linear_gaussian": {
        "hierarchy_conditional": (
            *MODEL,
            X,
            X[:, :1],
            lambda f: lambda *a: f(TOP, LinearGaussian(*a[:3]), *a[3:]),
        ),
        "hierarchy_log_evidence": (*MODEL, X, lambda f: lambda *a: f(TOP, LinearGaussian(*a[:3]), a[3])),
        "hierarchy_posterior": (*MODEL, X, lambda f: lambda *a: f(TOP, LinearGaussian(*a[:3]), a[3])),
    },
    "exact.simulators": {},
}
# These take Python numbers only, and the last is not to be traced.
NO_ARRAYS = {
    "sigmoid_betas",
    "empty_weights",
    "uniform_sphere_sample",
    "stratified_log_weights",
    "all_binary",
    "output_law",
    "cosmology",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "repeated",
    "slcp",
    "two_moons",
    "uniform_prior",
}
