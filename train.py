"""Train and evaluate Foal-Net.

    accelerate launch train.py --train_src=session1_train.scp --test_src=session1_valid.scp \
        --video_root=data/features --audio_model=microsoft/wavlm-large --save_root=runs/session1

Only --valid_src or only --test_src: the paper's protocol, the best epoch is chosen on the list that is reported.
Both: the strict protocol, chosen on --valid_src, reported on --test_src. After an interruption the same command with
--resume goes on after the last whole epoch. `--help` shows every flag; README.md says what --save_root holds.
"""

import argparse
import copy
import itertools
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, set_seed

from corpus.folds import speaker_overlap
from dataloader import (
    LABELS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    build_dataloaders,
    check_utterances,
    collate,
    parse_label_map,
    parse_labels,
    read_scp,
    read_scp_lines,
)
from features.states import cache_states
from model import INITIAL_TEMPERATURE, MODALITIES, POOLINGS, FoalNet, FoalNetConfig
from optims import SCHEDULERS, build_optimizer, build_scheduler
from running.errors import InputError, command
from running.evaluation import EMBEDDINGS, evaluate, move_inputs
from running.launch import join_processes, start_cpu_processes
from running.pictures import plot_confusion, plot_curves
from running.precision import PRECISIONS, choose_precision
from running.progress import progress_bar
from running.records import (
    checksum_weights,
    describe_environment,
    find_folder,
    read_json,
    replace_folder,
    write_json,
    write_predictions,
    write_text,
)

logger = logging.getLogger("foalnet.train")
DEBUG_UTTERANCES = 32
RESULT_FLAGS = "epochs choose_by seed modality labels avel_weight mem_weight train_src valid_src test_src".split()
FREE_ON_RESUME = ("resume", "num_workers", "report_to", "save_root")  # flags that leave the mathematics alone


