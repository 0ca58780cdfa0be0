"""Paper numbers: what was published, and what this library finds.

python -m experiments.reproduce list                 # all rows, and what is known of them
python -m experiments.reproduce run NAME ...         # compute rows, or go on with them, and record what they find
python -m experiments.reproduce run --minutes 9      # as many unfinished rows as that time holds, the quickest first; call again
python -m experiments.reproduce run NAME --quick     # try a row out in about a minute: nothing is recorded
python -m experiments.reproduce table                # write RESULTS.md from the records
python -m experiments.reproduce pack NAME            # an unfinished row in pieces, to go on with elsewhere after `unpack`
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import tyro

from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.loop import Interrupted
from dlvm_jax.train.run import RunFolder, manifest
from experiments import common
from experiments.papers.registry import every_row, verdict

HERE = Path(__file__).parent
PIECE, WHOLE = 16 * 2**20, 60 * 2**20  # bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Folders:
    runs: Path = Path("runs/papers")
    """folder of the rows' runs"""
    records: Path = HERE / "results" / "papers"
    """folder of the recorded results"""


@dataclasses.dataclass(frozen=True)
class List(_Folders):
    """Print all rows: published value, ours, and what became of them."""


@dataclasses.dataclass(frozen=True)
class Run(_Folders):
    """Compute rows, or go on with them, and record what they find."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """rows; default all that are not recorded and whose time is known, the quickest first"""
    minutes: float | None = None
    """stop within so long, with everything saved (training ends its round first, so it is asked to a minute before)"""
    quick: bool = False
    """a short version of each row, from its start, which is not recorded"""


@dataclasses.dataclass(frozen=True)
class Table(_Folders):
    """Write the table of all rows from the recorded results."""

    out: Path = HERE / "RESULTS.md"
    """the file to write"""


@dataclasses.dataclass(frozen=True)
class Pack(_Folders):
    """Put the run of an unfinished row into pieces of at most 16 MB, 60 MB in all."""

    name: tyro.conf.Positional[str]
    """the row"""
    out: Path = Path("pieces")
    """folder of the pieces"""


@dataclasses.dataclass(frozen=True)
class Unpack(_Folders):
    """Lay out the run that was packed, to go on with it by `run NAME`."""

    pieces: tyro.conf.Positional[Path] = Path("pieces")
    """folder of the pieces"""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Pack, tyro.conf.subcommand("pack")]
    | Annotated[Unpack, tyro.conf.subcommand("unpack")]
)


def recorded(folder, row):
    """The record of a row, or None."""
    path = folder / f"{row.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _value(value, error=None, digits=0):
    """A number with its error, to two digits of the error and at least so many after the point."""
    if value is None:
        return ""
    if not error or not math.isfinite(error):
        return f"{value:.6g}"
    digits = max(digits, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _ours(row, found):
    """A recorded value with its error, fine enough to see the row's tolerance."""
    if found["value"] is None:
        return "nan"
    return _value(found["value"], found["standard_error"], 1 - math.floor(math.log10(row.tolerance)))


def find(rows, name):
    """The row of a name; raises ValueError with the names there are."""
    if name not in rows:
        raise ValueError(f"there is no row {name!r}; the rows are {', '.join(rows)}")
    return rows[name]


def show(config):
    """Print one line for each row."""
    rows = every_row()
    width = max(map(len, rows))
    print(f"{'row':{width}}  {'published':>16}  {'ours':>20}  status")
    for name, row in rows.items():
        found = recorded(config.records, row)
        began = (config.runs / row.run_folder / "config.json").exists()
        status = verdict(row, found["value"]) if found else "begun" if began else "not run"
        took = f" ({row.minutes:g} minutes)" if row.minutes and not found else ""
        ours = _ours(row, found) if found else ""
        print(f"{name:{width}}  {_value(row.published, row.spread):>16}  {ours:>20}  {status}{took}")


