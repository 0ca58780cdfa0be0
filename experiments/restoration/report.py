"""All methods on all problems: PSNR with standard errors, seconds, pictures and report.md."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data
from dlvm_jax.evaluate import paired, pictures
from dlvm_jax.functional.restoration import Restored
from dlvm_jax.progress import Progress
from dlvm_jax.recipes.networks import top
from dlvm_jax.train.fitted import Fitted
from experiments.restoration.methods import TOLERANCE, Method, methods
from experiments.restoration.problems import Problem, problems

if TYPE_CHECKING:
    from experiments.restoration.__main__ import Config

__all__ = ["compare_and_write", "psnr"]

COLUMNS = 10  # images of a picture
OURS = "PnP-HVAE"


def psnr(x: np.ndarray, truth: np.ndarray, peak: float) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in decibels, 10 log10 (peak^2 / mean squared error)."""
    error = np.square(np.asarray(x, np.float64) - truth).reshape(len(truth), -1).mean(1)
    return 10 * np.log10(peak**2 / error)


class Outcome(NamedTuple):
    """What a method makes of the test images: x [N, H, W, C], PSNR [N], seconds an image, its setting, iterations [N]."""

    x: np.ndarray
    psnr: np.ndarray
    seconds: float
    setting: Any
    iterations: np.ndarray | None


def compare_and_write(
    config: "Config", data: Data, fitted: Fitted, diffusion: Fitted | None, root: Path
) -> Mapping[str, Any]:
    """The result, after the pictures and the report are written."""
    peak = top(fitted.spec)
    image = lambda x: jnp.asarray(np.asarray(x), jnp.float32)
    valid, test = image(data.valid), image(data.test[: config.eval_limit])
    key_mask, key_valid, key_test = jax.random.split(jax.random.key(config.seed), 3)
    tasks = problems(fitted.spec.event_shape, key_mask)
    entries = methods(config, fitted, diffusion, (valid.mean(0), valid.std(0)), peak)
    found = {name: {} for name in tasks}
    with Progress("restoring", len(tasks) * len(entries), "method") as bar:
        for name, problem in tasks.items():
            few = valid[: config.tune_limit]
            tuning = few, _observed(problem, few, config.noise * peak, key_valid)
            evaluated = test, _observed(problem, test, config.noise * peak, key_test)
            for label, method in entries.items():
                outcome = _outcome(method, problem, tuning, evaluated, peak)
                found[name] |= {} if outcome is None else {label: outcome}
                bar.advance(1)
            rows = {"original": np.asarray(test)} | {label: one.x for label, one in found[name].items()}
            pictures.grid(
                root / f"{name}.png",
                np.concatenate([x[:COLUMNS] for x in rows.values()]) / peak,
                min(COLUMNS, len(test)),
                problem.about,
                beside=list(rows),
            )
    every = {f"{name}: {label}": one.psnr for name, by in found.items() for label, one in by.items()}
    np.savez(root / "psnr.npz", **every)
    result = _result(found, len(test))
    (root / "report.md").write_text(_report(config, data, fitted, tasks, entries, result))
    for name, by in result["psnr"].items():
        said = ", ".join(f"{label} {mean:.2f} +- {error:.2f}" for label, (mean, error) in by.items())
        print(f"{name}: {said}")
    return result


def _observed(problem: Problem, x: jax.Array, std: float, key: jax.Array) -> jax.Array:
    """y = A x with noise; a masked pixel has neither."""
    observe = jax.jit(problem.observe)
    clean, hidden = observe(x), observe(jnp.ones_like(x)) == 0
    return jnp.where(hidden, 0, clean + std * jax.random.normal(key, clean.shape))


