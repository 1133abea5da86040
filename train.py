"""Train and evaluate Foal-Net.

    accelerate launch train.py --train_src=session1_train.scp --test_src=session1_valid.scp \
        --video_root=data/features --audio_model=microsoft/wavlm-large --save_root=runs/session1

Only --valid_src or only --test_src: the paper's protocol, the best epoch is chosen on the list that is reported.
Both: the strict protocol, chosen on --valid_src, reported on --test_src. After an interruption (Ctrl-C, SIGTERM, power)
the same command with --resume goes on from the last step that was saved. `--help` shows every flag; README.md says what
--save_root holds. Exit codes: 0 done, 2 bad input, 3 diverged, 128 + n stopped by signal n.
"""

import argparse
import logging
import signal
import sys
import time
from dataclasses import dataclass

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main takes it: no traceback out of imports that take seconds

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from dataloader import (
    LABELS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    build_dataloaders,
    parse_label_map,
    parse_labels,
    read_scp_lines,
    refuse_absent_classes,
)
from features.folder import describe_files
from features.preprocessing import Preprocessing, describe_clip
from features.speech import read_audio_record
from model import INITIAL_TEMPERATURE, MODALITIES, POOLINGS
from optims import SCHEDULERS, build_optimizer, build_scheduler
from running.building import (
    build_accelerator,
    build_model,
    check_encoder_flags,
    compute_states,
    has_encoder,
    parse_layer,
)
from running.conclusion import conclude
from running.errors import InputError, command
from running.evaluation import evaluate, move_inputs
from running.flags import BOOLEAN, HelpFormatter, parse_interval, require
from running.folder import RunFolder
from running.launch import configure_logging, join_processes, start_processes
from running.lists import check_lists, evaluation_lists, read_lists
from running.model_folder import write_model
from running.precision import PRECISIONS
from running.progress import progress_bar
from running.records import FileTable
from running.stopping import Stopped, collect_stops
from running.training_state import TrainingState
from running.watching import BadSteps, Totals, measure_gradients, skip_bad_step