@contextlib.contextmanager
def time_limit(seconds):
    """After so long, ask this process to stop as a user would: training saves its round first, anything else stops at once.

    Raises `Interrupted` then; gives an event that says whether the time is over.  None: there is no limit.
    """
    over = threading.Event()

    def stop(signum, frame):
        raise Interrupted(signum, "a point outside training")

    def ask():
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    if seconds is None:
        yield over
        return
    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(seconds, ask)
    timer.daemon = True
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def run(config):
    """Rows one after another, each recorded as soon as it is finished; one that fails does not stop the others."""
    rows = every_row()
    chosen = [find(rows, name) for name in config.names]
    if not chosen:
        open_rows = (row for row in rows.values() if row.minutes and not recorded(config.records, row))
        chosen = sorted(open_rows, key=lambda row: row.minutes)
    common.at_least("minutes", config.minutes, 0)
    if not chosen:
        print("every row whose time is known is recorded; name others to run them")
    done, failed = [], []
    with time_limit(
        None if config.minutes is None else 60 * max(config.minutes - 1, config.minutes / 2)
    ) as over:
        try:
            for row in chosen:
                print(f"\n== {row.name}: {row.what} ({row.source})")
                try:
                    _compute(row, config)
                    done.append(row.name)
                except (ValueError, FloatingPointError, OSError) as error:
                    print(f"error: {row.name}: {' '.join(str(error).split())}", file=sys.stderr)
                    failed.append(row.name)
        except Interrupted:
            if not over.is_set():
                raise
            print(f"\nthe {config.minutes:g} minutes are over; finished: {', '.join(done) or 'nothing yet'}")
            print("everything is saved, and the same command goes on")
    if failed:
        raise ValueError(f"these rows failed: {', '.join(failed)}; see above")


def _compute(row, config):
    """Compute a row and, unless it is only tried out, record it."""
    folder = config.runs / (f"{row.run_folder}-quick" if config.quick else row.run_folder)
    if config.quick:
        shutil.rmtree(folder, ignore_errors=True)
    value, error, details = row.run(folder, config.quick)
    value, error = (x if math.isfinite(x) else None for x in (value, error))
    record = {"row": row.name, "value": value, "standard_error": error, **details}
    text = f"{row.what}: {_ours(row, record)}, published {_value(row.published, row.spread) or 'nowhere'}"
    if config.quick:
        print(f"{text}; QUICK: a short version of the row, not to be compared")
        return
    print(f"{text}: {verdict(row, value)}")
    made = folder / "manifest.json"  # of the run, which may be older than this record, and of another machine
    record |= json.loads(made.read_text()) if made.exists() else manifest()
    record |= {"recipe": row.recipe, "evaluation": row.evaluation}
    record["recorded"] = time.strftime("%Y-%m-%d", time.gmtime())
    RunFolder(config.records).write(f"{row.name}.json", record)


def table(config):
    """RESULTS.md: every row, with a value only where one is recorded."""
    rows = every_row()
    records = {name: recorded(config.records, row) for name, row in rows.items()}
    lines = [_line(row, records[name]) for name, row in rows.items()]
    verdicts = [verdict(row, records[name]["value"]) for name, row in rows.items() if records[name]]
    counts = ", ".join(
        f"{verdicts.count(kind)} {kind}" for kind in ("reproduced", "better", "missed", "measured")
    )
    details = [_detail(row, records[name]) for name, row in rows.items()]
    config.out.write_text(
        f"""# Paper numbers

Written by `python -m experiments.reproduce table` from the records in `results/papers/`.  Of {len(rows)} rows
{counts}, {len(rows) - len(verdicts)} not run.  A number is *reproduced* where ours differs from the published one by at most
the row's tolerance, *better* where it is beyond it, *measured* where no published value was confirmed.  ± is our standard error
(over test examples or samples), and of a published value what the paper calls its error.

| row | quantity | published | ours | | protocol |
|---|---|---|---|---|---|
{chr(10).join(lines)}

## How each was computed

{chr(10).join(details)}
"""
    )
    print(f"wrote {config.out}: {counts}, {len(rows) - len(verdicts)} not run")


