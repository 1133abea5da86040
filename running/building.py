"""The model and the device of a training, out of the flags of train.py."""

import logging

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

from dataloader import check_utterances
from encoders import check_length, read_config, wants_normalized
from features.speech import SpeechEncoder, extract_audio, read_audio_record
from model import FoalNet, FoalNetConfig
from running.errors import InputError
from running.lists import local_main_first
from running.precision import choose_precision
from running.records import checksum_weights

logger = logging.getLogger("foalnet.train")


def parse_layer(text):
    """`--audio_layer`: a number or a word."""
    return int(text) if text.isdecimal() else text


def check_encoder_flags(args):
    """Raise InputError for flags of the speech encoder that contradict each other or would do nothing."""
    computed = args.freeze_encoder or args.train_layers is not None
    used = {
        "--freeze_encoder": args.freeze_encoder,
        "--train_layers": args.train_layers is not None,
        "--lora_rank": args.lora_rank > 0,
        "--audio_layer": args.audio_layer != "last",
        "--audio_root": args.audio_root is not None,
    }
    given = [name for name, is_given in used.items() if is_given]
    if args.modality == "v" and given:
        raise InputError(f"{given[0]}: there is no speech encoder with --modality v")
    if args.freeze_encoder and (others := [name for name in given if name in ("--train_layers", "--lora_rank")]):
        raise InputError(f"--freeze_encoder, {', '.join(others)}: contradict each other")
    if args.audio_root is not None and not computed and given != ["--audio_root"]:
        raise InputError(f"--audio_root, {given[0]}: ready features have no encoder behind them; leave one of both out")
    if computed and args.audio_root is None:
        args.audio_root = "data/audio_features"


def has_encoder(args):
    """Whether a speech encoder is part of the model, wholly or in its last layers."""
    return (
        "a" in args.modality and not args.freeze_encoder and (args.audio_root is None or args.train_layers is not None)
    )


def compute_states(args, splits, state):
    """Fill --audio_root with what is computed once: a frozen encoder's states, or those below its trained layers.

    Args: splits: of `read_lists`. state: PartialState.
    """
    utterances = [utterance for split in splits.values() for utterance in split]
    with local_main_first(state) as is_first:
        utterances, _ = check_utterances(utterances, "a", None, args.max_length, progress=is_first)
    layer = args.audio_layer
    if args.train_layers is not None:
        layer = describe_encoder(args).encoder_layers - args.train_layers
    encoder = SpeechEncoder(args.audio_model, layer, state.device, args.mixed_precision, args.max_length)
    computing = args.normalize_audio, args.batch_size, args.num_workers
    extract_audio(args.audio_root, encoder, utterances, state, *computing)


def describe_encoder(args):
    """The FoalNetConfig of a model that trains its encoder. Raises: InputError for one that is not to be had so."""
    try:
        fields = {"audio_layer": args.audio_layer, "train_layers": args.train_layers}
        return FoalNetConfig(audio_config=read_config(args.audio_model), **fields)
    except (OSError, ValueError) as error:
        raise InputError(f"--audio_model {args.audio_model}: {str(error).splitlines()[0]}") from error


def model_config(args, dims):
    """The fields of FoalNetConfig that the flags decide, but for the encoder's.

    Args: dims: {stream: width of its ready features}.
    """
    return {
        "labels": args.labels,
        "modality": args.modality,
        "fusion_dropout": args.dropout,
        "initial_temperature": args.temperature,
        "avel_weight": args.avel_weight,
        "mem_weight": args.mem_weight,
        "pooling": args.pooling_model,
        "normalize_audio": args.normalize_audio,
        "modality_dropout": args.modality_dropout,
        **{f"{stream}_dim": width for stream, width in dims.items()},
    }


def build_model(args, dims):
    """A FoalNet on a pretrained speech encoder, or on ready features alone."""
    config = model_config(args, dims)
    if not has_encoder(args):
        record = read_audio_record(args.audio_root) if args.audio_root else None
        try:
            return FoalNet(FoalNetConfig(final_dropout=record and record["final_dropout"], **config))
        except ValueError as error:
            raise InputError(f"--audio_root {args.audio_root}, --video_root {args.video_root}: {error}") from error
    config.pop("audio_dim", None)
    try:
        encoder = {"audio_layer": args.audio_layer, "train_layers": args.train_layers, "lora_rank": args.lora_rank}
        model = FoalNet.from_encoder(args.audio_model, **encoder, **config)
        check_length(args.max_length, model.config.audio_config)
        warn_unnormalized(args, model.config.audio_config)
    except (OSError, ValueError) as error:
        raise InputError(f"--audio_model {args.audio_model}: {str(error).splitlines()[0]}") from error
    if args.lora_rank:
        model.config.audio_crc32 = checksum_weights(model.base_weights())
    return model


def warn_unnormalized(args, config):
    """WavLM's checkpoints ask for normalised sound, too, and the release does without; of others it is news."""
    if (
        not args.normalize_audio
        and config.model_type not in ("wavlm", "whisper")
        and wants_normalized(args.audio_model)
    ):
        logger.warning(f"--audio_model {args.audio_model}: was trained with --normalize_audio, which is not given")


def build_accelerator(args, model):
    """Device, processes, precision and tracker. Raises: InputError for what this machine can't do."""
    precision = choose_precision(args.mixed_precision, PartialState().device.type, model.config.width)
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise InputError("--mixed_precision fp16 (--fp16): needs a GPU; a CPU trains in no or bf16")
    layerdrop = getattr(model.config.audio_config, "layerdrop", 0.0) > 0
    try:
        return Accelerator(
            cpu=PartialState().device.type == "cpu",
            mixed_precision=precision,
            log_with=None if args.report_to == "none" else args.report_to,
            project_dir=args.save_root,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # WavLM's passes accumulate
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=layerdrop)],
        )
    except ValueError as error:
        raise InputError(f"--mixed_precision {precision}, --report_to {args.report_to}: {error}") from error
