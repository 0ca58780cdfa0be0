"""Likelihood of data under any density, as a record that says how it was obtained."""

import hashlib
import math
from collections.abc import Callable, MutableMapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.digest import digest
from dlvm_jax.evaluate.examples import as_precise_as, check_examples
from dlvm_jax.evaluate.resume import FinishedBatches
from dlvm_jax.evaluate.units import units_of_layers
from dlvm_jax.functional import bounds, densities
from dlvm_jax.functional.numerics import as_integer
from dlvm_jax.models.density import Density, require_kind
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.top_down import TopDown
from dlvm_jax.progress import Progress
from dlvm_jax.recipes.base import checked_batch

__all__ = [
    "Record",
    "evaluate",
    "evaluation_key",
    "log_likelihood",
    "log_likelihoods",
    "paired",
]


@dataclass(frozen=True)
class Record:
    """A likelihood with all that is needed to compare it.  Values are means over the examples, in nats unless said.

    estimator: "exact", the density itself; "iwae", the importance-weighted bound of `samples` draws, a stochastic lower bound on
        log p; "bound", the mean of `samples` draws of the density's own log_prob
    protocol, protocol_hash: what the data are;  kind: of the density
    standard_error: standard deviation over examples / sqrt(examples); it contains the Monte-Carlo error
    bits_standard_error: the same in bits per dimension
    elbo, reconstruction, kl: for densities made of these: elbo = reconstruction - kl;  elbo_standard_error: of the first
    rates: the KL of each layer, for densities of several: their sum is kl
    effective_samples: median over examples of the importance weights' effective sample size
    active_units: latent units in use (`units.active_units`);  layer_units: those of each layer, for densities of several
    per_example: the nats of each example, for paired differences between models
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
    rates: tuple[float, ...] | None = None
    layer_units: tuple[int, ...] | None = None
    per_example: np.ndarray | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The record without `per_example` as a plain dictionary, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "per_example"}

    def __str__(self) -> str:
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


def evaluation_key(seed: int) -> jax.Array:
    """The random key of a seed's evaluation, apart from those of its initialisation and training."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def paired(difference: np.ndarray) -> tuple[float, float]:
    """Mean of the differences [N] of single examples between two models, and its standard error."""
    return float(difference.mean()), _standard_error(difference)


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
        terms = {}
        if density.terms is not None:
            shapes = jax.eval_shape(density.terms, params, key, *unpack(batch))
            terms = {name: jnp.zeros(value.shape) for name, value in shapes.items()}
        start = (bounds.empty_weights(shape, zeros.dtype), zeros, terms)
        (weights, mean, terms), _ = jax.lax.scan(one_chunk, start, jax.random.split(key, chunks))
        return bounds.summarise(weights), mean, terms

    return run


def log_likelihoods(
    density: Density,
    params: Any,
    x: Any,
    *,
    key: jax.Array,
    samples: int,
    batch_size: int = 200,
    chunk: int = 25,
    progress: Callable[[int], None] = lambda done: None,
    finished: MutableMapping | None = None,
) -> dict[str, np.ndarray]:
    """Estimates for each example: {"iwae", "bound", "ess", and the density's terms}, each a numpy array [N], in nats.

    Of these "rates" is [N, L], the KL of each layer.

    x: [N, *event], or (x, context) for a conditional density
    samples: draws for each example, made on the device, `chunk` at a time (a divisor of `samples` is taken)
    batch_size: examples computed at a time
    progress: called after each batch with the number of examples done
    finished: a mapping from a batch's number to its values; what it holds is not computed again, and each batch is put into it

    Matrix products have full precision.  Raises ValueError for no samples, no examples, and values outside of the
    density's space.
    """
    if as_integer(samples, "the number of samples") < 1:
        raise ValueError(f"evaluation needs at least one sample, got {samples}")
    examples = len(jax.tree.leaves(x)[0])
    if examples == 0:
        raise ValueError("there are no examples to evaluate; choose a split that has some")
    check_examples(density.space, x)
    chunk = math.gcd(chunk, samples)
    run = _batch_evaluator(density, chunk, samples // chunk)
    size = min(batch_size, examples)

    def padded(array):
        return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])

    finished = {} if finished is None else finished
    with jax.default_matmul_precision("highest"):
        for number, start in enumerate(range(0, examples, size)):
            count = min(size, examples - start)
            if number in finished and len(finished[number]["bound"]) == count:
                progress(start + count)
                continue
            rows = jax.tree.map(lambda a, s=start: a[s : s + size], x)
            batch = jax.tree.map(padded, as_precise_as(params, rows))
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


