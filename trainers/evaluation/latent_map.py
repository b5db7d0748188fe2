"""Where the latents of some passages lie: the mean of each one's memory tokens beside the mean of its text's states.

The alignment loss of stages 1 and 2 draws the two together. Drawn in two dimensions, as PCA and as t-SNE (scikit-learn,
extra ``eval``). Shapes: ``N`` passages, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.evaluation.pictures import COLOURS, panels, plain, saved

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

SAMPLE = 120
"""Passages of an evaluation that are drawn."""
FILE = "latents.npz"
SEED = 20_251


def sample(clara: Clara, passages: Sequence[str], path: Path) -> None:
    """Write the two means of the first distinct passages, ``memory`` and ``text``: ``[N, D]`` float16."""
    model = clara.model
    texts = [text for text in dict.fromkeys(passages) if text.strip()][:SAMPLE]
    memory, mean = [], []
    with torch.no_grad():
        for text in texts:
            ids, mask = model.tokens.pad([model.tokens.document_ids(text)])
            latents, states = model.encode("compressor", ids, mask)
            memory.append(latents[0].float().mean(0))
            mean.append(states[0, : -model.config.memory_tokens].float().mean(0))
    memory_ND, text_ND = (torch.stack(rows).cpu().numpy().astype(np.float16) for rows in (memory, mean))
    np.savez_compressed(path, memory=memory_ND, text=text_ND)


def draw(found: Mapping[str, Path], path: Path) -> bool:
    """PCA and t-SNE of each checkpoint's sample.

    Args:
        found: the files of `sample`, by the checkpoint's name.
        path: the PNG.

    Returns:
        whether there was anything to draw.
    """
    samples = {name: _loaded(file) for name, file in found.items()}
    samples = {name: pair for name, pair in samples.items() if len(pair[0]) >= 3}
    if not samples:
        return False
    figure, axes = panels(2 * len(samples), height=4.2)
    for number, (name, (memory_ND, text_ND)) in enumerate(samples.items()):
        shares, flat = _pca(np.concatenate([memory_ND, text_ND]))
        note = f"PCA, {100 * shares:.0f} % of the variance"
        _scatter(axes[2 * number], flat, f"{name}: {note}")
        _scatter(axes[2 * number + 1], _tsne(np.concatenate([memory_ND, text_ND])), f"{name}: t-SNE")
        apart = np.linalg.norm(memory_ND - text_ND, axis=1).mean()
        spread = np.linalg.norm(text_ND - text_ND.mean(0), axis=1).mean()
        axes[2 * number].set_xlabel(f"a passage's two means lie {apart / max(spread, 1e-9):.1f} times the spread apart")
    return saved(figure, "Latents: means of memory tokens and of the text's own states", path)


def _loaded(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(file) as arrays:
        return arrays["memory"].astype(np.float32), arrays["text"].astype(np.float32)


def _pca(points_ND: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the variance that two directions hold, and the points in them."""
    from sklearn.decomposition import PCA

    made: Any = PCA(n_components=2, random_state=SEED)
    flat = made.fit_transform(points_ND)
    return float(made.explained_variance_ratio_.sum()), flat


def _tsne(points_ND: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points_ND) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(points_ND))


def _scatter(axes: Any, flat: np.ndarray, title: str) -> None:
    half = len(flat) // 2
    for one, two in zip(flat[:half], flat[half:], strict=True):
        axes.plot([one[0], two[0]], [one[1], two[1]], color="#d5d5d5", linewidth=0.6, zorder=1)
    axes.scatter(*flat[half:].T, s=16, color=COLOURS["text"], label="mean of the text", zorder=2, linewidths=0)
    axes.scatter(
        *flat[:half].T, s=16, color=COLOURS["clara"], label="mean of the memory tokens", zorder=3, linewidths=0
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8.5)
    plain(axes, "both")
