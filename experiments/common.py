"""What every experiment shares: one line for each error, numbered run folders, the compilation cache."""

import dataclasses
import json
import math
import os
import sys
import warnings
from pathlib import Path

import jax

from dlvm_jax.train.checkpoint import CheckpointError
from dlvm_jax.train.loop import Interrupted, NonFiniteError

__all__ = ["at_least", "check_run", "evaluation_key", "main", "new_folder", "paired", "restore", "settings"]


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
