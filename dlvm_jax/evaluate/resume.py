"""An evaluation that goes on where it was cut short: its finished batches lie in a folder."""

import contextlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FinishedBatches"]


class FinishedBatches(dict[int, Mapping[str, Any]]):
    """The values of each finished batch, by its number; each is also a file of a folder, whole or not at all.

    A damaged file is as good as none.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        for path in folder.glob("*.npz"):
            with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile):
                super().__setitem__(int(path.stem), dict(np.load(path)))

    def __setitem__(self, number: int, values: Mapping[str, Any]) -> None:
        super().__setitem__(number, values)
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{number}.part"
        with open(temporary, "wb") as file:
            np.savez(file, **values)
        temporary.replace(self._folder / f"{number}.npz")
