r"""The linear-Gaussian model z ~ N(0, I_M), x = W z + mu + noise, noise ~ N(0, sigma^2 I_D): probabilistic PCA.

Evidence and posterior come from $M = W^\top W + \sigma^2 I$, the maximum of the likelihood from a singular value decomposition
or from EM.  Posterior covariances are given by lower Cholesky factors (`scale_tril`), and the factor of M is found from W
itself, by QR: a covariance formed on the way would cost half the digits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.linalg import solve_triangular

from dlvm_jax.functional.conditioning import lower_factor
from dlvm_jax.functional.densities import multivariate_normal_sample, normal_sample
from dlvm_jax.functional.numerics import (
    LOG_2PI,
    as_integer,
    as_mask,
    as_wide,
    einsum,
    log_normal_interval,
    unit_scale,
)
from dlvm_jax.functional.types import Array, Key, Numeric, Shape

__all__ = [
    "BetaVaeOptimum",
    "Code",
    "LinearGaussian",
    "beta_vae_optimum",
    "code",
    "log_evidence",
    "log_evidence_observed",
    "posterior",
    "posterior_mean_variance",
    "ppca_em_step",
    "ppca_fit",
    "reconstruct",
    "sample",
]


ROUNDING = 10  # of a singular value in units of the largest one's last place


class LinearGaussian(NamedTuple):
    """Weights `w` [D, M], mean `mean` [D] and the logarithm of the noise's standard deviation, `log_std` []."""

    w: Array
    mean: Array
    log_std: Array


def checked(model: LinearGaussian, *data: Array) -> tuple:
    """The model, and data whose last axis is D, as floats of one type."""
    w, mean, log_std, *arrays = as_wide(*model, *data)
    if w.ndim != 2 or mean.shape != w.shape[:1] or log_std.ndim:
        shapes = [part.shape for part in (w, mean, log_std)]
        raise ValueError(
            f"a linear-Gaussian model has w [D, M], mean [D] and log_std [], got shapes {shapes}"
        )
    for x in arrays:
        if x.shape[-1:] != mean.shape:
            raise ValueError(f"this model is of vectors of {len(mean)} numbers, got shape {x.shape}")
    return LinearGaussian(w, mean, log_std), *arrays


def _factor(model):
    r"""Q [D + M, M] with orthonormal columns, and upper $R^{-1}$ [M, M], of $QR = [W; \sigma I]$; so $R^\top R = M$.

    The QR only gives a constant R that makes the columns nearly orthonormal: its own derivative would multiply in TF32.
    No two triangular solves can run side by side, here or backwards: batches of them block XLA 0.10 on two CPU cores.
    """
    noise = jnp.exp(model.log_std) * jnp.eye(model.w.shape[1], dtype=model.w.dtype)
    stacked = jnp.concatenate([model.w, noise])
    rough = jnp.linalg.qr(jax.lax.stop_gradient(stacked), mode="r")
    near = solve_triangular(rough, stacked.T, trans=1)
    rest = jnp.linalg.cholesky(einsum("id,jd->ij", near, near))
    rest = solve_triangular(rest, jnp.eye(len(rest), dtype=rest.dtype), lower=True).T
    return einsum("id,ij->dj", near, rest), solve_triangular(rough, rest)


