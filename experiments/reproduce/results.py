"""What the records say in words: RESULTS.md, and the rows that the README shows."""

import math

from dlvm_jax.train.run import same_maker
from experiments.reproduce.registry import VERDICTS, doubtful, verdict

__all__ = ["judged", "number", "ours", "write"]

SHOWN = (  # rows of the README
    *("vae-1-mnist", "vae-1-mnist-2-layers", "iwae-5-mnist", "ais-gap-mnist", "dreg-over-iwae-5-mnist"),
    *(
        "vae-standard-mnist",
        "vae-standard-mnist-pace",
        "vae-vamp-mnist",
        "hvae-standard-mnist",
        "hvae-vamp-mnist",
    ),
    *("plane-vae-mnist-2", "plane-vae-mnist-5", "plane-vae-mnist-20"),
    *("sphere-vae-mnist-2", "sphere-vae-mnist-5", "sphere-vae-mnist-10"),
    *("realnvp-mnist", "spline-glow-mnist", "levels-mnist", "cvae-quadrants-1"),
    *("sphere-moebius-spline-kl", "sphere-exponential-1-12-kl"),
    *("sphere-exponential-6-5-kl", "sphere-exponential-24-1-kl"),
    *("linear-vae-freyfaces", "ppca-freyfaces-100", "order-dpm-multistep-3", "order-edm-heun-trained"),
    *("law-edm-heun-18", "law-ddim-50", "eight-gaussians-diffusion", "checkerboard-flow"),
)
BEGIN, END = "<!-- what `python -m experiments.reproduce table` writes -->\n", "<!-- end of it -->\n"
HEAD = "| row | quantity | published | ours | | protocol |\n|---|---|---|---|---|---|"


def number(value, error=None, digits=0):
    """A number with its error, to two digits of the error and at least so many after the point."""
    if value is None:
        return ""
    if not error or not math.isfinite(error):
        return f"{value:.6g}"
    digits = max(digits, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def ours(row, found):
    """A recorded value with its error, fine enough to see the row's tolerance."""
    if found["value"] is None:
        return "nan"
    return number(found["value"], found["standard_error"], 1 - math.floor(math.log10(row.tolerance)))


def judged(row, found):
    """The verdict on a record, marked where it is within the noise."""
    return verdict(row, found["value"]) + " ~" * doubtful(row, found["value"], found["standard_error"])


def _line(row, found):
    known, what = row.published or "-", row.what.replace("|", "\\|")
    if not found:
        return f"| {row.name} | {what} | {known} | | not run | |"
    protocol = f"`{found['protocol']}` {found['protocol_hash']}" if "protocol" in found else "-"
    if "iwae" in found.get("estimator", ""):
        protocol += f", K = {found['samples']}"
    return f"| {row.name} | {what} | {known} | {ours(row, found)} | {judged(row, found)} | {protocol} |"


def _cost(found):
    """What training took."""
    if "parameters" not in found:
        return []
    told = [f"{found['parameters']:,} parameters, {found['steps']:,} steps"]
    if found.get("flops_per_step"):
        told.append(f"{found['flops_per_step'] * found['steps']:.2g} operations in products")
    return [*told, f"{found['training_seconds']:.0f} s of training"]


def _text(row, found):
    """What a row and its recorded run compare: source, recipe, evaluation, tolerance, remark."""
    told = {name: (found or {}).get(name, getattr(row, name)) for name in ("recipe", "evaluation")}
    changed = any(text != getattr(row, name) for name, text in told.items())
    if row.published is None:
        value, tolerance = f"no confirmed value{row.confirmed.removeprefix('nowhere')}", ""
    else:
        value, tolerance = f"the value from {row.confirmed}", f"Tolerance {row.tolerance:g}."
    parts = (*told.values(), tolerance, row.remark, "**The row has been changed since.**" * changed)
    return f"({row.source}; {value}). {' '.join(filter(None, parts))}"


def _took(found):
    """What a recorded run took, and what computed it."""
    told = ["seed " + ", ".join(map(str, found["seeds"]))] if found["seeds"] else []
    if "parameters" not in found and "seconds" in found:
        told.append(f"{found['seconds']:.3g} s")
    cores = f"{found['cpu_count']} core{'s' * (found['cpu_count'] > 1)}"
    told += [*_cost(found), f"{cores}, {', '.join(found['devices'])}"]
    told += [f"jax {found['packages']['jax']}", found["commit"]]
    trained = found.get("trained", found)
    for other in (*trained.get("before", ()), trained):
        if not same_maker(other, found):
            told.append(f"begun or trained at {other['commit']} on {', '.join(other['devices'])}")
    return f"Recorded {found['recorded']}: {'; '.join(told)}."


def _details(rows, records):
    """A paragraph for all rows of the same text."""
    groups = {}
    for name, row in rows.items():
        groups.setdefault(_text(row, records[name]), []).append(name)
    for text, names in groups.items():
        cost = [f"Not run: {rows[name].cost}." if rows[name].cost else "" for name in names]
        took = [
            _took(records[name]) if records[name] else told for name, told in zip(names, cost, strict=True)
        ]
        yield f"- {', '.join(f'**{name}**' for name in names)} {text} {took[0] if len(names) == 1 else ''}".rstrip()
        if len(names) > 1:
            yield from (f"  - {name}: {line}" for name, line in zip(names, took, strict=True) if line)


def write(rows, records, out, readme):
    """Write `out`, and its chosen rows between the marks of the file `readme` if it is there; gives the counts as text.

    rows, records: by name; a row without a record is shown as not run.
    """
    lines = {name: _line(row, records[name]) for name, row in rows.items()}
    verdicts = [verdict(row, records[name]["value"]) for name, row in rows.items() if records[name]]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in VERDICTS)
    missing = len(rows) - len(verdicts)
    details = "\n".join(_details(rows, records))
    told = f"""Of {len(rows)} rows {len(verdicts)} are recorded ({counts}), {missing} are not run.  Rows that *agree* are
compared with an exact value (closed form, theorem, quadrature): ours is within the row's tolerance of it.  A paper's number is
*reproduced* where ours differs from it by at most the tolerance, *better* or *missed* where it is beyond; ~ says that a change by
one standard error would turn that verdict.  *Measured* are those for which no published value of the same quantity is known.
± is our standard error over test examples or samples (neither that over seeds, nor that of a difference from a paper's number
on the same test images), and of a published value what its paper calls its error.
"""
    out.write_text(
        f"# Paper numbers\n\nWritten by `python -m experiments.reproduce table` from the records in `results/papers/`.\n{told}\n"
        f"{HEAD}\n" + "\n".join(lines.values()) + f"\n\n## How each was computed\n\n{details}\n"
    )
    if readme.exists() and BEGIN in (text := readme.read_text()):
        shown = "\n".join(lines[name] for name in SHOWN if records.get(name))
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        readme.write_text(f"{before}{BEGIN}{told}\n{HEAD}\n{shown}\n{END}{after}")
    return counts