def parse_bool(text):
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not a boolean: True or False")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show each default, but not None or an empty text, of which the help itself says what they mean."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    boolean = {"type": parse_bool, "nargs": "?", "const": True}

    data = parser.add_argument_group("data")
    data.add_argument("--train_src", required=True, help="scp list to train on")
    data.add_argument("--valid_src", help="scp list that chooses the epoch")
    data.add_argument("--test_src", help="scp list that is reported; without --valid_src it chooses the epoch too")
    data.add_argument("--video_root", default="data/features", help="folder of <utt_id>.npy video features")
    data.add_argument("--labels", nargs="+", help=f"class names in index order (default: {' '.join(LABELS)})")
    data.add_argument("--label_map", default="", help="names to merge first, for example exc=hap,fru=ang")
    data.add_argument(
        "--n_classes",
        type=int,
        help="number of classes; without --labels and other than 4, the classes "
        "are the sorted names found in --train_src",
    )
    data.add_argument(
        "--allow_overlap", default=False, **boolean, help="train although two lists share a speaker or an utterance"
    )
    data.add_argument("--max_length", type=float, default=6.0, help="seconds of sound used of each utterance")
    data.add_argument("--max_frames", type=int, default=180, help="video frames used of each utterance")
    data.add_argument(
        "--normalize_audio",
        default=False,
        **boolean,
        help="zero mean and unit variance for each waveform; the release feeds it as it is",
    )
    data.add_argument("--num_workers", type=int, default=4, help="data loading processes a training process")

    model = parser.add_argument_group("model")
    model.add_argument("--audio_model", default="microsoft/wavlm-large", help="WavLM checkpoint, folder or hub id")
    model.add_argument(
        "--freeze_encoder",
        default=False,
        **boolean,
        help="train what is behind WavLM only, on states computed once; AVEL then trains its own projections and "
        "nothing that the classifier sees, but through the negatives of MEM",
    )
    model.add_argument("--states_root", default="data/wavlm_states", help="folder of the states of --freeze_encoder")
    model.add_argument("--modality", default="av", choices=MODALITIES, help="audio and video, audio only, video only")
    model.add_argument("--pooling_model", default="mean", choices=POOLINGS, help="pooling of states over time")
    model.add_argument("--dropout", type=float, default=0.1, help="dropout of the cross attention")

    losses = parser.add_argument_group("losses")
    losses.add_argument(
        "--avel_weight",
        type=float,
        default=1.0,
        help="weight of AVEL, which acts on the classifier through WavLM and through the choice of MEM's negatives; "
        "0 does not compute it",
    )
    losses.add_argument("--mem_weight", type=float, default=0.1, help="weight of MEM; 0 does not compute it")
    losses.add_argument(
        "--temperature",
        type=float,
        default=INITIAL_TEMPERATURE,
        help="first value of the learnt divisor of AVEL's similarities",
    )

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--lr", type=float, default=1e-4, help="peak learning rate of AdamW")
    optimisation.add_argument("--encoder_lr", type=float, help="peak learning rate of WavLM (default: --lr)")
    optimisation.add_argument("--l2", type=float, default=0.01, help="weight decay of AdamW")
    optimisation.add_argument("--decay_all", default=True, **boolean, help="False: no decay of biases and norms")
    optimisation.add_argument("--batch_size", type=int, default=16, help="utterances a process and pass")
    optimisation.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        help="passes of WavLM an optimizer step, N * batch_size utterances; all losses are those of the large batch",
    )
    optimisation.add_argument(
        "--gradient_checkpointing",
        default=False,
        **boolean,
        help="keep no states inside WavLM's layers and compute them again: less memory, a third more time",
    )
    optimisation.add_argument("--epochs", type=int, default=40, help="passes of as many draws as utterances")
    optimisation.add_argument("--scheduler", default="cosine", choices=SCHEDULERS, help="none is what the release did")
    optimisation.add_argument("--warmup_ratio", type=float, default=0.1, help="share of the steps that warm up")
    optimisation.add_argument("--max_grad_norm", type=float, default=0.0, help="clip gradients to this norm; 0 = no")

    run = parser.add_argument_group("run")
    run.add_argument(
        "--choose_by", default="ua", choices=("ua", "wa"), help="score that chooses the epoch; the release's is wa"
    )
    run.add_argument("--save_root", default="runs/foalnet", help="folder of everything the run writes")
    run.add_argument("--seed", type=int, default=1234, help="seed of initialisation, draws and dropout")
    run.add_argument(
        "--mixed_precision",
        default="auto",
        choices=PRECISIONS,
        help="precision of matrix products; auto: what accelerate launch says, else the fastest safe one",
    )
    run.add_argument("--fp16", default=False, **boolean, help="the release's name for --mixed_precision fp16")
    run.add_argument("--resume", default=False, **boolean, help="go on after the last whole epoch in --save_root")
    run.add_argument("--report_to", default="none", choices=("none", "tensorboard", "wandb"), help="live tracker")
    run.add_argument("--debug", default=False, **boolean, help="quick pass: 2 epochs on 32 utterances of each list")
    return parser


def parse_args(argv=None):
    """Parse and check the command line. Raises: InputError for values that argparse can't judge."""
    args = build_parser().parse_args(argv)
    if not args.valid_src and not args.test_src:
        raise InputError("--valid_src, --test_src: give one (paper protocol) or both (strict protocol)")
    for name in (
        "max_length",
        "max_frames",
        "batch_size",
        "epochs",
        "gradient_accumulation_steps",
        "lr",
        "temperature",
    ):
        if not 0 < getattr(args, name) < float("inf"):
            raise InputError(f"--{name} {getattr(args, name)}: must be a finite number greater than 0")
    for name in ("encoder_lr", "avel_weight", "mem_weight", "l2", "max_grad_norm", "num_workers", "seed"):
        if not 0 <= (getattr(args, name) or 0) < float("inf"):
            raise InputError(f"--{name} {getattr(args, name)}: must not be negative")
    if args.max_length * SAMPLE_RATE < MIN_SAMPLES:
        raise InputError(f"--max_length {args.max_length}: WavLM needs at least {MIN_SAMPLES / SAMPLE_RATE} seconds")
    for name in ("dropout", "warmup_ratio"):
        if not 0 <= getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 0 and less than 1")
    if args.fp16 and args.mixed_precision not in ("auto", "fp16"):
        raise InputError(f"--fp16 True and --mixed_precision {args.mixed_precision} contradict each other")
    if args.fp16:
        args.mixed_precision = "fp16"
    args.label_map = parse_label_map(args.label_map)
    args.labels = choose_labels(args)
    if args.debug:
        args.epochs = min(args.epochs, 2)
    return args


