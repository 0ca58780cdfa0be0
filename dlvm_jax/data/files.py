"""Data in files of one's own: arrays, tables, folders of images."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

__all__ = ["ARRAY_FILES", "IMAGE_FILES", "data_folder", "read_array_file", "read_folder", "stack_images"]

ARRAY_FILES = (".npy", ".npz", ".csv")
IMAGE_FILES = (".png", ".jpg", ".jpeg")
LARGE = 2**28  # bytes of a .npy file from which it is memory-mapped
NAMES = {  # arrays of an .npz file, and what `from_arrays` calls them
    "train": "train",
    "valid": "valid",
    "test": "test",
    "train_labels": "labels",
    "valid_labels": "valid_labels",
    "test_labels": "test_labels",
}


def data_folder(name: str, what: str, content: str) -> Path:
    """The folder of a set below the one that the environment variable DLVM_DATA names.

    what: the set in words;  content: the files that should be there
    Raises FileNotFoundError, in one line that says what to do, where there is none.
    """
    root = os.environ.get("DLVM_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    missing = f"DLVM_DATA={root} has no {name}" if root else "DLVM_DATA is not set"
    raise FileNotFoundError(
        f"{what} are not here ({missing}); put {content} into a folder {name} and set DLVM_DATA to the folder above it"
    )


def read_array_file(path: Path, mmap: bool | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .npy, .npz or .csv file, as `from_arrays` takes them.

    path: .npy of all examples; .csv of rows of numbers, without a header; .npz with `train`, and optionally `valid`, `test`,
        `train_labels`, `valid_labels` and `test_labels`, or with one array of all examples, and optionally `labels`
    mmap: whether a .npy file is memory-mapped; default: from 256 MB on
    Raises FileNotFoundError for a file that is not there, ValueError for one that holds something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix.lower() == ".csv":
            return {"train": np.loadtxt(path, delimiter=",", ndmin=2)}
        if path.suffix.lower() == ".npy":
            large = path.stat().st_size >= LARGE if mmap is None else mmap
            return {"train": np.load(path, mmap_mode="r" if large else None)}
        with np.load(path) as file:
            return _by_name(path, {name: file[name] for name in file.files})
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        what = "a table of numbers without a header" if path.suffix.lower() == ".csv" else "arrays of numbers"
        raise ValueError(f"{path} cannot be read as {what}: {reason}") from None


def _by_name(path, arrays):
    if "train" in arrays and set(arrays) <= set(NAMES):
        return {NAMES[name]: array for name, array in arrays.items()}
    examples = [name for name in arrays if name != "labels"]
    if len(examples) == 1:
        return {"train": arrays[examples[0]], "labels": arrays.get("labels")}
    raise ValueError(
        f"its arrays are {', '.join(arrays) or 'none'}; give {', '.join(NAMES)}, or one array (and labels)"
    )


def read_folder(path: Path, resize: tuple[int, int] | None = None) -> np.ndarray:
    """The PNG and JPEG images of a folder in the order of their names, [N, H, W, C].

    Grey and colour images keep their channels and depth (bits, 8 or 16 bits); palettes become colours, and where there are
    both grey and colour images all become colour.  Raises ValueError for no images, other sizes, and files that are damaged.
    """
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_FILES)
    if not files:
        folders = sorted(file.name for file in path.iterdir() if file.is_dir())
        hint = f"; it has the folders {', '.join(folders[:5])}: name one of them" if folders else ""
        raise ValueError(f"{path} holds no images ({', '.join(IMAGE_FILES)}){hint}")
    modes = {_opened(file).mode for file in files}
    colour = len(modes) > 1 and modes <= {"L", "RGB", "P", "CMYK", "YCbCr"}
    if len(modes) > 1 and not colour:
        raise ValueError(
            f"{path} holds images of several kinds ({', '.join(sorted(modes))}); convert them to one"
        )
    return stack_images(((file.name, _pixels(file, colour)) for file in files), len(files), str(path), resize)


def _opened(file):
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no image that can be read ({type(error).__name__})") from None


def _pixels(file, colour):
    """Pixels of an image, upright where a camera noted how it was held."""
    from PIL import ImageOps

    with _opened(file) as image:
        try:
            image = ImageOps.exif_transpose(image)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} is damaged ({error})") from None
        if colour or image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I;16"):
            image = image.convert("RGB")
        return np.asarray(image)


def stack_images(
    images: Iterable[tuple[str, np.ndarray]], count: int, where: str, resize: tuple[int, int] | None = None
) -> np.ndarray:
    """Images of one size in one array [N, H, W, C].

    images: pairs of a name and pixels [H, W] or [H, W, C];  count: how many there are;  where: what they are of, for messages
    resize: height and width that all are brought to, by area averages
    Raises ValueError for images of several shapes.
    """
    stack, first = None, None
    for i, (name, pixels) in enumerate(images):
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if resize is not None and pixels.shape[:2] != tuple(resize):
            pixels = _resized(pixels, resize)
        if stack is None:
            stack, first = np.empty((count, *pixels.shape), pixels.dtype), name
        if pixels.shape != stack.shape[1:]:
            hint = "" if pixels.shape[:2] == stack.shape[1:3] else "; give resize=(height, width)"
            raise ValueError(
                f"{where}: {first} has shape {stack.shape[1:]} and {name} {pixels.shape}; all must be equal{hint}"
            )
        stack[i] = pixels
    if stack is None:
        raise ValueError(f"{where} has no images")
    return stack


def _resized(pixels, size):
    from PIL import Image

    height, width = size
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    return pixels[..., None] if pixels.ndim == 2 else pixels