def log_evidence(model: LinearGaussian, x: Array) -> Array:
    r"""Exact log-evidence.

    $\log\mathcal N(x\mid\mu, C),\quad C = WW^\top+\sigma^2I,\quad C^{-1} = \sigma^{-2}I - \sigma^{-2}WM^{-1}W^\top,
        \quad \log|C| = (D-M)\log\sigma^2 + \log|M|$

    Shapes: `x` [*batch, D] -> [*batch], nats.  Source: Tipping & Bishop 1999, eq. 4 and section 3.1 (lectures that print
    $\sigma^{-1}I$ as the first term of $C^{-1}$ err; it is $\sigma^{-2}I$).

    >>> model = LinearGaussian(jnp.zeros((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(log_evidence(model, jnp.zeros(1))), 6)
    -0.918939
    """
    model, x = checked(model, x)
    dim, latent = model.w.shape
    q, root = _factor(model)
    centred = x - model.mean
    projected = einsum("dm,...d->...m", q[:dim], centred)
    # (x-mu)^T C^-1 (x-mu) as a sum of squares, the minimum over z: C^-1 written out cancels in float32 for small noise
    residual = centred - einsum("dm,...m->...d", q[:dim], projected)
    z = einsum("im,...m->...i", q[dim:], projected)  # times sigma
    square = sum(jnp.sum(jnp.square(part * jnp.exp(-model.log_std)), -1) for part in (residual, z))
    log_det = 2 * (dim - latent) * model.log_std - 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(root))))
    return -0.5 * (square + log_det + dim * LOG_2PI)


def posterior(model: LinearGaussian, x: Array) -> tuple[Array, Array]:
    r"""Exact posterior p(z | x), as mean and Cholesky factor of the covariance.

    $\mathcal N(M^{-1}W^\top(x-\mu),\ \sigma^2M^{-1})$

    Shapes: `x` [*batch, D] -> mean [*batch, M], scale_tril [M, M].  Source: Tipping & Bishop 1999, eq. 6 (the covariance is
    $\sigma^2M^{-1}$; the $\sigma^{-2}M$ printed in some lectures is the precision).

    >>> model = LinearGaussian(jnp.ones((1, 1)), jnp.zeros(1), jnp.float32(0))
    >>> round(float(posterior(model, jnp.ones(1))[0][0]), 6)
    0.5
    """
    model, x = checked(model, x)
    q, root = _factor(model)  # root root^T = M^-1
    projected = einsum("dm,...d->...m", q[: len(model.w)], x - model.mean)
    return einsum("ij,...j->...i", root, projected), jnp.exp(model.log_std) * lower_factor(root)


def sample(model: LinearGaussian, key: Key, shape: Shape = ()) -> tuple[Array, Array]:
    r"""Ancestral sample (x, z).

    $z\sim\mathcal N(0,I),\ x\sim\mathcal N(Wz+\mu,\sigma^2I)$

    Shapes: -> x [*shape, D], z [*shape, M].  Source: Tipping & Bishop 1999, eq. 1.

    >>> model = LinearGaussian(jnp.ones((3, 2)), jnp.zeros(3), jnp.float32(0))
    >>> [a.shape for a in sample(model, jax.random.key(0), (5,))]
    [(5, 3), (5, 2)]
    """
    (model,) = checked(model)
    key_z, key_x = jax.random.split(key)
    latent = model.w.shape[1]
    identity = jnp.eye(latent, dtype=model.w.dtype)
    z = multivariate_normal_sample(key_z, jnp.zeros(latent, model.w.dtype), identity, shape)
    mean = einsum("dm,...m->...d", model.w, z) + model.mean
    return normal_sample(key_x, mean, model.log_std), z


def reconstruct(model: LinearGaussian, x: Array) -> Array:
    r"""Least-squares reconstruction of x from its latent mean: the projection on the principal subspace.

    $\hat x = W(W^\top W)^{-1}M\,\mathbb E[z\mid x]+\mu = WW^+(x-\mu)+\mu$

    The mean $W\,\mathbb E[z\mid x]+\mu$ of the decoder shrinks towards $\mu$ instead.  At the maximum of likelihood the mean
    squared error is the sum of the left-out eigenvalues, the least there is.  A column of W counts whatever its length; what
    the others span up to rounding does not.
    Shapes: `x` [*batch, D] -> same.  Source: Bishop 2006, eq. 12.18 and 12.20.

    >>> reconstruct(LinearGaussian(jnp.array([[3.0], [0.0]]), jnp.ones(2), jnp.float32(0)), jnp.zeros(2))
    Array([0., 1.], dtype=float32)
    """
    model, x = checked(model, x)
    w = model.w / unit_scale(model.w.T)[:, 0]  # of one size: their span is the same
    z = einsum("md,...d->...m", jnp.linalg.pinv(w, rtol=ROUNDING * jnp.finfo(w.dtype).eps), x - model.mean)
    return model.mean + einsum("dm,...m->...d", w, z)


