"""Published numbers and checks of our own: what is known, and what this library finds.

python -m experiments.reproduce list                 # all rows, and what is known of them
python -m experiments.reproduce run NAME ...         # compute rows, or go on with them, and record what they find
python -m experiments.reproduce run --minutes 9      # as many unfinished rows as that time holds, the quickest first; call again
python -m experiments.reproduce run NAME --quick     # try a row out in about a minute: nothing is recorded
python -m experiments.reproduce table                # write RESULTS.md, and some rows of the README, from the records
python -m experiments.reproduce pack NAME            # an unfinished row in pieces, to go on with elsewhere after `unpack`
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from dlvm_jax.train.loop import Interrupted
from dlvm_jax.train.run import RunFolder, manifest, same_maker
from experiments import run as common
from experiments.command import parsed
from experiments.reproduce import archive, results
from experiments.reproduce.registry import Row, every_row

HERE = Path(__file__).parent.parent  # experiments


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Runs:
    runs: Path = Path("runs/reproduce")
    """folder of the rows' runs"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Records:
    records: Path = HERE / "results" / "records"
    """folder of the recorded results"""


@dataclasses.dataclass(frozen=True)
class List(_Records, _Runs):
    """Print all rows: published value, ours, and what became of them."""


@dataclasses.dataclass(frozen=True)
class Run(_Records, _Runs):
    """Compute rows, or go on with them, and record what they find."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """rows; default all that are not recorded, the quickest first, and with an accelerator those that need one at the end"""
    minutes: float | None = None
    """stop within so long; training goes on from its last evaluation"""
    quick: bool = False
    """a short version of each row, from its start, which is not recorded"""


@dataclasses.dataclass(frozen=True)
class Table(_Records):
    """Write the table of all rows from the recorded results, and some of them into the README."""

    out: Path = HERE / "RESULTS.md"
    """the file to write"""
    readme: Path = HERE.parent / "README.md"
    """the file in which to replace what stands between the marks, if it is there"""


@dataclasses.dataclass(frozen=True)
class Pack(_Runs):
    """Put the run of an unfinished row into pieces of at most 16 MB, 60 MB in all."""

    name: tyro.conf.Positional[str]
    """the row"""
    out: Path = Path("pieces")
    """folder of the pieces"""


@dataclasses.dataclass(frozen=True)
class Unpack(_Runs):
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


def recorded(folder: Path, row: Row) -> dict[str, Any] | None:
    """The record of a row, or None; raises ValueError for a file that is no record of it."""
    path = folder / f"{row.name}.json"
    if not path.exists():
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and found.get("row") == row.name and "value" in found:
            return found
    raise ValueError(
        f"{path} is no record of the row {row.name}; restore it, or delete it and run the row again"
    )


def check_records(folder: Path) -> None:
    """Raise ValueError unless the folder of records is there."""
    if not folder.is_dir():
        raise ValueError(f"--records {folder} is no folder; name the one that `run` writes its records to")


def find(rows: dict[str, Row], name: str) -> Row:
    """The row of a name; raises ValueError with the names there are."""
    if name not in rows:
        raise ValueError(f"there is no row {name!r}; the rows are {', '.join(rows)}")
    return rows[name]


def show(config: List) -> None:
    """Print one line for each row."""
    check_records(config.records)
    rows = every_row()
    width = max(map(len, rows))
    print(f"{'row':{width}}  {'published':>16}  {'ours':>20}  status")
    for name, row in rows.items():
        found = recorded(config.records, row)
        began = row.run_folder == name and (config.runs / name / "config.json").exists()
        status = results.judged(row, found) if found else "begun" if began else "not run"
        took = f" ({row.minutes:g} minutes)" if row.minutes and not found else ""
        ours = results.ours(row, found) if found else ""
        print(f"{name:{width}}  {row.published or '':>16}  {ours:>20}  {status}{took}")


@contextlib.contextmanager
def time_limit(minutes: float | None, report: Callable[[], None]) -> Iterator[threading.Event]:
    """Within so long, end what runs inside: training by a signal, as a user would, which saves a checkpoint first.

    Raises `Interrupted` then, and gives an event that says whether the time is over.  Whatever does not end by the signal in the
    last minute (many steps between two evaluations, which are taken again later) is left there, with the process; `report` says
    so to the user.  None: there is no limit.
    """
    over = threading.Event()

    def stop(signum, frame):
        raise Interrupted(signum, "a point outside training")

    def ask():
        over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def leave():
        report()
        sys.stdout.flush()
        os._exit(0)

    if minutes is None:
        yield over
        return
    before = signal.signal(signal.SIGTERM, stop)
    timers = [
        threading.Timer(60 * max(minutes - 1, minutes / 2), ask),
        threading.Timer(59 * minutes, leave),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield over
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)


def run(config: Run) -> None:
    """Rows one after another, each recorded as soon as it is finished; one that fails does not stop the others."""
    rows = every_row()
    chosen = [find(rows, name) for name in config.names]
    if not chosen:
        here = [row for row in rows.values() if row.minutes or jax.default_backend() != "cpu"]
        chosen = sorted(
            (row for row in here if not recorded(config.records, row)),
            key=lambda row: row.minutes or math.inf,
        )
    if config.minutes is not None and not 0 < config.minutes < math.inf:
        raise ValueError(f"--minutes must be above 0, got {config.minutes}")
    if not config.quick:
        config.records.mkdir(parents=True, exist_ok=True)
    if not chosen:
        print("every row that this machine can finish is recorded; name others to run them")
    done, failed = [], []

    def report():
        print(f"\nthe {config.minutes:g} minutes are over; finished: {', '.join(done) or 'nothing yet'}")
        if not config.quick:
            print("training is saved, and the same command goes on")

    with time_limit(config.minutes, report) as over:
        try:
            for row in chosen:
                print(f"\n== {row.name}: {row.what} ({row.source})")
                try:
                    _compute(row, config)
                    done.append(row.name)
                except Exception as error:
                    if not isinstance(error, (ValueError, FloatingPointError, OSError)):
                        traceback.print_exc()
                    print(f"error: {row.name}: {' '.join(str(error).split())}", file=sys.stderr)
                    failed.append(row.name)
        except Interrupted:
            if not over.is_set():
                raise
            report()
    if failed:
        raise ValueError(f"these rows failed: {', '.join(failed)}; see above")


def _compute(row, config):
    """Compute a row and, unless it is only tried out, record it."""
    folder = config.runs / (f"{row.run_folder}-quick" if config.quick else row.run_folder)
    if config.quick:
        shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    value, error, details = row.run(folder, config.quick)
    seconds = round(time.monotonic() - begin, 1)
    value, error = (x if math.isfinite(x) else None for x in (value, error))
    record = {"row": row.name, "value": value, "standard_error": error, **details}
    text = f"{row.what}: {results.ours(row, record)}, published {row.published or 'nowhere'}"
    if config.quick:
        print(f"{text}; QUICK: a short version of the row, not to be compared")
        return
    print(f"{text}: {results.judged(row, record)}")
    record |= manifest()
    made = folder / "manifest.json"  # of the training, which may be older, and of another machine
    trained = json.loads(made.read_text()) if made.exists() else record
    if "before" in trained or not same_maker(trained, record):
        record["trained"] = trained
    record |= {"recipe": row.recipe, "evaluation": row.evaluation}
    record["seconds"] = seconds  # of this call, which may have gone on with an older run
    record["recorded"] = time.strftime("%Y-%m-%d", time.gmtime())
    RunFolder(config.records).write(f"{row.name}.json", record)


def table(config: Table) -> None:
    """Write RESULTS.md, and the rows in the README; name records that no row has."""
    check_records(config.records)
    rows = every_row()
    records = {name: recorded(config.records, row) for name, row in rows.items()}
    counts = results.write(rows, records, config.out, config.readme)
    print(f"wrote {config.out}: {counts}")
    if strangers := sorted({path.stem for path in config.records.glob("*.json")} - rows.keys()):
        print(f"left out, as no row has their names: {', '.join(strangers)}")


def pack(config: Pack) -> None:
    """Write the pieces of a row's run."""
    folder = config.runs / find(every_row(), config.name).run_folder
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: the row was not begun; start it with `run {config.name}`")
    archive.pack(folder, config.out)


def unpack(config: Unpack) -> None:
    """Lay out a packed run."""
    archive.unpack(config.pieces, config.runs)


def main(command: List | Run | Table | Pack | Unpack) -> None:
    """Carry out a subcommand."""
    {List: show, Run: run, Table: table, Pack: pack, Unpack: unpack}[type(command)](command)


if __name__ == "__main__":
    common.guarded(lambda: main(parsed(Command, __doc__)))
