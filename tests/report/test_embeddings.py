"""t-SNE of what a run saved."""

import numpy as np

from report.embeddings import project_embeddings


def test_tsne_is_seeded(ablation):
    path = next((ablation / "both").rglob("embeddings_valid.npz"))
    (first, n), (second, _) = project_embeddings(path, 20, 3), project_embeddings(path, 20, 3)
    assert (n, len(first)) == (20, 4)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[1], other[1])
