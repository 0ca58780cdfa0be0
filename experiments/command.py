"""The command line of a script: its options in groups, and one line that says what is wrong with one."""

import argparse
import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dlvm_jax.recipes import Recipe
from dlvm_jax.settings import pick
from dlvm_jax.train import TrainConfig
from dlvm_jax.train.run import program

__all__ = ["command_line", "parsed"]

ALIASES = {"seeds": ["--seed"], "likelihood": ["--decoder"]}
NOT_KEPT = (
    "resume",
    "coordinator",
    "processes",
    "process_id",
)  # of a file of settings: what is of one run alone
RENAMED = {"seed": "seeds", "every": "eval_every", "process": "process_id"}  # in files of older versions
MEASURED = ("data_std",)  # which older versions wrote, and a run measures
# What people type, where it is not near to the name here.
MEANT = {
    "lr": "learning-rate",
    "optimizer": "optimiser",
    "optim": "optimiser",
    "z-dim": "latent-dim",
    "bs": "batch-size",
    "dataset": "data",
    "encoder": "posterior",
    "model": "net",
    "architecture": "net",
    "loss": "objective",
    "output": "out",
    "output-dir": "out",
    "iterations": "steps",
    "iters": "steps",
    "k": "samples",
    "channels": "width",
}


def command_line(config: type, description: str, arguments: list[str]) -> Any:
    """The configuration that the command line says; `--config FILE` has what a run folder's config.json has.

    Raises ValueError, in one line, for options and values that there are not.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", type=Path, const=Path(""))
    file, rest = parser.parse_known_args(arguments)
    if not {"-h", "--help"} & set(rest):
        _check(config, rest)
    groups = _groups(config)
    joined = _joined(config, groups)
    said = tyro.cli(
        joined,
        prog=program(),
        args=rest,
        default=None if file.config is None else _default(config, joined, groups, file.config, rest),
        description=_paragraphs(description)
        + "\n\n--config FILE starts from the settings in a run folder's config.json.",
    )
    values = {name: getattr(getattr(said, group), name) for group, names in groups.items() for name in names}
    return config(**values)


def parsed(config: Any, description: str) -> Any:
    """What the command line says, of a script with subcommands or few options."""
    return tyro.cli(config, prog=program(), description=_paragraphs(description))


def _paragraphs(description: str) -> str:
    """Its examples in paragraphs of their own, else they run together."""
    return description.replace("\npython", "\n\npython")


def _groups(config: type) -> dict[str, list[str]]:
    """The names of the settings, under the headings of the help text."""
    recipe = {name for kind in config.__mro__ if issubclass(kind, Recipe) for name in _own(kind)}
    groups = {"model": [], "training": [], "run_and_evaluation": []}
    for field in dataclasses.fields(config):
        training = field.name in TrainConfig.names()
        groups["training" if training else "model" if field.name in recipe else "run_and_evaluation"].append(
            field.name
        )
    return {heading: names for heading, names in groups.items() if names}


def _own(kind: type) -> set[str]:
    """The settings of a recipe, where the class is one and no script's configuration."""
    if issubclass(kind, TrainConfig):
        return set()
    return {field.name for field in dataclasses.fields(kind)}


def _joined(config: type, groups: Mapping[str, list[str]]) -> type:
    """A dataclass for tyro, with one of each group in it."""
    return dataclasses.make_dataclass(
        config.__name__,
        [
            (
                heading,
                Annotated[kind := _typed(config, heading, names), tyro.conf.OmitArgPrefixes],
                dataclasses.field(default_factory=kind),
            )
            for heading, names in groups.items()
        ],
        frozen=True,
        kw_only=True,
    )


def _typed(config: type, heading: str, names: list[str]) -> type:
    """A dataclass for tyro of these settings: their help texts, choices and other names."""
    hints, fields = typing.get_type_hints(config), []
    for field in dataclasses.fields(config):
        if field.name not in names:
            continue
        kind = hints[field.name]
        if "choices" in field.metadata:
            kind = Literal[tuple(field.metadata["choices"])]
            kind = kind | None if field.default is None else kind
        arg = tyro.conf.arg(help=field.metadata.get("help", ""), aliases=ALIASES.get(field.name))
        fields.append((field.name, Annotated[kind, arg], dataclasses.field(default=field.default)))
    return dataclasses.make_dataclass(heading, fields, frozen=True, kw_only=True)


