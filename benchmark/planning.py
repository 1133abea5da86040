"""What a training will take, before it takes it: memory by part, disk and time, counted without a GPU.

    train.py's flags + lengths of a list -> a typical and the longest batch -> FakeGpu -> Needs -> table, suggestions

The project's own step (forward, backward, AdamW) runs on fake tensors in its steady state, with the moments there, and
so does what train.py does after each epoch, so that nothing here has to know the network. Every layer of WavLM runs:
layerdrop only ever takes less.
"""

import argparse
import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import WavLMConfig

import encoders
from benchmark.fake_gpu import FakeGpu
from benchmark.model_workloads import FRAME_RATE, SHARED, SIZES, autocast, draw_durations
from benchmark.stock import MAX_LENGTH
from dataloader import SAMPLE_RATE, BalancedBatchSampler, EvaluationBatchSampler, read_features
from features.folder import split_place
from model import FoalNet, FoalNetConfig
from optims import build_optimizer
from running.building import has_encoder, model_config
from running.errors import InputError
from running.lists import check_lists, read_lists
from running.precision import choose_precision

SHAPES = {"large": "large", "base": "base", "microsoft/wavlm-large": "large"}  # names whose config needs no file
IEMOCAP = "IEMOCAP"  # the list that stands in where none is given
IEMOCAP_UTTERANCES = (4425, 1106)  # of 5531, four of five sessions and the fifth
RESERVE = 2**30  # bytes, an estimate of what can't be counted: CUDA's context and libraries, pieces the allocator loses
RATES = {"bf16": 30.0, "fp16": 30.0, "no": 10.0}  # TFLOP/s, a tenth (fp32: half) of an A100's peak
PASSES = (2, 4)  # parts of a batch that are tried
HALF = (torch.bfloat16, torch.float16)
COPIES = "weights, half-precision copies"
PARTS = ("weights", "gradients", "moments", "activations", COPIES, "attention bias", "working memory", "batch")
STATES = "states of the encoder"


@dataclass
class Corpus:
    """Lengths of the lists, (n, 2) seconds of sound and rows of video features, as far as they are used."""

    train: np.ndarray
    evaluation: dict  # {split: (n, 2)}
    labels: np.ndarray  # (n,) class index of `train`
    video_dim: int
    features: float  # bytes of the video features of all lists
    origin: str  # where the lengths come from, in words

    @property
    def everything(self):
        return np.concatenate([self.train, *self.evaluation.values()])


@dataclass
class Needs:
    """What the phases of a training take on the GPU.

    Attributes:
        step: Counter, bytes by part at the peak of a step.
        precision: `no`, `fp16` or `bf16`.
        weights, trained, saved: bytes of all parameters, of those that are trained, and of those that a checkpoint has.
        others: {phase: bytes at its peak}.
        flops: {phase: FLOPs of its counted batch}.
    """

    step: Counter
    precision: str
    weights: int
    trained: int
    saved: int
    others: dict = field(default_factory=dict)
    flops: dict = field(default_factory=dict)

    @property
    def bytes(self):
        """The most that is ever needed, with RESERVE."""
        return max(self.step.total(), *self.others.values(), 0) + RESERVE


def read_config(name):
    """An encoder's shape: WavLM `large`, `base`, or config.json of a folder or hub id. Raises: InputError."""
    if name in SHAPES and not Path(name).is_dir():
        return WavLMConfig(**{**SHARED, **SIZES[SHAPES[name]]})
    try:
        config = encoders.read_config(name)
        if not encoders.is_packed(config):
            raise ValueError(f"a {config.model_type} is not counted, only WavLM and its like")
    except (OSError, ValueError) as error:
        raise InputError(f"--audio_model {name}: {str(error).splitlines()[0]}; large and base need no file") from error
    config.layerdrop = 0.0
    return config


