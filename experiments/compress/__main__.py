"""Compress examples of levels without loss by a trained model, get them back, and compare with other programs.

python -m experiments.compress evaluate runs/vae-digits-001                        # the test set: bits, time, other programs
python -m experiments.compress encode runs/vae-digits-001 mine.npy --out mine.dlvm # levels as the model sees them
python -m experiments.compress decode runs/vae-digits-001 mine.dlvm --out mine.npy

The run is one of experiments.autoregressive, experiments.vae or experiments.hierarchical, of bits or levels.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dlvm_jax import coding, train
from experiments import run as common
from experiments.compress import report


@dataclasses.dataclass(frozen=True)
class Encode:
    """Write the examples of a file, or the test set of the run's data, as a stream."""

    run: tyro.conf.Positional[Path]
    """folder of a finished run"""
    examples: tyro.conf.Positional[Path | None] = None
    """.npy file of levels [N, *event], as the model sees them; default: the test set"""
    out: Path = Path("examples.dlvm")
    """the stream to write"""
    batch: int = coding.BATCH
    """examples that the networks see at once"""


@dataclasses.dataclass(frozen=True)
class Decode:
    """Write the examples of a stream as a .npy file."""

    run: tyro.conf.Positional[Path]
    """folder of the run that the stream was made with"""
    stream: tyro.conf.Positional[Path]
    """the stream"""
    out: Path = Path("examples.npy")
    """the file to write"""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Code the test set and decode it again; report bits, time, and what other programs need."""

    run: tyro.conf.Positional[Path]
    """folder of a finished run"""
    limit: int = 1000
    """test examples"""
    batch: int = coding.BATCH
    """examples that the networks see at once"""
    samples: int = 10
    """draws of the bound that the length is compared with"""
    out: Path | None = None
    """folder of the report; default: compress, in the run's folder"""


Command = (
    Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)


def encode(config: Encode) -> None:
    """Write a stream."""
    fitted = train.load(config.run)
    examples = config.examples
    x = np.load(examples) if examples else np.asarray(common.data_of(config.run, fitted).test)
    stream = coding.encode(fitted, x, config.batch)
    config.out.write_bytes(stream)
    print(f"{len(x)} examples in {len(stream)} bytes, {8 * len(stream) / x.size:.4f} bits/dim: {config.out}")


def decode(config: Decode) -> None:
    """Write the examples of a stream."""
    x = coding.decode(train.load(config.run), config.stream.read_bytes())
    np.save(config.out, x.astype(np.uint16 if x.max() > 255 else np.uint8))
    print(f"{len(x)} examples of shape {x.shape[1:]}: {config.out}")


def evaluate(config: Evaluate) -> None:
    """Measure, and write the report."""
    if min(config.limit, config.batch, config.samples) < 1:
        raise ValueError("limit, batch and samples are at least 1")
    fitted = train.load(config.run)
    data = common.data_of(config.run, fitted)
    report.measure_and_write(config, fitted, data, config.out or config.run / "compress")


def main(command: Encode | Decode | Evaluate) -> None:
    """Carry out a subcommand."""
    {Encode: encode, Decode: decode, Evaluate: evaluate}[type(command)](command)


if __name__ == "__main__":
    common.guarded(lambda: main(tyro.cli(Command, description=__doc__)))
