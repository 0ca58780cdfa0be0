r"""Linear inverse problems y = A x_0 + N(0, std^2 I) with a diffusion model as prior.

A denoiser `denoise(x, t) -> E[x_0 | x_t]` becomes an approximation of E[x_0 | x_t, y], which any solver runs.  With a Gaussian
N(x_0, V) for p(x_0 | x_t), the gradient of log p(y | x_t), V held fixed, is J^T A^T (A V A^T + std^2 I)^-1 (y - A x_0), with J
the denoiser's Jacobian.  The methods differ in V: the true covariance sigma^2 / alpha J^T, a multiple of I, or nothing.

`observe` is A: a linear function of x [*batch, *event] that treats each example alike, of any shape; A^T is derived from it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from dlvm_jax.functional.diffusion.process import Process, alpha, expand_to_event, sigma, transition
from dlvm_jax.functional.diffusion.solvers import Solver
from dlvm_jax.functional.numerics import as_float
from dlvm_jax.functional.types import Array, Denoiser, Numeric

__all__ = [
    "average_pooling",
    "blur",
    "dps",
    "inpainting",
    "moment_matching",
    "pigdm",
    "replacement",
]


def inpainting(mask: Array) -> Callable[[Array], Array]:
    r"""The problem of filling in: what is known is kept, the rest is zero.

    $Ax = \mathrm{mask}\odot x$

    The observation y = A x is zero where the mask is; another value there spoils the solves.
    Shapes: `mask` broadcasts with x; x -> same.  Source: definition.

    >>> inpainting(jnp.array([1.0, 0.0]))(jnp.array([3.0, 4.0])).tolist()
    [3.0, 0.0]
    """
    return lambda x: jnp.asarray(mask, as_float(x).dtype) * x


def average_pooling(factor: int) -> Callable[[Array], Array]:
    r"""The problem of super-resolution: means of square blocks.

    $(Ax)_{ijc} = f^{-2}\sum_{a,b<f}x_{fi+a,\,fj+b,\,c}$

    Shapes: x [*batch, H, W, C] -> [*batch, H / f, W / f, C].  Raises ValueError for fewer axes, and for a factor that
    does not divide H and W.
    Source: definition.

    >>> average_pooling(2)(jnp.arange(4.0).reshape(2, 2, 1)).tolist()
    [[[1.5]]]
    """

    if factor < 1:
        raise ValueError(f"blocks have a side of one pixel or more, got {factor}")

    def observe(x):
        if x.ndim < 3:
            raise ValueError(f"images have shape [*batch, H, W, C], got {x.shape}")
        *batch, height, width, channels = x.shape
        if height % factor or width % factor:
            raise ValueError(f"blocks of {factor} do not fill an image of {height} by {width}")
        blocks = x.reshape(*batch, height // factor, factor, width // factor, factor, channels)
        return blocks.mean((-4, -2))

    return observe


def blur(kernel: Array) -> Callable[[Array], Array]:
    r"""The problem of deblurring: circular convolution of each channel.

    $(Ax)_{ijc} = \sum_{a,b}k_{ab}\,x_{i-a,\,j-b,\,c}$, indices modulo H and W, a = b = 0 the kernel's centre

    Shapes: `kernel` [K, L] of odd sides, x [*batch, H, W, C] -> same.  Raises ValueError for another kernel, or fewer axes.
    Source: definition.

    >>> blur(jnp.ones((1, 3)) / 3)(jnp.arange(3.0).reshape(1, 3, 1)).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    kernel = jnp.asarray(kernel)
    if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
        raise ValueError(f"a kernel is a matrix of odd sides, got shape {kernel.shape}")
    rows, columns = kernel.shape

    def observe(x):
        if x.ndim < 3:
            raise ValueError(f"images have shape [*batch, H, W, C], got {x.shape}")
        x = as_float(x)
        shifted = (
            kernel[a, b].astype(x.dtype) * jnp.roll(x, (a - rows // 2, b - columns // 2), (-3, -2))
            for a in range(rows)
            for b in range(columns)
        )
        return sum(shifted, start=jnp.zeros_like(x))

    return observe


def _conjugate_gradients(matvec, b, iterations, batch_ndim):
    """Solution of matvec(u) = b for each example by itself: a norm of the whole batch would couple its examples."""

    def dot(u, v):
        return jnp.sum(u * v, axis=tuple(range(batch_ndim, u.ndim)), keepdims=True)

    def ratio(a, b):  # zero, so no more moves, where the residual is gone or the matrix not positive
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    def body(_, carry):
        u, residual, direction, square = carry
        image = matvec(direction)
        step = ratio(square, dot(direction, image))
        u, residual = u + step * direction, residual - step * image
        new = dot(residual, residual)
        return u, residual, residual + ratio(new, square) * direction, new

    return lax.fori_loop(0, iterations, body, (jnp.zeros_like(b), b, b, dot(b, b)))[0]


def _informed(process, denoise, observe, y, weigh):
    """A denoiser with J^T A^T weigh(y - A x_0) added to the score.

    weigh: (residual, backward, adjoint, t, ndim of x) -> same, with backward: v -> sigma^2 / alpha J^T v and adjoint A^T
    """

    def informed(x, t):
        x = as_float(x)
        x0, pull = jax.vjp(lambda x: denoise(x, t).astype(x.dtype), x)
        observed = observe(x0)
        if jnp.shape(y) != observed.shape[observed.ndim - jnp.ndim(y) :]:
            raise ValueError(
                f"observe gives shape {observed.shape}, but the observation y has {jnp.shape(y)}"
            )
        gain = expand_to_event(jnp.square(sigma(process, t)) / alpha(process, t), x).astype(x.dtype)
        transpose = jax.linear_transpose(observe, x0)
        adjoint = lambda v: transpose(v)[0]
        backward = lambda v: gain * pull(v)[0]
        residual = jnp.asarray(y, x.dtype) - observed
        return x0 + backward(adjoint(weigh(residual, backward, adjoint, t, x.ndim)))

    return informed


def solve(
    observe: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
    covariance: Callable[[Array], Array],
    std: Numeric,
    residual: Array,
    iterations: int,
    ndim: int,
    event_ndim: int,
) -> Array:
    """(A V A^T + std^2 I)^-1 residual; its derivative is that of the solution, not of the iterations.

    observe, adjoint, covariance: A, A^T and V as functions;  ndim, event_ndim: axes of x, and those of one example
    """
    if not 0 <= event_ndim <= ndim:
        raise ValueError(f"x of {ndim} axes does not have {event_ndim} event axes")
    variance = jnp.square(jnp.asarray(std, residual.dtype))
    matvec = lambda v: observe(covariance(adjoint(v))) + variance * v
    solve = lambda matvec, b: _conjugate_gradients(matvec, b, iterations, ndim - event_ndim)
    return lax.custom_linear_solve(matvec, residual, solve, symmetric=True)


def moment_matching(
    process: Process,
    denoise: Denoiser,
    observe: Callable[[Array], Array],
    y: Array,
    std: Numeric,
    iterations: int = 5,
    *,
    event_ndim: int,
) -> Denoiser:
    r"""Moment matching (MMPS, TMPD): p(x_0 | x_t) taken as the Gaussian of its true mean and covariance.

    $\hat x_0 + VA^\top(AVA^\top+s_y^2I)^{-1}(y-A\hat x_0),\quad
        V = \mathrm{Cov}[x_0\mid x_t] = \frac{\sigma_t^2}{\alpha_t}\frac{\partial\hat x_0}{\partial x_t}^{\!\top}$

    Exact for Gaussian data; for others the best estimate of x_0 that is affine in y.
    Shapes: `y` [*batch, *obs] or [*obs], std scalar or broadcasting with y; denoiser of x [*batch, *event] -> the same.
    iterations: of conjugate gradients, each one product with the Jacobian.  As many as y has entries make it exact; a few are
    enough for images.  An example stops where its matrix is not positive, as a trained denoiser's may be.
    event_ndim: the last event_ndim axes of x are one example, one system: 1 for vectors, 3 for images.
    Raises ValueError when y does not have the shape of `observe`, and for more event axes than x has.
    Source: Rozet, Andry, Lanusse, Louppe 2024; Boys et al. 2024 (TMPD).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> denoise, y = lambda x, t: x / (1 + t**2), jnp.array([3.0])
    >>> informed = moment_matching(edm(), denoise, lambda x: x, y, 1.0, event_ndim=1)
    >>> informed(jnp.zeros(1), 1.0).round(5).tolist()
    [1.0]
    """

    def weigh(residual, backward, adjoint, t, ndim):
        return solve(observe, adjoint, backward, std, residual, iterations, ndim, event_ndim)

    return _informed(process, denoise, observe, y, weigh)


def pigdm(
    process: Process,
    denoise: Denoiser,
    observe: Callable[[Array], Array],
    y: Array,
    std: Numeric,
    data_std: Numeric = 1.0,
    iterations: int = 5,
    *,
    event_ndim: int,
) -> Denoiser:
    r"""Pseudo-inverse guidance: p(x_0 | x_t) taken as a Gaussian of variance r^2 in all directions.

    $\hat x_0 + \frac{\sigma_t^2}{\alpha_t}J^\top A^\top(r_t^2AA^\top+s_y^2I)^{-1}(y-A\hat x_0),\quad
        r_t^2 = \frac{\sigma_t^2s^2}{\alpha_t^2s^2+\sigma_t^2}$

    r is the posterior's for data N(0, s^2 I), s = data_std, as in the paper for s = 1.  This is Bayes' rule with the paper's
    gradient; its sampler multiplies that by a weight r^2 of its own as well, which is left out.  Otherwise as
    `moment_matching`, and equal to it where J^T is a multiple alpha r^2 / sigma^2 of I.  A system A A^T with k distinct
    eigenvalues takes k iterations: one for averages and, with y zero where unknown, for masks.
    Shapes: as `moment_matching`.  Raises ValueError as that does.
    Source: Song, Vahdat, Mardani, Kautz 2023.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> denoise, y = lambda x, t: x / (1 + t**2), jnp.array([3.0])
    >>> informed = pigdm(edm(), denoise, lambda x: x, y, 1.0, event_ndim=1)
    >>> informed(jnp.zeros(1), 1.0).round(5).tolist()
    [1.0]
    """

    def weigh(residual, backward, adjoint, t, ndim):
        square = data_std**2
        noise = jnp.square(sigma(process, t))
        variance = noise * square / (jnp.square(alpha(process, t)) * square + noise)
        scaled = lambda v: expand_to_event(variance, v).astype(v.dtype) * v
        return solve(observe, adjoint, scaled, std, residual, iterations, ndim, event_ndim)

    return _informed(process, denoise, observe, y, weigh)


def dps(
    process: Process,
    denoise: Denoiser,
    observe: Callable[[Array], Array],
    y: Array,
    std: Numeric,
    scale: Numeric = 1.0,
) -> Denoiser:
    r"""Diffusion posterior sampling: p(x_0 | x_t) taken as a point mass at its mean.

    $\hat x_0 + \zeta\,\frac{\sigma_t^2}{\alpha_t}J^\top A^\top\,\frac{y-A\hat x_0}{s_y^2}$

    It trusts y far too much where x_t is noisy, and makes the flow stiff: for data of variance v the rate per log sigma / alpha
    reaches 1 + v / (4 std^2), so a small std wants a fine grid.  This is the paper's approximation of the likelihood; its
    algorithm has instead, after each step of the sampler, a step whose length is chosen by hand, which depends on the grid.
    Shapes: as `moment_matching`, but there is no system, so no event.  Raises ValueError when y does not have the shape of
    `observe`.  Source: Chung, Kim, Mccann, Klasky, Ye 2023.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> informed = dps(edm(), lambda x, t: x / (1 + t**2), lambda x: x, jnp.array([3.0]), 1.0)
    >>> informed(jnp.zeros(1), 1.0).round(5).tolist()
    [1.5]
    """

    def weigh(residual, backward, adjoint, t, ndim):
        return scale * residual / jnp.square(jnp.asarray(std, residual.dtype))

    return _informed(process, denoise, observe, y, weigh)


def replacement(process: Process, solver: Solver, mask: Array, y: Numeric, resamplings: int = 1) -> Solver:
    r"""Inpainting by replacement: after each step what is known is put in, at the noise of the time.

    $x_{s,i}\leftarrow\alpha_sy_i+\sigma_sz_i$ where $m_i\ne0$; then, `resamplings` - 1 times,
    $x_t = \alpha_{t\mid s}x_s+\sigma_{t\mid s}z$ and the step once more

    For observations without noise.  Biased: the step sees known pixels that do not agree with the rest; resampling lessens
    that (RePaint, which resamples all steps but the last; here the last as well).
    Shapes: `mask`, `y` broadcast to x -> `Solver`, with resamplings (solver.draws + 2) - 1 draws a step.
    solver: a one-step `Solver`, with the unconditional denoiser.
    Raises ValueError for fewer than one resampling and for a mask or y that does not broadcast.
    Source: Song, Sohl-Dickstein, Kingma et al. 2021, appendix I.2; Lugmayr et al. 2022, algorithm 1.

    >>> from dlvm_jax.functional.diffusion import ancestral, schedules
    >>> plain = ancestral.ddim(schedules.edm(), lambda x, t: 0 * x)
    >>> solver = replacement(schedules.edm(), plain, jnp.array([1.0, 0.0]), jnp.array([5.0, 0.0]))
    >>> solver.step(solver.init(jnp.ones(2)), 4.0, 3.0, jnp.zeros((1, 2)))[0].tolist()
    [5.0, 0.75]
    """
    if resamplings < 1:
        raise ValueError(f"each step is made at least once, got {resamplings}")

    def step(state, t, s, noise):
        shape = state[0].shape
        if jnp.broadcast_shapes(shape, jnp.shape(mask), jnp.shape(y)) != shape:
            raise ValueError(f"mask {jnp.shape(mask)} and y {jnp.shape(y)} must broadcast to x {shape}")
        scale, std = transition(process, s, t)
        draws = iter(noise)
        for again in range(resamplings):
            if again:
                state = (scale * state[0] + std * next(draws), *state[1:])
            used = jnp.stack([next(draws) for _ in range(solver.draws)]) if solver.draws else None
            x, *rest = solver.step(state, t, s, used)
            known = alpha(process, s) * y + sigma(process, s) * next(draws)
            state = (jnp.where(mask, known, x), *rest)
        return state

    return Solver(solver.init, step, resamplings * (solver.draws + 2) - 1, process)