def choose_labels(args):
    """The class names: --labels, else the released four, else (--n_classes says so) those of the training list."""
    if not args.labels and args.n_classes in (None, len(LABELS)):
        return list(LABELS)
    listed = args.labels or sorted({args.label_map.get(name, name) for *_, name in read_scp_lines(args.train_src)})
    labels = parse_labels(listed)
    if len(labels) < 2:
        raise InputError(f"--labels {' '.join(labels)}: at least two names are needed")
    if args.n_classes not in (None, len(labels)):
        raise InputError(f"--n_classes {args.n_classes}: there are {len(labels)} labels: {' '.join(labels)}")
    return labels


@dataclass
class Progress:
    """How far a run is; saved with the weights in last/."""

    epoch: int = 0  # finished
    steps: int = 0  # of the optimizer so far, the seed of the next hard negatives
    best_epoch: int = 0
    best_score: float = -1.0  # UA or WA of that epoch, as --choose_by says
    history: list = field(default_factory=list)  # the lines of metrics.jsonl

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, state):
        self.__dict__.update(state)


@dataclass
class Run:
    """The parts that the loops share."""

    args: argparse.Namespace
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    train_loader: torch.utils.data.DataLoader
    evaluation_loaders: dict  # {"valid": chooses the epoch, "test": reported, in the strict protocol}
    generator: torch.Generator  # of the hard negatives, the same draws in every process
    progress: Progress = field(default_factory=Progress)

    @property
    def save_root(self):
        return Path(self.args.save_root)

    @property
    def protocol(self):
        return "strict" if self.args.valid_src and self.args.test_src else "paper"

    @property
    def reported(self):
        return "test" if self.protocol == "strict" else "valid"


def evaluation_lists(args):
    """{split: scp list}: `valid` chooses the epoch; `test` is there in the strict protocol alone."""
    if args.valid_src and args.test_src:
        return {"valid": args.valid_src, "test": args.test_src}
    return {"valid": args.valid_src or args.test_src}


def load_lists(args, progress=True):
    """Read and check every list. Returns: {split: list of Utterance}, video dim."""
    lists = {"train": args.train_src, **evaluation_lists(args)}
    splits = {split: read_scp(path, args.labels, args.label_map) for split, path in lists.items()}
    if not args.allow_overlap:
        refuse_overlap(lists, splits)
    if args.debug:
        for split, utterances in splits.items():
            keep = np.linspace(0, len(utterances) - 1, min(DEBUG_UTTERANCES, len(utterances))).astype(int)
            splits[split] = [utterances[i] for i in keep]
    everything, video_dim = check_utterances(
        [utterance for utterances in splits.values() for utterance in utterances],
        args.modality,
        args.video_root,
        args.max_length,
        args.max_frames,
        progress,
    )
    checked = iter(everything)
    return {split: [next(checked) for _ in utterances] for split, utterances in splits.items()}, video_dim


