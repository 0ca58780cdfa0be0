"""What the records say in words: RESULTS.md, and the rows that the README shows."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlvm_jax.train.run import same_maker
from experiments.reproduce.registry import Row, doubtful, verdict

__all__ = ["judged", "number", "ours", "write"]

Record = dict[str, Any]
SHOWN = (  # rows of the README
    *("vae-standard-mnist", "vae-vamp-mnist", "hvae-vamp-mnist", "hvae-vamp-fashion-mnist", "iwae-5-mnist"),
    *("plane-vae-mnist-5", "sphere-vae-mnist-5", "spline-glow-mnist"),
    *("ladder-5-mnist", "sphere-moebius-spline-kl"),
)
BEGIN, END = "<!-- what `python -m experiments.reproduce table` writes -->\n", "<!-- end of it -->\n"
HEAD = "| row | quantity | published | ours | verdict | protocol |\n|---|---|---|---|---|---|"

PUBLISHED = """A published number is *reproduced* where ours differs from it by at most the row's tolerance, *better* or *missed*
where it is beyond; ~ says that a change by one standard error would turn that verdict.  ± is our standard error over test
examples or samples (neither that over seeds, nor that of a difference from a paper's number on the same test images), and of a
published value what its paper calls its error."""
CHECKS = """Rows that *agree* are compared with an exact value (closed form, theorem, quadrature): ours is within the row's
tolerance of it.  *Measured* are those for which no published value of the same quantity is known."""
README = """*Reproduced*: within the row's tolerance of the published number; *better*, *missed*: beyond it.
*Agree*: with an exact value; *measured*: nothing to compare with.  ~: a change by one standard error would turn the verdict.
±: our standard error over test examples or samples; of a published value what its paper calls its error."""


def number(value: float | None, error: float | None = None, digits: int = 0) -> str:
    """A number with its error, to two digits of the error and at least so many after the point."""
    if value is None:
        return ""
    if not error or not math.isfinite(error):
        return f"{value:.6g}"
    digits = max(digits, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def ours(row: Row, record: Record) -> str:
    """A recorded value with its error, fine enough to see the row's tolerance."""
    if record["value"] is None:
        return "nan"
    return number(record["value"], record["standard_error"], 1 - math.floor(math.log10(row.tolerance)))


def judged(row: Row, record: Record) -> str:
    """The verdict on a record, marked where it is within the noise."""
    return verdict(row, record["value"]) + " ~" * doubtful(row, record["value"], record["standard_error"])


def _line(row: Row, record: Record | None) -> str:
    published, what = row.published or "-", row.what.replace("|", "\\|")
    if not record:
        return f"| {row.name} | {what} | {published} | | not run | |"
    protocol = f"`{record['protocol']}` {record['protocol_hash']}" if "protocol" in record else "-"
    if "iwae" in record.get("estimator", ""):
        protocol += f", K = {record['samples']}"
    return f"| {row.name} | {what} | {published} | {ours(row, record)} | {judged(row, record)} | {protocol} |"


def _table(rows: list[Row], records: dict[str, Record | None]) -> str:
    return "\n".join([HEAD, *(_line(row, records[row.name]) for row in rows)])


def _counts(what: str, rows: list[Row], records: dict[str, Record | None], kinds: tuple[str, ...]) -> str:
    """How many rows are recorded, and what became of them."""
    verdicts = [verdict(row, record["value"]) for row in rows if (record := records[row.name])]
    of_each = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)
    missing = len(rows) - len(verdicts)
    return f"Of {len(rows)} {what} {len(verdicts)} are recorded ({of_each}), {missing} are not run."


def _cost(record: Record) -> list[str]:
    """What training took."""
    if "parameters" not in record:
        return []
    parts = [f"{record['parameters']:,} parameters, {record['steps']:,} steps"]
    if record.get("flops_per_step"):
        parts.append(f"{record['flops_per_step'] * record['steps']:.2g} operations in products")
    return [*parts, f"{record['training_seconds']:.0f} s of training"]


