"""Compress examples by a trained model, get them back, and compare with other programs.

python -m experiments.compress evaluate runs/vae-digits-001                        # the test set: bits, time, other programs
python -m experiments.compress lossy runs/hierarchical-mnist-001                   # rate and distortion, beside JPEG
python -m experiments.compress encode runs/vae-digits-001 mine.npy --out mine.dlvm # levels as the model sees them
python -m experiments.compress decode runs/vae-digits-001 mine.dlvm --out mine.npy

The run is one of experiments.autoregressive, experiments.vae, experiments.hierarchical or experiments.vq_vae, of bits or levels;
with loss any but the first.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dlvm_jax import coding, train
from dlvm_jax.train.fitted import Fitted
from experiments import run as common
from experiments.command import parsed
from experiments.compress import lossy, report
from experiments.vq_vae.prior import under


@dataclasses.dataclass(frozen=True)
class OfRun:
    """What every subcommand is given."""

    run: tyro.conf.Positional[Path]
    """folder of a finished run"""
    uniform: bool = dataclasses.field(default=False, kw_only=True)
    """a VQ-VAE's codes are under the uniform prior, not the learned one"""


@dataclasses.dataclass(frozen=True)
class Encode(OfRun):
    """Write the examples of a file, or the test set of the run's data, as a stream."""

    examples: tyro.conf.Positional[Path | None] = None
    """.npy file of levels [N, *event], as the model sees them; default: the test set"""
    out: Path = Path("examples.dlvm")
    """the stream to write"""
    batch: int = coding.BATCH
    """examples that the networks see at once"""
    lossy: bool = False
    """with loss: of a VQ-VAE nothing but its codes, of others what layers and step say"""
    layers: int | None = None
    """layers of a hierarchical VAE that are kept, from the top; default: all"""
    step: float = coding.Loss().step
    """width of the cells of latent numbers, in standard deviations of their posteriors"""


@dataclasses.dataclass(frozen=True)
class Decode(OfRun):
    """Write the examples of a stream as a .npy file."""

    stream: tyro.conf.Positional[Path]
    """the stream"""
    out: Path = Path("examples.npy")
    """the file to write"""
    seed: int | None = None
    """draw the layers that a stream with loss has left out; default: the means of their priors"""


@dataclasses.dataclass(frozen=True)
class Evaluate(OfRun):
    """Code the test set and decode it again; report bits, time, and what other programs need."""

    limit: int = 1000
    """test examples"""
    batch: int = coding.BATCH
    """examples that the networks see at once"""
    samples: int = 10
    """draws of the bound that the length is compared with"""
    out: Path | None = None
    """folder of the report; default: compress, in the run's folder"""


@dataclasses.dataclass(frozen=True)
class Lossy(OfRun):
    """Code test images with several losses and decode them; report rate and distortion, beside JPEG at equal bytes."""

    limit: int = 400
    """test images"""
    batch: int = coding.BATCH
    """images that the networks see at once"""
    steps: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
    """widths of the cells of latent numbers, in standard deviations of their posteriors"""
    bits: float = 0.2
    """bits a dimension of the images that are shown"""
    out: Path | None = None
    """folder of the report; default: lossy, in the run's folder"""


Command = (
    Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Lossy, tyro.conf.subcommand("lossy")]
)


def model_of(run: Path, uniform: bool) -> Fitted:
    """The model of a run, a VQ-VAE under the learned prior of its codes, unless it has none or is to be `uniform`."""
    fitted = train.load(run)
    if uniform or not (run / "prior" / "model.json").exists():
        return fitted
    return under(fitted, train.load(run / "prior"))


def encode(config: Encode) -> None:
    """Write a stream."""
    fitted = model_of(config.run, config.uniform)
    examples = config.examples
    x = np.load(examples) if examples else np.asarray(common.data_of(config.run, fitted).test)
    loss = coding.Loss(config.layers, config.step) if config.lossy else None
    stream = coding.encode(fitted, x, config.batch, loss)
    config.out.write_bytes(stream)
    print(f"{len(x)} examples in {len(stream)} bytes, {8 * len(stream) / x.size:.4f} bits/dim: {config.out}")


def decode(config: Decode) -> None:
    """Write the examples of a stream."""
    stream = config.stream.read_bytes()
    x = coding.decode(model_of(config.run, config.uniform), stream, config.seed)
    levels = np.uint16 if x.max() > 255 else np.uint8
    np.save(config.out, x if coding.read_header(stream).loss else x.astype(levels))
    print(f"{len(x)} examples of shape {x.shape[1:]}: {config.out}")


def evaluate(config: Evaluate) -> None:
    """Measure, and write the report."""
    if min(config.limit, config.batch, config.samples) < 1:
        raise ValueError("limit, batch and samples are at least 1")
    fitted = model_of(config.run, config.uniform)
    data = common.data_of(config.run, fitted)
    report.measure_and_write(config, fitted, data, config.out or config.run / "compress")


def measure_loss(config: Lossy) -> None:
    """Measure rate and distortion, and write the report."""
    if min(config.limit, config.batch) < 1 or not config.bits > 0 or not config.steps:
        raise ValueError("limit and batch are at least 1, bits is above 0, and steps has at least one")
    fitted = model_of(config.run, config.uniform)
    data = common.data_of(config.run, fitted)
    lossy.measure_and_write(config, fitted, data, config.out or config.run / "lossy")


def main(command: Encode | Decode | Evaluate | Lossy) -> None:
    """Carry out a subcommand."""
    {Encode: encode, Decode: decode, Evaluate: evaluate, Lossy: measure_loss}[type(command)](command)


if __name__ == "__main__":
    common.guarded(lambda: main(parsed(Command, __doc__)))
