"""What every script shares: settings, the command line, a run from its settings to its report, one line for each error."""

import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dlvm_jax import data as datasets
from dlvm_jax import progress, train
from dlvm_jax.recipes import Recipe
from dlvm_jax.settings import setting
from dlvm_jax.train import TrainConfig, parallel
from dlvm_jax.train.checkpoint import CheckpointError
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.loop import Interrupted, NonFiniteError
from dlvm_jax.train.run import RunFolder, new_folder
from experiments import leaving
from experiments.command import command_line

__all__ = [
    "Common",
    "OnData",
    "carried_out",
    "command_line",
    "experiment",
    "finished",
    "guarded",
    "main",
    "recipe_of",
    "run_folder",
    "training_of",
    "with_training_of",
]

FILLED_IN = ("steps", "eval_every")  # by training, where they are not given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(TrainConfig):
    """The settings that every script has besides its recipe's."""

    out: Path | None = setting(None, "run folder; default runs/NAME-001, 002, ...")
    resume: bool = setting(False, "go on with the run in out, to more steps if so many are given")
    tensorboard: bool = setting(False, 'also write TensorBoard files (needs the extra "tensorboard")')
    coordinator: str | None = setting(None, "several hosts: address:port of process 0")
    processes: int | None = setting(None, "several hosts: how many processes", at_least=1)
    process_id: int | None = setting(None, "several hosts: number of this process", at_least=0)

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.resume and self.out is None:
            raise ValueError("resume=True goes on with the run in out; say which")
        if self.processes is not None and self.out is None:
            raise ValueError("several processes need one out that all of them see")
        if self.out is not None and not self.out.name:
            raise ValueError(f"out is a folder, got {str(self.out)!r}; leave it out for a new one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnData(Common):
    """The settings of a script that trains on data."""

    data: str = setting(
        "digits",
        "digits (embedded), mnist, fashion_mnist, binarized_mnist, omniglot, freyfaces, olivetti, cifar10; a table (dna, nltcs, "
        "...), spoken_digits; a file (.npy, .npz, .csv), a folder of images; tfds:NAME",
    )
    protocol: str | None = setting(
        None, "split and transformation by name (an unknown name lists them); default: what suits the model"
    )
    resize: tuple[int, int] | None = setting(None, "height and width of the images of a folder", at_least=1)
    eval_limit: int | None = setting(None, "evaluate on the first so many test examples only", at_least=2)


def with_training_of(config: type) -> type:
    """The configuration with the defaults of training that its recipe's family usually has.

    Steps stay open: `train.fit` fills them in where neither steps nor epochs are given.
    """
    own = [
        (
            field.name,
            field.type,
            dataclasses.field(default=config.training[field.name], metadata=field.metadata),
        )
        for field in dataclasses.fields(config)
        if field.name in config.training and field.name != "steps"
    ]
    about = {"__doc__": config.__doc__, "__module__": config.__module__}
    return dataclasses.make_dataclass(
        config.__name__, own, bases=(config,), frozen=True, kw_only=True, namespace=about
    )


def main(
    run: Callable[[Any], Any], config: type, description: str, arguments: list[str] | None = None
) -> None:
    """Run a script from its command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    guarded(lambda: run(command_line(config, description, arguments)), config.names())


def guarded(call: Callable[[], Any], names: tuple[str, ...] = ()) -> None:
    """Carry out a program; bad input ends in one line on stderr and a status that is not 0.

    names: of settings, which the line shows as they are typed
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlvm_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    warnings.showwarning, sys.unraisablehook = _warn, _unraisable
    status: int | str | None = 0
    try:
        call()
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        status = 128 + stop.signum
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code
    except (CheckpointError, NonFiniteError, ValueError, OSError) as error:
        progress.clear()
        print(f"error: {as_options(str(error), names)}", file=sys.stderr)
        status = 2
    if leaving.watched() and isinstance(status, int) and not jax.distributed.is_initialized():
        leaving.leave(status)  # Python's own end takes time, and a Ctrl-C meanwhile would be an error
    if status:
        sys.exit(status)


def _warn(message: Warning | str, *_: Any) -> None:
    """Show a warning on one line."""
    progress.clear()
    print(f"warning: {message}", file=sys.stderr)


def _unraisable(found: Any) -> None:
    """Show an error of a callback as Python does, but for those of Orbax after a write that failed, which is raised itself."""
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def as_options(message: str, names: tuple[str, ...]) -> str:
    """A message of the library on one line, with settings as they are typed: latent_dim=0 is --latent-dim 0."""

    def option(match: re.Match) -> str:
        name, value = match.group(1), match.group(2)
        if name not in names:
            return match.group(0)
        return f"--{name.replace('_', '-')}" + ("" if value == "True" else f" {value}")

    text = re.sub(r"(?<![/.\w])(\w+)='?([^\s',;()]+)'?", option, " ".join(message.split()))
    underscored = "|".join(name for name in names if "_" in name)
    return re.sub(
        rf"(?<![\w/.-])({underscored})\b(?![/.]\w)", lambda m: f"--{m.group(1).replace('_', '-')}", text
    )


def recipe_of(config: Any, kind: type[Recipe]) -> Recipe:
    """The recipe in a script's configuration, which inherits from it."""
    return kind(**{name: getattr(config, name) for name in kind.names()})


def training_of(config: Any) -> dict[str, Any]:
    """The settings of training in a script's configuration that are not what its recipe's family usually has."""
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    said = {name: getattr(config, name) for name in TrainConfig.names()}
    return {name: value for name, value in said.items() if value != usual[name]}


def experiment(
    config: Any,
    kind: type[Recipe],
    finish: Callable[..., Mapping[str, Any]],
    family: str,
    load: Callable[[Any, Recipe], datasets.Data] | None = None,
    more: Callable[[Any, Any, Fitted], Any] | None = None,
) -> Mapping[str, Any] | None:
    """One run from its settings to its report: check, fit, evaluate and report by `finish`, result.json last.

    finish: (config, data, fitted, folder) -> the result, after it has written pictures and report
    family: of the name of a new folder;  load: (config, recipe) -> data, where they are no set by name or path
    more:   (config, data, fitted) -> what else is trained, in all processes; `finish` then takes it as its last argument
    Returns the result, None in the processes that do not write.
    """
    config.check()
    recipe = recipe_of(config, kind)
    parallel.initialise(config.coordinator, config.processes, config.process_id)
    with progress.phase("reading the data", shown=parallel.is_primary()):
        data = None if recipe.own_spec(1) else (load or load_data)(config, recipe)
    name = data.name if data else recipe.own_spec(1).name.replace(" ", "-")
    with run_folder(config, f"{family}-{name}") as root:
        if parallel.is_primary():
            if data is not None:
                print(f"{data.name}, {data.protocol.name}: {data.protocol.description}")
            print(f"run folder {root}")
        fitted = train.fit(
            recipe,
            data,
            out=root,
            resume=config.resume,
            tensorboard=config.tensorboard,
            record=config.as_dict(),
            **training_of(config),
        )
    further = (more(config, data, fitted),) if more else ()
    if not parallel.is_primary():
        return None
    folder = RunFolder(root)
    with progress.phase("drawing and writing the report"):
        result = finish(config, data, fitted, folder, *further)
    folder.write("result.json", result)
    print(f"trained {folder.seconds():.0f} s; report in {root / 'report.md'}")
    return result


@contextlib.contextmanager
def run_folder(config: Any, name: str) -> Iterator[Path]:
    """The folder of a run, new where the settings name none; a new one that stays empty is taken away again."""
    if config.out is not None:
        yield config.out
        return
    root = new_folder(name)
    leaving.new_folders.append(root)
    try:
        yield root
    finally:
        leaving.remove_empty()


def load_data(config: Any, recipe: Recipe) -> datasets.Data:
    """The data set of a configuration, under the protocol that it names or that suits the recipe."""
    data = datasets.load(config.data, config.protocol, transform=recipe.transform, resize=config.resize)
    if len(data.test) < 2:
        raise ValueError(
            f"{data.name} has {len(data.test)} test example(s), and a standard error needs two; give more data, or a split"
        )
    return data


def data_of(folder: Path, fitted: Fitted) -> datasets.Data:
    """The data set that a finished run of a script was trained on; raises ValueError where its folder does not say."""
    there = json.loads((folder / "config.json").read_text())
    if not there.get("data"):
        raise ValueError(f"{folder} does not say what it was trained on; use the run of a script")
    resize = there.get("resize")
    return datasets.load(
        there["data"],
        there.get("protocol"),
        transform=fitted.recipe.transform,
        resize=resize and tuple(resize),
    )


def finished(config: Any) -> bool:
    """Whether a finished run lies in `config.out`, with result.json, which its script writes last.

    Raises ValueError for one of other settings.
    """
    if not (config.out / "result.json").exists():
        return False
    there = json.loads((config.out / "config.json").read_text())
    for name, wanted in config.as_dict().items():
        filled_in = wanted is None and name in FILLED_IN
        if name not in ("out", "resume") and not filled_in and there.get(name, wanted) != wanted:
            raise ValueError(f"{config.out} is of {name} {there[name]}, not {wanted}; choose another folder")
    return True


def carried_out(run: Callable[[Any], Any], config: Any) -> dict[str, Any]:
    """The result of a script's run in `config.out`: of the finished one, or of one that starts, or goes on, to its end.

    Raises ValueError for a finished run of other settings.
    """
    if not finished(config):
        began = any(config.out.rglob("checkpoints"))  # a script of several models has a folder for each
        run(dataclasses.replace(config, resume=began))
    return json.loads((config.out / "result.json").read_text())