def _text(row: Row, record: Record | None) -> str:
    """What a row and its recorded run compare: source, recipe, evaluation, tolerance, remark."""
    texts = {name: (record or {}).get(name, getattr(row, name)) for name in ("recipe", "evaluation")}
    changed = any(text != getattr(row, name) for name, text in texts.items())
    if row.published is None:
        value, tolerance = f"no confirmed value{row.confirmed.removeprefix('nowhere')}", ""
    else:
        value, tolerance = f"the value from {row.confirmed}", f"Tolerance {row.tolerance:g}."
    parts = (*texts.values(), tolerance, row.remark, "**The row has been changed since.**" * changed)
    return f"({row.source}; {value}). {' '.join(filter(None, parts))}"


def _took(record: Record) -> str:
    """What a recorded run took, and what computed it."""
    parts = ["seed " + ", ".join(map(str, record["seeds"]))] if record["seeds"] else []
    if "parameters" not in record and "seconds" in record:
        parts.append(f"{record['seconds']:.3g} s")
    cores = f"{record['cpu_count']} core{'s' * (record['cpu_count'] > 1)}"
    parts += [*_cost(record), f"{cores}, {', '.join(record['devices'])}"]
    parts += [f"jax {record['packages']['jax']}", record["commit"]]
    trained = record.get("trained", record)
    for other in (*trained.get("before", ()), trained):
        if not same_maker(other, record):
            parts.append(f"begun or trained at {other['commit']} on {', '.join(other['devices'])}")
    return f"Recorded {record['recorded']}: {'; '.join(parts)}."


def _history(row: Row, record: Record | None) -> str:
    """What a row's run took, or would cost."""
    if record:
        return _took(record)
    return f"Not run: {row.cost}." if row.cost else ""


def _details(rows: list[Row], records: dict[str, Record | None]) -> Iterator[str]:
    """A paragraph for all rows of the same text."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_text(row, records[row.name]), []).append(row)
    for text, group in groups.items():
        names, first, *others = ", ".join(f"**{row.name}**" for row in group), *group
        if not others:
            yield f"- {names} {text} {_history(first, records[first.name])}".rstrip()
            continue
        yield f"- {names} {text}"
        yield from (f"  - {row.name}: {line}" for row in group if (line := _history(row, records[row.name])))


def write(rows: dict[str, Row], records: dict[str, Record | None], out: Path, readme: Path) -> str:
    """Write `out`, and its chosen rows between the marks of the file `readme` if it is there; gives the counts as text.

    rows, records: by name; a row without a record is shown as not run
    """
    published = [row for row in rows.values() if row.is_published]
    checks = [row for row in rows.values() if not row.is_published]
    counted = _counts("published results", published, records, ("reproduced", "better", "missed"))
    checked = _counts("checks of our own", checks, records, ("agree", "measured", "missed"))
    out.write_text(
        "# Paper numbers, and checks of our own\n\n"
        "Written by `python -m experiments.reproduce table` from the records in `results/records/`.\n\n"
        f"## Published results\n\n{counted}\n{PUBLISHED}\n\n{_table(published, records)}\n\n"
        f"## Checks of our own\n\n{checked}\n{CHECKS}\n\n{_table(checks, records)}\n\n"
        "## How each was computed\n\n"
        + "\n".join(["### Published results\n", *_details(published, records)])
        + "\n\n"
        + "\n".join(["### Checks of our own\n", *_details(checks, records), ""])
    )
    if readme.exists() and BEGIN in (text := readme.read_text()):
        shown = [rows[name] for name in SHOWN if records.get(name)]
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        readme.write_text(
            f"{before}{BEGIN}{counted}\n{checked}\n{README}\n\n{_table(shown, records)}\n{END}{after}"
        )
    return f"{counted} {checked}"
