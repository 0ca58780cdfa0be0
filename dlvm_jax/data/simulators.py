r"""Benchmark tasks of simulation-based inference by name: those of `exact.simulators`, and others with an exact likelihood alone.

`TASKS` is the table.  `reference(name)` reads the published observations and draws of their posteriors.
Source: Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021.
"""

import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlog1py, xlogy

from dlvm_jax.data.dataset import Data, of_vectors
from dlvm_jax.data.files import data_folder
from dlvm_jax.data.protocol import Protocol
from dlvm_jax.exact import cosmology
from dlvm_jax.exact import simulators as exact
from dlvm_jax.exact.simulators import Simulator
from dlvm_jax.functional.densities import multivariate_normal_log_prob, normal_log_prob
from dlvm_jax.functional.numerics import as_wide, draw_normal, runge_kutta
from dlvm_jax.settings import pick

__all__ = [
    "TASKS",
    "Reference",
    "Task",
    "bernoulli_glm",
    "dataset",
    "lotka_volterra",
    "of_rows",
    "reference",
    "simulated",
    "simulator",
    "sir",
    "slcp_distractors",
]


class Task(NamedTuple):
    """A simulator by name, with its help text."""

    make: Callable[[], Simulator]
    help: str


class Reference(NamedTuple):
    """Published observations [10, C], the parameters that made them [10, D], and draws of their posteriors [10, N, D]."""

    observations: np.ndarray
    parameters: np.ndarray
    posterior: np.ndarray


