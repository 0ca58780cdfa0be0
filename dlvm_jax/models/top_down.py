"""Hierarchical VAEs: latent groups from the top down, at several resolutions, as one `Density`.

The top latent z_1 is drawn from any density.  It becomes a state h, which the groups of each stage refine one after the other:
group l has the prior p(z_l | h), is given z_l, and hands the state on.  The last state gives the likelihood p(x | h).
The posterior of z_l may look at the state and at the features that a bottom-up network finds in x.
The log-weight is log p(x | h) + sum_l [log p(z_l | z_<l) - log q(z_l | z_<l, x)]; the top layer is the first.
Under a context c every law is given it: the prior of the top, the way into each stage, the likelihood, and the encoder.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, divergences
from dlvm_jax.functional.hierarchical import precision_weighted, tempered
from dlvm_jax.models.density import Density, Net, as_arrays, batch_of, join, require_kind
from dlvm_jax.models.latents import Group, Latents, Stage, features_of, flatten, unflatten
from dlvm_jax.models.objectives import unpack

__all__ = ["Group", "Latents", "Stage", "TopDown", "features_of", "of_pairs", "top_down"]

Law = tuple[jax.Array, jax.Array]  # mean and log-standard deviation


class TopDown(NamedTuple):
    """A hierarchical VAE.  Layers are counted from the top: layer 1 is the top latent, then come the groups.

    density: its `Density`; `terms` also gives "rates" [*batch, layers], the KL of each layer
    sizes:   the numbers in an example's latent of each layer
    infer:   (params, key, x or (x, context), pull=0) -> `Latents` drawn from the posterior; their means without a key.  With
             `pull` the law of a group is q p^pull, normalised: towards the prior (Prost et al. 2023)
    shifts:  (params, x or (x, context)) -> [*batch, numbers], how far the posterior's means lie from the prior's at the means
             of the layers above, in standard deviations of the prior; of the top layer the means (None: not known)
    noise:   (key, count) -> `Latents` of standard normal numbers
    draw_top: (params, key, count, temperature=1, context=None) -> draws of the top latent, of a context one for each of its
             rows; another temperature needs a Gaussian prior
    top_normal: (params, context=None) -> (mean, log_std) of the top prior, where it is a Gaussian
    top_mixture: (params) -> (mean, log_std, log-weights) of it, where it is a mixture of Gaussians
    decode:  (params, latents, noise=None, keep=layers, temperature=1, context=None) -> (mean of x, `Latents`): the first
             `keep` layers as given, the others drawn from their priors with that noise (without: their means), at a temperature
             of all layers or one of each
    flatten, unflatten: `Latents` to vectors [*batch, numbers], and back
    state:   the same as decode -> (last state, which the likelihood is conditioned on, `Latents`)
    likelihood: p(x | last state), or given (last state, context), with params["likelihood"]
    laws:    (params, x, latents) -> means and log-standard deviations, each as `Latents`, of every layer given the layers above
             it: of the posterior, or of the prior where x is None (N(0, I) for a mixture); only if all are Gaussian, top-down,
             and without a context
    """

    density: Density
    sizes: tuple[int, ...]
    infer: Callable
    shifts: Callable | None
    noise: Callable
    draw_top: Callable
    top_normal: Callable | None
    top_mixture: Callable | None
    decode: Callable
    state: Callable
    flatten: Callable
    unflatten: Callable
    likelihood: Density
    laws: Callable | None

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.sizes)


def _log_prob(z: jax.Array, law: Law) -> jax.Array:
    return densities.normal_log_prob(z, *law, event_ndim=z.ndim - 1)


def _rate(q: Law, p: Law, z: jax.Array, kl: str) -> jax.Array:
    """KL of a group, in closed form or at one draw, [batch]."""
    if kl == "analytic":
        return divergences.kl_normal(*q, *p, event_ndim=z.ndim - 1)
    return _log_prob(z, q) - _log_prob(z, p)


def _check(prior, posterior, encoder, stages, likelihood, kl):
    chain = posterior if encoder is None else (posterior,)
    layers = 1 + sum(stage.count for stage in stages)
    if any(stage.count < 1 for stage in stages):
        raise ValueError(f"a stage has at least one group, got {[stage.count for stage in stages]}")
    if encoder is None and len(chain) != layers:
        raise ValueError(
            f"bottom-up inference has a density for each of the {layers} layers, got {len(chain)}"
        )
    for part in chain:
        require_kind(part, ("exact",), "a posterior")
        if not part.reparameterised:
            raise ValueError(
                "a posterior learns through its samples, got a density whose samples carry no gradient"
            )
    for part, role in ((prior, "a prior"), (likelihood, "a likelihood")):
        require_kind(part, ("exact", "weight", "bound"), role)
    if prior.space != chain[-1].space:
        raise ValueError(
            f"prior and posterior need one latent space, got a prior on {prior.space} and a posterior on {chain[-1].space}"
        )
    if kl not in ("sampled", "analytic"):
        raise ValueError(f"kl is 'sampled' or 'analytic', got {kl!r}")
    if kl == "analytic" and (encoder is None or prior.normal is None or posterior.normal is None):
        raise ValueError(
            "an analytic KL needs a Gaussian prior and posterior, from the top down; use kl='sampled'"
        )
    if encoder is None and prior.share:
        raise ValueError(
            "a prior that shares the posterior needs inference from the top down; choose another prior"
        )


def top_down(
    prior: Density,
    posterior: Density | Sequence[Density],
    encoder: Net | None,
    stages: Sequence[Stage],
    likelihood: Density,
    *,
    dim: int,
    kl: str = "sampled",
    conditional: bool = False,
) -> TopDown:
    """A hierarchical VAE of one top latent and the groups of some stages.

    prior:      p(z_1), any density of vectors
    posterior:  q(z_1 | features of the top), exact
    encoder:    x, or (x, context) -> (features of the top, a pair for each stage as `features_of` makes them)
    stages:     from the top down; none: an ordinary VAE
    likelihood: p(x | h), or under (h, context), h the last state (the top latent where there are no stages)
    dim:        numbers in the top latent
    kl:         "sampled" gives a "weight"; "analytic" takes each layer's KL in closed form: a "bound" of lower variance
    conditional: whether there is a context, which then all are given

    Without an encoder inference goes from the bottom up: the posterior is a sequence of densities, q(z_L | x) first, then
    q(z_{l-1} | z_l) up to the top, each with the context where there is one, and that of a group is not used.
    A prior that shares the posterior's parameters (a VampPrior) has them as {"encoder", "posterior"}.
    Raises ValueError for parts that do not go together, and for a context that is missing or of no use.
    """
    stages = tuple(stages)
    _check(prior, posterior, encoder, stages, likelihood, kl)
    layers = 1 + sum(stage.count for stage in stages)
    q_top: Any = posterior  # the posterior of the top layer, or those of all
    bottom_up: Any = encoder
    normal_prior: Any = prior.normal
    mixture_of: Any = prior.mixture
    mean_of: Any = likelihood.mean

    def _init_posterior(key):
        if encoder is None:
            return tuple(q.init(k) for q, k in zip(q_top, jax.random.split(key, layers), strict=True))
        return q_top.init(key)

    def init(key):
        keys = jax.random.split(key, 4 + len(stages))
        own = lambda stage, key: {
            "enter": stage.enter.init(jax.random.fold_in(key, 0)),
            "groups": jax.vmap(stage.group.init)(jax.random.split(jax.random.fold_in(key, 1), stage.count)),
        }
        return {
            "prior": prior.init(keys[0]),
            "posterior": _init_posterior(keys[1]),
            "likelihood": likelihood.init(keys[2]),
            "encoder": {} if encoder is None else encoder.init(keys[3]),
            "stages": tuple(own(stage, key) for stage, key in zip(stages, keys[4:], strict=True)),
        }

    def tied(params):
        """The prior's parameters, with the posterior's where it uses them too."""
        if prior.share is None:
            return params["prior"]
        return prior.share(params["prior"], {name: params[name] for name in ("encoder", "posterior")})

    def check(context):
        if conditional and context is None:
            raise ValueError("this model is conditional; give a context")
        if context is not None and not conditional:
            raise ValueError("this model takes no context; leave it out")

    def under(x, context):
        """What a part is conditioned on."""
        check(context)
        return join(x, context)

    def enter(stage, own, h, context):
        return stage.enter.apply(own["enter"], under(h, context))

    def scan(stage, step, h, inputs):
        return jax.lax.scan(jax.checkpoint(step) if stage.remat else step, h, inputs)

    def noise(key, count):
        """Standard normal numbers for every latent variable of so many examples."""
        key_top, key_groups = jax.random.split(key)
        keys = jax.random.split(key_groups, max(1, len(stages)))
        shapes = [(stage.count, count, *stage.group.latent) for stage in stages]
        groups = tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False))
        return Latents(jax.random.normal(key_top, (count, dim)), groups)

    def climb(params, eps, features, z, context, pull=0.0, given=False):
        """Through all groups with draws of the posterior: the last state, the groups' values, their KLs and posteriors.

        With `given` the values are `eps`."""
        h, values, rates, laws = z, [], [], []
        for stage, own, e, (shared, each) in zip(stages, params["stages"], eps, features, strict=True):

            def step(h, inputs, stage=stage, shared=shared):
                own, e, each = inputs
                group = stage.group
                p, after = group.prior(own, h)
                q = group.posterior(own, h, shared if each is None else each, p)
                if pull:
                    q = precision_weighted(q[0], q[1], p[0], p[1] - 0.5 * math.log(pull))
                z = e if given else q[0] + jnp.exp(q[1]) * e
                return group.merge(own, after, z), (z, _rate(q, p, z, kl), q)

            h = enter(stage, own, h, context)
            h, found = scan(stage, step, h, (own["groups"], e, each))
            for all_stages, one in zip((values, rates, laws), found, strict=True):
                all_stages.append(one)
        return h, tuple(values), rates, laws

    def chain(params, key, x, context):
        """From the bottom up: the latents, and log q of each layer from the top down; the means and None without a key."""
        found, z = [], x
        keys = [None] * layers if key is None else jax.random.split(key, layers)
        for q, own, k in zip(q_top, params["posterior"], keys, strict=True):
            seen = under(z, context)
            z, value = (q.mean(own, seen), None) if k is None else q.sample(own, k, seen)
            found.append((z, value))
        (top, *rest), log_q = zip(*reversed(found), strict=True)
        ends = [sum(stage.count for stage in stages[:i]) for i in range(len(stages) + 1)]
        return Latents(top, tuple(jnp.stack(rest[i:j]) for i, j in itertools.pairwise(ends))), log_q

    def rates_and_state(params, key_z, key_prior, x, context):
        """The KL of each layer [layers, *batch], and the last state, at one draw of the posterior."""
        own = tied(params)
        if encoder is None:
            latents, log_q = chain(params, key_z, x, context)
            h, _, log_p, _ = descend(params, latents, None, layers, 1.0, context)
            top = prior.log_prob(own, key_prior, latents.top, context)
            return jnp.stack(log_q) - jnp.concatenate([top[None], *log_p]), h
        top, features = bottom_up.apply(params["encoder"], under(x, context))
        if kl == "analytic":
            q, p = q_top.normal(params["posterior"], top), normal_prior(own, context)
            z, rate = densities.normal_sample(key_z, *q), divergences.kl_normal(*q, *p)
        else:
            z, log_q = q_top.sample(params["posterior"], key_z, top)
            rate = log_q - prior.log_prob(own, key_prior, z, context)
        eps = noise(jax.random.fold_in(key_z, 1), len(z)).groups if stages else ()
        h, _, rates, _ = climb(params, eps, features, z, context)
        return jnp.concatenate([rate[None], *rates]), h

    def terms(params, key, x, context=None):
        key_latent, key_lik = jax.random.split(key)
        key_z, key_prior = jax.random.split(key_latent)
        rates, h = rates_and_state(params, key_z, key_prior, x, context)
        log_lik = likelihood.log_prob(params["likelihood"], key_lik, x, under(h, context))
        return {"reconstruction": log_lik, "kl": rates.sum(0), "rates": jnp.moveaxis(rates, 0, -1)}

    def log_prob(params, key, x, context=None):
        both = terms(params, key, x, context)
        return both["reconstruction"] - both["kl"]

    def infer(params, key, x, pull=0.0):
        x, context = unpack(x)
        if encoder is None:
            if pull:
                raise ValueError(
                    "only inference from the top down is pulled towards the prior, got pull with bottom-up"
                )
            return chain(params, key, x, context)[0]
        top, features = bottom_up.apply(params["encoder"], under(x, context))
        key_z, key_eps = (None, None) if key is None else jax.random.split(key)
        if key is None:
            z = q_top.mean(params["posterior"], top)
            eps = jax.tree.map(jnp.zeros_like, noise(jax.random.key(0), len(z)).groups)
        else:
            z, eps = q_top.sample(params["posterior"], key_z, top)[0], noise(key_eps, len(x)).groups
        return Latents(z, climb(params, eps, features, z, context, pull)[1])

    def descend(params, latents, noise, keep, temperature, context=None):
        """Through all groups with given values of the first `keep` layers, draws of the prior for the others.

        The last state, the latents, log p of the groups of each stage, and their priors.
        """
        warmth = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), (layers,))
        h, values, log_p, laws, layer = latents.top, [], [], [], 1
        for number, (stage, own) in enumerate(zip(stages, params["stages"], strict=True)):
            which = layer + jnp.arange(stage.count)

            def step(h, inputs, group=stage.group):
                own, given, e, number, t = inputs
                p, after = group.prior(own, h)
                drawn = p[0] if e is None else p[0] + jnp.exp(tempered(p[1], t)) * e
                z = jnp.where(number < keep, given, drawn)
                return group.merge(own, after, z), (z, _log_prob(z, p), p)

            h = enter(stage, own, h, context)
            e = None if noise is None else noise.groups[number]
            given = (own["groups"], latents.groups[number], e, which, warmth[which])
            h, found = scan(stage, step, h, given)
            for all_stages, one in zip((values, log_p, laws), found, strict=True):
                all_stages.append(one)
            layer += stage.count
        return h, Latents(latents.top, tuple(values)), log_p, laws

    def shifts(params, x):
        latents, (_, context) = infer(params, None, x), unpack(x)
        priors = descend(params, latents, None, layers, 1.0, context)[3]
        pairs = zip(latents.groups, priors, strict=True)
        groups = tuple((z - mean) * jnp.exp(-log_std) for z, (mean, log_std) in pairs)
        return flatten(Latents(latents.top, groups), shapes)

    def laws(params, x, latents):
        if x is None:
            top = normal_prior(tied(params), None) if normal_prior else (0.0, 0.0)
            groups = descend(params, latents, None, layers, 1.0)[3]
        else:
            found, features = bottom_up.apply(params["encoder"], x)
            top = q_top.normal(params["posterior"], found)
            groups = climb(params, latents.groups, features, latents.top, None, given=True)[3]
        everywhere = [jnp.broadcast_to(a, latents.top.shape) for a in top]
        return tuple(Latents(everywhere[i], tuple(law[i] for law in groups)) for i in (0, 1))

    def state(params, latents, noise=None, keep=layers, temperature=1.0, context=None):
        return descend(params, latents, noise, keep, temperature, context)[:2]

    def decode(params, latents, noise=None, keep=layers, temperature=1.0, context=None):
        h, latents = state(params, latents, noise, keep, temperature, context)
        return mean_of(params["likelihood"], under(h, context)), latents

    top_normal = (lambda params, context=None: normal_prior(tied(params), context)) if normal_prior else None
    top_mixture = (lambda params: mixture_of(tied(params))) if mixture_of else None

    def draw_top(params, key, count, temperature=1.0, context=None):
        check(context)
        if top_normal is None:
            if temperature != 1.0:
                raise ValueError(f"only a Gaussian top prior has a temperature, got {temperature}; keep it 1")
            return prior.sample(tied(params), key, context, (count,) if context is None else ())[0]
        mean, log_std = top_normal(params, context)
        shape = (count,) if jnp.ndim(mean) == 1 else ()  # a law for all, or that of each row of the context
        return densities.normal_sample(key, mean, tempered(log_std, temperature), shape)

    shapes = [(stage.count, *stage.group.latent) for stage in stages]
    sizes = (dim, *(math.prod(stage.group.latent) for stage in stages for _ in range(stage.count)))

    def sample(params, key, context=None, shape=()):
        key_z, key_noise, key_x = jax.random.split(key, 3)
        full = (*shape, *batch_of(context))
        count = math.prod(full)
        each = lambda c: jnp.broadcast_to(c, (*shape, *c.shape)).reshape(count, *c.shape[1:])
        context = jax.tree.map(each, as_arrays(context))
        eps = noise(key_noise, count)
        top = draw_top(params, key_z, count, 1.0, context)
        h, _ = state(params, Latents(top, eps.groups), eps, 1, context=context)
        x, _ = likelihood.sample(params["likelihood"], key_x, under(h, context))
        return x.reshape(*full, *x.shape[1:]), None

    unbiased = prior.kind != "bound" and likelihood.kind != "bound" and kl == "sampled"
    density = Density(
        init, sample, log_prob, "weight" if unbiased else "bound", terms=terms, space=likelihood.space
    )
    all_normal = (
        encoder is not None and not conditional and q_top.normal is not None and (top_normal or top_mixture)
    )
    return TopDown(
        density,
        sizes,
        infer,
        shifts if all(q.mean for q in (q_top if encoder is None else (q_top,))) else None,
        noise,
        draw_top,
        top_normal,
        top_mixture,
        decode,
        state,
        lambda latents: flatten(latents, shapes),
        lambda z: unflatten(z, dim, shapes),
        likelihood,
        laws if all_normal else None,
    )


def of_pairs(model: TopDown) -> TopDown:
    """The same model of pairs (parameters, variables), as training with variables has them; it looks at the parameters alone."""
    first = lambda function: lambda pair, *args, **options: function(pair[0], *args, **options)
    own = model.density
    density = own._replace(**{name: first(getattr(own, name)) for name in ("sample", "log_prob", "terms")})
    names = ("infer", "shifts", "draw_top", "top_normal", "top_mixture", "decode", "state", "laws")
    functions = {name: first(getattr(model, name)) for name in names if getattr(model, name)}
    return model._replace(density=density, **functions)
