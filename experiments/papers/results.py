"""What the records say in words: RESULTS.md, and the rows that the README shows."""

import math

from experiments.papers.registry import VERDICTS, doubtful, verdict

__all__ = ["number", "ours", "published", "write"]

SHOWN = (  # rows of the README
    *("vae-1-mnist", "vae-1-mnist-2-layers", "iwae-5-mnist", "ais-gap-mnist", "dreg-over-iwae-5-mnist"),
    *("vae-standard-mnist", "vae-vamp-mnist", "hvae-standard-mnist"),
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


def published(row):
    """The published value as it was printed."""
    if row.spread is None:
        return number(row.published)
    digits = len(f"{row.spread:g}".partition(".")[2])
    return f"{row.published:.{digits}f} ± {row.spread:g}"


def ours(row, found):
    """A recorded value with its error, fine enough to see the row's tolerance."""
    if found["value"] is None:
        return "nan"
    return number(found["value"], found["standard_error"], 1 - math.floor(math.log10(row.tolerance)))


def _line(row, found):
    known, what = published(row) or "-", row.what.replace("|", "\\|")
    if not found:
        return f"| {row.name} | {what} | {known} | | not run | |"
    protocol = f"`{found['protocol']}` {found['protocol_hash']}" if "protocol" in found else "-"
    if "iwae" in found.get("estimator", ""):
        protocol += f", K = {found['samples']}"
    judged = verdict(row, found["value"]) + " ~" * doubtful(row, found["value"], found["standard_error"])
    return f"| {row.name} | {what} | {known} | {ours(row, found)} | {judged} | {protocol} |"


def _cost(found):
    """What training took."""
    if "parameters" not in found:
        return []
    told = [f"{found['parameters']:,} parameters, {found['steps']:,} steps"]
    if found.get("operations_per_step"):
        told.append(f"{found['operations_per_step'] * found['steps']:.2g} operations in products")
    return [*told, f"{found['training_seconds']:.0f} s of training"]


def _detail(row, found):
    """A paragraph on a row: source, recipe, evaluation, and what the recorded run took."""
    recipe, evaluation = (
        (found or {}).get("recipe", row.recipe),
        (found or {}).get("evaluation", row.evaluation),
    )
    text = f"- **{row.name}** ({row.source}; the value seen in: {row.confirmed}). {recipe} {evaluation} {row.remark}".rstrip()
    if not found:
        return text
    if (recipe, evaluation) != (row.recipe, row.evaluation):
        text += " **The row has been changed since.**"
    took = [f"seeds {found['seeds']}"] if found["seeds"] else []
    machine = ", ".join(found["devices"])
    took += [
        *_cost(found),
        f"{found['cpu_count']} cores, {machine}, jax {found['packages']['jax']}, {found['commit']}",
    ]
    if "trained" in found:
        took.append(f"trained at {found['trained']['commit']} on {', '.join(found['trained']['devices'])}")
    return f"{text} Recorded {found['recorded']}: {'; '.join(took)}."


def write(rows, records, out, readme):
    """Write `out`, and its chosen rows between the marks of the file `readme` if it is there; gives the counts as text.

    rows, records: by name; a row without a record is shown as not run.
    """
    lines = {name: _line(row, records[name]) for name, row in rows.items()}
    verdicts = [verdict(row, records[name]["value"]) for name, row in rows.items() if records[name]]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in VERDICTS)
    counts += f", {len(rows) - len(verdicts)} not run"
    details = "\n".join(_detail(row, records[name]) for name, row in rows.items())
    told = f"""Of {len(rows)} rows {len(verdicts)} are recorded: {counts}.  Those that *agree* do so with an exact value
(closed form, theorem, quadrature), within the row's tolerance; the others stand beside a paper's figure: a number is *reproduced*
where ours differs from it by at most the tolerance, *better* or *missed* where it is beyond, and ~ says that a change by one
standard error would turn that verdict.  *Measured* are those for which there is no published value of the same quantity.
± is our standard error (over test examples or samples), and of a published value what its paper calls its error.
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