def read_corpus(args):
    """The lengths of train.py's lists; IEMOCAP's where --train_src is IEMOCAP. Raises: InputError."""
    if args.train_src == IEMOCAP:
        return _draw_iemocap(args)
    extracted = "v" in args.modality and Path(args.video_root).is_dir()
    origin = f"lengths of {args.train_src}"
    if "v" in args.modality and not extracted:
        origin += f"; no {args.video_root} yet: {FRAME_RATE} video rows a second of {FoalNetConfig().video_dim} float16"
        args = argparse.Namespace(**{**vars(args), "modality": "a"})
    splits, dims = check_lists(args, read_lists(args), None)
    lengths = {split: np.array([_measure(u, args.max_frames) for u in split_]) for split, split_ in splits.items()}
    labels = np.array([utterance.label for utterance in splits["train"]])
    corpus = Corpus(lengths.pop("train"), lengths, labels, dims.get("video", FoalNetConfig().video_dim), 0, origin)
    paths = {split_place(u.features)[0] for split in splits.values() for u in split if u.features}
    corpus.features = sum(Path(path).stat().st_size for path in paths) if extracted else _estimate_features(corpus)
    return corpus


def _measure(utterance, max_frames):
    if utterance.features is None:
        return utterance.duration, min(max_frames, max(1, round(utterance.duration * FRAME_RATE)))
    return utterance.duration, len(read_features(utterance.features, max_frames))


def _draw_iemocap(args):
    if args.max_length > MAX_LENGTH:
        raise InputError(f"--max_length {args.max_length}: without --train_src lengths are known up to {MAX_LENGTH} s")
    n, held_out = IEMOCAP_UTTERANCES
    seconds = np.minimum(draw_durations("iemocap", n + held_out, args.seed), args.max_length)
    lengths = np.stack([seconds, np.minimum(np.maximum(np.round(seconds * FRAME_RATE), 1), args.max_frames)], 1)
    labels = np.arange(n) % len(args.labels)
    origin = f"no --train_src: {n} + {held_out} utterances, lengths drawn as IEMOCAP's"
    corpus = Corpus(lengths[:n], {"valid": lengths[n:]}, labels, FoalNetConfig().video_dim, 0, origin)
    corpus.features = _estimate_features(corpus)
    return corpus


def _estimate_features(corpus):
    return corpus.everything[:, 1].sum() * corpus.video_dim * 2