def _log_normal_prior(mean: Any, std: Any) -> dict[str, Any]:
    """The prior whose logarithm is a diagonal Gaussian: fields of a `Simulator`."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def log_prob(theta):
        theta = as_wide(theta)
        positive = (theta > 0).all(-1)
        log_theta = jnp.log(jnp.where(positive[..., None], theta, 1.0))
        value = normal_log_prob(log_theta, mean, np.log(std)) - log_theta.sum(-1)
        return jnp.where(positive, value, -jnp.inf)

    sample = lambda key, shape: jnp.exp(mean + std * draw_normal(key, (*shape, len(mean))))
    low, high = np.zeros_like(mean), np.full_like(mean, np.inf)
    return {"prior_sample": sample, "prior_log_prob": log_prob, "low": low, "high": high}


def _solutions(slope: Callable, start: jax.Array, span: float, intervals: int, steps: int) -> jax.Array:
    """The states [1 + intervals, *start] of an autonomous equation at equal distances, by Runge and Kutta."""
    times = jnp.linspace(0.0, span, 2 * steps + 1)

    def advance(state, _):
        state = runge_kutta(lambda state, time: slope(state), state, times, span)
        return state, state

    _, states = jax.lax.scan(advance, start, None, length=intervals)
    return jnp.concatenate([start[None], states])


POPULATION, SEEN = 1_000_000, 1000


def sir() -> Simulator:
    r"""An epidemic by infection and recovery: the infected among 1,000 tested people, every 17th day of 153.

    $\dot S = -\beta\tfrac{SI}N,\ \dot I = \beta\tfrac{SI}N-\gamma I,\ x_t\sim\mathrm{Binomial}(1000,\tfrac{I_t}N)$; one of
    10^6 is infected at first; $\log\beta\sim\mathcal N(\log\tfrac25,\tfrac12)$, $\log\gamma\sim\mathcal N(\log\tfrac18,\tfrac15)$
    by mean and standard deviation.

    Shapes: theta (beta, gamma) [*batch, 2], x [*batch, 10].
    """

    def infected(theta):
        """The share of the infected at the ten days, [*batch, 10]."""
        beta, gamma = as_wide(theta)[..., 0], as_wide(theta)[..., 1]

        def slope(state):  # of log(S / N) and log(I / N), which stay negative
            log_s, log_i = state
            return jnp.stack([-beta * jnp.exp(log_i), beta * jnp.exp(log_s) - gamma])

        start = jnp.log(jnp.array([1 - 1 / POPULATION, 1 / POPULATION], beta.dtype))
        start = jnp.broadcast_to(start.reshape(2, *(1,) * beta.ndim), (2, *beta.shape))
        return jnp.moveaxis(jnp.exp(_solutions(slope, start, 17.0, 9, 34)[:, 1]), 0, -1)

    def log_likelihood(theta, x):
        x, p = as_wide(x), infected(theta)
        ways = gammaln(SEEN + 1.0) - gammaln(x + 1) - gammaln(SEEN - x + 1)
        return jnp.sum(ways + xlogy(x, p) + xlog1py(SEEN - x, -p), axis=-1)

    return Simulator(
        **_log_normal_prior([math.log(0.4), math.log(0.125)], [0.5, 0.2]),
        simulate=lambda key, theta: jax.random.binomial(key, float(SEEN), infected(theta)),
        log_likelihood=log_likelihood,
    )


def lotka_volterra() -> Simulator:
    r"""Prey and predators: ten numbers of each with log-normal noise, at times 0, 2.1, ..., 18.9.

    $\dot X = \alpha X-\beta XY,\ \dot Y = \delta XY-\gamma Y,\ (X_0,Y_0) = (30,1),\
        \log x_t\sim\mathcal N(\log X_t,\tfrac1{10})$; the logarithms of the
    parameters are Gaussian with means (-1/8, -3, -1/8, -3) and standard deviation 1/2.

    Shapes: theta (alpha, beta, gamma, delta) [*batch, 4], x [*batch, 20], the prey first.  A population that the solver
    cannot follow is NaN.
    """
    log_std = math.log(0.1)

    def log_populations(theta):
        alpha, beta, gamma, delta = jnp.moveaxis(as_wide(theta), -1, 0)

        def slope(state):
            prey, predators = jnp.exp(state)
            return jnp.stack([alpha - beta * predators, delta * prey - gamma])

        start = jnp.log(jnp.array([30.0, 1.0], alpha.dtype)).reshape(2, *(1,) * alpha.ndim)
        states = _solutions(slope, jnp.broadcast_to(start, (2, *alpha.shape)), 2.1, 9, 42)
        return jnp.moveaxis(states, (0, 1), (-1, -2)).reshape(*alpha.shape, 20)

    def simulate(key, theta):
        mean = log_populations(theta)
        return jnp.exp(mean + 0.1 * draw_normal(key, mean.shape))

    def log_likelihood(theta, x):
        log_x = jnp.log(as_wide(x))
        return normal_log_prob(log_x, log_populations(theta), log_std) - log_x.sum(-1)

    return Simulator(
        **_log_normal_prior([-0.125, -3.0, -0.125, -3.0], np.full(4, 0.5)),
        simulate=simulate,
        log_likelihood=log_likelihood,
    )


def bernoulli_glm(design: Any = None, raw: bool = False) -> Simulator:
    r"""A neuron's spikes at 100 times by a generalised linear model; x is the sufficient statistic, or the spikes.

    $z_t\sim\mathrm{Bernoulli}(s(v_t^\top\theta)),\ x = V^\top z$; theta is an offset $\mathcal N(0,2)$, by its variance, and
    a smooth filter $\mathcal N(0,(F^\top F)^{-1})$ with second differences $F = D^2+\mathrm{diag}(\sqrt{k/9})_{k=0..8}$,
    D = I less the subdiagonal.

    design: V [T, D], by default the published one, which is read from the data folder
    raw: whether x are the spikes themselves
    Shapes: theta and x [*batch, D], spikes [*batch, T].  The log-likelihood is without a constant of x.
    """
    v = np.asarray(_published("bernoulli_glm")["design_matrix"] if design is None else design, np.float32)
    filters = v.shape[1] - 1
    difference = np.eye(filters) - np.eye(filters, k=-1)
    f = difference @ difference + np.diag(np.sqrt(np.arange(filters) / 9))
    covariance = np.zeros((filters + 1, filters + 1))
    covariance[0, 0], covariance[1:, 1:] = 2.0, np.linalg.inv(f.T @ f)
    tril = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    end = np.full(filters + 1, np.inf, np.float32)
    zero = jnp.zeros(filters + 1)

    def logits(theta):
        return jnp.einsum("td,...d->...t", v, theta, precision="highest")

    def statistic(spikes):
        return jnp.einsum("td,...t->...d", v, spikes, precision="highest")

    def simulate(key, theta):
        spikes = jax.random.bernoulli(key, jax.nn.sigmoid(logits(theta))).astype(jnp.float32)
        return spikes if raw else statistic(spikes)

    def log_likelihood(theta, x):
        x = statistic(as_wide(x)) if raw else x
        return (theta * x).sum(-1) - jax.nn.softplus(logits(theta)).sum(-1)

    return Simulator(
        prior_sample=lambda key, shape: draw_normal(key, (*shape, filters + 1)) @ tril.T,
        prior_log_prob=lambda theta: multivariate_normal_log_prob(theta, zero, tril),
        simulate=simulate,
        low=-end,
        high=end,
        log_likelihood=log_likelihood,
    )


def slcp_distractors() -> Simulator:
    r"""slcp among 92 numbers that say nothing: a mixture of twenty multivariate Student laws, all 100 numbers in a fixed order.

    $x = (x_{slcp}, m_k+\sqrt{\nu_k/\chi^2_{\nu_k}}L_kz)_{\mathrm{order}},\ k\sim w,\ z\sim\mathcal N(0,I)$

    Order and mixture are the published ones, which are read from the data folder.
    Shapes: theta [*batch, 5], x [*batch, 100].  The log-likelihood is without a function of x.
    """
    there, simple = _published("slcp_distractors"), exact.slcp()
    loc, tril, order = there["loc"], there["scale_tril"], there["permutation"]
    freedom, log_weights = jnp.asarray(there["df"]), jnp.log(there["weights"])
    place = np.argsort(order)[:8]

    def simulate(key, theta):
        keys, batch = jax.random.split(key, 4), theta.shape[:-1]
        which = jax.random.categorical(keys[1], log_weights, shape=batch)
        spread = jnp.sqrt(freedom[which] / jax.random.chisquare(keys[2], freedom[which], batch))[..., None]
        z = draw_normal(keys[3], (*batch, loc.shape[-1]))

        def component(noise, part):  # one at a time: a matrix for each simulation would not fit into memory
            index, loc, tril = part
            drawn = loc + spread * jnp.einsum("ij,...j->...i", tril, z, precision="highest")
            return jnp.where((which == index)[..., None], drawn, noise), None

        noise, _ = jax.lax.scan(component, z, (jnp.arange(len(loc)), loc, tril))
        return jnp.concatenate([simple.simulate(keys[0], theta), noise], -1)[..., order]

    return simple._replace(
        simulate=simulate, log_likelihood=lambda theta, x: simple.log_likelihood(theta, x[..., place])
    )


TASKS = {
    "gaussian_linear": Task(exact.gaussian_linear, "10 Gaussian parameters and noise"),
    "gaussian_linear_uniform": Task(exact.gaussian_linear_uniform, "10 uniform parameters, Gaussian noise"),
    "gaussian_mixture": Task(exact.gaussian_mixture, "mean of a broad and a narrow Gaussian"),
    "two_moons": Task(exact.two_moons, "two crescents"),
    "slcp": Task(exact.slcp, "simple likelihood, complex posterior"),
    "slcp_distractors": Task(
        slcp_distractors, "the same among numbers that say nothing, needs the data folder"
    ),
    "bernoulli_glm": Task(bernoulli_glm, "generalised linear model of spikes, needs the data folder"),
    "bernoulli_glm_raw": Task(lambda: bernoulli_glm(raw=True), "the same, seen by all spikes"),
    "sir": Task(sir, "epidemic"),
    "lotka_volterra": Task(lotka_volterra, "prey and predators"),
    "cosmology": Task(cosmology.cosmology, "maps of matter, 64 x 64, of three cosmological parameters"),
}


def simulator(name: str, repeats: int = 1) -> Simulator:
    """The simulator of a task, or what MODULE:FUNCTION of one's own returns, of so many independent observations.

    Raises ValueError for an unknown name.
    """
    module, _, function = name.rpartition(":")
    if not module:
        return exact.repeated(pick(TASKS, name, "task").make(), repeats)
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the simulator {name} cannot be imported: {error}") from error
    if not isinstance(made, Simulator):
        raise ValueError(
            f"{name} must return a dlvm_jax.exact.simulators.Simulator, got {type(made).__name__}"
        )
    missing = [
        part for part in ("prior_sample", "prior_log_prob", "simulate") if not callable(getattr(made, part))
    ]
    if missing:
        raise ValueError(f"the simulator {name} needs a function for {', '.join(missing)}")
    return exact.repeated(made, repeats)


def simulated(name: str, made: Simulator, key: jax.Array, theta: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Rows of parameters and their simulated data, float32, and which of them are finite.

    A warning says how many are not.  Raises ValueError where most are not, and for data of another shape.
    """
    x = jax.jit(made.simulate)(key, theta)
    if x.ndim != 2 or len(x) != len(theta):
        raise ValueError(f"{name} must simulate x [N, C] for theta {theta.shape}, got shape {x.shape}")
    rows = np.asarray(jnp.concatenate([theta, x], -1), np.float32)
    finite = np.asarray(np.isfinite(rows).all(-1))
    if finite.mean() < 0.5:
        raise ValueError(
            f"{(~finite).sum()} of {len(rows)} simulations of {name} are not finite; mend the simulator"
        )
    if not finite.all():
        warnings.warn(
            f"{(~finite).sum()} of {len(rows)} simulations of {name} are not finite and are left out",
            stacklevel=3,
        )
    return rows, finite


