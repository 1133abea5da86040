"""A trained model on a list that it was not trained with: the files of a run's report, without a training."""

import logging
from pathlib import Path

from accelerate import Accelerator

from dataloader import build_evaluation_loader, check_utterances, parse_label_map, read_scp, read_scp_lines
from features.preprocessing import describe_clip
from features.speech import read_audio_record
from running.errors import InputError, join_problems
from running.evaluation import EMBEDDINGS, evaluate, write_evaluation
from running.launch import configure_logging, join_processes
from running.model_folder import find_model, load_model
from running.precision import choose_precision
from running.records import describe_environment, write_json

logger = logging.getLogger("foalnet.evaluate")
PROTOCOL = "evaluation"


def evaluate_checkpoint(args):
    """Evaluate a checkpoint on a list and leave predictions, embeddings, picture and result.json in --save_root.

    Args: args: argparse.Namespace of scripts.evaluate.
    Returns: dict, the content of result.json.
    Raises: InputError for a used folder, unknown classes, or features of another CLIP than the model's.
    """
    root, state = Path(args.save_root), join_processes()
    configure_logging(state)
    if (root / "result.json").exists():
        raise InputError(f"--save_root {root}: holds a result.json already; name another folder")
    model, preprocessing = load_model(find_model(args.checkpoint))
    config = model.config
    utterances = read_known(args.test_src, config.labels, parse_label_map(args.label_map), args.drop_unknown)
    cutting = {"max_length": preprocessing.max_length, "max_frames": preprocessing.max_frames}
    ready = "a" in config.modality and config.audio_config is None
    if ready != (args.audio_root is not None):
        raise InputError(
            f"--audio_root {args.audio_root}: the model takes {'ready features' if ready else 'the sound'}"
        )
    roots = {"audio": args.audio_root, "video": args.video_root}
    utterances, dims = check_utterances(
        utterances,
        config.modality,
        args.video_root,
        **cutting,
        progress=state.is_local_main_process,
        audio_root=args.audio_root,
    )
    found = {"audio": ready and read_audio_record(args.audio_root), "video": describe_clip(utterances)}
    for stream, width in dims.items():
        trained = preprocessing.audio if stream == "audio" else preprocessing.clip
        compare_features(roots[stream], trained, found[stream], width, getattr(config, f"{stream}_dim"))
    precision = choose_precision(args.mixed_precision, state.device.type, config.width)
    accelerator = Accelerator(cpu=state.device.type == "cpu", mixed_precision=precision)
    share = {"rank": state.process_index, "world_size": state.num_processes}
    options = {"modality": config.modality, "normalize_audio": preprocessing.normalize_audio, **cutting, **share}
    options["audio_root"] = args.audio_root
    loader = build_evaluation_loader(utterances, args.batch_size, args.num_workers, **options)
    evaluation = evaluate(accelerator, model.to(accelerator.device), loader, EMBEDDINGS)
    summary = evaluation.summarize(config.labels)
    about = {"protocol": PROTOCOL, "reported": "test", "checkpoint": str(args.checkpoint), "test_src": args.test_src}
    about |= {name: getattr(config, name) for name in ("modality", "labels", "avel_weight", "mem_weight")}
    about |= {name: (config.evaluation or {}).get(name) for name in ("seed", "epochs", "best_epoch")}
    result = {**about, **summary}
    if accelerator.is_main_process:
        title = f"{Path(args.test_src).name}: UA {summary['ua']:.2%}, WA {summary['wa']:.2%} ({PROTOCOL})"
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "args.json", {**vars(args), "freeze_encoder": config.audio_config is None})
        environment = describe_environment([args.test_src], mixed_precision=precision, processes=state.num_processes)
        write_json(root / "environment.json", environment)
        write_evaluation(root, "test", evaluation, config.labels, title)
        write_json(root / "result.json", result)
    logger.info(f"{PROTOCOL} of {args.checkpoint} on {args.test_src}, {summary['utterances']} utterances")
    logger.info(f"UA: {summary['ua']:.4f}, WA: {summary['wa']:.4f}")
    return result


def read_known(test_src, labels, label_map, drop_unknown):
    """The utterances of a list, their classes matched by name with those of the model.

    Args:
        test_src: scp list. labels: of the model. label_map: {name in the list: name of the model}.
        drop_unknown: leave out utterances of other classes, and say how many.
    Returns: list of Utterance. Raises: InputError that names the classes the model does not know.
    """
    if foreign := sorted(set(label_map.values()) - set(labels)):
        raise InputError(f"--label_map: {' '.join(foreign)}: not among the model's classes {' '.join(labels)}")
    lines = read_scp_lines(test_src)
    names = [label_map.get(name, name) for *_, name in lines]
    unknown = sorted({name for name in names if name not in labels})
    if unknown and not drop_unknown:
        raise InputError(
            f"{test_src}: {' '.join(unknown)}: not among the model's classes {' '.join(labels)}; --label_map gives "
            "them its names, --drop_unknown leaves such utterances out"
        )
    if not unknown:
        return read_scp(test_src, labels, label_map)
    dropped = sum(name in unknown for name in names)
    if dropped == len(names):
        raise InputError(f"{test_src}: no utterance is of a class of the model, {' '.join(labels)}")
    logger.warning(f"{test_src}: {dropped} of {len(names)} utterances left out, of the classes {' '.join(unknown)}")
    mapping = {**label_map, **dict.fromkeys(unknown, labels[0])}  # any name does for what is left out below
    kept = {utt_id for (_, utt_id, _, _), name in zip(lines, names, strict=True) if name in labels}
    return [utterance for utterance in read_scp(test_src, labels, mapping) if utterance.utt_id in kept]


def compare_features(root, trained, found, width, needed):
    """Refuse features of another network than the model was trained on; warn where files were taken otherwise.

    Args: trained, found: dict of CLIP_KEYS or AUDIO_KEYS, or None. width, needed: numbers a frame.
    """
    if width != needed:
        raise InputError(f"{root}: {width} numbers a frame, the model takes {needed}")
    if not trained or not found:
        logger.warning(f"{root}: whether these features are made as those of the training is not recorded")
        return
    if found["weights_crc32"] != trained["weights_crc32"]:
        problem = f"{key_text(found)}; the model was trained on features of {key_text(trained)}"
        raise InputError(join_problems([f"{root}: made with {problem}"]))
    ways = "rows crop face_crop frame_rate frame_stride layer max_length normalize_audio".split()
    other = [f"{key} {found.get(key)}, not {trained.get(key)}" for key in ways if found.get(key) != trained.get(key)]
    if other:
        logger.warning(f"{root}: taken otherwise than in training: {', '.join(other)}")


def key_text(record):
    return f"{record['model']} (CRC-32 of its weights {record['weights_crc32']})"
