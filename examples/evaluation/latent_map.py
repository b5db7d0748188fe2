"""Where the latents of some passages lie: the mean of each one's memory tokens beside the mean of its text's states.

    python examples/evaluation/latent_map.py clara-tiny clara-small --dataset nq --png latents.png

The alignment loss of stages 1 and 2 draws the two together. Drawn in two dimensions, as PCA and as t-SNE.
Shapes: ``N`` passages, ``D`` hidden size.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from clara_model import Clara
from trainers.evaluation.pictures import COLOURS, panels, plain, saved
from trainers.evaluation.questions import find_dataset, read_candidates

SAMPLE = 120
"""Passages that are drawn."""
SEED = 20_251
Means = tuple[np.ndarray, np.ndarray]
"""Of the memory tokens and of the text ``[N, D]``."""


def sample(clara: Clara, passages: Sequence[str]) -> Means:
    """The two means of the first distinct passages."""
    model = clara.model
    memory, mean = [], []
    with torch.no_grad():
        for text in [text for text in dict.fromkeys(passages) if text.strip()][:SAMPLE]:
            ids, mask = model.tokens.pad([model.tokens.document_ids(text)])
            latents, states = model.encode("compressor", ids, mask)
            memory.append(latents[0].float().mean(0))
            mean.append(states[0, : -model.config.memory_tokens].float().mean(0))
    return torch.stack(memory).cpu().numpy(), torch.stack(mean).cpu().numpy()


def draw(samples: Mapping[str, Means], path: Path) -> None:
    """PCA and t-SNE of each checkpoint's sample, at least three passages each."""
    figure, axes = panels(2 * len(samples), height=4.2)
    for number, (name, (memory_ND, text_ND)) in enumerate(samples.items()):
        shares, flat = _pca(np.concatenate([memory_ND, text_ND]))
        _scatter(axes[2 * number], flat, f"{name}: PCA, {100 * shares:.0f} % of the variance")
        _scatter(axes[2 * number + 1], _tsne(np.concatenate([memory_ND, text_ND])), f"{name}: t-SNE")
        apart = np.linalg.norm(memory_ND - text_ND, axis=1).mean()
        spread = np.linalg.norm(text_ND - text_ND.mean(0), axis=1).mean()
        axes[2 * number].set_xlabel(f"a passage's two means lie {apart / max(spread, 1e-9):.1f} times the spread apart")
    saved(figure, "Latents: means of memory tokens and of the text's own states", path)


def _pca(points_ND: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the variance that two directions hold, and the points in them."""
    made: Any = PCA(n_components=2, random_state=SEED)
    flat = made.fit_transform(points_ND)
    return float(made.explained_variance_ratio_.sum()), flat


def _tsne(points_ND: np.ndarray) -> np.ndarray:
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


def main() -> None:
    """Draw the checkpoints' samples into one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints: folders, bundled or hub names")
    parser.add_argument("--dataset", required=True, help="whose passages are drawn, as for clara-eval")
    parser.add_argument("--data", help="folder in which names of data sets are looked for")
    parser.add_argument("--png", type=Path, default=Path("latents.png"))
    args = parser.parse_args()
    samples = {}
    for name in args.models:
        with Clara.load(name) as clara:
            found = find_dataset(args.dataset, "normal", args.data)
            questions = read_candidates(found, "normal", clara.model.tokens.windows, SAMPLE)
            samples[Path(name).name] = sample(clara, [text for one in questions for text in one.pool.passages])
    draw(samples, args.png)
    print(args.png)


if __name__ == "__main__":
    main()