def _check_prior(name: str, made: Simulator, theta: jax.Array) -> None:
    """Raise ValueError for draws of a prior that are not on its support; warn where it is zero far within the support."""
    low, high = np.asarray(made.low), np.asarray(made.high)
    if theta.ndim != 2 or not low.shape == high.shape == theta.shape[1:]:
        raise ValueError(
            f"the prior of {name} draws theta [N, D] for low and high [D], got shapes {theta.shape}, {low.shape} and {high.shape}"
        )
    if not np.isfinite(theta).all():
        lost = int((~np.isfinite(theta).all(-1)).sum())
        raise ValueError(
            f"{lost} of {len(theta)} parameters that the prior of {name} draws are not finite; mend it"
        )
    outside = int(((theta < low) | (theta > high)).any(-1).sum())
    if outside:
        raise ValueError(
            f"{outside} of {len(theta)} parameters of {name} lie outside of its support, low={low.tolist()} to "
            f"high={high.tolist()}; mend low and high"
        )
    least, most = np.asarray(theta.min(0)), np.asarray(theta.max(0))
    beyond = [
        np.where(np.isinf(low), 2 * least - most, least),
        np.where(np.isinf(high), 2 * most - least, most),
    ]
    log_prob = made.prior_log_prob(jnp.asarray(np.stack(beyond)))
    if jnp.shape(log_prob) != (2,):
        raise ValueError(
            f"the prior of {name} has one log-density for each theta, [N] for [N, D], got shape {jnp.shape(log_prob)} for "
            f"{(2, len(low))}"
        )
    if not np.isfinite(log_prob).all():
        warnings.warn(
            f"the prior of {name} is zero in places between low={low.tolist()} and high={high.tolist()}, where a posterior may "
            "then lie; say where it ends",
            stacklevel=3,
        )


