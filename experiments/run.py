"""What every experiment shares: one line for each error, numbered run folders, the compilation cache."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from dlvm_jax.evaluate import evaluate
from dlvm_jax.train import loop
from dlvm_jax.train.checkpoint import CheckpointError, Checkpoints, digest
from dlvm_jax.train.cost import flops
from dlvm_jax.train.loop import Interrupted, NonFiniteError
from dlvm_jax.train.run import manifest, same_maker

__all__ = [
    "at_least",
    "best",
    "carried_out",
    "check_run",
    "cost",
    "evaluate_with_progress",
    "evaluation_key",
    "finished",
    "main",
    "new_folder",
    "paired",
    "read_config",
    "restore",
    "settings",
    "start",
    "train",
    "warn_of_unfinished",
]


def main(run, config):
    """Run an experiment; bad input ends in one line on stderr and a status that is not 0."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlvm_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        run(config)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit(130)
    except (CheckpointError, NonFiniteError, ValueError, OSError) as error:
        print(f"\nerror: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def new_folder(name):
    """Create and return the first unused folder of runs/NAME-001, runs/NAME-002, ..."""
    number = 1
    while True:
        try:
            (folder := Path("runs") / f"{name}-{number:03d}").mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def at_least(name, value, lowest):
    """Raise ValueError unless a setting (None: not given) is finite and at least `lowest`."""
    if value is not None and not lowest <= value < math.inf:
        raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")


def warn_of_unfinished(what, length, steps):
    """Warn of a warm-up that training ends before."""
    if length > steps:
        warnings.warn(f"{what} of {length} steps does not end within the {steps} of training", stacklevel=2)


def check_run(config):
    """Raise ValueError for an impossible length of training, impossible layers, or a run to resume that is not named."""
    for name in ("steps", "epochs", "batch_size"):
        at_least(name, getattr(config, name), 1)
    if config.steps is not None and config.epochs is not None:
        raise ValueError("give --steps or --epochs, not both")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"--hidden needs at least one positive width, got {config.hidden}")
    if config.resume and config.out is None:
        raise ValueError("--resume goes on with the run in --out; say which")


def settings(config):
    """A configuration as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def read_config(root, kind):
    """The configuration, of a script's `Config`, of a run in a folder; ValueError where there is none."""
    try:
        told = json.loads((root / "config.json").read_text())
        names = {field.name for field in dataclasses.fields(kind)}
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in names})
    except (FileNotFoundError, TypeError) as error:
        raise ValueError(f"{root} holds no run of {kind.__module__}: {error}") from None