def _masked(model, x, observed):
    """One example with its missing coordinates made pure noise and put at the noise's mean: they say nothing of z."""
    return model._replace(w=jnp.where(observed[:, None], model.w, 0)), jnp.where(observed, x, model.mean)


def _checked_rows(model, x, observed):
    model, x = checked(model, x)
    observed = jnp.ones(x.shape, bool) if observed is None else as_mask(observed)
    if x.ndim != 2 or observed.shape != x.shape:
        raise ValueError(f"x and observed are both [N, D], got shapes {x.shape} and {observed.shape}")
    return model, x, observed


def _by_rows(function, numbers, *rows):
    """The function of each row, which takes memory for so many `numbers`: in blocks, computed again for the gradient."""
    size = max(1, 2**23 // numbers)
    return jax.lax.map(lambda row: jax.checkpoint(function)(*row), rows, batch_size=size)


def log_evidence_observed(model: LinearGaussian, x: Array, observed: Array) -> Array:
    r"""Exact log-evidence of the observed coordinates of each example; what stands at the others (NaN, say) is ignored.

    $\log p(x_o) = \log\mathcal N(x_o\mid\mu_o,\ W_oW_o^\top+\sigma^2I)$

    Shapes: `x` [N, D], `observed` [N, D] boolean -> [N], nats; 0 where nothing is observed.  Raises ValueError for others.
    Source: Bishop 2006, eq. 2.98, for the marginal of section 12.2.

    >>> model = LinearGaussian(jnp.ones((2, 1)), jnp.zeros(2), jnp.float32(0))
    >>> log_evidence_observed(model, jnp.full((1, 2), jnp.nan), jnp.zeros((1, 2), bool))
    Array([0.], dtype=float32)
    """
    model, x, observed = _checked_rows(model, x, observed)
    padded = _by_rows(lambda x, o: log_evidence(*_masked(model, x, o)), model.w.size, x, observed)
    return padded + jnp.sum(~observed, axis=1) * (model.log_std + 0.5 * LOG_2PI)


def ppca_fit(x: Array, latent: int) -> LinearGaussian:
    r"""Maximum-likelihood pPCA in closed form, from the M largest eigenpairs of the covariance of the data (with 1/N).

    $W = U_M(\Lambda_M-\sigma^2I)^{1/2},\quad \sigma^2 = \frac1{D-M}\sum_{i>M}\lambda_i,\quad \mu = \bar x$

    W is unique up to a rotation of the latent space and has orthogonal columns here.  The eigenpairs are singular pairs of the
    centred data, found in O(ND min(N, D)), also for D > N.  Shapes: `x` [N, D] -> `LinearGaussian` of w [D, M].
    Raises ValueError for data of another shape or with NaN, M outside 1..D-1, and data that M dimensions explain without
    noise (M >= N - 1, or too many constant coordinates); traced values are not looked at.
    Source: Tipping & Bishop 1999, eq. 7 and 8.

    >>> model = ppca_fit(jnp.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]), 1)
    >>> round(float(jnp.exp(2 * model.log_std)), 6), round(float(model.w[0, 0] ** 2), 6)
    (0.5, 4.0)
    """
    x = as_wide(x)
    if x.ndim != 2:
        raise ValueError(f"pPCA needs data of shape [N, D], got {x.shape}; flatten the events")
    count, dim = x.shape
    latent = as_integer(latent, "the number of latent dimensions")
    if not 1 <= latent < dim:
        raise ValueError(f"pPCA needs 1 to {dim - 1} latent dimensions for data of {dim}, got {latent}")
    mean = jnp.mean(x, axis=0)
    unit = unit_scale((x - mean).ravel())[0]  # squares of large or small data are out of range
    _, singular, axes = jnp.linalg.svd(jnp.linalg.qr((x - mean) / unit, mode="r"), full_matrices=False)
    left, noiseless = singular[latent:], count <= latent + 1
    if not noiseless and not isinstance(left, Tracer):
        if not jnp.isfinite(singular).all():
            raise ValueError("pPCA in closed form needs finite data; with missing values use ppca_em_step")
        # what rounding leaves: of the decomposition, and of data far from zero
        entries = 4 * jnp.sqrt(jnp.mean(jnp.square(x / unit))) * (count**0.5 + dim**0.5)
        noiseless = bool(left[0] <= jnp.finfo(x.dtype).eps * (ROUNDING * singular[0] + entries))
    if noiseless:
        raise ValueError(
            f"{latent} latent dimensions explain these {count} examples without noise, where the likelihood has no maximum; "
            "use fewer dimensions or more examples"
        )
    variance = jnp.sum(jnp.square(left)) / (count * (dim - latent))
    scale = unit * jnp.sqrt(jnp.maximum(jnp.square(singular[:latent]) / count - variance, 0))
    return LinearGaussian(axes[:latent].T * scale, mean, 0.5 * jnp.log(variance) + jnp.log(unit))


def ppca_em_step(model: LinearGaussian, x: Array, observed: Array | None = None) -> LinearGaussian:
    r"""One step of EM for pPCA; `observed` marks the entries that are not missing, and each example keeps its own posterior.

    $[w_d, \mu_d] = \big(\sum_n o_{nd}\mathbb E[\tilde z_n\tilde z_n^\top]\big)^{-1}\sum_n o_{nd}x_{nd}\mathbb E[\tilde z_n],
        \quad \sigma^2 = \frac{\sum_{nd} o_{nd}\,\mathbb E[(x_{nd}-w_d^\top z_n-\mu_d)^2]}{\sum_{nd} o_{nd}},
        \quad \tilde z = [z, 1]$

    The expectations are over the posterior of the old parameters given what is observed; W and the mean are maximised
    together, so the log-evidence (of what is observed) never falls.  A coordinate that is observed nowhere keeps its
    parameters.  Shapes: `x` [N, D], `observed` [N, D] boolean -> `LinearGaussian`.
    Source: Bishop 2006, eq. 12.54 to 12.57; with missing values Ilin & Raiko 2010.

    >>> x = jnp.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    >>> best = ppca_fit(x, 1)
    >>> bool(jnp.allclose(ppca_em_step(best, x).w, best.w, atol=1e-5))
    True
    """
    model, x, seen = _checked_rows(model, x, observed)
    # relative to the means and in a unit of their size, where squares neither drown what varies nor overflow
    origin = jnp.where(seen, x, 0).sum(0) / jnp.maximum(seen.sum(0), 1)
    unit = unit_scale(jnp.where(seen, x - origin, 0).ravel())[0]
    each = lambda x, o: posterior(*_masked(model, x, o))
    z, tril = posterior(model, x) if observed is None else _by_rows(each, model.w.size, x, seen)
    z_origin = z.mean(0)
    z = jnp.concatenate([z - z_origin, jnp.ones((len(x), 1), z.dtype)], axis=1)
    x = jnp.where(seen, x - origin, 0) / unit
    old = jnp.column_stack([model.w, model.mean + einsum("dm,m->d", model.w, z_origin) - origin]) / unit
    maximise = _maximised if observed is None else _maximised_observed
    coefficients, square = maximise(old, x, z, tril, seen)
    log_std = 0.5 * jnp.log(square / seen.sum()) + jnp.log(unit)
    w = unit * coefficients[:, :-1]
    mean = origin + (unit * coefficients[:, -1] - einsum("dm,m->d", w, z_origin))
    return LinearGaussian(w, mean, log_std)


def _maximised(old, x, z, tril, seen):
    """Coefficients [D, M + 1] of the regression of x on z, and the expected squared error, where all is observed."""
    moment = len(x) * jnp.pad(einsum("ij,kj->ik", tril, tril), (0, 1)) + einsum("ni,nj->ij", z, z)
    coefficients = jnp.linalg.solve(moment, einsum("ni,nd->id", z, x)).T
    residual = x - einsum("ni,di->nd", z, coefficients)
    # the doubt about w^T z as squares of w^T L: with the covariances LL^T it would keep half the digits
    doubt = len(x) * jnp.square(einsum("di,ij->dj", coefficients[:, :-1], tril))
    return coefficients, jnp.sum(jnp.square(residual)) + jnp.sum(doubt)


def _maximised_observed(old, x, z, tril, seen):
    """The same from what is observed: each coordinate by the examples that show it, and `old` where none does."""
    weight = seen.astype(z.dtype)
    second = (
        jnp.pad(einsum("nij,nkj->nik", tril, tril), ((0, 0), (0, 1), (0, 1))) + z[:, :, None] * z[:, None]
    )
    moment = einsum("nd,nij->dij", weight, second)
    unseen = ~seen.any(0)[:, None]
    moment = jnp.where(unseen[..., None], jnp.eye(z.shape[1], dtype=z.dtype), moment)
    coefficients = jnp.linalg.solve(moment, einsum("nd,ni->di", x, z)[..., None])[..., 0]
    coefficients = jnp.where(unseen, old, coefficients)

    def square(x, z, tril, weight):
        doubt = jnp.square(einsum("di,ij->dj", coefficients[:, :-1], tril)).sum(1)
        return jnp.sum(weight * (jnp.square(x - einsum("di,i->d", coefficients, z)) + doubt))

    return coefficients, _by_rows(square, old.size, x, z, tril, weight).sum()


class BetaVaeOptimum(NamedTuple):
    """Squared singular values of W and posterior variances along them, both [M]; a unit with 0 and 1 has collapsed."""

    squared_singular_values: Array
    posterior_variance: Array


def beta_vae_optimum(
    eigenvalues: Array, latent: int, log_std: Numeric, beta: Numeric = 1.0
) -> BetaVaeOptimum:
    r"""Optimum of the linear beta-VAE with fixed noise: decoder N(W z + mu, sigma^2 I), Gaussian encoder with linear mean.

    $s_i^2 = \max(\lambda_i-\beta\sigma^2, 0),\quad v_i = \frac{\beta\sigma^2}{s_i^2+\beta\sigma^2},\quad
        \max_q\mathcal L_\beta = \beta\log\int p(z)\,p(x\mid z)^{1/\beta}dz$

    The maximum over q is that of pPCA with noise variance $\beta\sigma^2$, whose W (with the principal axes as left singular
    vectors) is known: a unit collapses when $\lambda_i\le\beta\sigma^2$.
    Shapes: `eigenvalues` [D] of the data's covariance in any order -> `BetaVaeOptimum` of [M], largest first.  Raises
    ValueError for M outside 1..D or beta <= 0.  Source: Lucas et al. 2019 for beta = 1; Higgins et al. 2017, eq. 4.

    >>> beta_vae_optimum(jnp.array([4.0, 1.0]), 2, 0.0, beta=2.0)
    BetaVaeOptimum(squared_singular_values=Array([2., 0.], dtype=float32), posterior_variance=Array([0.5, 1. ], dtype=float32))
    """
    eigenvalues, log_std, beta = as_wide(eigenvalues, log_std, beta)
    if eigenvalues.ndim != 1:
        raise ValueError(f"expected eigenvalues [D], got shape {eigenvalues.shape}")
    dim, latent = len(eigenvalues), as_integer(latent, "the number of latent dimensions")
    if not 1 <= latent <= dim:
        raise ValueError(f"a linear VAE needs 1 to {dim} latent dimensions for data of {dim}, got {latent}")
    if not isinstance(beta, Tracer) and not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    noise = beta * jnp.exp(2 * log_std)
    squares = jnp.maximum(jnp.sort(eigenvalues)[::-1][:latent] - noise, 0)
    return BetaVaeOptimum(squares, noise / (squares + noise))


def posterior_mean_variance(model: LinearGaussian) -> Array:
    r"""How much each unit's posterior mean varies over data of the model; a unit is called active above 0.01.

    $\mathrm{Var}_x(\mathbb E[z_i\mid x]) = (M^{-1}W^\top W)_{ii}$, at the maximum of likelihood $(\lambda_i-\sigma^2)/\lambda_i$.

    So there unit i is active if $\lambda_i > \sigma^2/0.99$.  Shapes: -> [M].
    Source: Burda, Grosse, Salakhutdinov 2016, section 5.3.

    >>> round(float(posterior_mean_variance(LinearGaussian(jnp.ones((3, 1)), jnp.zeros(3), jnp.float32(0)))[0]), 6)
    0.75
    """
    (model,) = checked(model)
    _, scale, axes = jnp.linalg.svd(model.w, full_matrices=False)
    square = jnp.square(scale * jnp.exp(-model.log_std))  # in units of the noise, where it is in range
    share = square / (square + 1)
    return einsum("j,ji->i", share, jnp.square(axes))


class Code(NamedTuple):
    """Integer codes [*batch, M], their rate in nats [*batch], and the data they decode to [*batch, D]."""

    codes: Array
    rate: Array
    reconstruction: Array


def code(model: LinearGaussian, x: Array, step: Numeric) -> Code:
    r"""Lossy coding by the latent mean, rounded to a grid along the principal axes of W = U diag(s) V^T.

    $k_i = \mathrm{round}\big((V^\top\mathbb E[z\mid x])_i/\Delta\big),\quad
        R = -\sum_i\log\big[\Phi\big(\tfrac{(k_i+1/2)\Delta}{\tau_i}\big)-\Phi\big(\tfrac{(k_i-1/2)\Delta}{\tau_i}\big)\big],
        \quad \tau_i^2 = \frac{s_i^2}{s_i^2+\sigma^2}$

    Over data of the model the latent means along these axes are independent and N(0, tau_i^2), so an arithmetic coder
    reaches the rate R; the decoder undoes the shrinkage, as `reconstruct`.
    Shapes: `x` [*batch, D], `step` positive -> `Code`.  Raises ValueError for a step that is not positive.
    Source: Cover & Thomas 2006, theorem 8.3.1.

    >>> code(LinearGaussian(jnp.ones((3, 1)), jnp.zeros(3), jnp.float32(0)), jnp.ones(3), 0.1).codes
    Array([8], dtype=int32)
    """
    if not isinstance(step, Tracer) and not step > 0:
        raise ValueError(f"a quantisation step is positive, got {step}")
    model, x = checked(model, x)
    step = as_wide(step)
    axes, scale, _ = jnp.linalg.svd(model.w, full_matrices=False)
    noise = jnp.exp(model.log_std)
    scale = scale / noise  # in units of the noise, where squares are in range
    gain = scale / (jnp.square(scale) + 1)
    codes = jnp.round(gain * einsum("dm,...d->...m", axes, (x - model.mean) / noise) / step)
    tau = scale / jnp.sqrt(jnp.square(scale) + 1)
    width = step / jnp.maximum(tau, 1e-6 * step)  # a collapsed unit has code 0 and costs nothing
    rate = -jnp.sum(log_normal_interval((codes - 0.5) * width, (codes + 0.5) * width, width), axis=-1)
    latent = noise * step * codes / jnp.where(gain > 0, gain, 1)
    return Code(codes.astype(jnp.int32), rate, model.mean + einsum("dm,...m->...d", axes, latent))
