"""The end of a training: calibration, one stream alone, the card; going on for longer; another list for the model."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from sklearn.metrics import recall_score
from test_train import fresh_state, list_arguments, reset_state

import train
from dataloader import read_scp
from running.records import hash_file
from scripts import evaluate
from tiny import LABELS, write_corpus, write_wavlm

__all__ = ["fresh_state"]
LICENSE = "made up, free for all"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=20, valid=11, test=9)


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    return write_wavlm(tmp_path_factory.mktemp("wavlm"))


@pytest.fixture(scope="module")
def arguments(corpus, wavlm, tmp_path_factory):
    """A strict run that learns to do without a stream; its rate does not know of an end."""
    lists = {"valid_src": corpus / "valid.scp", "test_src": corpus / "test.scp", "scheduler": "none"}
    flags = {"modality_dropout": 0.5, "data_license": LICENSE, **lists}
    return list_arguments(corpus, wavlm, tmp_path_factory.mktemp("runs") / "strict", **flags)


@pytest.fixture(scope="module")
def root(arguments):
    train.main(arguments)
    reset_state()
    (root,) = [word.partition("=")[2] for word in arguments if word.startswith("--save_root=")]
    return Path(root)


@pytest.fixture(scope="module")
def result(root):
    return json.loads((root / "result.json").read_text())


def test_the_temperature_is_that_of_the_list_that_chose_the_epoch(root, result):
    """By brute force over a grid on the written probabilities, which give logits up to a constant."""
    valid = pd.read_csv(root / "predictions_valid.csv")
    logits = np.log(valid[[f"prob_{name}" for name in LABELS]].to_numpy())
    truth = valid["label"].map(LABELS.index).to_numpy()

    def loss(temperature):
        scaled = logits / temperature
        return np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(truth)), truth])

    found = result["calibration"]
    assert found["fitted_on"].endswith("valid.scp")
    assert loss(found["temperature"]) <= min(loss(t) for t in np.geomspace(0.05, 20, 400)) + 1e-6
    config = json.loads((root / "best" / "config.json").read_text())
    assert config["calibration_temperature"] == found["temperature"]


def test_scores_of_one_stream_are_recorded(root, result):
    config = json.loads((root / "best" / "config.json").read_text())
    assert set(result["one_stream"]) == {"audio", "video"}
    assert config["evaluation"]["one_stream"] == result["one_stream"]
    assert config["modality_dropout"] == 0.5


def test_the_card_says_what_a_reader_has_to_know(root, result, corpus):
    card = ModelCard.load(root / "best" / "README.md")
    scores = {score.metric_type: score.metric_value for score in card.data.eval_results}
    assert scores == {"recall": round(100 * result["ua"], 2), "accuracy": round(100 * result["wa"], 2)}
    text = card.text
    low, high = json.loads((root / "best" / "config.json").read_text())["evaluation"]["ua_95"]
    assert low <= result["ua"] <= high
    for needed in (
        "Not for judging people",
        "strict protocol",
        " ".join(LABELS),
        LICENSE,
        f"{100 * result['ua']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
        *(hash_file(corpus / f"{split}.scp") for split in ("train", "valid", "test")),
        "trained for it, modality dropout 0.5",
        "valid.scp",
    ):
        assert needed in text, needed
    manifest = json.loads((root / "best" / "manifest.json").read_text())
    assert "README.md" in manifest["files"]


def test_the_same_list_evaluated_again_is_the_same(root, result, corpus, tmp_path):
    words = [str(root), "--test_src", str(corpus / "test.scp"), "--video_root", str(corpus / "features")]
    again = evaluate.main([*words, "--save_root", str(tmp_path / "again"), "--num_workers", "0"])
    assert again["confusion"] == result["confusion"]
    tables = [pd.read_csv(folder / "predictions_test.csv") for folder in (root, tmp_path / "again")]
    probabilities = [table[[f"prob_{name}" for name in LABELS]].to_numpy() for table in tables]
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert tables[0]["utt_id"].tolist() == tables[1]["utt_id"].tolist()
    with pytest.raises(SystemExit):
        evaluate.main([*words, "--save_root", str(tmp_path / "again")])


def test_classes_of_another_corpus_are_matched_by_name(root, corpus, tmp_path, capsys, caplog):
    """In another order and under other names; what the model does not know is refused, or left out and counted."""
    names = {"hap": "joy", "neu": "neutral", "sad": "sad", "ang": "rage"}
    utterances = read_scp(corpus / "valid.scp", LABELS)
    lines = [f"{u.utt_id} {u.path} {names[LABELS[u.label]]}\n" for u in reversed(utterances)]
    (tmp_path / "other.scp").write_text("".join(lines))
    words = [str(root), "--test_src", str(tmp_path / "other.scp"), "--video_root", str(corpus / "features")]
    words += ["--num_workers", "0", "--save_root"]
    with pytest.raises(SystemExit):
        evaluate.main([*words, str(tmp_path / "a"), "--label_map", "joy=hap,neutral=neu"])
    assert "rage: not among the model's classes hap neu sad ang" in capsys.readouterr().err
    mapped = evaluate.main([*words, str(tmp_path / "b"), "--label_map", "joy=hap,neutral=neu,rage=ang"])
    table = pd.read_csv(tmp_path / "b" / "predictions_test.csv")
    expected = recall_score(table["label"], table["prediction"], average="macro", labels=sorted(set(table["label"])))
    assert mapped["ua"] == pytest.approx(expected)
    assert set(table["label"]) == set(LABELS)
    logging.getLogger("foalnet").propagate = True
    kept = evaluate.main([*words, str(tmp_path / "c"), "--label_map", "joy=hap,neutral=neu", "--drop_unknown"])
    left_out = sum(LABELS[u.label] == "ang" for u in utterances)
    assert kept["utterances"] == len(utterances) - left_out
    assert kept["recall"]["ang"] is None


def test_a_run_whose_rate_knows_no_end_may_go_on_for_longer(arguments, root, tmp_path):
    """And is then the run that was that long from the beginning."""
    before = json.loads((root / "result.json").read_text())
    longer = train.main([*arguments, "--epochs=2", "--resume"])
    reset_state()
    assert longer["epochs"] == 2
    assert json.loads((root / "args.json").read_text())["epochs"] == 2
    whole = train.main([*arguments, "--epochs=2", f"--save_root={tmp_path / 'whole'}"])
    assert {**longer, "epochs": 2} == whole
    assert before["epochs"] == 1


def test_a_schedule_ends_with_the_epochs(corpus, wavlm, tmp_path, capsys):
    arguments = list_arguments(corpus, wavlm, tmp_path / "run")
    train.main(arguments)
    reset_state()
    with pytest.raises(SystemExit):
        train.main([*arguments, "--epochs=2", "--resume"])
    assert "--scheduler none may go on" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").exists()
