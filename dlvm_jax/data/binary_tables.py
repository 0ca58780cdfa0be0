"""Tables of bits that densities are customarily compared on, by name, with their customary parts."""

import numpy as np

from dlvm_jax.data.arrays import from_arrays
from dlvm_jax.data.dataset import Data
from dlvm_jax.data.files import data_folder

__all__ = ["BINARY_TABLES", "read"]

FOLDER = "binary_tabular"
BINARY_TABLES = {  # name: who made the parts
    "nltcs": "Lowd & Davis 2010",
    "plants": "Lowd & Davis 2010",
    "baudio": "Lowd & Davis 2010",
    "bnetflix": "Lowd & Davis 2010",
    "jester": "Lowd & Davis 2010",
    "accidents": "Van Haaren & Davis 2012",
    "mushrooms": "Larochelle & Murray 2011",
    "pumsb_star": "Van Haaren & Davis 2012",
    "dna": "Van Haaren & Davis 2012",
    "nips": "Larochelle & Murray 2011",
    "moviereview": "Bekker et al. 2015",
    "bbc": "Van Haaren & Davis 2012",
    "voting": "Bekker et al. 2015",
}


def read(name: str) -> Data:
    """A table of `BINARY_TABLES`, from the folder `binary_tabular` of the data folder (`DLVM_DATA`).

    Text NAME.train.data, NAME.valid.data and NAME.test.data at any depth, bits with commas between; or NAME.npz, whose `train`,
    `valid` and `test` have eight bits a byte, `dim` bits a row.
    Raises FileNotFoundError where they are not there, ValueError for other files.
    """
    folder = data_folder(FOLDER, f"the files of {name}", f"{name}.train.data, .valid.data and .test.data")
    packed, parts = folder / f"{name}.npz", ("train", "valid", "test")
    texts = {part: next(iter(sorted(folder.rglob(f"{name}.{part}.data"))), None) for part in parts}
    if None not in texts.values():
        train, valid, test = map(_bits, texts.values())
    elif packed.exists():
        with np.load(packed) as file:
            bits = (np.unpackbits(file[part], axis=1, count=int(file["dim"])) for part in parts)
            train, valid, test = bits
    else:
        raise FileNotFoundError(
            f"{folder} has neither {name}.train.data, .valid.data and .test.data nor {packed.name}"
        )
    return from_arrays(train, valid=valid, test=test, name=name, protocol="bits", source=BINARY_TABLES[name])


def _bits(file):
    try:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read as bits with commas between: {str(error).split(chr(10))[0]}"
        ) from None
