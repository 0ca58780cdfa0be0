"""Models by name: frozen dataclasses, JSON in and out, that build a model for given data.

`recipes.VAE(prior="vamp").build(spec, constants)` is a model; `train.fit(recipe, data)` builds and trains it.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from dlvm_jax.settings import pick

RECIPES = {  # name: module
    "VAE": "vae",
    "Hierarchical": "hierarchical",
    "Diffusion": "diffusion",
    "Flow": "flow",
    "EnergyFlow": "energy_flow",
    "Autoencoder": "autoencoder",
    "Autoregressive": "autoregressive",
    "VQVAE": "vq_vae",
    "DRAW": "draw",
    "SelfVAE": "self_vae",
    "Posterior": "posterior",
    "PPCA": "ppca",
}
__all__ = ["Model", "Recipe", "from_json", *RECIPES]


def __getattr__(name: str) -> Any:
    module = {"Model": "base", "Recipe": "base"} | RECIPES
    if name in module:
        return getattr(importlib.import_module(f"{__name__}.{module[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def from_json(values: Mapping[str, Any]) -> Any:
    """The recipe that `Recipe.as_json` wrote: of this library by its name, of another by "module:Class".

    Raises ValueError for an unknown recipe or setting.
    """
    values = dict(values)
    module, _, name = str(values.pop("recipe", None)).rpartition(":")
    module = module or f"{__name__}.{pick(RECIPES, name, 'recipe')}"
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the recipe {name} of {module} cannot be imported: {error}") from error
    return kind.from_dict(values)
