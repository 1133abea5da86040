"""Finished run folders as train.py writes them, without training; for the tests of the report."""

import csv
import json

import numpy as np
import pandas as pd
from scipy.special import softmax

from report.problems import find_problems
from report.runs import find_runs
from report.systems import group_runs
from running.metrics import count_confusion, summarize_confusion
from running.records import hash_file

LABELS = ["hap", "neu", "sad", "ang"]
SYSTEMS = {  # name in the report: folder, modality, avel_weight, mem_weight, how often it is right
    "audio only": ("audio", "a", 1.0, 0.1, 0.70),
    "video only": ("video", "v", 1.0, 0.1, 0.45),
    "fusion baseline": ("baseline", "av", 0.0, 0.0, 0.72),
    "+ AVEL": ("avel", "av", 1.0, 0.0, 0.75),
    "+ MEM": ("mem", "av", 0.0, 0.1, 0.73),
    "+ AVEL + MEM": ("both", "av", 1.0, 0.1, 0.80),
}


def draw_labels(utt_ids, n_classes=4):
    """The label of an utterance is a function of its id alone, as in a corpus."""
    return np.array([sum(map(ord, utt_id)) * 7 % n_classes for utt_id in utt_ids])


def draw_predictions(labels, accuracy, n_classes, rng):
    """Right with this probability, else any other class."""
    wrong = (labels + rng.integers(1, n_classes, len(labels))) % n_classes
    return np.where(rng.random(len(labels)) < accuracy, labels, wrong)


def draw_probabilities(labels, predictions, n_classes, seed=0):
    """(n, C) whose largest is that of the prediction, as a rule by more where it is right, and by too much."""
    rng, n = np.random.default_rng(seed), np.arange(len(labels))
    logits = rng.normal(size=(len(labels), n_classes))
    largest = logits.argmax(1)
    logits[n, largest], logits[n, predictions] = logits[n, predictions], logits[n, largest]
    logits[n, predictions] += rng.gamma(np.where(labels == predictions, 4, 1.5))
    return softmax(logits, axis=1)


