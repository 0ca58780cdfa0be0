"""How a model is trained: length, minibatches, optimiser, evaluations."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optax

from dlvm_jax.settings import Settings, choice, setting
from dlvm_jax.train import optimisers, order

__all__ = ["TrainConfig", "configured", "say_if_stretched"]

STRETCHED = ("cosine", "stages")  # schedules over the whole length of training


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """The settings of training; `resolved` fills in what is not given.

    An evaluation is a pause of training: validation, a line of the log, a checkpoint.
    """

    steps: int | None = setting(
        None, "training steps; default that of the model, else 5000, unless epochs is given", at_least=1
    )
    epochs: int | None = setting(None, "passes over the training set, instead of steps", at_least=1)
    batch_size: int = setting(100, "examples of a step", at_least=1)
    shuffle: bool = setting(True, "give the examples a new order in each epoch, not always their own")
    optimiser: str = choice("adam", optimisers.OPTIMISERS, "optimiser")
    learning_rate: float = setting(1e-3, "peak learning rate")
    schedule: str = choice("constant", optimisers.SCHEDULES, "learning rate over all steps")
    warm_up: float = setting(
        0, "steps of linear warm-up of the learning rate; below 1 their share of all steps", at_least=0
    )
    weight_decay: float | None = setting(
        None, "weight decay of an optimiser that has one, instead of its usual one", at_least=0
    )
    clip: float | None = setting(None, "clip the gradient's global norm")
    skip: float | None = setting(
        None, "leave out an update whose gradient's global norm, before clipping, is above it or not finite"
    )
    skip_at_most: int = setting(
        100, "stop the training after more updates than this were left out in a row", at_least=1
    )
    ema: float | None = setting(
        None, "decay of a moving average of the parameters, which is then evaluated", at_least=0, below=1
    )
    accumulate: int = setting(1, "micro-batches a step is split into, to save memory", at_least=1)
    eval_every: int | None = setting(
        None,
        "steps between evaluations (validation, log, checkpoint), instead of evaluations",
        at_least=1,
    )
    evaluations: int = setting(40, "evaluations in the whole run", at_least=1)
    on_device: bool | None = setting(
        None,
        "keep the training data on the devices (True), or read them from the host as they are needed (False); "
        "default by their size: at most a quarter of a device's memory, or 2 GiB on CPU, is kept",
    )
    patience: int | None = setting(None, "stop after so many evaluations without improvement", at_least=1)
    seeds: tuple[int, ...] = setting(
        (0,), "random seeds; several are trained together", at_least=0, below=2**32
    )

    def check(self) -> None:
        """Raise ValueError, in one line, for settings that are impossible whatever the data."""
        super().check()
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds needs different seeds, such as 0 1, got {self.seeds}")
        if self.on_device not in (None, True, False):
            raise ValueError(f"on_device must be True, False or None, got {self.on_device!r}")
        for name in ("learning_rate", "clip", "skip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")

    def resolved(self, examples: int) -> "TrainConfig":
        """These settings for so many training examples: steps, warm-up and the steps between evaluations filled in.

        Raises ValueError for settings that are impossible, or do not fit so many examples.
        """
        self.check()
        per_epoch = order.steps_per_epoch(examples, self.batch_size)
        steps = self.epochs * per_epoch if self.epochs is not None else (self.steps or 5000)
        eval_every = self.eval_every or max(1, steps // self.evaluations)
        warm_up = int(self.warm_up * steps + 1e-9) if self.warm_up < 1 else int(self.warm_up)
        if warm_up >= steps:
            raise ValueError(f"warm_up must be below the {steps} steps of training, got {self.warm_up}")
        evaluations = -(-steps // eval_every)
        if self.patience is not None and self.patience >= evaluations:
            raise ValueError(
                f"patience={self.patience} needs more than the {evaluations} evaluations of this run; "
                "lower it or eval_every"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide the batch_size of {self.batch_size}, got {self.accumulate}"
            )
        if not self.shuffle and examples % self.batch_size:
            raise ValueError(
                f"without shuffle, batch_size must divide the {examples} training examples, got {self.batch_size}"
            )
        return dataclasses.replace(self, steps=steps, epochs=None, eval_every=eval_every, warm_up=warm_up)

    def extent(self) -> tuple[int, int]:
        """The steps of training and those between evaluations, of resolved settings; ValueError for others."""
        if self.steps is None or self.eval_every is None:
            raise ValueError(
                "the length of training is not known yet; use `resolved` with the number of examples"
            )
        return self.steps, self.eval_every

    def optimizer(self) -> optax.GradientTransformation:
        """The Optax optimiser of resolved settings."""
        return optimisers.make(
            self.optimiser,
            self.learning_rate,
            self.extent()[0],
            schedule=self.schedule,
            warm_up=int(self.warm_up),
            weight_decay=self.weight_decay,
            clip=self.clip,
            skip=self.skip,
        )


def configured(
    usual: Mapping[str, Any], settings: Mapping[str, Any], before: Mapping[str, Any] | None, examples: int
) -> TrainConfig:
    """How to train, resolved: as said by `settings`, else as the run was trained `before` this, else as is usual of the model.

    A usual warm-up that is longer than training becomes a tenth of it.
    """
    usual = dict(usual)
    if {"steps", "epochs"} & settings.keys():
        usual.pop("steps", None)
    config = TrainConfig(**{**usual, **settings})
    config.check()
    if before is not None:
        old = TrainConfig.from_dict(before)
        if not {"steps", "epochs"} & settings.keys():
            config = dataclasses.replace(config, steps=old.steps, epochs=None)
        kept = [] if {"eval_every", "evaluations"} & settings.keys() else ["eval_every"]
        kept += [] if "patience" in settings else ["patience"]
        kept += [] if settings.get("warm_up", 0) >= 1 else ["warm_up"]  # a share is of the first length
        config = dataclasses.replace(config, **{name: getattr(old, name) for name in kept})
    elif "warm_up" not in settings:
        steps = dataclasses.replace(config, warm_up=0).resolved(examples).steps or 0
        if config.warm_up >= steps:
            config = dataclasses.replace(config, warm_up=steps // 10)
    return config.resolved(examples)


def say_if_stretched(config: TrainConfig, first: int | None) -> None:
    """Warn where a run of `first` steps goes on to another length under a schedule of the learning rate over all steps."""
    if config.schedule in STRETCHED and first not in (None, config.steps):
        warnings.warn(
            f"the {config.schedule} schedule of the learning rate, which went over {first} steps, now goes over "
            f"{config.steps}; the result is not that of one run of so many steps",
            stacklevel=3,
        )
