"""Hierarchical VAEs: a top latent by any prior, and stages of groups below it, dense or of images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, Spec
from dlvm_jax.models import density, diffusion, layered, objectives, top_down
from dlvm_jax.models.density import Density, Net
from dlvm_jax.nets import MLP, ladders
from dlvm_jax.nets.mlp import SMALL
from dlvm_jax.recipes import networks
from dlvm_jax.recipes.base import Constants, Model, Recipe
from dlvm_jax.recipes.conditions import LABEL, condition_of, say_which_labels_are_missing
from dlvm_jax.recipes.hierarchical_parts import CELLS, INFERENCE, bounded, given_x, group_of
from dlvm_jax.recipes.likelihoods import check_likelihood, likelihood_of, transform_of
from dlvm_jax.recipes.networks import DTYPES
from dlvm_jax.recipes.vae_parts import (
    FLAT,
    LIKELIHOODS,
    PRIORS,
    Place,
    latent_denoiser,
    latent_sampler,
    pseudo_inputs,
)
from dlvm_jax.settings import choice, pick, setting

__all__ = ["Hierarchical"]

TOP_PRIORS = {name: entry for name, entry in PRIORS.items() if entry.space == FLAT and name != "implicit"}
OBJECTIVES = {"elbo": "", "iwae": "the importance-weighted bound"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchical(Recipe):
    """A hierarchical VAE: a top latent, then groups of latents from the top down, in stages.

    Each stage has its own number and size of groups; of images, stages double the resolution.
    """

    cells: str = choice("dense", CELLS, "networks of the groups")
    inference: str = choice("bidirectional", INFERENCE, "posterior of the groups")
    latent_dim: int = setting(8, "numbers in the top latent", at_least=1)
    prior: str = choice("standard", TOP_PRIORS, "prior of the top latent")
    components: int = setting(100, "components of a mixture prior, pseudo-inputs of a VampPrior", at_least=1)
    groups: tuple[int, ...] = setting((1, 1), "groups of each stage, from the top down", at_least=1)
    latents: tuple[int, ...] = setting((8, 16), "numbers, or channels, of a group of each stage", at_least=1)
    widths: tuple[int, ...] = setting(
        (64, 128), "numbers, or channels, of the state in each stage", at_least=1
    )
    hidden: tuple[int, ...] = setting(
        (64, 128),
        "widths inside of the networks of each stage (nvae: by how much a cell widens)",
        at_least=1,
    )
    stride: int = setting(
        1, "of the first convolution: the finest stage is so much smaller than the image", at_least=1
    )
    condition: str | None = choice(None, LABEL, "model the example given")
    likelihood: str | None = choice(None, LIKELIHOODS, "p(x|z), by default what suits the data")
    std: float = setting(1.0, "standard deviation of a fixed-normal likelihood")
    objective: str = choice("elbo", OBJECTIVES, "training objective")
    samples: int = setting(1, "latent samples of each example for iwae", at_least=1)
    beta: float = setting(1.0, "weight of the KL", at_least=0)
    beta_warm_up: int = setting(0, "steps over which beta grows linearly from 0", at_least=0)
    free_nats: float = setting(0.0, "KL in nats that each layer may spend for nothing", at_least=0)
    balance: bool = setting(False, "balance the KL of the layers while beta grows")
    spectral: float = setting(0.0, "weight of the spectral norms of the convolutions", at_least=0)
    remat: bool = setting(False, "compute the groups anew in the backward pass, to save memory")
    dtype: str = choice("float32", DTYPES, "compute type of the networks")

    training: ClassVar[Mapping[str, Any]] = {
        "steps": 3000,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warm_up": 0.02,
        "ema": 0.999,
        "clip": 200.0,
        "skip": 1e6,  # one gradient in 10,000 steps is not finite or far off, and would end training (Child 2021, section 3)
    }

    @property
    def transform(self) -> str | None:
        """What becomes of the data: integer levels or dequantised ones where the likelihood says so."""
        return transform_of(self.likelihood)

    @property
    def objective_warm_up(self) -> int:
        """Steps until beta no longer changes."""
        return self.beta_warm_up

    @property
    def layers(self) -> int:
        """Latent layers: the top latent and all groups."""
        return 1 + sum(self.groups)

    @property
    def net(self) -> str:
        """What the networks of a prior are made of."""
        return "mlp"

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that do not go together."""
        super().check()
        stages = len(self.groups)
        for name in ("latents", "widths", "hidden"):
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"{name} has one number for each of the {stages} stages that groups={self.groups} names, "
                    f"got {getattr(self, name)}"
                )
        if not stages:
            raise ValueError("groups needs at least one stage; for a single layer use recipes.VAE")
        cell = CELLS[self.cells]
        if self.inference not in cell.inference:
            raise ValueError(
                f"inference={self.inference!r} does not go with cells={self.cells!r}; possible: {', '.join(cell.inference)}"
            )
        if self.stride > 1 and not cell.images:
            raise ValueError(f"stride is of images, cells={self.cells!r} has none; leave it at 1")
        if self.spectral and not cell.images:
            raise ValueError(f"spectral is of convolutions, cells={self.cells!r} has none; leave it at 0")
        if self.inference == "bottom-up" and self.prior in ("vamp", "vamp-data"):
            raise ValueError(
                f"prior={self.prior!r} needs inference from the top down; use inference='bidirectional'"
            )
        allowed = PRIORS[self.prior].objectives
        if allowed and self.objective not in allowed:
            raise ValueError(
                f"objective={self.objective!r} does not go with prior={self.prior!r}; possible: elbo"
            )
        if self.condition is not None and not PRIORS[self.prior].gaussian:
            raise ValueError(
                f"prior={self.prior!r} does not go with condition={self.condition!r}; possible: standard, learned"
            )
        if self.objective == "iwae" and self.samples < 2:
            raise ValueError("objective='iwae' needs samples of at least 2, such as samples=5")
        if self.objective == "iwae" and (
            self.free_nats or self.balance or self.beta != 1.0 or self.beta_warm_up
        ):
            raise ValueError(
                "free_nats, balance and beta weigh the KL of objective='elbo'; leave them out for 'iwae'"
            )
        if self.balance and not self.beta_warm_up:
            raise ValueError("balance acts while beta grows; give beta_warm_up, such as 2000")

    def check_data(self, spec: Spec) -> None:
        """Raise ValueError, in one line, for settings that do not fit the data."""
        check_likelihood(self.likelihood, spec)
        condition_of(self.condition, spec)
        if CELLS[self.cells].images and len(spec.event_shape) != 3:
            raise ValueError(
                f"cells={self.cells!r} needs images [H, W, C], the examples have shape {spec.event_shape}; use cells='dense'"
            )
        if CELLS[self.cells].images:
            height, width, _ = spec.event_shape
            grid = ladders.grids(height, width, self.stride, len(self.groups))
            if len(set(grid)) < len(grid):
                raise ValueError(
                    f"images of {height} x {width} cannot be halved for {len(grid)} stages with stride {self.stride}; "
                    "give groups fewer numbers"
                )
        if self.prior in ("vamp", "vamp-data") and self.components > spec.examples:
            raise ValueError(
                f"components is at most the {spec.examples} training examples, which the pseudo-inputs start from, "
                f"got {self.components}"
            )

    def constants(self, data: Data, seed: int) -> Constants:
        """Pseudo-inputs: training images in a random order."""
        if self.condition == "label":
            say_which_labels_are_missing(data)
        if self.prior not in ("vamp", "vamp-data"):
            return {}
        return {"pseudo_inputs": pseudo_inputs(data, self.components, seed)}

    def build(self, spec: Spec, constants: Mapping[str, np.ndarray]) -> Model:
        """The model for data of a spec; `parts` is its `TopDown`."""
        self.check()
        self.check_data(spec)
        condition = condition_of(self.condition, spec)
        stages, likelihood = self._stages(spec), self._likelihood(spec)
        encoder, posterior = (
            (None, self._bottom_up(spec)) if self.inference == "bottom-up" else self._encoder(spec)
        )
        place = Place(spec, dict(constants), given_x(encoder, posterior), condition.context)
        prior = PRIORS[self.prior].build(self, place)

        def whole(prior, kl):
            return top_down.top_down(
                prior,
                posterior,
                encoder,
                stages,
                likelihood,
                dim=self.latent_dim,
                kl=kl,
                conditional=condition.labels,
            )

        model = whole(prior, "sampled")
        trained_prior = prior
        if self.prior == "diffusion":  # evaluated by its exact density, trained by its bound
            trained_prior = diffusion.bound_density(latent_denoiser(self.latent_dim), latent_sampler)
        closed = encoder is not None and prior.normal is not None and self.objective == "elbo"
        trained = whole(trained_prior, "analytic" if closed else "sampled").density
        objective, variables, init = self._objective(trained, stages), None, model.density.init
        if self.spectral:
            shapes = jax.eval_shape(init, jax.random.key(0))
            objective = layered.spectral(objective, self.spectral)
            variables = lambda key: layered.singular_vectors(shapes, key)
            model = top_down.of_pairs(model)

        def decode(params, z):
            z, context = objectives.unpack(z)
            return model.decode(params, model.unflatten(z), context=context)[0]

        return Model(
            model.density,
            init,
            objective,
            objective,
            model,
            lambda params, x, key=None: model.flatten(model.infer(params, key, x)),
            decode,
            condition.split,
            labels=condition.labels,
            variables=variables,
        )

    def _with_context(self, shape: tuple[int, ...], spec: Spec) -> Any:
        """The shape of an input of one example to a network: with that of the context, where there is one."""
        context = condition_of(self.condition, spec).context
        return (1, *shape) if context is None else ((1, *shape), (1, *context))

    def _grid(self, spec: Spec) -> list[tuple[int, int]]:
        height, width, _ = spec.event_shape
        return ladders.grids(height, width, self.stride, len(self.groups))

    def _stages(self, spec: Spec) -> list[top_down.Stage]:
        """The stages, from the top down."""
        cell, dtype = CELLS[self.cells], jnp.dtype(self.dtype)
        grid: list[Any] = self._grid(spec) if cell.images else [()] * len(self.groups)
        found, above = [], (self.latent_dim,)
        for number, (place, count) in enumerate(zip(grid, self.groups, strict=True)):
            width, hidden, state = self.widths[number], self.hidden[number], (*place, self.widths[number])
            if cell.images:
                rows, columns = place
                entry = ladders.ImageEntry(rows, columns, width, number == 0, dtype)
            else:
                entry = ladders.DenseEntry(width, hidden, number == 0, dtype)
            module = cell.group(self, number, self.layers)
            group = group_of(module, (*place, self.latents[number]), state)
            enter = density.from_linen(entry, self._with_context(above, spec))
            found.append(top_down.Stage(group, count, enter, self.remat))
            above = state
        return found

    def _encoder(self, spec: Spec) -> tuple[Net, Density]:
        """The bottom-up network, and the posterior of the top latent given its last features."""
        event, dtype = spec.event_shape, jnp.dtype(self.dtype)
        inwards = lambda sizes: tuple(sizes[::-1])
        widths, hidden = inwards(self.widths), inwards(self.hidden)
        nvae = self.cells == "nvae"
        if CELLS[self.cells].images:
            module = ladders.ImageEncoder(widths, hidden, inwards(self.groups), self.stride, nvae, dtype)
            last = (*self._grid(spec)[0], self.widths[0])
        else:
            module, last = ladders.DenseEncoder(widths, hidden, len(event), dtype), (self.widths[0],)
        net = networks.scaled(density.from_linen(module, self._with_context(event, spec)), spec)

        def apply(params, x):
            found = net.apply(params, x)[::-1]
            if not CELLS[self.cells].images:
                return found[0], top_down.features_of(found)
            shared = [None if nvae else h for h, _ in found]
            own = [every[::-1] if nvae else None for _, every in found]
            return found[0][0], top_down.features_of(shared, own)

        head = density.from_linen(MLP((), (self.latent_dim, 2), len(last), dtype=dtype), (1, *last))
        return Net(net.init, apply), density.conditional(head, density.normal(), (self.latent_dim,))

    def _bottom_up(self, spec: Spec) -> list[Density]:
        """q(z_L | x), and each layer given the one below, up to the top."""
        sizes = [self.latent_dim, *np.repeat(self.latents, self.groups).tolist()][::-1]
        hidden = [self.hidden[0], *np.repeat(self.hidden, self.groups).tolist()][::-1]
        inputs = [spec.event_shape, *((size,) for size in sizes[:-1])]
        ndims = lambda shape: len(shape) if self.condition is None else (len(shape), 1)
        found = []
        for number, (shape, size, width) in enumerate(zip(inputs, sizes, hidden, strict=True)):
            net = density.from_linen(
                MLP((width, width), (size, 2), ndims(shape), dtype=jnp.dtype(self.dtype), head_init=SMALL),
                self._with_context(shape, spec),
            )
            net = networks.scaled(net, spec) if number == 0 else net
            found.append(density.conditional(bounded(net), density.normal(), (size,)))
        return found

    def _likelihood(self, spec: Spec) -> Density:
        """p(x | last state)."""
        entry = pick(LIKELIHOODS, likelihood_of(self.likelihood, spec), "likelihood")
        distribution = entry.build(self, spec)
        event, dtype = spec.event_shape, jnp.dtype(self.dtype)
        outputs = (*event, distribution.width - entry.shared)
        if CELLS[self.cells].images:
            state = (*self._grid(spec)[-1], self.widths[-1])
            module = ladders.ImageOutput(outputs, self.stride, dtype)
        else:
            module = MLP((self.hidden[-1],), outputs, activation=jax.nn.swish, dtype=dtype)
            state = (self.widths[-1],)
        net = density.from_linen(module, self._with_context(state, spec))
        return density.conditional(
            density.with_shared_scale(net) if entry.shared else net, distribution, event
        )

    def _objective(self, trained: Density, stages: list[top_down.Stage]) -> objectives.Objective:
        if self.objective == "iwae":
            return objectives.importance_weighted(trained, self.samples)
        areas = [1.0, *(np.prod(s.group.latent[:-1]) / s.count for s in stages for _ in range(s.count))]
        make = lambda beta: layered.layered_elbo(
            trained, beta, self.free_nats or None, areas if self.balance else None
        )
        if self.beta_warm_up:
            return objectives.warm_up(make, self.beta, self.beta_warm_up)
        return make(self.beta)