logger = logging.getLogger("foalnet.train")


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)

    data = parser.add_argument_group("data")
    data.add_argument("--train_src", required=True, help="scp list to train on")
    data.add_argument("--valid_src", help="scp list that chooses the epoch")
    data.add_argument("--test_src", help="scp list that is reported; without --valid_src it chooses the epoch too")
    data.add_argument("--video_root", default="data/features", help="folder of <utt_id>.npy video features")
    data.add_argument(
        "--audio_root",
        help="folder of <utt_id>.npy audio features of any origin, in the place of the sounds and the speech encoder; "
        "with --freeze_encoder or --train_layers they are computed there (default then: data/audio_features)",
    )
    data.add_argument("--labels", nargs="+", help=f"class names in index order (default: {' '.join(LABELS)})")
    data.add_argument("--label_map", default="", help="names to merge first, for example exc=hap,fru=ang")
    data.add_argument(
        "--n_classes",
        type=int,
        help="number of classes; without --labels and other than 4, the classes "
        "are the sorted names found in --train_src",
    )
    data.add_argument("--allow_overlap", **BOOLEAN, help="train although two lists share a speaker or an utterance")
    data.add_argument("--max_length", type=float, default=6.0, help="seconds of sound used of each utterance")
    data.add_argument("--max_frames", type=int, default=180, help="video frames used of each utterance")
    data.add_argument(
        "--normalize_audio",
        **BOOLEAN,
        help="zero mean and unit variance for each waveform; the release feeds it as it is",
    )
    data.add_argument("--num_workers", type=int, default=4, help="data loading processes a training process")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--audio_model",
        default="microsoft/wavlm-large",
        help="speech encoder, folder or hub id: WavLM, HuBERT, wav2vec 2.0, data2vec-audio, UniSpeech, Whisper",
    )
    model.add_argument(
        "--audio_layer",
        type=parse_layer,
        default="last",
        help="its states: last, the output of layer K, the mean of all, or weighted, their learnt mix",
    )
    model.add_argument(
        "--freeze_encoder",
        **BOOLEAN,
        help="train what is behind the encoder only, on states computed once; AVEL then trains its own projections and "
        "nothing that the classifier sees, but through the negatives of MEM",
    )
    model.add_argument(
        "--train_layers", type=int, metavar="K", help="train its last K layers only, on states computed once below them"
    )
    model.add_argument(
        "--lora_rank", type=int, default=0, metavar="R", help="train LoRA adapters of this rank in its place; 0 = no"
    )
    model.add_argument("--modality", default="av", choices=MODALITIES, help="audio and video, audio only, video only")
    model.add_argument("--pooling_model", default="mean", choices=POOLINGS, help="pooling of states over time")
    model.add_argument("--dropout", type=float, default=0.1, help="dropout of the cross attention")
    model.add_argument(
        "--modality_dropout",
        type=float,
        default=0.0,
        help="probability that the classifier gets one stream of an utterance alone, by which the model learns to "
        "answer for files without sound or picture",
    )

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
    optimisation.add_argument(
        "--encoder_lr", type=float, help="peak learning rate of the speech encoder (default: --lr)"
    )
    optimisation.add_argument("--l2", type=float, default=0.01, help="weight decay of AdamW")
    optimisation.add_argument("--decay_all", **{**BOOLEAN, "default": True}, help="False: no decay of biases and norms")
    optimisation.add_argument("--batch_size", type=int, default=16, help="utterances a process and pass")
    optimisation.add_argument(
        "--gradient_accumulation_steps",
        type=int,
        default=1,
        help="passes of the encoder an optimizer step, N * batch_size utterances; all losses see the large batch",
    )
    optimisation.add_argument(
        "--gradient_checkpointing",
        **BOOLEAN,
        help="keep no states inside the encoder's layers and compute them again: less memory, a third more time",
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
    run.add_argument("--fp16", **BOOLEAN, help="the release's name for --mixed_precision fp16")
    run.add_argument("--resume", **BOOLEAN, help="go on from the last state in --save_root")
    run.add_argument(
        "--save_every",
        type=parse_interval,
        default="5min",
        help="minutes (10min; never more than 2%% of the time) or steps (200steps) between two saves inside an epoch",
    )
    run.add_argument(
        "--max_bad_steps", type=int, default=10, help="steps in a row without a finite gradient that end it"
    )
    run.add_argument("--accept_changes", **BOOLEAN, help="resume although sounds or features were written again")
    run.add_argument("--data_license", default="", help="licence of the data, one line for the model card")
    run.add_argument("--report_to", default="none", choices=("none", "tensorboard", "wandb"), help="live tracker")
    run.add_argument("--debug", **BOOLEAN, help="quick pass: 2 epochs on 32 utterances of each list")
    return parser


def parse_args(argv=None):
    """Parse and check the command line. Raises: InputError for values that argparse can't judge."""
    args = build_parser().parse_args(argv)
    if not args.valid_src and not args.test_src:
        raise InputError("--valid_src, --test_src: give one (paper protocol) or both (strict protocol)")
    if not args.save_root:
        raise InputError("--save_root '': must name a folder")
    positive = "max_length max_frames batch_size epochs gradient_accumulation_steps lr temperature max_bad_steps"
    positive += " train_layers" * (args.train_layers is not None)
    require(args, positive, "be a finite number greater than 0", lambda value: 0 < value < float("inf"))
    positive_or_zero = "encoder_lr avel_weight mem_weight l2 max_grad_norm num_workers seed lora_rank"
    require(args, positive_or_zero, "not be negative", lambda value: 0 <= value < float("inf"))
    require(args, "seed", "be less than 2^32", lambda value: value < 2**32)
    shares = "dropout modality_dropout warmup_ratio"
    require(args, shares, "be at least 0 and less than 1", lambda value: 0 <= value < 1)
    if args.modality_dropout and args.modality != "av":
        raise InputError(f"--modality_dropout {args.modality_dropout}: needs both streams, --modality av")
    if args.max_length * SAMPLE_RATE < MIN_SAMPLES:
        raise InputError(f"--max_length {args.max_length}: WavLM needs at least {MIN_SAMPLES / SAMPLE_RATE} seconds")
    check_encoder_flags(args)
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
        refuse_absent_classes(args.train_src, LABELS, args.label_map)
        return list(LABELS)
    listed = args.labels or sorted({args.label_map.get(name, name) for *_, name in read_scp_lines(args.train_src)})
    labels = parse_labels(listed)
    if len(labels) < 2:
        raise InputError(f"--labels {' '.join(labels)}: at least two names are needed")
    if args.n_classes not in (None, len(labels)):
        raise InputError(f"--n_classes {args.n_classes}: there are {len(labels)} labels: {' '.join(labels)}")
    return labels


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
    state: TrainingState  # what is saved of the above, and the progress
    folder: RunFolder
    data: FileTable  # of all sounds and features
    preprocessing: Preprocessing

    @property
    def progress(self):
        return self.state.progress

    @property
    def plain_model(self):
        """The FoalNet itself, not wrapped for distributed training."""
        return self.state.model

    @property
    def protocol(self):
        return "strict" if self.args.valid_src and self.args.test_src else "paper"

    @property
    def reported(self):
        return "test" if self.protocol == "strict" else "valid"


def build_run(args):
    """Everything that a training needs, in the order data, model, optimizer."""
    state = join_processes()
    configure_logging(state)
    splits = read_lists(args)
    if args.freeze_encoder or args.train_layers is not None:
        compute_states(args, splits, state)
    splits, dims = check_lists(args, splits, args.audio_root, state)
    everything = [utterance for split in splits.values() for utterance in split]
    data = describe_files(everything, args.modality)
    clip = describe_clip(everything) if "v" in args.modality else None
    audio = None if has_encoder(args) or args.audio_root is None else read_audio_record(args.audio_root)
    preprocessing = Preprocessing(args.max_length, args.max_frames, args.normalize_audio, clip, audio)
    set_seed(args.seed)
    model = build_model(args, dims)
    model.encoder_passes = args.gradient_accumulation_steps
    if args.gradient_checkpointing and model.encoder is not None:
        model.encoder.activation_checkpointing_enable()
    accelerator = build_accelerator(args, model)
    loaders = {"batch_size": args.batch_size, "num_workers": args.num_workers, "max_length": args.max_length}
    loaders |= {"max_frames": args.max_frames, "normalize_audio": args.normalize_audio}
    loaders["audio_root"] = args.audio_root
    loaders["audio_key"] = "audio_states" if args.train_layers is not None else "audio_features"
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
    fused = accelerator.mixed_precision != "fp16"  # the loss scaler skips a step by itself, and tells of it
    optimizer = build_optimizer(model, args.lr, args.l2, args.encoder_lr, args.decay_all, fused)
    scheduler = build_scheduler(args.scheduler, optimizer, args.epochs * len(train_loader), args.warmup_ratio)
    plain_model = model

    def save_model(folder, state_dict):
        write_model(folder, plain_model, preprocessing, state_dict=state_dict)

    model, optimizer = accelerator.prepare(model, optimizer)
    set_seed(args.seed, device_specific=True)  # dropout differs between processes
    training_state = TrainingState(accelerator, plain_model, optimizer, scheduler, save_model)
    folder = RunFolder(args.save_root, training_state, args.save_every)
    loaders = train_loader, evaluation_loaders
    return Run(args, accelerator, model, optimizer, scheduler, *loaders, training_state, folder, data, preprocessing)


def train(run, stopping):
    """Train from where the run is to its last epoch, evaluating after each. Raises: Stopped, with all saved."""
    args, progress, model = run.args, run.progress, run.plain_model
    for epoch in range(progress.epoch + 1, args.epochs + 1):
        line = {"epoch": epoch, **train_epoch(run, epoch, stopping)}
        valid = evaluate(run.accelerator, model, run.evaluation_loaders["valid"]).summarize(args.labels)
        line |= {f"valid_{name}": value for name, value in valid.items() if name not in ("confusion", "utterances")}
        line |= measure_gradients(run.accelerator, model, run.train_loader, args.seed)
        if valid[args.choose_by] > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, valid[args.choose_by]
            run.state.keep_best()
        progress.epoch, progress.batch, run.state.totals = epoch, 0, Totals()
        progress.history.append(line)
        run.folder.write_history()
        stop, due = stopping.agree(epoch == args.epochs or run.folder.is_cheap())
        if stop or due:
            run.folder.save()
        run.accelerator.log({k: v for k, v in line.items() if isinstance(v, float)}, step=epoch)
        logger.info(
            f"Epoch: {epoch} | Train_loss: {format_loss(line)} | Valid-UA: {valid['ua']:.4f} "
            f"| Valid-WA: {valid['wa']:.4f}"
        )
        if stop:
            raise Stopped(stopping.number)


def format_loss(line):
    """The mean loss of an epoch; `none` where no step had a finite one."""
    return "none" if line["train_loss"] is None else f"{line['train_loss']:.4f}"


def train_epoch(run, epoch, stopping):
    """Train for one epoch, or the rest of it. Returns: dict of means over the epoch, named as in metrics.jsonl."""
    run.model.train()
    progress, sampler, started = run.progress, run.train_loader.batch_sampler, time.perf_counter()
    sampler.set_epoch(epoch, progress.batch)
    sizes, bad_steps = sampler.global_sizes[progress.batch :], BadSteps(run.args.max_bad_steps, progress)
    silent = not run.accelerator.is_local_main_process
    bar = progress_bar(run.train_loader, desc=f"Epoch {epoch}", leave=False, disable=silent)
    for batch, size in zip(bar, sizes, strict=True):
        bad, logits = train_step(run, batch, size, run.state.totals)
        progress.batch += 1
        bad_steps.add(bad, logits, batch["utt_ids"], f"epoch {epoch}, step {progress.batch}")
        stop, due = stopping.agree(run.folder.is_due())
        if stop or due:
            bad_steps.flush()
            run.folder.save()
        if stop:
            raise Stopped(stopping.number)
    bad_steps.flush()
    means = run.state.totals.means(run.accelerator)
    if run.args.modality == "av":
        means["temperature"] = run.plain_model.temp.item()
    rate = sum(sizes) / (time.perf_counter() - started) if sizes else None
    return {**means, "learning_rate": run.scheduler.get_last_lr()[-1], "utterances_per_second": rate}


def train_step(run, batch, size, totals):
    """One optimizer step, left out where the gradient is not finite.

    Args:
        batch: dict of this process.
        size: utterances of the batch over all processes.
        totals: Totals of the epoch, added to.
    Returns: () float32, 1 where the step was left out for its gradient; logits (B, C) of this process.
    """
    seed = np.random.SeedSequence([run.args.seed, run.progress.steps]).generate_state(1)[0]
    first_row = run.train_loader.batch_sampler.first_row(size)
    inputs = move_inputs(batch, run.accelerator.device)
    output = run.model(**inputs, seed=int(seed), first_row=first_row)
    run.accelerator.backward(output.loss)
    norm, parameters = None, list(run.model.parameters())
    if run.args.max_grad_norm:
        norm = run.accelerator.clip_grad_norm_(parameters, run.args.max_grad_norm)
    bad = skip_bad_step(run, parameters, norm)
    run.optimizer.step()
    if not run.accelerator.optimizer_step_was_skipped:
        run.scheduler.step()
    run.optimizer.zero_grad()
    run.progress.steps += 1
    totals.add(output, inputs["labels"], size, bad)
    return bad, output.logits


def report(run):
    """Evaluate the best model, finish the folder, and say the scores. Returns: what result.json holds."""
    lists = evaluation_lists(run.args)
    result = conclude(run, lists)
    how = "chosen on the reported list" if run.protocol == "paper" else f"chosen on {run.args.valid_src}"
    epochs = f"epoch {run.progress.best_epoch} of {run.args.epochs}"
    logger.info(f"{run.protocol} protocol: {lists[run.reported]}, {epochs}, {how}")
    logger.info(f"Best-UA: {result['ua']:.4f}, Best-WA: {result['wa']:.4f}")
    return result


def log_setup(run):
    """The first line of the log: where, by how many, how precisely and on how many utterances a step trains."""
    accelerator = run.accelerator
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    each = run.args.batch_size * run.args.gradient_accumulation_steps
    logger.info(
        f"Device: {device} | Processes: {accelerator.num_processes} | Precision: {accelerator.mixed_precision} "
        f"| Global batch: {each * accelerator.num_processes}"
    )


@command
def main(argv=None):
    """Train, choose the epoch, report. Returns: the content of result.json."""
    with collect_stops() as stopping:
        args, run = parse_args(argv), None
        try:
            run = build_run(args)
            run.folder.open(vars(args), [args.train_src, *evaluation_lists(args).values()], run.data)
            log_setup(run)
            flat = {name: value for name, value in vars(args).items() if isinstance(value, (int, float, str, bool))}
            run.accelerator.init_trackers("foalnet", config=flat)
            stopping.patient = True
            train(run, stopping)
            stopping.patient = False
            result = report(run)
            run.accelerator.end_training()
        except Stopped as stop:
            stopping.patient = True  # the launcher's death may send another one
            say_stop(args, run, stop.number)
        finally:
            if run is not None:
                run.folder.close()
    return result


def say_stop(args, run, number):
    """Say what a signal has left, and end with its code. Raises: SystemExit."""
    left = "nothing was trained"
    if run is not None and run.progress.steps:
        left = f"{args.save_root} holds epoch {run.progress.epoch} and {run.progress.batch} steps of the next"
    logger.info(f"Stopped by {signal.Signals(number).name}; {left}; the same command with --resume goes on from there")
    raise SystemExit(128 + number) from None


if __name__ == "__main__":
    start_processes(sys.argv)
    main()
