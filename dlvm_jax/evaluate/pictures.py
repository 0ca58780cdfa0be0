"""Pictures of models: image grids, latent spaces, learning curves.  Every function writes one PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "curves",
    "grid",
    "image_grid",
    "latent_scatter",
    "new_figure",
    "pairs",
    "predictive",
    "quantile_grid",
    "rank_functions",
    "smoothed",
]

SMALL, ENLARGED = 16, 6  # images of fewer pixels a side are enlarged so much


def new_figure(**options: Any) -> "Figure":
    """An empty figure of matplotlib, which loads on first use; not pyplot's, which would change a notebook's backend."""
    from matplotlib.figure import Figure

    return Figure(**options)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tile images [N, h, w] or [N, h, w, c] row by row with a one-pixel gap -> one array [H, W, c]; missing tiles are blank."""
    images = np.asarray(images, np.float32)
    images = images[..., None] if images.ndim == 3 else images
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    tiles = np.full((rows * columns, height + 1, width + 1, channels), 1.0, np.float32)
    tiles[:count, :height, :width] = images
    tiles = tiles.reshape(rows, columns, height + 1, width + 1, channels).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def smoothed(images: np.ndarray) -> np.ndarray:
    """Images [N, h, w] or [N, h, w, c] enlarged by cubic interpolation; the eye reads few large pixels badly."""
    _, height, width = images.shape[:3]
    shape = (len(images), ENLARGED * height, ENLARGED * width, *images.shape[3:])
    return np.asarray(jax.image.resize(np.asarray(images, np.float32), shape, "cubic"))


def grid(
    path: Path | str,
    images: np.ndarray,
    columns: int,
    title: str | None = None,
    *,
    scale: int | None = None,
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> None:
    """Write images [N, h, w] or [N, h, w, c] with values in [0, 1] as a grid.

    scale: screen pixels an image pixel;  above, beside: a name for each column, for each row

    Images of fewer than 16 pixels are shown smoothed, and the title says so.
    """
    images = np.asarray(images, np.float32)
    if images.ndim == 4 and images.shape[-1] == 2:  # as red and green
        images = np.concatenate([images, np.zeros_like(images[..., :1])], axis=-1)
    height, width = images.shape[1:3]
    if max(height, width) < SMALL and scale is None:
        images = smoothed(images)
        title = f"{title or ''}\n({height} x {width} pixels, smoothed)".strip()
    tiled = np.clip(image_grid(images, columns), 0, 1)
    scale = scale or max(1, round(720 / tiled.shape[1]))
    across, down = tiled.shape[1] * scale / 100, tiled.shape[0] * scale / 100  # inches
    left, top = 0.11 * max(map(len, beside), default=0), 0.25 * bool(above) + 0.5 * bool(title)
    figure = new_figure(figsize=(left + across, down + top), dpi=100)
    share = left / (left + across)
    axes = figure.add_axes((share, 0, 1 - share, down / (down + top)))
    axes.imshow(
        tiled.squeeze(-1) if tiled.shape[-1] == 1 else tiled,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    tile = [size + 1 for size in images.shape[1:3]]
    axes.set(
        xticks=[tile[1] * (i + 0.5) for i in range(len(above))],
        yticks=[tile[0] * (i + 0.5) for i in range(len(beside))],
        xticklabels=above,
        yticklabels=beside,
    )
    axes.tick_params(
        length=0, labelsize=8, top=bool(above), labeltop=bool(above), bottom=False, labelbottom=False
    )
    axes.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10, y=0.99, va="top")
    figure.savefig(path)


def film(path: Path | str, frames: np.ndarray, columns: int, seconds: float = 0.1) -> None:
    """Write frames [T, N, h, w, c] with values in [0, 1] as an animated GIF, the N images of a frame as a grid."""
    from PIL import Image

    count = len(frames)
    flat = np.asarray(frames, np.float32).reshape(-1, *frames.shape[2:])
    flat = smoothed(flat) if max(flat.shape[1:3]) < SMALL else flat
    tiled = np.stack([image_grid(frame, columns) for frame in flat.reshape(count, -1, *flat.shape[1:])])
    tiled = (255 * np.clip(tiled, 0, 1)).round().astype(np.uint8)
    tiled = tiled.repeat(2, 1).repeat(2, 2) if tiled.shape[2] < 360 else tiled
    images = [Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame) for frame in tiled]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 * seconds), loop=0)


def latent_scatter(
    path: Path | str, means: np.ndarray, labels: np.ndarray | None, title: str | None = None
) -> None:
    """Scatter of posterior means [N, M], coloured by label: the two latent units of largest variance."""
    means = np.asarray(means)
    first, second = np.argsort(-means.var(0))[:2] if means.shape[1] > 1 else (0, 0)
    figure = new_figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    shown = axes.scatter(
        means[:, first], means[:, second], c=labels, cmap="tab10" if labels is not None else None, s=6
    )
    axes.set(xlabel=f"$E[z_{{{first + 1}}}|x]$", ylabel=f"$E[z_{{{second + 1}}}|x]$", title=title)
    if labels is not None:
        figure.colorbar(shown, label="label", ticks=np.unique(labels))
    figure.savefig(path, dpi=120)