def _outcome(
    method: Method, problem: Problem, tuning: tuple, evaluated: tuple, peak: float
) -> Outcome | None:
    """The method at the setting of the highest PSNR on validation images; None where it does not apply.

    tuning, evaluated: images and what is observed of them
    """

    def tried(setting, truth, y):
        restore = method.prepare(problem, y, setting)
        if restore is None:
            return None
        began = time.perf_counter()
        restored = restore(y)
        seconds = (time.perf_counter() - began) / len(y)
        x, iterations = restored, None
        if isinstance(restored, Restored):
            x, iterations = restored.x, np.asarray(restored.iterations)
        x = np.clip(np.asarray(x), 0, peak)
        return Outcome(x, psnr(x, np.asarray(truth), peak), seconds, setting, iterations)

    settings = method.settings
    if len(settings) > 1:
        trials = [tried(setting, *tuning) for setting in settings]
        if None in trials:
            return None
        settings = [max(trials, key=lambda one: one.psnr.mean()).setting]
    return tried(settings[0], *evaluated)


def _result(found: Mapping[str, Mapping[str, Outcome]], examples: int) -> dict[str, Any]:
    """The figures, by problem and method."""

    def of_each(value):
        return {
            name: {label: value(one, by[OURS]) for label, one in by.items()} for name, by in found.items()
        }

    iterations = {name: by[OURS].iterations for name, by in found.items()}
    return {
        "examples": examples,
        "psnr": of_each(lambda one, ours: paired(one.psnr)),
        f"psnr of {OURS} less": of_each(lambda one, ours: paired(ours.psnr - one.psnr)),
        "seconds an image": of_each(lambda one, ours: one.seconds),
        "settings": of_each(lambda one, ours: one.setting),
        f"iterations of {OURS}": {name: [float(v.mean()), int(v.max())] for name, v in iterations.items()},
    }


def _table(names, labels, cell):
    """Markdown: a row for each method, a column for each problem."""
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cell(name, label) for name in names)} |" for label in labels]
    return "\n".join(lines)


def _report(config, data, fitted, tasks, entries, result):
    def errors(table):
        def cell(name, label):
            found = table[name].get(label)
            return "-" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}"

        return cell

    def seconds(name, label):
        found = result["seconds an image"][name].get(label)
        return "-" if found is None else f"{found:.2g}"

    def settings(name, label):
        found = result["settings"][name].get(label)
        return "-" if found is None else f"{found:g}"

    iterations = ", ".join(
        f"{name} {mean:.0f} (the longest {most})"
        for name, (mean, most) in result[f"iterations of {OURS}"].items()
    )
    labels = list(entries)
    prior = (
        ""
        if config.diffusion is None
        else f"\nThat of moment matching and PiGDM is the diffusion model of {config.diffusion}."
    )
    less = result[f"psnr of {OURS} less"]
    about = "\n".join(f"- {name}: {problem.about}" for name, problem in tasks.items())
    tuned = [f"{label} ({method.setting})" for label, method in entries.items() if method.setting]
    shown = "\n".join(f"![{name}]({name}.png)" for name in tasks)
    return f"""# Restoration of images of {data.name}

The prior of PnP-HVAE (Prost et al. 2023) is the hierarchical VAE of {fitted.folder}: {fitted.recipe.layers} layers,
step {fitted.step}.{prior}
{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
{result["examples"]} test images, the same observations for all methods: y = A x + noise of {config.noise:g} of the largest value.

{about}

PSNR in decibels; ± is the standard error over images.

{_table(list(tasks), labels, errors(result["psnr"]))}

{OURS} less the others, in decibels, paired by image.

{_table(list(tasks), [label for label in labels if label != OURS], errors(less))}

Seconds an image, all images together in one batch, compilation left out.

{_table(list(tasks), labels, seconds)}

Iterations of {OURS} until no element moves by {TOLERANCE:g} of the largest value, {config.iterations} are allowed: {iterations}.

Chosen on {min(config.tune_limit, len(data.valid))} validation images, by PSNR: {", ".join(tuned)}.

{_table(list(tasks), [label for label in labels if entries[label].setting], settings)}

{shown}

Settings: `config.json`; versions and devices: `manifest.json`; PSNR of each image: `psnr.npz`; figures above: `result.json`.
"""