def evaluation_key(seed):
    """The random key of a seed's evaluation, apart from those of its initialisation and training."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def paired(difference):
    """Mean of the differences of single examples, and its standard error."""
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def restore(checkpoints, state, resume):
    """The state to start from: the newest checkpoint's with `resume`, else the fresh one if the folder holds no run.

    Raises ValueError for a folder that already holds a run which is not to be resumed.
    """
    steps = checkpoints.steps()
    if steps and not resume:
        raise ValueError(
            f"{checkpoints.folder.parent} already holds a run (up to step {steps[-1]}); add --resume to go on, "
            "or choose another --out"
        )
    restored = checkpoints.restore(state) if resume else None
    if resume and restored is None:
        warnings.warn(
            f"{checkpoints.folder.parent} holds no checkpoint yet: starting from the beginning", stacklevel=2
        )
    return state if restored is None else restored[1]


def start(trainer, plan):
    """The state before the first step, of one seed or of several together."""
    return trainer.init(plan.seeds if len(plan.seeds) > 1 else plan.seeds[0])


def best(root, identity, state):
    """The best state of the run in a folder; `state` has its structure.  Raises ValueError where nothing is saved."""
    kept = Checkpoints(root / "checkpoints", identity)
    if not kept.steps():
        raise ValueError(f"{root} holds no checkpoint yet; let its run finish")
    _, found = kept.restore(state, kept.best_step())
    kept.close()
    return found


def _manifest(root):
    """What computes a run now, and under "before" what began it, each time on another machine or commit."""
    path, now = root / "manifest.json", manifest()
    if not path.exists():
        return now
    last = json.loads(path.read_text())
    before = last.pop("before", [])
    if not same_maker(last, now):
        before.append(last)
    return now | ({"before": before} if before else {})


def train(folder, trainer, plan, data, validate, *, settings, identity, resume):
    """Train, or go on, to the end in a `RunFolder`: the parameters of the best round, and its step.

    settings: for config.json;  identity: of the checkpoints, what a run must agree in to go on.
    """
    kept = Checkpoints(folder.root / "checkpoints", identity)
    state = restore(kept, start(trainer, plan), resume)
    data = trainer.put(data)
    folder.write("config.json", settings)
    folder.write("manifest.json", _manifest(folder.root))
    folder.write("cost.json", cost(trainer, plan, state, data))
    state = loop.fit(trainer, plan, data, state, folder=folder, checkpoints=kept, validate=validate)
    step, best = kept.restore(state, kept.best_step())
    kept.close()
    return trainer.eval_params(best), step


FILLED_IN = (
    "steps",
    "every",
    "width",
    "target",
    "flow",
    "layers",
    "components",
    "bins",
)  # by the scripts, where not given


def finished(config):
    """Whether a finished run lies in `config.out`, with result.json, which its script writes last.

    Raises ValueError for one of other settings.
    """
    if not (config.out / "result.json").exists():
        return False
    there = json.loads((config.out / "config.json").read_text())
    for name, wanted in settings(config).items():
        filled_in = wanted is None and name in FILLED_IN
        if name not in ("out", "resume") and not filled_in and there.get(name, wanted) != wanted:
            raise ValueError(f"{config.out} is of {name} {there[name]}, not {wanted}; choose another folder")
    return True


def carried_out(script, config):
    """The result of a script's run in `config.out`: of the finished one, or of one that starts, or goes on, to its end.

    Raises ValueError for a finished run of other settings.
    """
    if not finished(config):
        if hasattr(config, "resume"):
            config = dataclasses.replace(config, resume=(config.out / "checkpoints").is_dir())
        script.run(config)
    return json.loads((config.out / "result.json").read_text())


def cost(trainer, plan, state, data):
    """What training takes, all seeds together: parameters, steps, and the floating-point operations of a step (see `flops`)."""
    shape = (1, plan.batch_size) if len(plan.seeds) == 1 else (1, len(plan.seeds), plan.batch_size)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "steps": plan.steps,
        "flops_per_step": flops(trainer.chunk, state, data, np.zeros(shape, np.int32)),
    }


class _Batches(dict):
    """Values of the finished batches of an evaluation, each also a file of a folder, whole or not at all."""

    def __init__(self, folder):
        self._folder = folder
        super().__init__()
        for path in folder.glob("*.npz"):
            with contextlib.suppress(
                OSError, ValueError, EOFError, zipfile.BadZipFile
            ):  # damaged: computed again
                super().__setitem__(int(path.stem), dict(np.load(path)))

    def __setitem__(self, number, values):
        super().__setitem__(number, values)
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{number}.part"
        with open(temporary, "wb") as file:
            np.savez(file, **values)
        temporary.replace(self._folder / f"{number}.npz")


def evaluate_with_progress(density, params, test, dataset, seed, samples, folder, **options):
    """The record of a density on test examples of a data set, with a progress bar.

    An evaluation that was cut short goes on: its finished batches lie in `folder`, under a digest of all they depend on but
    the density, so that each density has a folder of its own.
    """
    told = f"{digest((params, test))} {seed} {samples} {options.get('chunk')} {options.get('batch_size')}"
    with tqdm(
        total=len(jax.tree.leaves(test)[0]), unit="example", desc="evaluate", dynamic_ncols=True
    ) as bar:
        return evaluate(
            density,
            params,
            test,
            key=evaluation_key(seed),
            samples=samples,
            protocol=dataset.protocol.name,
            protocol_hash=dataset.protocol.hash,
            bin_width=dataset.bin_width,
            progress=lambda done: bar.update(done - bar.n),
            finished=_Batches(folder / hashlib.sha256(told.encode()).hexdigest()[:16]),
            **options,
        )
