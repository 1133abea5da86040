"""The section of the embeddings: t-SNE of both streams before and after AVEL, and of what the classifier sees."""

import logging

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from report.page import Gallery, Heading, Text
from report.pictures import draw, plot_embeddings

logger = logging.getLogger("foalnet")

EXACT_TSNE = 300  # points up to which the exact gradient is the faster one
EMBEDDINGS = {
    "audio, before": ("audio_pooled",),
    "video, before": ("video_pooled",),
    "audio (dot) and video (cross), projected": ("audio_embeds", "video_embeds"),
    "fused": ("fused",),
}


def show_embeddings(experiment, points, seed, prefix):
    """The blocks of the embeddings: the first fold that all systems have, since each fold has a space of its own."""
    shared = set.intersection(*[{(run.seed, run.fold) for run in system.runs} for system in experiment.systems])
    pictures = []
    for i, system in enumerate(experiment.systems):
        if system.runs[0].result["modality"] != "av":
            continue
        runs = [run for run in system.runs if (run.seed, run.fold) in shared] or system.runs
        path = runs[0].folder / f"embeddings_{runs[0].result['reported']}.npz"
        if not path.is_file():
            logger.warning("%s: no such file; no t-SNE of %s", path, system.name)
            continue
        panels, n = project_embeddings(path, points, seed)
        if not panels:
            continue
        trained = "trained by AVEL" if system.runs[0].result["avel_weight"] > 0 else "NOT trained, AVEL is off"
        text = f"{system.name}: fold {runs[0].fold}, seed {runs[0].seed}, {n} utterances; the projection is {trained}."
        pictures.append(draw(f"{prefix}tsne_{i}.png", text, plot_embeddings, panels, experiment.labels, width=560))
    if not pictures:
        return []
    text = (
        "t-SNE, one fold, since every fold has a space of its own. Before: masked means of the WavLM states and of the "
        "CLIP features. Projected: both streams in the space of AVEL, in one picture. Fused: what the classifier sees. "
        "Distances between clusters mean nothing. Silhouette (cosine, by class, −1 to +1) is of the full space; every "
        "panel and every system has a space of its own, so silhouettes can't be compared with each other."
    )
    return [Heading("Embeddings before and after AVEL", 3), Text(text, note=True), Gallery(pictures)]


def project_embeddings(path, points, seed):
    """t-SNE of what embeddings_<split>.npz holds.

    Args:
        path: the file. points: utterances at most. seed: of choice and t-SNE.
    Returns: list of panels as in `plot_embeddings`, and the number of utterances used.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    n = len(arrays["labels"])
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:points])
    labels, panels = arrays["labels"][chosen], []
    for title, names in EMBEDDINGS.items():
        if not all(name in arrays for name in names):
            continue
        states = np.concatenate([arrays[name][chosen].astype(np.float32) for name in names])
        classes, streams = np.tile(labels, len(names)), np.repeat(range(len(names)), len(chosen))
        perplexity = min(30.0, (len(states) - 1) / 3)
        if perplexity < 1 or not np.isfinite(states).all():
            continue
        method = "exact" if len(states) <= EXACT_TSNE else "barnes_hut"
        flat = TSNE(perplexity=perplexity, init="pca", method=method, random_state=seed).fit_transform(states)
        if 1 < len(np.unique(classes)) < len(classes):
            title += f"\nsilhouette {silhouette_score(states, classes, metric='cosine'):+.2f}"
        panels.append((title, flat, classes, streams))
    return panels, len(chosen)
