"""How fast is Foal-Net, against what the release does and against what the machine can do.

    python -m scripts.benchmark --workloads train eval data extract --size large --batch 8

The arms run in turn, A B A B ..., and only ratios of their medians are claims. `stock` is what the release does,
written with the same modules: transformers' WavLM as it is, everything padded to 6 s and 180 frames, real pairs fused
twice, negatives drawn row by row, evaluation with all the losses, fp32 on a CPU and fp16 on a GPU. `ours` is what
train.py runs. Each arm also shows its share of the machine's own ceiling: the rate of a large matrix product of its
precision, timed in the same run.
"""

import argparse
import contextlib
import gc
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile as sf
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dataloader import SAMPLE_RATE, FoalDataset, Utterance, collate
from model import FoalNet, FoalNetConfig, avel_losses
from optims import build_optimizer
from running.errors import command
from running.pictures import COLOURS, DPI
from running.precision import choose_precision
from running.progress import progress_bar
from scripts import extract_clip

WORKLOADS = ("train", "options", "eval", "data", "extract")
MAX_LENGTH, MAX_FRAMES, FRAME_RATE = 6.0, 180, 30
SIZES = {  # fields of WavLMConfig; large and base are the published shapes
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "conv_dim": [64] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
SHARED = {  # of microsoft/wavlm-large
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,  # the published 0.1 skips layers at random, which is noise in a timing
    "mask_time_prob": 0.075,
}


CLIP_SIZES = {  # fields of CLIPVisionConfig: a toy, ViT-B/32 and ViT-L/14
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "base": {"projection_dim": 512},
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
}


class StockFoalNet(FoalNet):
    """The same modules and mathematics the way the release runs them; also the plain path that tests hold ours to."""

    def encode_audio(self, input_values, attention_mask=None):
        states = self.wavlm(input_values, attention_mask).last_hidden_state
        mask = self.wavlm._get_feature_vector_attention_mask(states.shape[1], attention_mask)
        return self.dropout(states) * mask[..., None], mask

    def _align_and_fuse(self, audio, video, labels, generator, output):
        output.audio_embeds = F.normalize(self.audio_project(output.audio_pooled).float(), dim=-1)
        output.video_embeds = F.normalize(self.video_project(output.video_pooled).float(), dim=-1)
        output.fused = torch.cat([self.fuse(self.a2v, *audio, *video), self.fuse(self.v2a, *video, *audio)], -1)
        if labels is None:
            return
        output.logits_per_audio = output.audio_embeds @ output.video_embeds.T / self.temp
        output.logits_per_video = output.video_embeds @ output.audio_embeds.T / self.temp
        losses = [avel_losses(s, labels, labels).mean() for s in (output.logits_per_audio, output.logits_per_video)]
        output.loss_avel = sum(losses) / 2
        losses = [
            self.match(self.a2v, self.a2v_head, audio, video, output.logits_per_audio, labels, generator),
            self.match(self.v2a, self.v2a_head, video, audio, output.logits_per_video, labels, generator),
        ]
        output.loss_mem = sum(losses) / 2

    def match(self, layers, head, stream, other, similarities, labels, generator):
        """MEM of one direction: the real pairs fused again, a negative drawn for each row by itself."""
        weights = similarities.detach().softmax(-1) * (labels[:, None] != labels)
        rows = [i for i, row in enumerate(weights) if row.sum() > 0]
        negatives = [torch.multinomial(weights[i], 1, generator=generator).item() for i in rows]
        real = self.fuse(layers, stream[0][rows], stream[1][rows], other[0][rows], other[1][rows])
        false = self.fuse(layers, stream[0][rows], stream[1][rows], other[0][negatives], other[1][negatives])
        targets = torch.tensor([1] * len(rows) + [0] * len(rows), device=labels.device)
        return F.cross_entropy(head(torch.cat([real, false])).float(), targets)


def parse_lengths(text):
    """`iemocap`, or seconds: `fixed` is the 6 s that the release pads to."""
    seconds = text if text == "iemocap" else float({"fixed": MAX_LENGTH}.get(text, text))
    if seconds != "iemocap" and not 0.5 <= seconds <= MAX_LENGTH:
        raise argparse.ArgumentTypeError(f"{text}: iemocap, fixed, or 0.5 to 6 seconds")
    return seconds


def draw_durations(lengths, n, seed):
    """Seconds of n utterances: IEMOCAP's (log-normal, median 3.58, sigma of the log 0.69, cut at 6) or all the same."""
    if lengths != "iemocap":
        return np.full(n, lengths)
    return np.clip(3.58 * np.exp(0.69 * np.random.default_rng(seed).standard_normal(n)), 0.58, MAX_LENGTH)


def draw_batch(durations, video_dim, fixed, device):
    """A random batch of these durations (seconds), padded to the longest or, `fixed`, to 6 s and 180 frames."""
    rng = np.random.default_rng(0)
    items = [
        {
            "utt_id": str(i),
            "label": i % 4,
            "input_values": rng.standard_normal(round(seconds * SAMPLE_RATE), dtype=np.float32) * 0.1,
            "video_features": rng.standard_normal((max(1, round(seconds * FRAME_RATE)), video_dim), dtype=np.float32),
        }
        for i, seconds in enumerate(durations)
    ]
    batch = collate(items)
    if fixed:
        samples, frames = round(MAX_LENGTH * SAMPLE_RATE), MAX_FRAMES
        for name, length in (("input_values", samples), ("attention_mask", samples), ("video_mask", frames)):
            batch[name] = F.pad(batch[name], (0, length - batch[name].shape[1]))
        batch["video_features"] = F.pad(batch["video_features"], (0, 0, 0, frames - batch["video_features"].shape[1]))
    batch.pop("utt_ids")
    return {name: tensor.to(device) for name, tensor in batch.items()}


@dataclass
class Arm:
    """One way of doing a workload: `run()` does it once, and what it costs is collected here."""

    name: str
    run: callable
    precision: str = "no"
    forget: callable = None  # drops what `run` keeps, the moments of an optimizer
    weights: int = 0  # bytes
    flops: float = 0.0  # of one run
    peak_bytes: int = 0  # weights and what `run` allocates
    seconds: list = None


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_peak(run, device):
    """The most bytes of tensors that `run` holds at a time beyond those that were there, as the allocator reports."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(np.cumsum([event.nbytes() for event in events]), default=0)


def time_arms(arms, rounds, device):
    """Run the arms in turn: a first round fills in `flops`, a second one `peak_bytes`, the others `seconds`."""
    for arm in arms:
        with FlopCounterMode(display=False) as counter:
            arm.run()
        arm.flops, arm.seconds = counter.get_total_flops(), []
        if arm.forget is not None:
            arm.forget()
    for arm in arms:
        if arm.weights:
            arm.peak_bytes = arm.weights + measure_peak(arm.run, device)
            if arm.forget is not None:
                arm.forget()
    for _ in progress_bar(range(rounds), desc=" / ".join(arm.name for arm in arms), leave=False):
        for arm in arms:
            synchronize(device)
            started = time.perf_counter()
            arm.run()
            synchronize(device)
            arm.seconds.append(time.perf_counter() - started)


def measure_ceilings(device, rounds=5):
    """The machine at its best: FLOP/s of a large matrix product by precision, and `bytes`, bytes/s of a copy."""
    n, ceilings = 8192 if device.type == "cuda" else 2048, {}
    for name, dtype in (("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if name == "fp16" and device.type == "cpu":
            continue
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        ceilings[name] = 2 * n**3 / best_time(lambda a=a, b=b: a @ b, rounds, device)
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    ceilings["bytes"] = 2 * source.nbytes / best_time(lambda: target.copy_(source), rounds, device)
    return ceilings


def best_time(function, rounds, device):
    times = []
    for _ in range(rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def bench_model(workload, args, batch_size, lengths, device):
    """Arms of `train`, `options` or `eval` at one batch size; one set of weights for all, to fit in memory."""
    torch.manual_seed(0)
    model = FoalNet(FoalNetConfig(wavlm={**SHARED, **SIZES[args.size]}, video_dim=args.video_dim)).to(device)
    durations = draw_durations(lengths, batch_size, args.seed)
    stock_inputs = draw_batch(durations, args.video_dim, True, device)
    inputs = draw_batch(durations, args.video_dim, False, device)
    stock_precision = "fp16" if device.type == "cuda" else "no"
    auto = choose_precision("auto", device.type, SIZES[args.size]["hidden_size"])
    ways = [("stock", StockFoalNet, stock_inputs, stock_precision), ("ours, fp32", FoalNet, inputs, "no")]
    if auto != "no":
        ways.append((f"ours, {auto}", FoalNet, inputs, auto))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if workload == "eval":
        return [Arm(name, make_eval(model, *way, device), way[-1], weights=weights) for name, *way in ways]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stock, ours = torch.optim.AdamW(trainable, lr=1e-5), build_optimizer(model, 1e-5, 0.01)
    if workload == "options":
        default = (model, FoalNet, inputs, auto, device, ours)
        states = (model, FoalNet, encode_batch(model, inputs), *default[3:])
        runs = {
            "default": make_train(*default),
            "--gradient_checkpointing": make_train(*default, checkpointing=True),
            "--gradient_accumulation_steps 4": make_train(*default, passes=4),
            "--freeze_encoder": make_train(*states),
        }
        return [Arm(name, run, auto, ours.state.clear, weights) for name, run in runs.items()]
    arms = []
    for name, kind, batch, precision in ways:
        optimizer = stock if kind is StockFoalNet else ours
        run = make_train(model, kind, batch, precision, device, optimizer)
        arms.append(Arm(name, run, precision, optimizer.state.clear, weights))
    return arms


@torch.no_grad()
def encode_batch(model, inputs):
    """The batch with WavLM's states in the place of the waveform."""
    states, mask = model.encode_audio(inputs["input_values"], inputs["attention_mask"])
    video = {name: inputs[name] for name in ("video_features", "video_mask", "labels")}
    return {"audio_states": states, "audio_mask": mask, **video}


def autocast(precision, device):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def make_train(model, kind, batch, precision, device, optimizer, checkpointing=False, passes=1):
    """Forward, backward and AdamW step of the model as a StockFoalNet or FoalNet."""
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def run():
        model.__class__ = kind
        model.wavlm.encoder.gradient_checkpointing, model.encoder_passes = checkpointing, passes
        model.train()
        with autocast(precision, device):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return run


def make_eval(model, kind, batch, precision, device):
    """Prediction; the release computes every loss on the way."""
    inputs = {k: v for k, v in batch.items() if k != "labels" or kind is StockFoalNet}

    def run():
        model.__class__ = kind
        model.eval()
        with torch.no_grad(), autocast(precision, device):
            model(**inputs)

    return run


class StockDataset(FoalDataset):
    """The whole file read, then cut and padded to the fixed length, as the release does."""

    def __getitem__(self, i):
        utterance = self.utterances[i]
        samples, _ = sf.read(utterance.path, dtype="float32")
        features = np.load(utterance.features)
        audio, video = np.zeros(round(MAX_LENGTH * SAMPLE_RATE), np.float32), np.zeros((MAX_FRAMES, features.shape[1]))
        n, frames = min(len(audio), len(samples)), min(MAX_FRAMES, len(features))
        audio[:n], video[:frames] = samples[:n], features[:frames]
        return {"utt_id": utterance.utt_id, "label": 0, "input_values": audio, "video_features": video}


def bench_data(args, folder):
    """Arms that read 256 utterances (6 s of wav, 180 x 768 float16) in batches of 16 by one worker process."""
    rng, utterances = np.random.default_rng(args.seed), []
    for i in range(256):
        wav, npy = Path(folder, f"{i}.wav"), Path(folder, f"{i}.npy")
        sf.write(wav, rng.standard_normal(round(MAX_LENGTH * SAMPLE_RATE)) * 0.1, SAMPLE_RATE)
        np.save(npy, rng.standard_normal((MAX_FRAMES, args.video_dim)).astype(np.float16))
        utterances.append(Utterance(str(i), str(wav), 0, str(npy), MAX_LENGTH))

    def make(name, dataset):
        loader = DataLoader(dataset, 16, collate_fn=collate, num_workers=1, persistent_workers=True)
        return Arm(name, lambda: [None for _ in loader])

    return [make("stock", StockDataset(utterances)), make("ours", FoalDataset(utterances))]


def write_video(path, seconds, rng):
    """A 720x480 MPEG-4 video in avi at 30 frames/s with moving noise: what a DivX dialogue costs to decode."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 720, 480, "yuv420p", 1_000_000
        picture = np.kron(rng.integers(0, 255, (30, 45, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        for i in range(round(seconds * FRAME_RATE)):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def bench_extract(args, folder, device):
    """Decoding alone, the network alone and both together, on two dialogues of overlapping utterances."""
    rng, rows = np.random.default_rng(args.seed), []
    for video in range(2):
        write_video(Path(folder, f"{video}.avi"), args.video_seconds, rng)
        for i, start in enumerate(np.arange(0, args.video_seconds - 2, 1.5)):
            rows.append(
                (f"{video}_{i}", str(Path(folder, f"{video}.avi")), start, start + 2.0, ["left", "right"][i % 2])
            )
    table = pd.DataFrame(rows, columns=["id", "video", "start", "end", "crop"])
    torch.manual_seed(args.seed)
    config = CLIPVisionConfig(**CLIP_SIZES[args.clip_size])
    edge = config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    precision = choose_precision("auto", device.type, config.hidden_size)
    encoder = extract_clip.ClipEncoder(
        CLIPVisionModelWithProjection(config), processor, device, extract_clip.DTYPES[precision]
    )
    prepare = extract_clip.FramePreparer(processor, (112, 368))

    def load():
        videos = list(extract_clip.group_by_video(table).items())
        workers = max(1, len(os.sched_getaffinity(0)))

        def cut(path, clips):
            return extract_clip.cut_clips(path, clips, prepare)

        return extract_clip.FrameLoader(videos, cut, workers, 4 * args.frames_batch)

    frames = [item.pixels for item in load() if isinstance(item, extract_clip.Frame)]

    def run_network():
        for i in range(0, len(frames), args.frames_batch):
            encoder(np.stack(frames[i : i + args.frames_batch]))

    def run_both():
        extract_clip.encode_frames(load(), encoder, extract_clip.FeatureWriter(folder, np.float32), args.frames_batch)

    return [
        Arm("decoding alone", lambda: sum(1 for _ in load())),
        Arm("network alone", run_network, precision),
        Arm("both", run_both, precision),
    ], len(frames)


def describe_arms(case, arms, ceilings):
    """Rows of the table: medians, speed against the first arm pair by pair, peak memory, share of the ceiling."""
    rows = []
    for arm in arms:
        seconds = statistics.median(arm.seconds)
        ratios = [first / own for first, own in zip(arms[0].seconds, arm.seconds, strict=True)]
        rows.append(
            {
                **case,
                "arm": arm.name,
                "seconds": seconds,
                "speed-up": statistics.median(ratios),
                "from": min(ratios),
                "to": max(ratios),
                "peak GiB": arm.peak_bytes / 2**30 or None,
                "TFLOP": arm.flops / 1e12 or None,
                "of ceiling": arm.flops / seconds / ceilings[arm.precision] or None,
            }
        )
    return rows


def profile_arm(arm, kinds=14):
    """Which operations an arm spends its time in: text, a line each with its share of the time on the CPU (or GPU)."""
    with torch.profiler.profile(acc_events=True) as profiler:
        arm.run()
    on_gpu = any(event.self_device_time_total for event in profiler.key_averages())
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:kinds]
    return "\n".join([arm.name, *(f"{100 * times[key] / total:6.1f} %  {key}" for key in largest)])


def plot_costs(table, path):
    """Seconds an utterance of `train` and `eval`: against batch size, and against length where lengths were asked."""
    models, panels = table[table["workload"].isin(["train", "eval"])], []
    for (workload, lengths), rows in models.groupby(["workload", "lengths"], sort=False):
        if rows["batch"].nunique() > 1 or lengths == "iemocap":
            panels.append((f"{workload}, lengths {lengths}", "batch", "batch size", rows))
    for (workload, batch), rows in models[models["lengths"] != "iemocap"].groupby(["workload", "batch"], sort=False):
        panels.append((f"{workload}, batch {batch}", "lengths", "length of every utterance, s", rows))
    across, down = min(3, len(panels)), -(-len(panels) // 3)
    figure, grid = plt.subplots(down, across, figsize=(4.5 * across, 3.2 * down), squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, column, label, rows) in zip(grid.flat, panels, strict=False):
        for colour, (name, arm) in zip(COLOURS, rows.groupby("arm", sort=False), strict=False):
            arm = arm.sort_values(column)
            axes.plot(arm[column], arm["seconds"] / arm["batch"], marker="o", color=colour, label=name)
        axes.set(title=title, xlabel=label, ylabel="s an utterance", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--size", default="large", choices=SIZES, help="shape of WavLM")
    parser.add_argument("--video_dim", type=int, default=768, help="width of the video features")
    parser.add_argument(
        "--lengths", nargs="+", type=parse_lengths, default=["iemocap"], help="iemocap, fixed (6 s), or seconds up to 6"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="utterances a step, several for a plot")
    parser.add_argument("--clip_size", default="base", choices=CLIP_SIZES, help="shape of CLIP for extract")
    parser.add_argument("--video_seconds", type=float, default=12.0, help="length of the two videos of extract")
    parser.add_argument("--frames_batch", type=int, default=32, help="frames through CLIP at a time")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each arm")
    parser.add_argument("--profile", action="store_true", help="print the operations of train, options and eval")
    parser.add_argument("--seed", type=int, default=1234, help="seed of durations, weights and pictures")
    parser.add_argument("--out", default="runs/benchmark", help="folder for benchmark.csv, .txt and .png")
    return parser


def run_workload(workload, args, ceilings, device):
    """Rows of the table of one workload."""
    rows = []
    if workload in ("train", "options", "eval"):
        for lengths in args.lengths:
            for batch_size in args.batch:
                arms = bench_model(workload, args, batch_size, lengths, device)
                time_arms(arms, args.rounds, device)
                case = {"workload": workload, "size": args.size, "lengths": lengths, "batch": batch_size}
                rows += describe_arms(case, arms, ceilings)
                if args.profile:
                    print("\n\n".join(profile_arm(arm) for arm in arms), end="\n\n")
                del arms
                gc.collect()
        return rows
    with tempfile.TemporaryDirectory() as folder:
        if workload == "data":
            arms, count, where = bench_data(args, folder), 256, torch.device("cpu")
            case = {"workload": workload, "size": "6 s + 180 frames"}
        else:
            (arms, count), where = bench_extract(args, folder, device), device
            case = {"workload": workload, "size": f"CLIP {args.clip_size}"}
        time_arms(arms, args.rounds, where)
    rows = describe_arms(case, arms, ceilings)
    return [{**row, "items/s": count / row["seconds"]} for row in rows]


@command
def main(argv=None):
    """Time the workloads. Returns: the table, a DataFrame."""
    args = build_parser().parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ceilings = measure_ceilings(device)
    rows, out = [], Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for workload in args.workloads:
        rows += run_workload(workload, args, ceilings, device)
        table = pd.DataFrame(rows)
        table.to_csv(out / "benchmark.csv", index=False)  # what is measured stays, whatever comes
    text = table.to_string(index=False, float_format="{:.3g}".format, na_rep="")
    rates = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in ceilings.items() if name != "bytes")
    text += f"\nceilings: {rates}, copy {ceilings['bytes'] / 1e9:.1f} GB/s; {torch.get_num_threads()} threads, {device}"
    (out / "benchmark.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    if {"train", "eval"} & set(args.workloads):
        plot_costs(table, out / "benchmark.png")
    return table


if __name__ == "__main__":
    main()