def refuse_overlap(lists, splits):
    """Raise InputError where two lists share a speaker (known from IEMOCAP ids) or an utterance."""
    for (first, first_path), (second, second_path) in itertools.combinations(lists.items(), 2):
        ids, others = ({u.utt_id for u in splits[name]} for name in (first, second))
        for kind, shared in (("utterance", sorted(ids & others)), ("speaker", speaker_overlap(ids, others))):
            if shared:
                raise InputError(
                    f"{second_path}: {kind} {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''} "
                    f"is in {first_path} too; --allow_overlap trains all the same"
                )


def build_model(args, video_dim):
    """A FoalNet on pretrained WavLM weights (video only: no WavLM)."""
    config = {
        "labels": args.labels,
        "modality": args.modality,
        "fusion_dropout": args.dropout,
        "initial_temperature": args.temperature,
        "avel_weight": args.avel_weight,
        "mem_weight": args.mem_weight,
        "pooling": args.pooling_model,
        "normalize_audio": args.normalize_audio,
        "freeze_encoder": args.freeze_encoder,
    }
    if video_dim is not None:
        config["video_dim"] = video_dim
    try:
        if args.modality == "v":
            return FoalNet(FoalNetConfig(**config))
        return FoalNet.from_wavlm(args.audio_model, **config)
    except (OSError, ValueError) as error:
        raise InputError(f"--audio_model {args.audio_model}: {str(error).splitlines()[0]}") from error


def build_accelerator(args, model):
    """Device, processes, precision and tracker. Raises: InputError for what this machine can't do."""
    width = model.config.wavlm.hidden_size if model.config.wavlm is not None else model.config.video_dim
    precision = choose_precision(args.mixed_precision, PartialState().device.type, width)
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise InputError("--mixed_precision fp16 (--fp16): needs a GPU; a CPU trains in no or bf16")
    layerdrop = "a" in args.modality and model.config.wavlm.layerdrop > 0
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


def build_run(args):
    """Everything that a training needs, in the order data, model, optimizer."""
    state = join_processes()
    configure_logging(state)
    splits, video_dim = load_lists(args, state.is_local_main_process)
    set_seed(args.seed)
    model = build_model(args, video_dim)
    model.encoder_passes = args.gradient_accumulation_steps
    if args.gradient_checkpointing and "a" in args.modality:
        model.wavlm.activation_checkpointing_enable()
    accelerator = build_accelerator(args, model)
    loaders = {"batch_size": args.batch_size, "num_workers": args.num_workers, "max_length": args.max_length}
    loaders |= {"max_frames": args.max_frames, "normalize_audio": args.normalize_audio}
    if args.freeze_encoder and "a" in args.modality:
        cache_encoder(args, model, splits, accelerator, loaders)
        loaders["states_root"] = args.states_root
    train_loader, evaluation_loaders = build_dataloaders(
        splits.pop("train"),
        splits,
        passes=args.gradient_accumulation_steps,
        seed=args.seed,
        rank=state.process_index,
        world_size=state.num_processes,
        modality=args.modality,
        **loaders,
    )
    if not len(train_loader):
        raise InputError(f"--train_src {args.train_src}: fewer utterances than processes")
    optimizer = build_optimizer(model, args.lr, args.l2, args.encoder_lr, args.decay_all)
    scheduler = build_scheduler(args.scheduler, optimizer, args.epochs * len(train_loader), args.warmup_ratio)
    model, optimizer = accelerator.prepare(model, optimizer)
    generator = torch.Generator(accelerator.device)
    run = Run(args, accelerator, model, optimizer, scheduler, train_loader, evaluation_loaders, generator)
    accelerator.register_for_checkpointing(scheduler, run.progress)
    set_seed(args.seed, device_specific=True)  # dropout differs between processes
    return run


def cache_encoder(args, model, splits, accelerator, loaders):
    """Compute the states of the frozen encoder that are not on disk yet."""
    settings = {"audio_model": args.audio_model, "weights_crc32": checksum_weights(model.wavlm)}
    settings |= {"max_length": args.max_length, "normalize_audio": args.normalize_audio}
    settings |= {"mixed_precision": accelerator.mixed_precision}
    utterances = [utterance for split in splits.values() for utterance in split]
    cache_states(args.states_root, model.wavlm.to(accelerator.device), utterances, settings, accelerator, **loaders)


