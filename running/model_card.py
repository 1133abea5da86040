"""The model card: README.md of a checkpoint, by which others judge whether they may and should use it."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dataloader import STREAMS
from running.records import hash_file

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
NOTES = {
    "paper": "The epoch was chosen on the very list that is reported, as in the paper: such figures are optimistic.",
    "strict": "The epoch was chosen on a list of its own, and the reported list was looked at once.",
}
UNKNOWN_LICENSE = (
    "not stated (`--data_license` of train.py does). Weights trained on a licensed corpus may not be passed on "
    "without its owner's word; IEMOCAP's licence, for one, is for research and bound to the person who signed."
)


def write_card(config, preprocessing, result, args):
    """The text of a model card.

    Args:
        config: FoalNetConfig with its `evaluation`. preprocessing: Preprocessing. result: content of result.json.
        args: argparse.Namespace of train.py: the lists and --data_license.
    Returns: str, Markdown with a YAML head that the Hub reads.
    """
    evaluation, title = config.evaluation, f"Foal-Net, {' '.join(config.labels)}"
    lists = [path for path in (args.train_src, args.valid_src, args.test_src) if path]
    with_interval = {
        name: f"{100 * evaluation[name]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        for name, (low, high) in (("ua", evaluation["ua_95"]), ("wa", evaluation["wa_95"]))
    }
    card = ModelCard.from_template(
        _describe_for_hub(title, evaluation, _name_encoders(config, preprocessing)),
        template_path=TEMPLATE,
        title=title,
        streams=" and ".join(STREAMS[letter].source for letter in config.modality),
        labels=" ".join(config.labels),
        modality=config.modality,
        protocol=result["protocol"],
        protocol_note=NOTES[result["protocol"]],
        reported=Path(evaluation["reported_on"]).name,
        utterances=result["utterances"],
        best_epoch=result["best_epoch"],
        epochs=result["epochs"],
        recall={name: _percent(value) for name, value in result["recall"].items()},
        valid_ua=_percent(evaluation["valid_ua"]),
        one_stream=_describe_one_stream(config),
        calibration=_describe_calibration(result["calibration"]),
        repository="FOLDER_OR_HUB_ID",
        preprocessing=preprocessing,
        clip=preprocessing.clip,
        ready_audio="a" in config.modality and config.audio_config is None,
        adapted=config.audio_model,
        lists={path: hash_file(path) for path in lists},
        data_license=args.data_license or UNKNOWN_LICENSE,
        **with_interval,
    )
    return card.content


def _name_encoders(config, preprocessing):
    """Model types of the encoders of sound and picture, as far as they are known."""
    ready = [(record or {}).get("model_type") for record in (preprocessing.audio, preprocessing.clip)]
    trained = config.audio_config.model_type if config.audio_config is not None else None
    return [name for name in (trained, *ready) if name]


def _describe_for_hub(title, evaluation, encoders):
    about = {
        "task_type": "audio-classification",
        "dataset_type": "speech-emotion",
        "dataset_name": f"{Path(evaluation['reported_on']).name} ({evaluation['protocol']} protocol)",
    }
    scores = [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(100 * evaluation[key], 2), **about)
        for kind, name, key in (
            ("recall", "UA (mean recall of the classes, %)", "ua"),
            ("accuracy", "WA (accuracy, %)", "wa"),
        )
    ]
    return ModelCardData(
        model_name=title,
        license="other",
        license_name="see-licence-of-the-data",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["emotion-recognition", "multimodal", *encoders, "foalnet"],
        eval_results=scores,
    )


def _describe_one_stream(config):
    scores = config.evaluation["one_stream"]
    if scores is None:
        return None
    trained = f"trained for it, modality dropout {config.modality_dropout}"
    how = trained if config.modality_dropout else "NOT trained for it"
    return f"sound UA {_percent(scores['audio']['ua'])}, picture UA {_percent(scores['video']['ua'])} ({how})"


def _describe_calibration(calibration):
    if calibration is None:
        return None
    return {
        "temperature": f"{calibration['temperature']:.4g}",
        "fitted_on": Path(calibration["fitted_on"]).name,
        "before": _percent(calibration["error_before"]) + " %",
        "after": _percent(calibration["error_after"]) + " %",
    }


def _percent(value):
    return "–" if value is None else f"{100 * value:.2f}"
