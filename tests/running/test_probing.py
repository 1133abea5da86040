"""A probed run against the model called by hand on raw sounds; who partners whom; what is skipped and what refused."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from forked import forget_accelerate
from safetensors.torch import load_file, save_file

import train
from dataloader import read_audio, read_scp
from model import FoalNet
from running import probing
from running.errors import InputError
from running.probing import SWAPS, compare_intact, draw_partners, pick_precision, predict_swaps, probe_run, tabulate
from scripts import probe
from tiny import LABELS, write_corpus, write_wavlm

CPU = torch.device("cpu")
SHARES = [*SWAPS, "video_other_follows", "audio_other_follows"]


def start_afresh():
    """A run of a test is a process of its own as far as accelerate and logging know."""
    forget_accelerate()
    for handler in logging.getLogger("foalnet").handlers:
        handler.close()
    logging.getLogger("foalnet").handlers.clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def train_run(corpus, root, **flags):
    flags = {"train_src": corpus / "train.scp", "video_root": corpus / "features", "save_root": root, **flags}
    flags |= {"audio_model": write_wavlm(corpus.parent / f"wavlm_{root.name}"), "batch_size": 8, "num_workers": 0}
    start_afresh()
    train.main([f"--{name}={value}" for name, value in flags.items()])
    start_afresh()
    return root


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """Of the paper protocol, on valid.scp."""
    root = tmp_path_factory.mktemp("runs") / "paper"
    return train_run(corpus, root, test_src=corpus / "valid.scp", epochs=2, lr=3e-3)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs" / "paper")


@pytest.fixture(scope="module")
def frozen(corpus, tmp_path_factory):
    """Of the strict protocol on states from the disk, in bf16, on test.scp."""
    root = tmp_path_factory.mktemp("runs") / "frozen"
    lists = {"valid_src": corpus / "valid.scp", "test_src": corpus / "test.scp"}
    flags = {"freeze_encoder": True, "audio_root": root.parent / "states", "mixed_precision": "bf16"}
    return train_run(corpus, root, **lists, **flags, epochs=1)


def call_by_hand(root, utterances, corpus):
    """predict(i, j): the class for the sound of i with the video of j, from the wav, one pair at a time."""
    model = FoalNet.from_pretrained(root / "best").eval()

    @torch.no_grad()
    def predict(i, j):
        samples = torch.from_numpy(read_audio(utterances[i].path, 6.0))[None]
        features = torch.from_numpy(np.load(corpus / "features" / f"{utterances[j].utt_id}.npy").astype(np.float32))
        return int(model(samples, video_features=features[None]).logits.argmax())

    return predict


@pytest.mark.parametrize("batch_size", [1, 16])
def test_every_share_is_that_of_the_model_called_by_hand(corpus, run, batch_size):
    assert probe_run(run, CPU, draws=3, seed=7, batch_size=batch_size)
    table = pd.read_csv(run / "probe.csv", keep_default_na=False)
    utterances = read_scp(corpus / "valid.scp")
    predict, labels = call_by_hand(run, utterances, corpus), [u.label for u in utterances]
    partners = draw_partners(labels, 3, 7)
    assert list(table) == ["utt_id", "label", "intact", *table.columns[3:]]
    assert set(table.columns[3:]) == set(SHARES)
    assert table["utt_id"].tolist() == [u.utt_id for u in utterances]
    empty = 0
    for i, row in table.iterrows():
        assert (row["label"], row["intact"]) == (LABELS[labels[i]], LABELS[predict(i, i)])
        for swap in SWAPS:
            others = partners[swap][i]
            answers = [predict(i, j) if swap.startswith("video") else predict(j, i) for j in others]
            expected = {swap: [answer == labels[i] for answer in answers]}
            if swap.endswith("other"):
                expected[f"{swap}_follows"] = [a == labels[j] for a, j in zip(answers, others, strict=True)]
            for column, hits in expected.items():
                if hits:
                    assert float(row[column]) == pytest.approx(np.mean(hits), abs=1e-5)
                else:
                    assert row[column] == ""
                    empty += 1
    assert empty == 2  # the only one of its emotion, in both streams
    assert 0 < pd.to_numeric(table["audio_other_follows"]).mean() < 1


def test_partners_are_others_of_the_asked_emotion_and_follow_from_seed_and_place():
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1])
    partners = draw_partners(labels, 2, 3)
    assert tuple(partners) == SWAPS
    for swap, rows in partners.items():
        for i, row in enumerate(rows):
            same = {j for j in range(8) if labels[j] == labels[i] and j != i}
            wanted = same if swap.endswith("same") else set(range(8)) - same - {i}
            assert set(row) <= wanted
            assert len(set(row)) == len(row) == min(2, len(wanted))
    assert partners["video_same"][5].size == 0
    again, other = draw_partners(labels, 2, 3), draw_partners(labels, 2, 4)
    for swap in SWAPS:
        assert all(np.array_equal(a, b) for a, b in zip(partners[swap], again[swap], strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(partners["video_other"], other["video_other"], strict=True))
    drawn = draw_partners(np.arange(40) % 2, 2, 3)["video_other"][::2]  # all out of the same twenty
    assert len({tuple(row) for row in drawn}) > 15
    every = draw_partners(labels, 99, 0)["audio_other"]
    assert [len(row) for row in every] == [4, 4, 4, 5, 5, 7, 4, 5]


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_a_model_of_one_stream_loses_nothing_by_the_other(corpus, stream):
    """Swapped sounds are all that a model minds which only listens, and it follows them, always."""
    utterances = read_scp(corpus / "valid.scp")
    labels = np.array([u.label for u in utterances])
    partners = draw_partners(labels, 4, 0)
    swapped = predict_swaps(lambda audio, video: labels[audio if stream == "audio" else video], partners)
    table = tabulate(utterances, labels, partners, swapped, LABELS)[SHARES].mean()
    other = {"audio": "video", "video": "audio"}[stream]
    expected = {f"{stream}_same": 1, f"{stream}_other": 0, f"{stream}_other_follows": 1}
    expected |= {f"{other}_same": 1, f"{other}_other": 1, f"{other}_other_follows": 0}
    assert table.to_dict() == expected


def test_a_strict_run_is_probed_on_the_reported_list_in_its_precision(corpus, frozen, tmp_path):
    run = shutil.copytree(frozen, tmp_path / "frozen")
    assert probe_run(run, CPU)
    text = (run / "probe.csv").read_text()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [u.utt_id for u in read_scp(corpus / "test.scp")]
    (run / "probe.json").unlink()
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps({**args, "audio_root": str(tmp_path / "absent")}))
    with pytest.raises(InputError, match="absent: no such folder"):
        probe_run(run, CPU)
    (run / "args.json").write_text(json.dumps(args))
    assert probe_run(run, CPU)
    assert (run / "probe.csv").read_text() == text
    about = json.loads((run / "probe.json").read_text())
    assert (about["mixed_precision"], about["precision"], about["differing"]) == ("auto", "bf16", 0)
    states = np.load(frozen.parent / "states" / "test_000.npy")
    np.save(frozen.parent / "states" / "test_000.npy", states * np.nan)
    with pytest.raises(InputError, match="NaN"):
        probe_run(run, CPU, seed=1)
    np.save(frozen.parent / "states" / "test_000.npy", states)


def test_what_is_probed_is_skipped(run):
    assert probe_run(run, CPU, draws=1)
    assert not probe_run(run, CPU, draws=1)
    before = (run / "probe.csv").read_text()
    assert probe_run(run, CPU, draws=2)
    assert (run / "probe.csv").read_text() != before
    (run / "probe.json").unlink()  # as an interruption between the two leaves it
    assert probe_run(run, CPU, draws=2)
    path = run / "predictions_valid.csv"
    path.write_text(path.read_text().replace(",0.", ",00."))  # another training, for all that is known
    assert probe_run(run, CPU, draws=2)
    assert not probe_run(run, CPU, draws=2)


def test_an_interruption_between_the_two_files_leaves_no_table_of_other_settings(run, monkeypatch):
    assert probe_run(run, CPU, draws=1)
    before = (run / "probe.csv").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(probing, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            probe_run(run, CPU, draws=3)
    assert (run / "probe.csv").read_text() != before
    assert probe_run(run, CPU, draws=1)
    assert (run / "probe.csv").read_text() == before


def test_another_model_is_refused(run):
    path = run / "best" / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "cls_head.bias": weights["cls_head.bias"] + torch.tensor([0.0, 9, 0, 0])}, path)
    with pytest.raises(InputError, match=r"predictions_valid.csv: best/ predicts \d+ of 11 utterances otherwise, such"):
        probe_run(run, CPU)
    assert not (run / "probe.csv").exists()


def test_rounding_is_let_pass_and_said(caplog):
    predictions = pd.DataFrame({"utt_id": [f"u{i}" for i in range(300)], "prediction": "neu"})
    intact = np.full(300, "neu", object)
    assert compare_intact("p.csv", predictions, list(intact)) == 0
    assert not caplog.records
    intact[:3] = "ang"
    assert compare_intact("p.csv", predictions, list(intact)) == 3
    assert "3 of 300 utterances otherwise, such as u0; put down to rounding" in caplog.text
    intact[3] = "ang"
    with pytest.raises(InputError, match="more than rounding"):
        compare_intact("p.csv", predictions, list(intact))


def test_the_precision_is_that_of_the_training(tmp_path):
    path = tmp_path / "environment.json"
    cuda = torch.device("cuda")
    for trained, device, requested, expected in (
        ("bf16", CPU, "auto", "bf16"),
        ("no", cuda, "auto", "no"),
        ("fp16", cuda, "auto", "fp16"),
        ("fp16", CPU, "auto", "no"),
        ("bf16", CPU, "no", "no"),
    ):
        path.write_text(json.dumps({"mixed_precision": trained}))
        assert pick_precision(tmp_path, requested, device, 32) == expected
    with pytest.raises(InputError, match="needs a GPU"):
        pick_precision(tmp_path, "fp16", CPU, 32)


def change_args(run, **values):
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps({**args, **values}))


def move_list(run, corpus):
    change_args(run, test_src=str(corpus / "gone.scp"))


def change_label(run, corpus):
    text = (corpus / "valid.scp").read_text().replace(" hap\n", " ang\n", 1)
    (run / "changed.scp").write_text(text)
    change_args(run, test_src=str(run / "changed.scp"))


def drop_line(run, corpus):
    (run / "less.scp").write_text("".join((corpus / "valid.scp").read_text().splitlines(True)[1:]))
    change_args(run, test_src=str(run / "less.scp"))


def rename_labels(run, _):
    for name in ("result.json", "predictions_valid.csv"):
        (run / name).write_text((run / name).read_text().replace("neu", "new"))


def forget_flag(run, _):
    args = json.loads((run / "args.json").read_text())
    del args["video_root"]
    (run / "args.json").write_text(json.dumps(args))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (move_list, "gone.scp: no such file; .*paper names its reported list so"),
        (change_label, "changed.scp: valid_000 is ang there and hap in .*the list has changed"),
        (drop_line, "less.scp: valid_000 is missing there and hap in"),
        (rename_labels, "best/ has the labels hap neu sad ang, result.json hap new sad ang"),
        (forget_flag, "args.json: has no video_root"),
        (lambda run, _: shutil.rmtree(run / "best"), "best: no such folder"),
        (
            lambda run, _: (run / "best" / "model.safetensors").write_bytes(b"x" * 99),
            "best: no checkpoint of this model",
        ),
        (lambda run, _: (run / "args.json").unlink(), "args.json: No such file"),
        (lambda run, _: change_args(run, video_root="gone"), "gone: no such folder"),
    ],
)
def test_what_is_missing_or_changed_is_one_line(run, corpus, damage, message, capsys):
    damage(run, corpus)
    with pytest.raises(InputError, match=message) as caught:
        probe_run(run, CPU)
    assert len(str(caught.value).splitlines()) == 1
    assert not (run / "probe.csv").exists()


def test_the_command_probes_prints_and_ends_with_code_2(run, frozen, tmp_path, capsys):
    shutil.copytree(frozen, tmp_path / "runs" / "frozen")
    probe.main([str(tmp_path / "runs"), "--draws", "2"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "emotion" in line]
    assert len(rows) == 8  # two runs of other protocols, so a table each
    assert sum(line.startswith("| swapped, ") for line in lines) == 2
    assert {line.split("|")[1].strip() for line in lines if "protocol" in line} == {
        "swapped, paper protocol",
        "swapped, strict protocol",
    }
    for row in rows:
        assert float(row[3]) == pytest.approx(float(row[1]) - float(row[2]), abs=0.011)
    before = (run / "probe.csv").stat().st_mtime_ns
    probe.main([str(run), "--draws", "2"])
    assert (run / "probe.csv").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("emotion") == 4
    (run / "result.json").write_text((run / "result.json").read_text().replace('"av"', '"a"'))
    for arguments, word in (([str(run)], "no finished run of audio and video"), ([str(run), "--draws=0"], "--draws 0")):
        with pytest.raises(SystemExit) as end:
            probe.main(arguments)
        assert end.value.code == 2
        assert word in capsys.readouterr().err