def configure_logging(state):
    """Lines of the main process to stdout; quiet libraries."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parent = logging.getLogger("foalnet")
    parent.handlers = [logging.StreamHandler(sys.stdout)]
    parent.propagate = False
    parent.setLevel(logging.INFO if state.is_main_process else logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.WARNING)


def train_step(run, batch, size, totals):
    """One optimizer step.

    Args:
        batch: dict of this process.
        size: utterances of the batch over all processes.
        totals: {name: (2,) float32 tensor of sum and count}, added to.
    """
    seed = np.random.SeedSequence([run.args.seed, run.progress.steps]).generate_state(1)[0]
    run.generator.manual_seed(int(seed))
    inputs = move_inputs(batch, run.accelerator.device)
    output = run.model(**inputs, generator=run.generator)
    run.accelerator.backward(output.loss)
    if run.args.max_grad_norm:
        run.accelerator.clip_grad_norm_(run.model.parameters(), run.args.max_grad_norm)
    run.optimizer.step()
    if not run.accelerator.optimizer_step_was_skipped:
        run.scheduler.step()
    run.optimizer.zero_grad()
    run.progress.steps += 1
    add_totals(totals, output, inputs["labels"], size)


@torch.no_grad()
def add_totals(totals, output, labels, size):
    """Add what a batch says about losses, MEM and AVEL, without waiting for the device."""

    def add(name, total, count):
        pair = torch.stack([torch.as_tensor(x, device=labels.device, dtype=torch.float32) for x in (total, count)])
        totals[name] = totals[name] + pair if name in totals else pair

    for name in ("loss", "loss_cls", "loss_avel", "loss_mem"):
        if name in output:
            add(name, output[name] * size, size)
    if output.mem_logits_audio is not None:
        right = [
            (logits.argmax(-1) == output.mem_targets) & output.mem_mask
            for logits in (output.mem_logits_audio, output.mem_logits_video)
        ]
        add("mem_accuracy", sum(right).sum(), 2 * output.mem_mask.sum())
    if output.audio_embeds is not None:
        similarity = output.audio_embeds @ output.video_embeds.T
        same = labels[:, None] == labels
        add("similarity_same", (similarity * same).sum(), same.sum())
        add("similarity_other", (similarity * ~same).sum(), (~same).sum())


def train_epoch(run, epoch):
    """Train for one epoch. Returns: dict of means over the epoch, named as in metrics.jsonl."""
    run.model.train()
    run.train_loader.batch_sampler.set_epoch(epoch)
    sizes, totals, started = run.train_loader.batch_sampler.global_sizes, {}, time.perf_counter()
    bar = progress_bar(
        run.train_loader, desc=f"Epoch {epoch}", leave=False, disable=not run.accelerator.is_local_main_process
    )
    for batch, size in zip(bar, sizes, strict=True):
        train_step(run, batch, size, totals)
    reduced = {name: run.accelerator.reduce(pair, "sum").tolist() for name, pair in totals.items()}
    means = {f"train_{name}" if "loss" in name else name: a / n if n else None for name, (a, n) in reduced.items()}
    if run.args.modality == "av":
        means["temperature"] = run.accelerator.unwrap_model(run.model).temp.item()
    seconds = time.perf_counter() - started
    return {**means, "learning_rate": run.scheduler.get_last_lr()[-1], "utterances_per_second": sum(sizes) / seconds}


def measure_gradients(run):
    """What each loss does to the encoder: the norm of the gradient that it sends into WavLM's last layer.

    The batch is the first one of epoch 0, which is never trained on; no dropout, fp32, weighted as in the loss.

    Returns: {"gradient_cls", "gradient_avel", "gradient_mem": float}, of the losses that are computed; empty without
        a trained WavLM.
    """
    model = run.accelerator.unwrap_model(run.model)
    if "a" not in model.config.modality or model.config.freeze_encoder:
        return {}
    dataset, sampler = run.train_loader.dataset, copy.copy(run.train_loader.batch_sampler)
    sampler.set_epoch(0)
    inputs = move_inputs(collate([dataset[i] for i in next(iter(sampler))]), run.accelerator.device)
    generator = torch.Generator(run.accelerator.device).manual_seed(run.args.seed)
    trained, last = [p for p in model.parameters() if p.requires_grad], model.wavlm.encoder.layers[-1]
    model.eval().requires_grad_(False)
    last.requires_grad_(True)  # no graph below it, so little memory
    output, norms = model(**inputs, generator=generator), {}
    for name, weight in (("cls", 1.0), ("avel", model.config.avel_weight), ("mem", model.config.mem_weight)):
        if f"loss_{name}" in output:
            loss = weight * output[f"loss_{name}"]
            gradients = torch.autograd.grad(loss, list(last.parameters()), retain_graph=True)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            norms[f"gradient_{name}"] = run.accelerator.reduce(flat, "mean").norm().item()
    for parameter in trained:
        parameter.requires_grad_(True)
    return norms


def save_epoch(run, is_best):
    """Leave best/, last/, metrics.jsonl and curves.png as they are after this epoch."""
    accelerator = run.accelerator
    if is_best:
        with replace_folder(run.save_root / "best", accelerator) as folder:
            if accelerator.is_main_process:
                accelerator.unwrap_model(run.model).save_pretrained(folder)
    with replace_folder(run.save_root / "last", accelerator) as folder:
        accelerator.save_state(str(folder))
    write_history(run)


def write_history(run):
    """Leave metrics.jsonl and curves.png of the epochs so far."""
    history = run.progress.history
    if run.accelerator.is_main_process and history:
        write_text(run.save_root / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        plot_curves(history, run.save_root / "curves.png")


def train(run):
    """Train from where the run is to its last epoch, evaluating and saving after each."""
    progress, model = run.progress, run.accelerator.unwrap_model(run.model)
    for epoch in range(progress.epoch + 1, run.args.epochs + 1):
        line = {"epoch": epoch, **train_epoch(run, epoch)}
        valid = evaluate(run.accelerator, model, run.evaluation_loaders["valid"]).summarize(run.args.labels)
        line.update(
            {f"valid_{name}": value for name, value in valid.items() if name not in ("confusion", "utterances")}
        )
        line |= measure_gradients(run)
        is_best = valid[run.args.choose_by] > progress.best_score
        if is_best:
            progress.best_epoch, progress.best_score = epoch, valid[run.args.choose_by]
        progress.epoch = epoch
        progress.history.append(line)
        save_epoch(run, is_best)
        run.accelerator.log({k: v for k, v in line.items() if isinstance(v, float)}, step=epoch)
        logger.info(
            f"Epoch: {epoch} | Train_loss: {line['train_loss']:.4f} | Valid-UA: {valid['ua']:.4f} "
            f"| Valid-WA: {valid['wa']:.4f}"
        )


def report(run):
    """Evaluate best/ and write predictions, embeddings, pictures and, last of all, result.json."""
    accelerator = run.accelerator
    model = FoalNet.from_pretrained(find_folder(run.save_root / "best")).to(accelerator.device)
    summaries = {}
    for split, loader in run.evaluation_loaders.items():
        evaluation = evaluate(accelerator, model, loader, EMBEDDINGS)
        summaries[split] = evaluation.summarize(run.args.labels)
        if accelerator.is_main_process:
            write_evaluation(run, split, evaluation, summaries[split])
    if accelerator.is_main_process:
        write_result(run, summaries)
    accelerator.wait_for_everyone()


def write_result(run, summaries):
    """Write result.json, by which others know that the run is whole, and say what it holds."""
    args = run.args
    result = {"protocol": run.protocol, "reported": run.reported, "best_epoch": run.progress.best_epoch}
    result |= {name: getattr(args, name) for name in RESULT_FLAGS}
    result |= {**summaries[run.reported], "valid": summaries["valid"]}
    write_json(run.save_root / "result.json", result)
    how = "chosen on the reported list" if run.protocol == "paper" else f"chosen on {args.valid_src}"
    listed = evaluation_lists(args)[run.reported]
    logger.info(f"{run.protocol} protocol: {listed}, epoch {run.progress.best_epoch} of {args.epochs}, {how}")
    best = summaries[run.reported]
    logger.info(f"Best-UA: {best['ua']:.4f}, Best-WA: {best['wa']:.4f}")


def write_evaluation(run, split, evaluation, summary):
    labels, root = run.args.labels, run.save_root
    write_predictions(
        root / f"predictions_{split}.csv", evaluation.utt_ids, evaluation.labels, evaluation.probabilities, labels
    )
    halves = {name: array.astype(np.float16) for name, array in evaluation.embeddings.items()}
    np.savez(root / f"embeddings_{split}.npz", utt_ids=evaluation.utt_ids, labels=evaluation.labels, **halves)
    title = f"{split}: UA {summary['ua']:.2%}, WA {summary['wa']:.2%} ({run.protocol} protocol)"
    plot_confusion(summary["confusion"], labels, root / f"confusion_{split}.png", title=title)


def open_save_root(run):
    """Begin a run folder, or go on with one. Raises: InputError rather than lose or mix anything."""
    root, args, accelerator = run.save_root, vars(run.args), run.accelerator
    lists = [run.args.train_src, *evaluation_lists(run.args).values()]
    environment = describe_environment(
        lists, mixed_precision=accelerator.mixed_precision, processes=accelerator.num_processes
    )
    last = find_folder(root / "last")
    if last and not run.args.resume:
        raise InputError(f"--save_root {root}: holds a run already; --resume goes on with it, or name another folder")
    if last:
        refuse_changes(root, args, environment)
        accelerator.load_state(str(last))
        logger.info(f"Resume after epoch {run.progress.epoch} of {root}")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "args.json", args)
        write_json(root / "environment.json", environment)
        logging.getLogger("foalnet").addHandler(logging.FileHandler(root / "train.log", encoding="utf-8"))
    write_history(run)  # an interruption may have come between last/ and these
    flat = {name: value for name, value in args.items() if isinstance(value, (int, float, str, bool))}
    accelerator.init_trackers("foalnet", config=flat)


def refuse_changes(root, args, environment):
    """Raise InputError where a run would go on with other flags, lists, precision or processes than it began with."""
    before, then = read_json(root / "args.json"), read_json(root / "environment.json")
    pairs = {f"--{name}": (before.get(name), args[name]) for name in args if name not in FREE_ON_RESUME}
    pairs |= {name: (then[name], environment[name]) for name in ("mixed_precision", "processes")}
    pairs |= {f"SHA-256 of {path}": (then["sha256"].get(path), now) for path, now in environment["sha256"].items()}
    changed = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new]
    if changed:
        raise InputError(f"--resume {root}: {', '.join(changed)}; resume with the same")


@command
def main(argv=None):
    """Train, choose the epoch, report. Returns: the content of result.json."""
    args = parse_args(argv)
    run = build_run(args)
    open_save_root(run)
    try:
        train(run)
        report(run)
    except KeyboardInterrupt:
        logger.info(f"Interrupted; {run.save_root} holds epoch {run.progress.epoch}, --resume goes on from there")
        raise SystemExit(130) from None
    run.accelerator.end_training()
    return read_json(run.save_root / "result.json")


if __name__ == "__main__":
    start_cpu_processes(sys.argv)
    main()
