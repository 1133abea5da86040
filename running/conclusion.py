"""What ends a training: the best model evaluated, calibrated, described, and left as a folder of its own."""

import logging

from dataloader import STREAMS
from model import FoalNet
from running.calibration import calibration_error, fit_temperature
from running.evaluation import EMBEDDINGS, evaluate, write_evaluation
from running.model_card import write_card
from running.model_folder import write_model
from running.significance import count_hits, percentile_interval, resample_scores

logger = logging.getLogger("foalnet.train")

RESULT_FLAGS = "epochs choose_by seed modality labels avel_weight mem_weight train_src valid_src test_src".split()
RESAMPLES = 2000  # of the bootstrap behind the card's intervals


def conclude(run, lists):
    """Evaluate best/, leave what it says of every list, and finish the folder.

    Args:
        run: Run of train.py. lists: {split: scp list} of what is evaluated.
    Returns: what result.json holds.
    """
    args, device = run.args, run.accelerator.device
    model, evaluations, summaries = FoalNet.from_pretrained(run.folder.best).to(device), {}, {}
    for split, loader in run.evaluation_loaders.items():
        evaluations[split] = evaluate(run.accelerator, model, loader, EMBEDDINGS)
        best = summaries[split] = evaluations[split].summarize(args.labels)
        title = f"{split}: UA {best['ua']:.2%}, WA {best['wa']:.2%} ({run.protocol} protocol)"
        if run.accelerator.is_main_process:
            write_evaluation(args.save_root, split, evaluations[split], args.labels, title)
    result = {"protocol": run.protocol, "reported": run.reported, "best_epoch": run.progress.best_epoch}
    result |= {name: getattr(args, name) for name in RESULT_FLAGS} | {"modality_dropout": args.modality_dropout}
    result |= {**summaries[run.reported], "valid": summaries["valid"]}
    result["calibration"] = calibrate(model.config, evaluations, lists)
    result["one_stream"] = measure_one_stream(run, model)
    model.config.evaluation = summarize_evaluation(result, evaluations[run.reported], lists)
    card = write_card(model.config, run.preprocessing, result, args)
    run.folder.finish(result, lambda folder: write_model(folder, model, run.preprocessing, card))
    return result


def calibrate(config, evaluations, lists):
    """Set config.calibration_temperature where a list chose the epoch and is not the reported one.

    Args:
        config: FoalNetConfig. evaluations: {split: Evaluation}. lists: {split: scp list}.
    Returns: dict of the temperature, the list it is of, and the reported list's calibration error before and after;
        None in the paper's protocol, where no list is left to fit it on.
    """
    if "test" not in evaluations:
        return None
    valid, test = evaluations["valid"], evaluations["test"]
    config.calibration_temperature = fit_temperature(valid.logits, valid.labels)
    after = test.calibrated(config.calibration_temperature)
    return {
        "temperature": config.calibration_temperature,
        "fitted_on": lists["valid"],
        "error_before": calibration_error(test.probabilities, test.labels),
        "error_after": calibration_error(after, test.labels),
    }


def measure_one_stream(run, model):
    """UA and WA on the list that chose the epoch where only one stream is given: what a file without the other costs.

    Returns: {"audio": {"ua", "wa"}, "video": ...} by the stream that is left, or None for a model of one stream.
    """
    if model.config.modality != "av":
        return None
    scores = {}
    for left in STREAMS.values():
        absent = [key for stream in STREAMS.values() if stream != left for key in stream.keys]
        evaluation = evaluate(run.accelerator, model, run.evaluation_loaders["valid"], (), absent)
        summary = evaluation.summarize(run.args.labels)
        scores[left.name] = {"ua": summary["ua"], "wa": summary["wa"]}
    return scores


def summarize_evaluation(result, evaluation, lists):
    """What config.json tells of the scores: lists, protocol, UA and WA with 95 % intervals over utterances."""
    hits = evaluation.labels == evaluation.predictions
    counts = count_hits(evaluation.labels, hits, range(len(hits)), len(result["labels"]))
    low, high = percentile_interval(resample_scores(counts, RESAMPLES, stratified=True))
    return {
        "protocol": result["protocol"],
        "reported_on": lists[result["reported"]],
        "epoch_chosen_on": lists["valid"],
        **{name: result[name] for name in ("ua", "wa", "macro_f1", "utterances", "calibration", "one_stream")},
        **{name: result[name] for name in ("seed", "epochs", "best_epoch")},
        "valid_ua": result["valid"]["ua"],
        "ua_95": [float(low[0]), float(high[0])],
        "wa_95": [float(low[1]), float(high[1])],
    }