def _default(config: type, joined: type, groups: Mapping[str, list[str]], path: Path, rest: list[str]) -> Any:
    """The settings of a file as what the options start from."""
    values = _read(path, config)
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in rest if word.startswith("--")}
    if "epochs" in given:
        values["steps"] = None
    if "steps" in given:
        values["epochs"] = None
    if {"evaluations", "steps", "epochs"} & given:
        values["eval_every"] = None  # which the run filled in
    parts = {field.name: typing.get_args(field.type)[0] for field in dataclasses.fields(joined)}
    return joined(
        **{heading: parts[heading](**{n: values[n] for n in names}) for heading, names in groups.items()}
    )


def _read(path: Path, config: type) -> dict[str, Any]:
    """The settings of a file, without the folder and the machines that they were for."""
    try:
        old = {name: new for name, new in RENAMED.items() if name not in config.names()}
        values = {old.get(name, name): value for name, value in json.loads(path.read_text()).items()}
        values = {name: value for name, value in values.items() if name not in MEASURED}
        if isinstance(values.get("seeds"), int):
            values["seeds"] = [values["seeds"]]
        config.check_names(values)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no settings of this script: {error}") from None
    if values.get("epochs"):
        values.pop("steps", None)  # which the run filled in
    values = {name: value for name, value in values.items() if name not in NOT_KEPT}
    values = config.from_dict(values | {"out": None})
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}


def _check(config: type, arguments: list[str]) -> None:
    """Raise ValueError for an option that there is not, one without its value, and a value of another kind."""
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    others = {alias.removeprefix("--"): name for name, found in ALIASES.items() for alias in found}
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    place = 0
    while place < len(words):
        word, place = words[place], place + 1
        if not _is_option(word):
            raise ValueError(f"unexpected {word!r}; options are given by name, such as --data mnist")
        name = word.lstrip("-").replace("_", "-")
        name = others.get(name, name)
        off = name.startswith("no-") and name.removeprefix("no-") in fields
        field = fields.get(name.removeprefix("no-") if off else name)
        if field is None:
            raise ValueError(
                f"unknown option {word}; {_meant(name, fields) or '--help lists those there are'}"
            )
        values = []
        while place < len(words) and not _is_option(words[place]):
            values.append(words[place])
            place += 1
        _check_values(word, field, hints[field.name], values)


def _is_option(word: str) -> bool:
    """Whether a word names an option; a negative number does not."""
    return word.startswith("-") and not word.lstrip("-").replace(".", "", 1).replace("e", "", 1)[:1].isdigit()


def _meant(name: str, fields: Mapping[str, Any]) -> str:
    close = [MEANT[name]] if MEANT.get(name) in fields else difflib.get_close_matches(name, fields, 1, 0.6)
    return f"did you mean --{close[0]}?" if close else ""


def _check_values(word: str, field: dataclasses.Field, hint: Any, values: list[str]) -> None:
    """Raise ValueError where the words after an option are not what it takes."""
    kinds = {hint, *typing.get_args(hint)}
    if bool in kinds:
        wrong = [v for v in values if type(None) not in kinds or v not in ("True", "False", "None")]
        if wrong or (type(None) in kinds and not values):
            takes = "True, False or None" if type(None) in kinds else "no value"
            raise ValueError(f"{word} takes {takes}, got {' '.join(values) or 'nothing'}")
        return
    several = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if not values:
        raise ValueError(f"{word} needs a value")
    if len(values) > 1 and not several:
        raise ValueError(f"{word} takes one value, got {' '.join(values)}")
    each = typing.get_args(several[0]) if several else ()
    if each and Ellipsis not in each and len(values) != len(each) and values != ["None"]:
        raise ValueError(f"{word} takes {len(each)} values, got {' '.join(values)}")
    of = set(each) if several else kinds
    for value in values:
        if value == "None" and type(None) in kinds:
            continue
        if "choices" in field.metadata:
            pick(field.metadata["choices"], value, field.name)
        elif str not in of and Path not in of:
            _check_number(word, value, float if float in of else int)


def _check_number(word: str, value: str, kind: type) -> None:
    try:
        kind(value)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"{word} takes {what}, got {value!r}") from None
