"""A small corpus and the lists that scripts/make_folds.py makes of it; each fixture is a function."""

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from dataloader import LABELS, read_scp
from scripts.make_folds import main


@pytest.fixture
def write_corpus():
    return _write_corpus


@pytest.fixture
def make_folds():
    return _make_folds


@pytest.fixture
def ids():
    return _ids


@pytest.fixture
def errors_of():
    return _errors_of


def _write_corpus(folder, sessions=3, **columns):
    """A manifest of two speakers a session, four labels each, one wav each; `columns` replace or add columns."""
    rows = []
    for session in range(1, sessions + 1):
        for speaker in ("a", "b"):
            for label in LABELS:
                utt_id = f"{session}{speaker}_{label}"
                rows.append((utt_id, f"my clips/{utt_id}.wav", label, f"{session}{speaker}", f"Session{session}"))
    table = pd.DataFrame(rows, columns=["id", "path", "label", "speaker", "session"]).assign(**columns)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my clips").mkdir(exist_ok=True)
    for path in table["path"].unique():
        sf.write(folder / path, np.full(1600, 0.1), 16000)
    table.to_csv(folder / "manifest.csv", index=False)
    return table


def _make_folds(folder, *flags):
    main(["--manifest", str(folder / "manifest.csv"), "--out", str(folder / "folds"), *flags])


def _ids(folder, name):
    return {utterance.utt_id for utterance in read_scp(folder / "folds" / f"{name}.scp")}


def _errors_of(folder, capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        _make_folds(folder, *flags)
    assert stop.value.code == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
