"""An unfinished run in pieces of at most 16 MB, to go on with on another machine."""

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

from dlvm_jax.train.checkpoint import Checkpoints

__all__ = ["pack", "unpack"]

PIECE, WHOLE = 16 * 2**20, 60 * 2**20  # bytes


def _packed(folder: Path) -> bytes:
    """Newest and best checkpoint of every run in a folder and all that is small, as a compressed archive."""
    old = set()  # checkpoints, and the files that describe them
    for checkpoints in folder.rglob("checkpoints"):
        kept = Checkpoints(checkpoints, {})
        keep = {str(step) for step in (*kept.steps()[-1:], kept.best_step())}
        kept.close()
        old |= {path for path in checkpoints.iterdir() if path.name.removesuffix(".json") not in keep}

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.suffix != ".png" and old.isdisjoint((path, *path.parents)):
                archive.write(path, path.relative_to(folder.parent))
    return buffer.getvalue()


def pack(folder: Path, out: Path) -> None:
    """Write the pieces of a run's folder, each named by the digest of the whole, its number and how many there are.

    Raises ValueError for a run of more than 60 MB.
    """
    content = _packed(folder)
    if len(content) > WHOLE:
        raise ValueError(
            f"{folder} takes {len(content) / 2**20:.0f} MB, more than {WHOLE >> 20}; let it finish here"
        )
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("piece-*"):
        old.unlink()
    pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    digest = hashlib.sha256(content).hexdigest()[:16]
    for index, piece in enumerate(pieces, 1):
        (out / f"piece-{digest}-{index:02d}-of-{len(pieces):02d}").write_bytes(piece)
    print(f"{len(pieces)} pieces, {len(content) / 2**20:.1f} MB, in {out}")


def unpack(pieces: Path, runs: Path) -> None:
    """Lay out a packed run in `runs`; raises ValueError for missing or damaged pieces, and for a run that is there already."""
    found = sorted(pieces.glob("piece-*-of-*"))
    if not found:
        raise ValueError(f"{pieces} holds no pieces; name the folder that `pack` wrote")
    content = b"".join(piece.read_bytes() for piece in found)
    if hashlib.sha256(content).hexdigest()[:16] != found[0].name.split("-")[1]:
        wanted = int(found[0].name.split("-")[-1])
        raise ValueError(
            f"the {len(found)} pieces in {pieces} are not the {wanted} of one run, or damaged; bring them again"
        )
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as temporary:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(temporary)
        (laid,) = Path(temporary).iterdir()
        if (runs / laid.name).exists():
            raise ValueError(f"{runs / laid.name} already holds a run; move it away first")
        laid.rename(runs / laid.name)
    print(f"{runs / laid.name} is laid out; `run` with its row goes on")