def write_run(
    folder,
    utt_ids,
    labels,
    predictions,
    system="+ AVEL + MEM",
    names=LABELS,
    seed=1234,
    flags=(),
    probabilities=None,
    **more,
):
    """Write a run folder.

    Args:
        labels, predictions: (n,) int. flags: dict, more of args.json. probabilities: (n, C), drawn unless given.
        more: of result.json. A run that reports `test` gets a predictions_valid.csv of as many utterances, too.
    """
    _, modality, avel_weight, mem_weight, _ = SYSTEMS[system]
    summary = summarize_confusion(count_confusion(labels, predictions, len(names)), names)
    result = {"protocol": "paper", "reported": "valid", "modality": modality, "labels": list(names), "seed": seed}
    result.update(avel_weight=avel_weight, mem_weight=mem_weight, epochs=3, best_epoch=2)
    result.update(train_src=f"{folder.name}_train.scp", valid_src=f"{folder.name}_valid.scp", test_src=None)
    result.update(**summary, valid=summary)
    result.update(more)
    folder.mkdir(parents=True)
    split = result["reported"]
    if probabilities is None:
        probabilities = draw_probabilities(labels, predictions, len(names), seed)
    write_predictions(folder / f"predictions_{split}.csv", utt_ids, labels, predictions, probabilities, names)
    if split != "valid":
        others = [f"valid {utt_id}" for utt_id in utt_ids]
        drawn = draw_probabilities(labels, predictions, len(names), seed + 1)
        write_predictions(folder / "predictions_valid.csv", others, labels, predictions, drawn, names)
    history = [_make_line(epoch, names, modality, result) for epoch in range(1, result["epochs"] + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    args = {name: result[name] for name in "modality avel_weight mem_weight labels seed epochs".split()}
    (folder / "args.json").write_text(json.dumps({"lr": 1e-4, **args, **dict(flags)}))
    environment = {"command": f"train.py --save_root '{folder}'", "git_commit": "0123456789abcdef", "python": "3.11.7"}
    environment.update(versions={"torch": "2.11.0"}, hardware={"cores": 2, "processor": "any", "gpus": []})
    environment["sha256"] = {result["train_src"]: "ab" * 32}
    (folder / "environment.json").write_text(json.dumps(environment))
    _write_embeddings(folder / f"embeddings_{split}.npz", utt_ids, labels, modality)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_predictions(path, utt_ids, labels, predictions, probabilities, names):
    """As of `running.records`, but names stand there as they are."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["utt_id", "label", "prediction", *(f"prob_{name}" for name in names)])
        for utt_id, label, prediction, row in zip(utt_ids, labels, predictions, probabilities, strict=True):
            writer.writerow([utt_id, names[label], names[prediction], *(f"{p:.9g}" for p in row)])


def _make_line(epoch, names, modality, result):
    line = {"epoch": epoch, "train_loss": 2 / epoch, "train_loss_cls": 1 / epoch, "learning_rate": 1e-4 / epoch}
    if modality == "av":
        line.update(similarity_same=0.1 * epoch, similarity_other=0.0, temperature=2.6)
    decline = 1 - 0.1 * abs(epoch - result["best_epoch"])
    line.update(valid_loss=1 / epoch, valid_ua=result["ua"] * decline, valid_wa=result["wa"])
    return {**line, "valid_macro_f1": result["macro_f1"], "valid_recall": dict.fromkeys(names, 0.5)}


def _write_embeddings(path, utt_ids, labels, modality):
    rng = np.random.default_rng(len(utt_ids))
    names = {"a": ["audio_pooled"], "v": ["video_pooled"]}.get(
        modality, ["audio_pooled", "video_pooled", "audio_embeds", "video_embeds"]
    )
    states = {
        name: (rng.normal(size=(len(labels), 8)) + labels[:, None]).astype(np.float16) for name in [*names, "fused"]
    }
    np.savez(path, utt_ids=np.array(utt_ids), labels=labels, **states)


def write_ablation(root, systems=tuple(SYSTEMS), folds=5, size=30, seeds=(1234,), names=LABELS, **more):
    """Write the runs of an ablation, `<root>/<system>/seedS/sessionK`; every fold has its own utterances."""
    for number, system in enumerate(systems):
        folder, *_, accuracy = SYSTEMS[system]
        for seed in seeds:
            for fold in range(1, folds + 1):
                utt_ids = [f"Ses0{fold}F_impro01_{'FM'[i % 2]}{i:03d}" for i in range(size)]
                labels = draw_labels(utt_ids, len(names))
                rng = np.random.default_rng([seed, fold, number])
                predictions = draw_predictions(labels, accuracy, len(names), rng)
                target = root / folder / f"seed{seed}" / f"session{fold}"
                write_run(target, utt_ids, labels, predictions, system, names, seed, **more)
    return root


def write_probe(folder, relies, draws=5, seed=0):
    """probe.csv and probe.json of a run folder, as scripts.probe would leave them.

    Args:
        relies: {"video": share, "audio": share} of the right answers that a stream of another emotion turns into its.
    """
    path = folder / "predictions_test.csv"
    path = path if path.is_file() else folder / "predictions_valid.csv"
    table, rng = pd.read_csv(path, dtype=str).rename(columns={"prediction": "intact"}), np.random.default_rng(seed)
    right = (table["label"] == table["intact"]).to_numpy(float)
    table = table[["utt_id", "label", "intact"]]
    for stream, share in relies.items():
        table[f"{stream}_same"] = right * rng.binomial(draws, 0.98, len(right)) / draws
        follows = right * rng.binomial(draws, share, len(right)) / draws
        table[f"{stream}_other"], table[f"{stream}_other_follows"] = right - follows, follows
    table.to_csv(folder / "probe.csv", index=False)
    about = {"draws": draws, "seed": seed, "mixed_precision": "auto", "predictions_sha256": hash_file(path)}
    (folder / "probe.json").write_text(json.dumps(about))


def read_predictions(root, folder, seed="*"):
    """The predictions of a row of `write_ablation`, a pandas.DataFrame a fold."""
    files = sorted((root / folder).glob(f"seed{seed}/*/predictions_*.csv"))
    return [pd.read_csv(path) for path in files]


def load(root):
    """The experiments below a folder, and the problems that the report would name."""
    runs, unfinished = find_runs(root)
    experiments = group_runs(runs, root)
    return experiments, find_problems(experiments, unfinished)
