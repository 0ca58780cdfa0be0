"""A trained model for other programs: weights as safetensors with the recipe's JSON, a sampler as a program of JAX alone."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes
from dlvm_jax.data import Spec
from dlvm_jax.recipes.base import Model
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.fitted import Fitted

__all__ = ["load_weights", "save_sampler", "save_weights"]

ABOUT = "dlvm_jax"  # the entry of the file's metadata


def _needs(name: str) -> Any:
    """A package of the extra "export"; ValueError where it is not installed."""
    try:
        return __import__(name, fromlist=["numpy"])
    except ImportError as error:
        package = name.split(".")[0]
        raise ValueError(f"export needs {package}: pip install 'dlvm_jax[export]'") from error


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name, such as params/decoder/Dense_0/kernel."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _parts(model: Model, params: Any) -> dict[str, Any]:
    """The parameters of a model and its variables, where it has them, by name."""
    return {"params": params} if model.variables is None else {"params": params[0], "variables": params[1]}


def save_weights(fitted: Fitted, path: str | Path) -> None:
    """Write the parameters of the first seed, the recipe and the data's spec to one .safetensors file.

    The tensors are named "params/...", the variables "variables/...", what the recipe measured on the data "constants/...".
    The metadata's entry "dlvm_jax" is JSON: recipe, spec, training.
    """
    fitted = fitted.of_seed(0)
    tensors = _named(_parts(fitted.model, fitted.params))
    tensors |= {f"constants/{name}": leaf for name, leaf in fitted.constants.items()}
    about = {
        "recipe": fitted.recipe.as_json(),
        "spec": fitted.spec._asdict(),
        "train": fitted.config.as_dict(),
        "step": fitted.step,
    }
    _needs("safetensors.numpy").save_file(
        {name: np.array(leaf, order="C") for name, leaf in tensors.items()},
        Path(path),
        {ABOUT: json.dumps(about)},
    )


def load_weights(path: str | Path) -> Fitted:
    """The model that `save_weights` wrote.  Raises ValueError for another file."""
    safetensors = _needs("safetensors")
    try:
        with safetensors.safe_open(Path(path), "numpy") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} holds no weights of this library ({type(error).__name__}); use `save_weights`"
        ) from error
    recipe = recipes.from_json(about["recipe"])
    spec = Spec(**{**about["spec"], "event_shape": tuple(about["spec"]["event_shape"])})
    constants = {
        name.removeprefix("constants/"): array
        for name, array in tensors.items()
        if name.startswith("constants/")
    }
    model = recipe.build(spec, constants)
    template = jax.eval_shape(model.params, jax.random.key(0))
    leaves = [jnp.asarray(tensors[name]) for name in _named(_parts(model, template))]
    params = jax.tree.unflatten(jax.tree.structure(template), leaves)
    config = TrainConfig.from_dict(about["train"])
    return Fitted(recipe, spec, constants, model, config, (params,), about["step"], Path(path).parent)


def save_sampler(fitted: Fitted, path: str | Path, count: int = 16, given: Any = None) -> None:
    """Write a program that draws `count` samples, (seed, uint32) -> [count, *event], and runs without this library.

    given: as of `Fitted.sample`, for a conditional model.  Read it back with JAX alone:
    `jax.export.deserialize(open(path, "rb").read()).call(numpy.uint32(0))`.
    """
    _needs("flatbuffers")
    from jax import export

    draw = jax.jit(lambda seed: fitted.sample(jax.random.key(seed), count, given))
    program = export.export(draw, platforms=("cpu", "cuda", "tpu"))(jax.ShapeDtypeStruct((), jnp.uint32))
    Path(path).write_bytes(program.serialize())
