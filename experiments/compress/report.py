"""A model's streams against its likelihood, and against other programs: the measurement, its picture and its report."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlvm_jax import coding
from dlvm_jax.data import Data
from dlvm_jax.evaluate import log_likelihood, pictures
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder, manifest
from experiments.compress import others

if TYPE_CHECKING:
    from experiments.compress.__main__ import Evaluate

__all__ = ["measure_and_write"]


def measure_and_write(config: "Evaluate", fitted: Fitted, data: Data, out: Path) -> dict[str, Any]:
    """Code and decode test examples; result.json, lengths.png and report.md in a folder."""
    x = np.asarray(data.test[: config.limit])
    begin = time.perf_counter()
    stream = coding.encode(fitted, x, config.batch)
    middle = time.perf_counter()
    back = coding.decode(fitted, stream)
    end = time.perf_counter()
    if not np.array_equal(back, x):
        raise ValueError("decoding gave other examples than were encoded; this is a fault of the library")
    exact = fitted.model.density.kind == "exact"
    record = log_likelihood(fitted, x, samples=config.samples, estimator=None if exact else "bound")
    per_dim = 8 / x.size
    result = {
        "examples": len(x),
        "bytes": len(stream),
        "bits_per_dim": len(stream) * per_dim,
        "payload_bits_per_dim": coding.payload_bits(fitted, stream) / x.size,
        "model_bits_per_dim": record.bits_per_dim,
        "standard_error": record.bits_standard_error,
        "kind": record.kind,
        "encode_per_second": len(x) / (middle - begin),
        "decode_per_second": len(x) / (end - middle),
        "others": {
            name: size * per_dim for name, size in others.sizes(x, fitted.model.density.space.levels).items()
        },
        "protocol": data.protocol.hash,
        **manifest(),
    }
    folder = RunFolder(out)
    folder.write("result.json", result)
    _picture(result, out / "lengths.png")
    (out / "report.md").write_text(_report(config, data, result))
    print(
        f"{len(x)} examples: {result['bits_per_dim']:.4f} bits/dim, the model {record.bits_per_dim:.4f}, "
        f"report in {out / 'report.md'}"
    )
    return result


def _picture(result, path):
    """Bits a dimension of all programs, this one last."""
    lengths = {**result["others"], "this model": result["bits_per_dim"]}
    figure = pictures.new_figure(figsize=(6.4, 0.4 * len(lengths) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(lengths), list(lengths.values()), color=["0.7"] * (len(lengths) - 1) + ["tab:blue"])
    axes.axvline(result["model_bits_per_dim"], color="k", ls="--", lw=1, label="the model's likelihood")
    axes.set(xlabel="bits/dim")
    axes.legend()
    figure.savefig(path, dpi=120)


def _report(config, data, result):
    others_rows = "\n".join(f"| {name} | {bits:.4f} |" for name, bits in result["others"].items())
    what = "log-likelihood" if result["kind"] == "exact" else f"bound of {config.samples} draws"
    more = 100 * (result["payload_bits_per_dim"] / result["model_bits_per_dim"] - 1)
    return f"""# {result["examples"]} test examples of {data.name} without loss

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).  Model: `{config.run}`.
All examples were decoded again and are equal.

| program | bits/dim |
|---|---|
{others_rows}
| **this model, the whole file** | **{result["bits_per_dim"]:.4f}** |
| its code alone, less the bits that come back | {result["payload_bits_per_dim"]:.4f} |
| its {what} | {result["model_bits_per_dim"]:.4f} ± {result["standard_error"]:.4f} |

The code is {more:+.2f} % longer than the {what}.  ± is the standard error over examples.
Encoded {result["encode_per_second"]:.1f} examples a second, decoded {result["decode_per_second"]:.1f}, compilation among it.
General programs get one byte a value, or eight bits in one; image formats get one mosaic of all images.

![lengths](lengths.png)

Versions and device: `result.json`.
"""