def choose_batches(args, corpus):
    """{"typical": the batch of median length of the first epoch, "longest": the longest utterances}, (B, 2) lengths."""
    size = args.batch_size * args.gradient_accumulation_steps
    sampler = BalancedBatchSampler(corpus.labels, size, args.seed)
    sampler.set_epoch(1)
    batches = sorted((corpus.train[rows] for rows in sampler), key=lambda lengths: (len(lengths), lengths[:, 0].sum()))
    full = [batch for batch in batches if len(batch) == len(batches[-1])]
    return {"typical": full[len(full) // 2], "longest": corpus.train[np.argsort(-corpus.train[:, 0])[:size]]}


def choose_evaluation_batch(args, corpus):
    """The longest batch of the evaluation lists, (b, 2) lengths."""
    batches = []
    for lengths in corpus.evaluation.values():
        batches.append(lengths[EvaluationBatchSampler(lengths[:, 0], args.batch_size).batches[0]])
    return max(batches, key=lambda lengths: lengths[:, 0].sum())


def count_needs(args, config, corpus, lengths):
    """Count a training whose batches are all of these lengths.

    Args:
        args: of train.parse_args. config: of the encoder. corpus: Corpus. lengths: (B, 2), of `choose_batches`.
    Returns: Needs.
    """
    rehearsal = Rehearsal(args, config, corpus.video_dim)
    evaluated = choose_evaluation_batch(args, corpus)
    with rehearsal.gpu:
        needs = rehearsal.count_step(lengths)
        rehearsal.count_evaluation(needs, evaluated)
        if has_encoder(args):
            rehearsal.count_gradients(needs, lengths)
        if rehearsal.kept is not None:
            rehearsal.count_states(needs, evaluated)
    return needs


@dataclass
class Plan:
    """What a training takes: Needs of the `typical` and the `longest` batch, disk in bytes, FLOPs of all of it."""

    typical: Needs
    longest: Needs
    disk: dict
    steps: int
    flops: float


def plan_training(args, config, corpus):
    """The Plan of a training; arguments as those of `count_needs`."""
    batches = choose_batches(args, corpus)
    typical, longest = (count_needs(args, config, corpus, batches[name]) for name in ("typical", "longest"))
    disk = {"best/": longest.saved, "last/": longest.saved + 2 * longest.trained}
    disk["the save before, while it trains"] = sum(disk.values())
    size = args.batch_size * args.gradient_accumulation_steps
    steps = args.epochs * len(BalancedBatchSampler(corpus.labels, size, args.seed))
    seconds = {split: lengths[:, 0].sum() for split, lengths in corpus.evaluation.items()}
    predicted = args.epochs * seconds["valid"] + sum(seconds.values())
    counted = choose_evaluation_batch(args, corpus)[:, 0].sum()
    flops = steps * typical.flops["step"] + longest.flops["evaluation"] * predicted / counted
    flops += args.epochs * typical.flops.get("gradient of each loss", 0)
    if "v" in args.modality:
        disk["video features"] = corpus.features
    if STATES in longest.flops:
        flops += longest.flops[STATES] * corpus.everything[:, 0].sum() / counted
        disk["states of the encoder"] = corpus.everything[:, 0].sum() * encoders.FRAME_RATE * config.hidden_size * 4
    return Plan(typical, longest, disk, steps, flops)


def suggest(args, config, corpus, needs, limit):
    """Flags that make a training smaller, each counted on the longest batch; the global batch stays what it was.

    Args:
        needs: Needs of that batch as it is. limit: bytes. The others as those of `count_needs`.
    Returns: list of (flags, bytes), those that fit; where none does the smallest alone, where there is none nothing.
    """
    tried, b, n = [], args.batch_size, args.gradient_accumulation_steps

    def try_flags(**flags):
        changed = argparse.Namespace(**{**vars(args), **flags})
        size = count_needs(changed, config, corpus, choose_batches(changed, corpus)["longest"]).bytes
        words = [f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items() if value]
        tried.append((" ".join(words), size))
        return size <= limit

    trains = has_encoder(args)
    if trains and needs.weights + 3 * needs.trained + RESERVE <= limit:  # weights, gradients and moments never go
        checkpointing = {} if args.gradient_checkpointing else {"gradient_checkpointing": True}
        fits = bool(checkpointing) and try_flags(**checkpointing)
        parts = [{"batch_size": b // k, "gradient_accumulation_steps": n * k} for k in PASSES if b % k == 0]
        fits = any(try_flags(**flags) for flags in parts) or fits
        if parts and checkpointing and not fits:
            try_flags(**parts[-1], **checkpointing)
    if trains:
        if args.train_layers is None and not args.lora_rank:
            try_flags(lora_rank=8)
        try_flags(freeze_encoder=True, train_layers=None, lora_rank=0)
    elif b > 1:
        try_flags(batch_size=b // 2)
    return [flags for flags in tried if flags[1] <= limit] or sorted(tried, key=lambda flags: flags[1])[:1]


def format_plan(args, plan, origin, rate):
    """The table as text: memory, disk and time. Args: rate: FLOP/s. The others: of `plan_training`."""
    size = args.batch_size * args.gradient_accumulation_steps
    lines = [origin, f"{size} utterances a step, precision {plan.typical.precision}, all of WavLM's layers run", ""]
    lines.append(f"{'GPU memory at its peak, GiB':<36}{'typical batch':>14}{'longest batch':>14}")
    columns = plan.typical, plan.longest
    rows = {f"  {part}": [needs.step[part] for needs in columns] for part in PARTS}
    rows["peak of a training step"] = [needs.step.total() for needs in columns]
    rows |= {f"peak, {name}": [needs.others[name] for needs in columns] for name in plan.longest.others}
    rows["CUDA and its allocator, assumed"] = [RESERVE, RESERVE]
    rows["needed"] = [needs.bytes for needs in columns]
    lines += [f"{name:<36}" + "".join(f"{value / 2**30:14.2f}" for value in values) for name, values in rows.items()]
    lines += ["", "disk, GB", *(f"{f'  {name}':<36}{value / 1e9:14.2f}" for name, value in plan.disk.items())]
    lines += ["", f"time at {rate / 1e12:g} TFLOP/s{'' if args.rate else ', assumed'}"]
    step = plan.typical.flops["step"]
    lines.append(f"{'  a step, s':<36}{step / rate:14.2f}   {step / 1e12:.2f} TFLOP")
    hours = f"{plan.steps} steps, {args.epochs} epochs with their evaluation"
    lines.append(f"{'  all, hours':<36}{plan.flops / rate / 3600:14.2f}   {hours}")
    return "\n".join(lines)


def format_verdict(args, config, corpus, plan):
    """One line: whether the longest batch fits in --gpu_memory, and if not which flags would make it fit."""
    needed = f"{plan.longest.bytes / 2**30:.1f} GiB are needed"
    if plan.longest.bytes <= args.gpu_memory * 2**30:
        return f"fits in {args.gpu_memory:g} GiB: {needed}"
    suggestions = suggest(args, config, corpus, plan.longest, args.gpu_memory * 2**30)
    texts = ", ".join(f"{flags} ({size / 2**30:.1f} GiB)" for flags, size in suggestions)
    helps = any(size <= args.gpu_memory * 2**30 for _, size in suggestions)
    ending = f"try {texts}" if helps else f"no flag makes it fit{f', the least is {texts}' if texts else ''}"
    return f"does not fit in {args.gpu_memory:g} GiB: {needed}; {ending}"


class Rehearsal:
    """A model of train.py's flags on a fake GPU, and the phases of its training."""

    def __init__(self, args, config, video_dim):
        self.args, self.config, self.gpu = args, config, FakeGpu(_name_part(config.num_attention_heads))
        fields, self.kept = {"audio_layer": args.audio_layer, **model_config(args, {"video": video_dim})}, None
        if has_encoder(args):
            fields |= {"audio_config": config, "train_layers": args.train_layers, "lora_rank": args.lora_rank}
        elif "a" in args.modality:
            fields["audio_dim"] = config.hidden_size
        with torch.device("meta"):
            self.model = FoalNet(FoalNetConfig(**fields))
        if args.freeze_encoder:
            self.kept = args.audio_layer  # whose states are computed once
        elif args.train_layers is not None:
            self.kept = self.model.config.encoder_layers - args.train_layers
        self.model.encoder_passes = args.gradient_accumulation_steps
        if args.gradient_checkpointing and self.model.encoder is not None:
            self.model.encoder.activation_checkpointing_enable()
        with self.gpu:
            self.precision = choose_precision(args.mixed_precision, "cuda", choose_width(args, config, video_dim))
            self._materialize(self.model)
            self.optimizer = self._warm_up()

    def _materialize(self, network):
        """Weights without values on the fake GPU, in the place of those on no device."""
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                values = torch.empty(parameter.shape, device="cuda")
                self.gpu.label(values, "weights")
                setattr(module, name, torch.nn.Parameter(values, requires_grad=parameter.requires_grad))

    def _warm_up(self):
        """AdamW with its moments there, as after the first step."""
        args, fused = self.args, self.precision != "fp16"  # as in train.py
        optimizer = build_optimizer(self.model, args.lr, args.l2, args.encoder_lr, args.decay_all, fused)
        for group in optimizer.param_groups:
            group["foreach"] = None if fused else True  # what torch takes on a GPU
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        for tensor in itertools.chain(*(state.values() for state in optimizer.state.values())):
            if tensor.is_cuda:
                self.gpu.label(tensor, "moments")
        return optimizer

    def count_step(self, lengths):
        """One optimizer step: forward, backward, AdamW. Returns: Needs."""
        gpu, inputs = self.gpu, self.draw_inputs(lengths)
        self.model.train()
        gpu.reset()

        def accumulate(parameter, gradient):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            gpu.label(parameter.grad, "gradients")

        with self.autocast():
            losses = [self.model(**inputs).loss]
        gpu.backward(losses, accumulate)
        with gpu.working():
            self.optimizer.step()
        self.optimizer.zero_grad()
        weights = list(self.model.parameters())
        trained = [parameter for parameter in weights if parameter.requires_grad]
        saved = self.model.own_state_dict().values()  # without what is under adapters
        sizes = (sum(tensor.nbytes for tensor in some) for some in (weights, trained, saved))
        return Needs(+gpu.peak, self.precision, *sizes, flops={"step": gpu.flops})

    def count_evaluation(self, needs, lengths):
        """Add the prediction of a batch."""
        inputs = self.draw_inputs(lengths)
        del inputs["labels"]
        self.model.eval()
        with torch.no_grad():
            self._count_forward(needs, "evaluation", inputs)

    def count_gradients(self, needs, lengths):
        """Add the forward pass of `measure_gradients`; its gradients are those of one layer."""
        last = encoders.find_holder(self.model.encoder).layers[-1]
        trained = [parameter for parameter in last.parameters() if parameter.requires_grad]
        self.model.eval().requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        self._count_forward(needs, "gradient of each loss", self.draw_inputs(lengths))

    def _count_forward(self, needs, name, inputs):
        self.gpu.reset()
        with self.autocast():
            self.model(**inputs)
        needs.others[name], needs.flops[name] = self.gpu.peak.total(), self.gpu.flops

    @torch.no_grad()
    def count_states(self, needs, lengths):
        """Add the pass that writes the states of frozen layers, before there is a model."""
        before = self.gpu.live.total()
        with torch.device("meta"):
            encoder = encoders.build_encoder(self.config, self.kept).eval()
        self._materialize(encoder)
        inputs = self.draw_sounds(lengths)
        self.gpu.reset()
        with self.autocast():
            encoders.encode(encoder, **inputs, mix=encoders.choose_mix(encoder, self.kept))
        needs.others[STATES] = self.gpu.peak.total() - before
        needs.flops[STATES] = self.gpu.flops

    def autocast(self):
        return autocast(self.precision, torch.device("cuda"))

    def draw_sounds(self, lengths):
        """The arguments of encoders.encode for utterances of these (B, 2) lengths."""
        samples = [round(n * SAMPLE_RATE) for n in lengths[:, 0]]
        sounds = torch.empty(len(samples), max(samples), device="cuda")
        self.gpu.label(sounds, "batch")
        return {"input_values": sounds, "samples": samples}

    def draw_inputs(self, lengths):
        """The arguments of FoalNet.forward for utterances of these (B, 2) lengths."""
        rows, b, inputs = [int(n) for n in lengths[:, 1]], len(lengths), {}
        shapes = {"labels": ((b,), torch.long)}
        if "v" in self.args.modality:
            shapes["video_features"] = (b, max(rows), self.model.config.video_dim), torch.float32
            shapes["video_mask"] = (b, max(rows)), torch.bool
        if "a" in self.args.modality and self.kept is not None:
            steps = [max(1, round(n * encoders.FRAME_RATE) - 1) for n in lengths[:, 0]]
            name = "audio_features" if self.model.encoder is None else "audio_states"
            shapes[name] = (b, max(steps), self.config.hidden_size), torch.float32
            shapes["audio_mask"], inputs["samples"] = ((b, max(steps)), torch.bool), steps
        elif "a" in self.args.modality:
            inputs |= self.draw_sounds(lengths)
        for name, (shape, dtype) in shapes.items():
            inputs[name] = torch.empty(shape, dtype=dtype, device="cuda")
            self.gpu.label(inputs[name], "batch")
        return inputs


def _name_part(heads):
    def name(operation, parts, tensor):
        if tensor.dim() > 2 and tensor.shape[-3] == heads and tensor.shape[-1] == tensor.shape[-2]:
            return "attention bias"
        if operation is torch.ops.aten._to_copy.default and parts == ["weights"] and tensor.dtype in HALF:
            return COPIES
        return None

    return name


def choose_width(args, config, video_dim):
    """The width that the choice of a precision looks at, as in train.py."""
    return config.hidden_size if "a" in args.modality else video_dim
