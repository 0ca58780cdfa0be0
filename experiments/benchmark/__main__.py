"""Speed and memory against peers, in one run and one table, family by family.

    python -m experiments.benchmark

Ratios above one are in our favour.  `experiments.benchmark.vae`, `.hierarchical`, `.autoregressive`, `.flows`, `.diffusion` and
`.sbi` are its parts, each with details of its own.  Peers: `pip install -e '.[peers]'`; one that is not installed is left out.
"""

import dataclasses
import platform

from experiments import run as common
from experiments.benchmark import autoregressive, diffusion, flows, hierarchical, sbi, timing, vae
from experiments.command import parsed

LIBRARIES = ("dlvm_jax", "jax", "torch", "pythae", "flowjax", "distrax", "zuko", "nflows", "sbi")


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare this library with its peers, in one table."""

    rounds: int = 1
    """how often each candidate is started, in turn"""


def main(config: Config) -> None:
    """Run all parts and print the table."""
    print(", ".join(map(timing.version, LIBRARIES)))
    parts = (vae, hierarchical, autoregressive, flows, diffusion, sbi)
    lines = [line for part in parts for line in part.compare(config.rounds)]
    print(f"python {platform.python_version()}, {platform.processor() or platform.machine()}\n")
    print(timing.ratios(lines))


if __name__ == "__main__":
    common.guarded(lambda: main(parsed(Config, __doc__)))