def quantile_grid(codes: np.ndarray, size: int) -> np.ndarray:
    """Points of a plane at the quantiles of two coordinates of codes [N, 2]: [size * size, 2], row by row from the top.

    Of codes that fill N(0, I) they are $\\Phi^{-1}(u)$ at cell centres u (Kingma & Welling 2014, figure 4).  Of others, that grid
    would reach where no data are, and a decoder has learned nothing.
    """
    across, up = np.quantile(codes, (np.arange(size) + 0.5) / size, axis=0).T
    return np.stack(np.meshgrid(across, up[::-1]), -1).reshape(-1, 2)


def curves(path: Path | str, series: Mapping[str, tuple], ylabel: str, xlabel: str = "step") -> None:
    """Curves {name: (x, y)} in one plot; the y axis is that of all but the first tenth, where values are wild.

    Values that are not finite are left out.
    """
    figure = new_figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    tails = []
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, lw=1.2)
        tails.append(np.asarray(y)[len(y) // 10 :])
    values = np.concatenate([t.ravel() for t in tails]) if tails else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values):
        low, high = values.min(), values.max()
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def pairs(
    path: Path | str, samples: Mapping[str, np.ndarray], truth: np.ndarray | None = None, shown: int = 2000
) -> None:
    """Marginals of several samples {name: [N, D]}: histograms on the diagonal, scatters of the first `shown` points below it.

    truth: a point [D] that is marked

    At most the first ten dimensions are shown.
    """
    colours = ("tab:orange", "tab:blue", "tab:green", "tab:red")
    dim = min(10, next(iter(samples.values())).shape[1])
    side = 1.2 + 1.5 * dim
    figure = new_figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots(dim, dim, squeeze=False, sharex="col")
    everything = np.concatenate([np.asarray(sample) for sample in samples.values()])
    low, high = np.quantile(everything, (0.002, 0.998), axis=0)
    margin = 0.05 * (high - low) + 1e-9
    for row in range(dim):
        for column in range(dim):
            panel = axes[row, column]
            if column > row:
                panel.axis("off")
                continue
            bins = np.linspace(low[column] - margin[column], high[column] + margin[column], 60)
            for (name, sample), colour in zip(samples.items(), colours, strict=False):
                if row == column:
                    panel.hist(sample[:, row], bins, density=True, histtype="step", color=colour, label=name)
                else:
                    panel.scatter(*sample[:shown, [column, row]].T, s=1, alpha=0.4, color=colour)
            panel.set_xlim(bins[0], bins[-1])
            if truth is not None:
                panel.axvline(truth[column], color="black", lw=0.8)
            if row != column:
                panel.set_ylim(low[row] - margin[row], high[row] + margin[row])
                if truth is not None:
                    panel.axhline(truth[row], color="black", lw=0.8)
            if row == dim - 1:
                panel.set_xlabel(f"$\\theta_{{{column + 1}}}$")
            if column == 0 and row:
                panel.set_ylabel(f"$\\theta_{{{row + 1}}}$")
            if row == column:
                panel.set_yticks([])
    axes[0, 0].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.savefig(path, dpi=110)


def rank_functions(
    path: Path | str,
    functions: Mapping[str, np.ndarray],
    grid: np.ndarray,
    band: tuple[np.ndarray, np.ndarray],
) -> None:
    """Distribution functions {name: [K]} of ranks less the uniform one, with the band (low, high) of a calibrated posterior."""
    figure = new_figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    low, high = band
    axes.fill_between(grid, low - grid, high - grid, color="0.85", label="calibrated, 95 % of all")
    for name, values in functions.items():
        axes.plot(grid, values - grid, lw=1.2, label=name)
    axes.set(
        xlabel="rank of the truth among draws, as a share", ylabel="distribution function, less the uniform"
    )
    axes.legend(fontsize=7, ncols=2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def predictive(path: Path | str, observed: np.ndarray, replicated: np.ndarray) -> None:
    """An observation [C] among data [S, C] simulated from draws of its posterior: their median, and 50 and 95 % of them."""
    figure = new_figure(figsize=(6.4, 3.6), layout="constrained")
    axes, place = figure.subplots(), np.arange(1, len(observed) + 1)
    for level, colour in ((95, "0.85"), (50, "0.7")):
        low, high = np.percentile(replicated, (50 - level / 2, 50 + level / 2), axis=0)
        axes.bar(place, high - low, 0.8, low, color=colour, label=f"{level} % of the simulations")
    axes.plot(place, np.median(replicated, axis=0), "_", color="tab:blue", label="median")
    axes.plot(place, observed, "o", ms=3, color="tab:red", label="observation")
    axes.set(xlabel="number in x", ylabel="value")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