def of_rows(name: str, used: np.ndarray, test: np.ndarray, seed: int) -> Data:
    """Rows of parameters and data as `Data`, the first tenth held out for validation; ValueError where they are few."""
    held = max(1, len(used) // 10)
    if len(used) < 20:
        raise ValueError(f"training needs at least 20 simulations, got {len(used)}")
    splits = used[held:], used[:held], test
    sizes = len(splits[0]), held, len(test)
    text = f"{'/'.join(map(str, sizes))} simulations of {name} (seed {seed})"
    return of_vectors(name, splits, Protocol("simulated", sizes, "none", seed, text, "this library"))


def dataset(name: str, simulations: int, seed: int = 0, tested: int = 1000, repeats: int = 1) -> Data:
    """Simulations of a task as `Data`: rows of parameters and then data; a tenth is held out for validation.

    simulations: of training and validation together;  tested: further ones, for tests of calibration
    repeats: independent observations of each, one after another

    Simulations that are not finite are left out, and a warning says how many.  Raises ValueError where most are, or few remain,
    and for parameters outside of the support that the prior says.
    """
    made, (key, key_x) = simulator(name, repeats), jax.random.split(jax.random.key(seed))
    theta = made.prior_sample(key, (simulations + tested,))
    _check_prior(name, made, theta)
    rows, finite = simulated(name, made, key_x, theta)
    used, test = rows[:simulations][finite[:simulations]], rows[simulations:][finite[simulations:]]
    return of_rows(name, used, test, seed)


ELSEWHERE = {  # tasks with the posterior of another: its file, that of their observations, and the name in it
    "slcp_distractors": ("slcp", "slcp_distractors", "observation"),
    "bernoulli_glm_raw": ("bernoulli_glm", "bernoulli_glm", "observation_raw"),
}


def reference(name: str) -> Reference | None:
    """What is published of a task, or None where its file is not in the data folder (`DLVM_DATA`)."""
    of, own, part = ELSEWHERE.get(name, (name, name, "observation"))
    try:
        stored, observations = _published(of), _published(own)[part]
    except FileNotFoundError:
        return None
    return Reference(observations, stored["true_parameters"], stored["reference_posterior"])


def _published(name: str) -> Any:
    """The arrays of a task's file; FileNotFoundError where it is not there."""
    path = data_folder("sbibm", f"the published posteriors of {name}", f"{name}.npz") / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; put it there")
    return np.load(path)