def _require_finite(nats):
    bad = np.flatnonzero(~np.isfinite(nats))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(nats)} log-likelihoods are not finite: that of example {bad[0]} is {nats[bad[0]]}; "
            "check that training converged, and that x is what the model was trained on"
        )


def evaluate(
    density: Density,
    params: Any,
    x: Any,
    *,
    key: jax.Array,
    samples: int,
    protocol: str,
    protocol_hash: str,
    bin_width: float = 1.0,
    estimator: str | None = None,
    posterior: tuple[Density, Any] | None = None,
    **options: Any,
) -> Record:
    """Likelihood of x under a density, as a `Record`.

    density, params: the model
    x: [N, *event] data as the density sees them, or (x, context)
    samples: K draws an example
    protocol, protocol_hash: what the data are (see `dlvm_jax.data`)
    bin_width: distance between data values
    estimator: "iwae" or "bound"; by default what the density's kind allows ("exact" for an exact one, whatever K)
    posterior: (density, params) of a VAE's posterior, or (`TopDown`, params) of a hierarchical VAE, to count active units
    options: `batch_size`, `chunk`, `progress`, `finished` of `log_likelihoods`

    Raises ValueError for "iwae" on a density of kind "bound", whose importance weights would be meaningless, and where the
    likelihood of an example is nan or infinite.
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
    _require_finite(nats)
    has_terms = "reconstruction" in values
    units = units_of_layers(*posterior, x, options.get("batch_size", 200)) if posterior else None
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
        rates=tuple(values["rates"].mean(0, dtype=np.float64).tolist()) if "rates" in values else None,
        effective_samples=float(np.median(values["ess"])) if estimator == "iwae" else None,
        active_units=sum(units) if units else None,
        layer_units=units if units and len(units) > 1 else None,
        per_example=nats,
    )


def log_likelihood(
    fitted: Any,
    x: Any,
    *,
    samples: int = 500,
    key: jax.Array | None = None,
    estimator: str | None = None,
    batch_size: int = 200,
    chunk: int = 25,
    folder: Path | str | None = None,
    progress: bool = True,
) -> Record:
    """Likelihood of data under a trained model (`train.fit`), as a `Record`.

    fitted: has `model` (with `density`, `split`, `parts`), `params`, and `spec` (with `protocol`, `protocol_hash`, `bin_width`)
    x: data as the model was trained on after their transformation (`Data.test`), or (x, labels)
    samples: draws an example; of an exact density none are needed
    key: by default `evaluation_key(0)`
    estimator, batch_size, chunk: as of `evaluate` and `log_likelihoods`
    folder: of this model alone, where finished batches are kept: an evaluation that was cut short goes on
    progress: whether to draw a progress bar

    Active units are counted where the means of the posterior are known.  Raises ValueError where `evaluate` does, and
    for a model without a density.
    """
    model, params, spec = fitted.model, fitted.params, fitted.spec
    if model.density is None:
        raise ValueError("this model has no density, so no likelihood; measure its reconstructions instead")
    key = evaluation_key(0) if key is None else key
    data = model.split(checked_batch(model, spec, as_precise_as(params, x)))
    finished = None
    if folder is not None:
        known = digest((params, data, jax.random.key_data(key)))
        name = hashlib.sha256(f"{known} {samples} {chunk} {batch_size}".encode()).hexdigest()[:16]
        finished = FinishedBatches(Path(folder) / name)
    examples = len(jax.tree.leaves(data)[0])
    with Progress("evaluating", examples, "example", shown=progress) as bar:
        return evaluate(
            model.density,
            params,
            data,
            key=key,
            samples=samples,
            protocol=spec.protocol,
            protocol_hash=spec.protocol_hash,
            bin_width=spec.bin_width,
            estimator=estimator,
            posterior=_with_known_means(model.parts, params),
            batch_size=batch_size,
            chunk=chunk,
            progress=lambda done: bar.advance(done - bar.done),
            finished=finished,
        )


def _with_known_means(parts: Any, params: Any) -> tuple[Any, Any] | None:
    """(hierarchical VAE or posterior, its params), of which active units can be counted; None of others."""
    if isinstance(parts, TopDown):
        return (parts, params) if parts.shifts else None
    posterior = getattr(parts, "posterior", None)
    return (posterior, params["posterior"]) if posterior is not None and posterior.mean else None