def _line(row, found):
    published, what = _value(row.published, row.spread) or "-", row.what.replace("|", "\\|")
    if not found:
        return f"| {row.name} | {what} | {published} | | not run | |"
    protocol = f"`{found['protocol']}` {found['protocol_hash']}" if "protocol" in found else "-"
    if found.get("estimator") == "iwae":
        protocol += f", K = {found['samples']}"
    return f"| {row.name} | {what} | {published} | {_ours(row, found)} | {verdict(row, found['value'])} | {protocol} |"


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
    if "parameters" in found:
        took.append(f"{found['parameters']:,} parameters, {found['steps']:,} steps")
        if found.get("operations_per_step"):
            took.append(f"{found['operations_per_step'] * found['steps']:.2g} operations in products")
        took.append(f"{found['training_seconds']:.0f} s of training")
    took.append(
        f"{found['cpu_count']} cores, {', '.join(found['devices'])}, jax {found['packages']['jax']}, {found['commit']}"
    )
    return f"{text} Recorded {found['recorded']}: {'; '.join(took)}."


def _packed(folder):
    """A run's newest and best checkpoint and all that is small, as a compressed archive."""
    kept = Checkpoints(folder / "checkpoints", {})
    steps = {str(step) for step in (*kept.steps()[-1:], kept.best_step())}
    kept.close()

    def chosen(member):
        parts = Path(member.name).parts[1:]
        old = parts[0] == "checkpoints" and len(parts) > 1 and parts[1].removesuffix(".json") not in steps
        return None if old or member.name.endswith(".png") else member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, f"{folder.name}/{path.name}", filter=chosen)
    return buffer.getvalue()


def pack(config):
    """Write the pieces of a row's run, each named by the digest of the whole, its number and how many there are."""
    folder = config.runs / find(every_row(), config.name).run_folder
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: the row was not begun; start it with `run {config.name}`")
    content = _packed(folder)
    if len(content) > WHOLE:
        raise ValueError(
            f"{folder} takes {len(content) / 2**20:.0f} MB, more than {WHOLE >> 20}; let it finish here"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    for old in config.out.glob("piece-*"):
        old.unlink()
    pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    digest = hashlib.sha256(content).hexdigest()[:16]
    for number, piece in enumerate(pieces, 1):
        (config.out / f"piece-{digest}-{number:02d}-of-{len(pieces):02d}").write_bytes(piece)
    print(f"{len(pieces)} pieces, {len(content) / 2**20:.1f} MB, in {config.out}")


def unpack(config):
    """Lay out a packed run; raises ValueError for missing or damaged pieces, and for a run that is there already."""
    pieces = sorted(config.pieces.glob("piece-*-of-*"))
    if not pieces:
        raise ValueError(f"{config.pieces} holds no pieces; name the folder that `pack` wrote")
    content = b"".join(piece.read_bytes() for piece in pieces)
    if hashlib.sha256(content).hexdigest()[:16] != pieces[0].name.split("-")[1]:
        wanted = int(pieces[0].name.split("-")[-1])
        raise ValueError(
            f"the {len(pieces)} pieces in {config.pieces} are not the {wanted} of one run; bring them again"
        )
    config.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.runs) as temporary:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            archive.extractall(temporary, filter="data")
        (laid,) = Path(temporary).iterdir()
        if (config.runs / laid.name).exists():
            raise ValueError(f"{config.runs / laid.name} already holds a run; move it away first")
        laid.rename(config.runs / laid.name)
    print(f"{config.runs / laid.name} is laid out; `run` with its row goes on")


def main(command):
    """Carry out a subcommand."""
    {List: show, Run: run, Table: table, Pack: pack, Unpack: unpack}[type(command)](command)


if __name__ == "__main__":
    common.main(main, tyro.cli(Command, description=__doc__))
