"""What every experiment shares: one line for each error, numbered run folders, the compilation cache."""

import os
import sys
import warnings
from pathlib import Path

import jax

from dlvm_jax.train.checkpoint import CheckpointError
from dlvm_jax.train.loop import Interrupted, NonFiniteError

__all__ = ["main", "new_folder"]


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
