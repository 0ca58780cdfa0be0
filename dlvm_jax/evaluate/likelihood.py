"""Likelihood of data under any density, as a record that says how it was obtained."""

import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import bounds, densities
from dlvm_jax.models.density import require_kind
from dlvm_jax.models.objectives import unpack

__all__ = ["Record", "active_units", "evaluate", "log_likelihoods"]

ACTIVE = 0.01  # variance of the posterior mean over the data above which a unit is active


@dataclass(frozen=True)
class Record:
    """A likelihood with all that is needed to compare it.  Values are means over `examples`, in nats unless said.

    estimator "exact" is the density itself, "iwae" the importance-weighted bound of `samples` draws (a stochastic lower bound
    on log p), "bound" the mean of `samples` draws of the density's own log_prob.  `standard_error` is the standard deviation
    over examples / sqrt(examples), `bits_standard_error` the same per dimension; they contain the Monte-Carlo error.
    `reconstruction` - `kl` is the ELBO, for densities that have these parts, and `elbo_standard_error` its error.
    `effective_samples` is the median over examples of the importance weights' effective sample size.  `per_example` holds the
    nats of each example, for paired differences between models.
    """

    estimator: str
    samples: int
    examples: int
    protocol: str
    protocol_hash: str
    kind: str
    log_likelihood: float
    standard_error: float
    bits_per_dim: float
    elbo: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    effective_samples: float | None = None
    active_units: int | None = None
    bits_standard_error: float | None = None
    elbo_standard_error: float | None = None
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)

    def as_dict(self):
        """The record without `per_example` as a plain dictionary, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "per_example"}

    def __str__(self):
        error = "" if self.bits_standard_error is None else f" +- {self.bits_standard_error:.4f}"
        relation = {"bound": ">=", "exact": "="}.get(self.estimator, "~")
        head = (
            f"log p(x) {relation} {self.log_likelihood:.2f} +- {self.standard_error:.2f} nats, "
            f"{self.bits_per_dim:.4f}{error} bits/dim ({self.estimator}, K={self.samples}, {self.examples} examples, "
            f"{self.protocol} {self.protocol_hash})"
        )
        parts = [
            f"{name} {value:.2f}"
            for name, value in (("ELBO", self.elbo), ("reconstruction", self.reconstruction), ("KL", self.kl))
            if value is not None
        ]
        if self.active_units is not None:
            parts.append(f"{self.active_units} active units")
        return "; ".join([head, ", ".join(parts)] if parts else [head])


@lru_cache(maxsize=8)
def _batch_evaluator(density, chunk, chunks):
    """Jitted (params, key, batch) -> (weights' running sums, mean terms), one chunk of draws after another."""

    def draw(params, key, batch):
        if density.terms is None:
            return density.log_prob(params, key, *unpack(batch)), {}
        terms = density.terms(params, key, *unpack(batch))
        return terms["reconstruction"] - terms["kl"], terms

    @jax.jit
    def run(params, key, batch):
        def one_chunk(carry, key):
            log_w, terms = jax.vmap(lambda k: draw(params, k, batch))(jax.random.split(key, chunk))
            weights, total, means = carry
            means = jax.tree.map(lambda m, t: m + t.sum(0) / (chunk * chunks), means, terms)
            return (bounds.accumulate(weights, log_w), total + log_w.sum(0) / (chunk * chunks), means), None

        shape = jax.tree.leaves(batch)[0].shape[:1]
        zeros = jnp.zeros(shape)
        terms = {} if density.terms is None else {"reconstruction": zeros, "kl": zeros}
        start = (bounds.empty_weights(shape, zeros.dtype), zeros, terms)
        (weights, mean, terms), _ = jax.lax.scan(one_chunk, start, jax.random.split(key, chunks))
        return bounds.summarise(weights), mean, terms

    return run


def log_likelihoods(
    density, params, x, *, key, samples, batch_size=200, chunk=25, progress=lambda done: None, finished=None
):
    """Estimates for each example: {"iwae", "bound", "ess", and the density's terms}, each a numpy array [N], in nats.

    x: [N, *event], or (x, context) for a conditional density; the draws are made on the device, `chunk` at a time (`samples`
    is a multiple of it, or smaller), with exact float32 products; `progress(done)` is called after each batch with the number
    of examples done; `finished` is a mapping from a batch's number to its values: what it holds is not computed again, and
    each batch is put into it, so that one kept on a disk lets an evaluation go on where it was.
    """
    if samples < 1:
        raise ValueError(f"evaluation needs at least one sample, got {samples}")
    examples = len(jax.tree.leaves(x)[0])
    if examples == 0:
        raise ValueError("there are no examples to evaluate; choose a split that has some")
    chunk = math.gcd(chunk, samples)
    run = _batch_evaluator(density, chunk, samples // chunk)
    size = min(batch_size, examples)

    def padded(array, start):
        block = np.asarray(array[start : start + size], np.float32)
        return np.concatenate([block, np.repeat(block[:1], size - len(block), axis=0)])

    finished = {} if finished is None else finished
    with jax.default_matmul_precision("highest"):
        for number, start in enumerate(range(0, examples, size)):
            count = min(size, examples - start)
            if number in finished and len(finished[number]["bound"]) == count:
                progress(start + count)
                continue
            batch = jax.tree.map(lambda a, s=start: padded(a, s), x)
            evidence, mean, terms = run(params, jax.random.fold_in(key, number), batch)
            values = {
                "iwae": evidence.log_evidence,
                "ess": evidence.effective_sample_size,
                "bound": mean,
                **terms,
            }
            finished[number] = {name: np.asarray(value)[:count] for name, value in values.items()}
            progress(start + count)
    results = [finished[number] for number in range(-(-examples // size))]
    return {name: np.concatenate([r[name] for r in results]) for name in results[0]}


def _standard_error(values):
    """Of the mean of values [N]; nan for a single one."""
    values = values.astype(np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def evaluate(
    density,
    params,
    x,
    *,
    key,
    samples,
    protocol,
    protocol_hash,
    bin_width=1.0,
    estimator=None,
    posterior=None,
    **options,
):
    """Likelihood of x under a density, as a `Record`.

    density, params: the model;  x: [N, *event] data as the density sees them, or (x, context);  samples: K draws an example
    protocol, protocol_hash: what the data are (see `dlvm_jax.data`);  bin_width: distance between data values
    estimator: "iwae" or "bound"; by default what the density's kind allows ("exact" for an exact one, whatever K)
    posterior: (density, params) of a VAE's posterior, to count active units (Burda et al. 2016, section 5.3)
    options: `batch_size`, `chunk`, `progress`, `finished` of `log_likelihoods`

    Raises ValueError for "iwae" on a density of kind "bound", whose importance weights would be meaningless.
    """
    estimator = estimator or {"exact": "exact", "weight": "iwae", "bound": "bound"}[density.kind]
    if estimator not in ("iwae", "bound") and (estimator, density.kind) != ("exact", "exact"):
        raise ValueError(
            f"the estimator is 'iwae' or 'bound', or 'exact' of an exact density, got {estimator!r} of a density of kind "
            f"{density.kind!r}"
        )
    if estimator == "exact":
        samples = min(samples, 1)
    if estimator == "iwae":
        require_kind(density, ("exact", "weight"), "an importance-weighted evaluation")
    values = log_likelihoods(density, params, x, key=key, samples=samples, **options)
    nats = values["bound" if estimator == "exact" else estimator].astype(np.float64)
    has_terms = "reconstruction" in values
    event = unpack(x)[0].shape[1:]
    error = _standard_error(nats)
    return Record(
        estimator=estimator,
        samples=samples,
        examples=len(nats),
        protocol=protocol,
        protocol_hash=protocol_hash,
        kind=density.kind,
        log_likelihood=float(nats.mean()),
        standard_error=error,
        bits_per_dim=float(densities.bits_per_dim(nats.mean(), event, bin_width)),
        bits_standard_error=error / (math.prod(event) * math.log(2)),
        elbo_standard_error=_standard_error(values["bound"]) if has_terms else None,
        elbo=float(values["bound"].mean(dtype=np.float64)) if has_terms else None,
        reconstruction=float(values["reconstruction"].mean(dtype=np.float64)) if has_terms else None,
        kl=float(values["kl"].mean(dtype=np.float64)) if has_terms else None,
        effective_samples=float(np.median(values["ess"])) if estimator == "iwae" else None,
        active_units=active_units(*posterior, x) if posterior else None,
        per_example=nats,
    )


def posterior_means(posterior, params, x, batch_size=1000):
    """Means E_q[z | x] of a posterior density, [N, M]; x as it sees it, (x, context) for a conditional VAE."""
    mean = jax.jit(posterior.mean)
    blocks = [
        jax.tree.map(lambda a, i=i: np.asarray(a[i : i + batch_size], np.float32), x)
        for i in range(0, len(jax.tree.leaves(x)[0]), batch_size)
    ]
    return np.concatenate([np.asarray(mean(params, block)) for block in blocks])


def active_units(posterior, params, x):
    """Number of latent units whose posterior mean varies over the data: Var_x(E_q[z_i | x]) > 0.01.

    Source: Burda, Grosse, Salakhutdinov 2016, section 5.3; here over all of x.
    """
    return int((posterior_means(posterior, params, x).var(axis=0) > ACTIVE).sum())
