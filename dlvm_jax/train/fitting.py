"""`fit` trains a recipe on data, `load` reads a finished run: both give a `Fitted`, a model with its parameters.

A run is a folder: what the model is (`model.json`, `constants.npz`), checkpoints, log, versions.  It is read back without
the data.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import recipes
from dlvm_jax.data import Data, Spec
from dlvm_jax.digest import digest
from dlvm_jax.models import objectives
from dlvm_jax.models.spaces import check_points
from dlvm_jax.progress import Progress
from dlvm_jax.recipes.base import Model, Recipe, examples_of
from dlvm_jax.train import engine, loop, parallel, validation
from dlvm_jax.train.checkpoint import Checkpoints, differences
from dlvm_jax.train.config import TrainConfig, configured, say_if_stretched
from dlvm_jax.train.cost import training_cost
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder, new_folder, updated_manifest

__all__ = ["Fitted", "fit", "load"]

MODEL, CONSTANTS = "model.json", "constants.npz"
FIRST = 1000  # examples that set a data-dependent initialisation
NOT_IDENTITY = (
    "steps",
    "epochs",
    "eval_every",
    "evaluations",
    "patience",
    "on_device",
    "skip_at_most",
)  # what may change when a run goes on
SWITCHES = ("clip", "skip", "ema", "patience")  # settings of which None means none, not the usual


def fit(
    recipe: Recipe,
    data: Data | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    start: Fitted | None = None,
    tensorboard: bool = False,
    logger: Callable[[int, dict], None] | None = None,
    progress: bool = True,
    record: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Fitted:
    """Train a recipe on data, with progress, validation, checkpoints; the parameters of the best checkpoint.

    recipe:   what to train, such as `recipes.VAE(prior="vamp")`
    data:     what to train on, such as `data.load("mnist")` or `data.from_arrays(x)`
    out:      the run's folder; default runs/NAME-001, 002, ...
    resume:   go on with the run in `out`, to more steps than it was first given if `steps` says so
    start:    a trained model whose parameters training starts from (fine-tuning)
    tensorboard, logger: also write TensorBoard files; call `logger(step, metrics)` at each evaluation
    record:   further settings for the run's config.json, such as those of a script
    settings: those of `TrainConfig`: steps, epochs, batch_size, learning_rate, seeds, ...

    Raises ValueError, before anything is trained or written, for settings that are impossible or do not fit the data.
    """
    settings = {name: value for name, value in settings.items() if value is not None or name in SWITCHES}
    TrainConfig.check_names(settings)
    if resume and out is None:
        raise ValueError("resume=True goes on with a run; say which by out=")
    if out is None and jax.process_count() > 1:
        raise ValueError("several processes need one out that all of them see")
    recipe.check()
    spec = _spec(recipe, data, settings)
    there = Path(out or "")  # looked at where a run goes on
    before = _read(there) if resume and (there / MODEL).exists() else None
    trained = before["train"] if before else None
    config = configured(recipe.training_for(spec), settings, trained, spec.examples)
    steps = config.steps or 0  # which `resolved` fills in
    say_if_stretched(config, trained["steps"] if trained else None)
    shown = progress and parallel.is_primary()
    with Progress("preparing", shown=shown):
        seed = config.seeds[0]
        identity = _identity(recipe, config, spec, start)
        if before and not differences(before["identity"], identity):  # as measured when the run began
            constants = _constants(there)
        else:
            constants = _measured(recipe, data, seed) if start is None else start.constants
        recipe.check_data(spec)
        model = _built(recipe, spec, constants, start)
        validate = _validator(recipe, model, data, config)
        _check(recipe, model, config, validate, start)
        _check_values(recipe, model, spec, data)
        _rehearse(model, spec)
        arrays = _arrays(model, data, "train") if data else np.zeros((config.batch_size, 1), np.float32)
        trainer = _engine(model, config, data, parallel.devices_for(config.batch_size // config.accumulate))
        fresh = trainer.init(
            _stacked(start.per_seed) if start else None
        )  # before there is a folder: it takes time
        root = new_folder(f"{type(recipe).__name__.lower()}-{spec.name}") if out is None else Path(out)
        folder = RunFolder(root, tensorboard=tensorboard, logger=logger, writes=parallel.is_primary())
        kept = Checkpoints(root / "checkpoints", identity)
        state = _restored(kept, fresh, resume)
        if (trained := int(np.max(state.step))) > steps:
            raise ValueError(f"{root} is trained to step {trained}; steps must not be below, got {steps}")
        _save(folder, recipe, spec, constants, config, identity, record or {})
        folder.write("cost.json", training_cost(trainer, config, state, arrays))
    if model.solve is None:
        state = loop.run(
            trainer,
            config,
            arrays,
            state,
            folder=folder,
            checkpoints=kept,
            validate=validate,
            patience_from=recipe.objective_warm_up,
            progress=progress,
        )
    elif not kept.steps():
        kept.save(0, trainer.init(_stacked((_solved(model, data, seed),) * len(config.seeds))))
        kept.wait()
    step, best = _best(kept, state)
    return Fitted(recipe, spec, constants, model, config, _per_seed(trainer, best), step, root)


def load(folder: str | Path) -> Fitted:
    """The trained model of a run's folder, with the parameters of its best checkpoint; no data are needed.

    Raises ValueError for a folder that holds no run, or nothing saved yet.
    """
    root = Path(folder)
    found = _read(root)
    recipe, config = recipes.from_json(found["recipe"]), TrainConfig.from_dict(found["train"])
    spec = Spec(**{**found["spec"], "event_shape": tuple(found["spec"]["event_shape"])})
    constants = _constants(root)
    model = recipe.build(spec, constants)
    trainer = _engine(model, config)
    kept = Checkpoints(root / "checkpoints", found["identity"])
    if not kept.steps():
        raise ValueError(f"{root} holds no checkpoint yet; let its run finish")
    step, best = _best(kept, trainer.init())
    return Fitted(recipe, spec, constants, model, config, _per_seed(trainer, best), step, root)


def _measured(recipe, data, seed):
    """What the recipe measures on the data, where there are any."""
    return {} if data is None else recipe.constants(data, seed)


def _solved(model, data, seed):
    """The parameters of a model that has them in closed form."""
    key_data, key_solve = jax.random.split(jax.random.key(seed))
    solved = model.solve(key_solve, data.preprocess(key_data, jnp.asarray(data.train)))
    return jax.tree.map(jnp.asarray, solved)


def _best(kept, template):
    """(step, state) of the best checkpoint, the last to be read of them."""
    step, state = kept.restore(template, kept.best_step())
    kept.close()
    return step, state


def _read(root: Path) -> dict[str, Any]:
    """What `_save` wrote of a run; ValueError for another folder."""
    try:
        return json.loads((root / MODEL).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{root} holds no run that this version reads (no intact {MODEL}); name another folder, or train it again"
        ) from error


def _constants(root: Path) -> dict[str, np.ndarray]:
    with np.load(root / CONSTANTS) as file:
        return dict(file)


def _save(folder, recipe, spec, constants, config, identity, record) -> None:
    """Write all that `load` needs besides the checkpoints, and the settings for people and scripts.

    A result of before is taken away: the run is not finished any more.
    """
    if not folder.writes:
        return
    (folder.root / "result.json").unlink(missing_ok=True)
    temporary = folder.root / f"{CONSTANTS}.part"
    with open(temporary, "wb") as file:
        np.savez(file, **constants)
    temporary.replace(folder.root / CONSTANTS)
    about = {"recipe": recipe.as_json(), "spec": spec._asdict(), "train": config.as_dict()}
    folder.write(MODEL, about | {"identity": identity})
    settings = {**recipe.as_dict(), **config.as_dict()}
    said = {name: value for name, value in record.items() if value is not None or name not in settings}
    folder.write("config.json", settings | said)
    folder.write("manifest.json", updated_manifest(folder.root))


def _spec(recipe: Recipe, data: Data | None, settings: Mapping[str, Any]) -> Spec:
    """What the model is of: the data, or what a recipe that needs none says itself."""
    own = recipe.own_spec(settings.get("batch_size") or recipe.training.get("batch_size", 100))
    if own is not None and data is not None:
        raise ValueError(f"{type(recipe).__name__} is trained without data; leave them out")
    if data is not None:
        return data.spec
    if own is None:
        raise ValueError(
            f"{type(recipe).__name__} is trained on data; give some, such as data.load('digits')"
        )
    return own


def _built(recipe: Recipe, spec: Spec, constants: Mapping[str, np.ndarray], start: Fitted | None) -> Model:
    """The model; ValueError where one to start from has not measured what this recipe needs."""
    try:
        return recipe.build(spec, constants)
    except KeyError as error:
        if start is None:
            raise
        raise ValueError(f"the model to start from has no {error} of its data; use its recipe") from error


def _check(recipe, model, config, validate, start) -> None:
    """Raise ValueError for what does not go together, before anything is written."""
    if config.patience is not None and validate is None:
        raise ValueError(
            f"patience={config.patience} needs validation, and nothing is held out; leave it out"
        )
    if start is not None and model.solve is not None:
        raise ValueError("a model in closed form does not start from another; leave start out")
    if recipe.objective_warm_up > config.steps:
        warnings.warn(
            f"the warm-up of {recipe.objective_warm_up} steps does not end within the {config.steps} of training",
            stacklevel=3,
        )
    if start is None:
        return
    if len(start.per_seed) != len(config.seeds):
        raise ValueError(
            f"the model to start from has {len(start.per_seed)} seeds, this run {len(config.seeds)}; give as many seeds"
        )
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
    fresh = jax.eval_shape(model.params, jax.random.key(0))
    if shapes(fresh) != shapes(start.params):
        raise ValueError(
            "the model to start from has other parameters than this recipe's for these data; "
            "use its recipe, and data of the same shape"
        )


def _check_values(recipe: Recipe, model: Model, spec: Spec, data: Data | None) -> None:
    """Raise ValueError for values outside of the density's space: the spec says their levels, the first rows the rest.

    Warns of real numbers so large or small that a network will not learn from them.
    """
    if data is None or model.density is None:
        return
    space = model.density.space
    if space.levels and not (spec.discrete and spec.levels <= space.levels):
        held = f"levels 0 to {spec.levels - 1}" if spec.discrete else "real numbers"
        raise ValueError(
            f"the density is of {space}, and these data hold {held}; choose another likelihood, or another protocol of the data"
        )
    first = data.preprocess(jax.random.key(0), jnp.asarray(data.train[:FIRST]))
    check_points(space, first, "the training data")
    size = float(np.abs(first).max())
    scales = recipe.any_scale or model.adapt is not None
    if not (space.levels or scales or 1e-6 < size < 1e6):
        warnings.warn(
            f"the training data are of size {size:.3g}, and networks learn from numbers near one; "
            "standardise them (protocol='standardised'), or give them in other units",
            stacklevel=3,
        )


def _rehearse(model: Model, spec: Spec) -> None:
    """Trace one sample, so that a sampler that is impossible is refused before training."""
    density = model.density
    if density is None:
        return

    def once(key):
        x = jnp.zeros((1, *spec.event_shape))
        given = (x, jnp.zeros(1, jnp.int32)) if model.labels else x
        _, context = objectives.unpack(model.split(given))
        return density.sample(model.params(key), key, context, (1,))[0]

    jax.eval_shape(once, jax.random.key(0))


def _identity(recipe, config, spec, start) -> dict[str, Any]:
    """What a run must agree in to go on: all but its length."""
    free = {*NOT_IDENTITY, *recipe.after_training}
    settings = {**recipe.as_json(), **config.as_dict()}
    trained = {name: value for name, value in settings.items() if name not in free}
    found = {**trained, "protocol": f"{spec.name} {spec.protocol} {spec.protocol_hash}"}
    return found if start is None else found | {"start": digest(start.per_seed)}


def _engine(
    model: Model, config: TrainConfig, data: Data | None = None, devices: Any = None
) -> engine.Engine:
    """The engine of a model; without data and devices it serves to read checkpoints."""
    objective, init = objectives.split(model.objective, model.split), model.params
    if data:
        objective = objectives.preprocessed(objective, data.preprocess)
    if data and model.adapt:
        first = data.preprocess(jax.random.key(config.seeds[0]), jnp.asarray(data.train[:FIRST]))
        init = lambda key: model.adapt(model.params(key), first)
    return engine.build(
        objective,
        init,
        config.optimizer(),
        ema=config.ema,
        accumulate=config.accumulate,
        variables=model.variables is not None,
        seeds=config.seeds,
        devices=devices,
    )


def _stacked(per_seed: tuple[Any, ...]) -> Any:
    """Parameters as the engine holds them: with several seeds every leaf has a seed axis."""
    return per_seed[0] if len(per_seed) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_seed)


def _restored(kept: Checkpoints, fresh: engine.State, resume: bool) -> engine.State:
    """The state to start from: that of the newest checkpoint where a run goes on, else the fresh one."""
    steps = kept.steps()
    if steps and not resume:
        raise ValueError(
            f"{kept.folder.parent} already holds a run (up to step {steps[-1]}); give resume=True to go on, or another out"
        )
    restored = kept.restore(fresh) if resume else None
    if resume and restored is None:
        warnings.warn(
            f"{kept.folder.parent} holds no checkpoint yet: starting from the beginning", stacklevel=3
        )
    return fresh if restored is None else restored[1]


def _arrays(model: Model, data: Data, part: str) -> Any:
    """The examples of a part of the data, as training or validation takes them."""
    return examples_of(model, getattr(data, part), getattr(data, f"{part}_labels"))


def _validator(recipe, model, data, config) -> Callable | None:
    """What is computed at each evaluation; None where nothing is held out, or needed."""
    if model.score is not None:
        return _score_of_seeds(model.score, len(config.seeds))
    held_out = recipe.held_out(_arrays(model, data, "valid")) if len(data.valid) else None
    if held_out is None:
        return None
    return validation.validator(objectives.split(model.validation, model.split), held_out, seeds=config.seeds)


def _score_of_seeds(score: Callable, seeds: int) -> Callable:
    """The score of a model of several seeds: their mean; every other metric as a list."""
    if seeds == 1:
        return score

    def of_all(params):
        each = [score(jax.tree.map(lambda x, i=i: x[i], params)) for i in range(seeds)]
        found = {name: [one[name] for one in each] for name in each[0]}
        return {**found, "score": float(np.mean(found["score"]))}

    return of_all


def _per_seed(trainer: engine.Engine, state: engine.State) -> tuple[Any, ...]:
    """The params of each seed."""
    params = trainer.eval_params(state)
    if len(trainer.seeds) == 1:
        return (params,)
    return tuple(jax.tree.map(lambda x, i=i: x[i], params) for i in range(len(trainer.seeds)))
