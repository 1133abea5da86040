"""Video features: manifest.csv + a CLIP checkpoint -> one `<utt_id>.npy` per utterance and `features.json`.

    python -m scripts.extract_clip --manifest manifest.csv --out data/features
    python -m scripts.extract_clip --manifest manifest.csv --out data/features --rows 112:368         # IEMOCAP
    accelerate launch --num_processes 4 -m scripts.extract_clip --manifest manifest.csv --out data/features

Each file holds (frames, dim): CLIP's image embedding after the projection (`get_image_features`, not normalised) of
every frame whose presentation time lies in [start, end) of the utterance, in order. Every video is decoded once, from
front to back, whatever the number of utterances in it; a frame wanted by two utterances with the same crop goes
through the network once. Worker threads decode and resize ahead of the network through a bounded queue; several
processes share the videos. Finished utterances are skipped, so an interrupted run continues where it stopped.

Times are seconds from the start of the container, so that sound and picture agree. IEMOCAP's 720x480 videos show the
two actors side by side and carry the picture in rows 112 to 368 only, the rest is black: `--rows 112:368`.

The picture is prepared as transformers' CLIP image processor does it (bicubic, shortest edge, centre crop), with
Pillow. Sources: Radford et al. 2021 (CLIP); Li et al. 2024 (CLIP ViT-L/14 frames as the video stream).
"""

import argparse
import json
import logging
import math
import os
import queue
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from accelerate.utils import gather_object
from av.video.reformatter import VideoReformatter
from PIL import Image
from transformers import AutoConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from corpus.manifest import read_manifest
from running.errors import InputError, command, join_problems
from running.launch import join_processes, start_cpu_processes
from running.progress import progress_bar
from running.records import checksum_weights, write_array, write_json

logger = logging.getLogger("foalnet")

SETTINGS_FILE = "features.json"
CHUNK = 16  # frames handed over at a time
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Clip:
    """One utterance in a video: where it lies, and how many of its frames went by and were kept."""

    utt_id: str
    start: float  # seconds, -inf for the start of the file
    end: float  # seconds, inf for the end of the file
    crop: str
    seen: int = 0
    kept: int = 0

    def __post_init__(self):
        self.start, self.end = round(self.start, 6), round(self.end, 6)  # as read_frames does


@dataclass
class Frame:
    """A prepared picture, (size, size, 3) uint8, and the utterances that it belongs to."""

    pixels: np.ndarray
    utt_ids: list


@dataclass
class Finished:
    """No further frame of this utterance will come."""

    utt_id: str


@dataclass
class VideoReport:
    """What is to be said of a video after its last frame: frames a second, and what went wrong."""

    rate: float | None
    problems: list


class FramePreparer:
    """Crop, resize and centre-crop a frame as the CLIP image processor does, up to but without the normalisation.

    Args:
        processor: a CLIPImageProcessorPil; its resize and crop sizes are used.
        rows: (first, last + 1) picture rows to keep, or None for all.
    Raises: InputError for a processor that does not resize and crop to one fixed size.
    """

    def __init__(self, processor, rows=None):
        size, crop = processor.size, processor.crop_size
        self.resample, self.rows, self.edge = processor.resample, rows, size.shortest_edge
        fixed = (size.height, size.width)
        self.size = (crop.height, crop.width) if processor.do_center_crop else fixed
        self.resize_to = None if self.edge else fixed
        smallest = (self.edge, self.edge) if self.edge else fixed
        usable = processor.do_resize and None not in (*self.size, *smallest)
        if not usable or smallest[0] < self.size[0] or smallest[1] < self.size[1]:
            raise InputError(
                f"preprocessor_config.json: size {dict(size)}, crop_size {dict(crop)}; needed: do_resize with "
                "shortest_edge (or height and width) no smaller than crop_size"
            )

    def __call__(self, picture, crop):
        """(height, width, 3) uint8 and `full`, `left` or `right` -> (size, size, 3) uint8."""
        if self.rows:
            picture = picture[self.rows[0] : self.rows[1]]
        half = picture.shape[1] // 2
        if crop != "full":
            picture = picture[:, :half] if crop == "left" else picture[:, half:]
        height, width = picture.shape[:2]
        if self.edge:
            short = min(height, width)
            new_height, new_width = (int(self.edge * side / short) for side in (height, width))
        else:
            new_height, new_width = self.resize_to
        image = Image.fromarray(np.ascontiguousarray(picture)).resize((new_width, new_height), self.resample)
        top, left = (new_height - self.size[0]) // 2, (new_width - self.size[1]) // 2
        return np.asarray(image)[top : top + self.size[0], left : left + self.size[1]]


class ClipEncoder:
    """The vision tower of a CLIP checkpoint with its projection, ready for uint8 pictures.

    Args:
        model: CLIPVisionModelWithProjection.
        processor: the CLIPImageProcessorPil of the same checkpoint (scale, mean and deviation are used).
        device: where to compute.
        dtype: precision of weights and activations.
    """

    def __init__(self, model, processor, device="cpu", dtype=torch.float32):
        self.model = model.to(device=device, dtype=dtype).eval()
        self.device, self.dtype = torch.device(device), dtype
        self.dim = model.config.projection_dim
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (mean, std))
        self.scale, self.shift = scale / std, -mean / std

    @torch.inference_mode()
    def __call__(self, pixels):
        """(B, size, size, 3) uint8 array -> (B, dim) float32 tensor on the device, after the projection."""
        batch = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        batch = (batch * self.scale + self.shift).to(self.dtype)
        return self.model(pixel_values=batch).image_embeds.float()


def load_clip(name):
    """Load the vision tower and the image processor of a CLIP checkpoint.

    Args:
        name: folder or hub id; a whole CLIP model or its vision part.
    Returns: (CLIPVisionModelWithProjection in float32, CLIPImageProcessorPil). A checkpoint without
        preprocessor_config.json gets CLIP's own processor at the image size of the model.
    Raises: InputError when there is no such checkpoint, it is not CLIP, or weights of the tower are missing.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type == "clip":
            config.vision_config.projection_dim = config.projection_dim  # which of the two is right, CLIPModel says
            config = config.vision_config
        elif config.model_type != "clip_vision_model":
            raise ValueError(f"it is of type {config.model_type!r}, not clip or clip_vision_model")
        model, info = CLIPVisionModelWithProjection.from_pretrained(
            name, config=config, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--clip_model {name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    if info["missing_keys"]:
        raise InputError(f"--clip_model {name}: no weights for {sorted(info['missing_keys'])[0]}")
    size = model.config.image_size
    try:
        processor = CLIPImageProcessorPil.from_pretrained(name)
    except OSError:
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return model, processor


def read_frames(container, stream):
    """Decode a video from front to back.

    Args:
        container: an open av container.
        stream: its video stream.
    Yields: (seconds since the start of the container rounded to microseconds, av.VideoFrame). A packet that does not
        decode gives (None, error) instead, and decoding goes on behind it.
    """
    offset = Fraction(container.start_time or 0, av.time_base)
    step = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    previous = -step
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            yield None, error
            continue
        for frame in frames:
            exact = previous + step if frame.pts is None else frame.pts * frame.time_base - offset
            previous = exact
            yield round(float(exact), 6), frame


def cut_clips(path, clips, prepare, frame_stride=1, max_frames=0, threads=1):
    """Decode one video and give every frame to the clips that hold it.

    Args:
        path: the video file.
        clips: the Clips to cut from it; their counters are filled in.
        prepare: FramePreparer.
        frame_stride: keep the frames 0, N, 2N, ... of each clip.
        max_frames: stop a clip after that many kept frames; 0 = all.
        threads: threads of the decoder.
    Yields: Frame and, once a clip has all it gets, Finished; at last one VideoReport.
    """
    waiting = sorted(clips, key=lambda clip: clip.start, reverse=True)
    active, problems, damaged, rate, last = [], [], 0, None, None
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no picture stream")
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            rate = float(stream.average_rate) if stream.average_rate else None
            _check_rows(path, prepare.rows, stream.height)
            to_rgb = VideoReformatter()
            for seconds, frame in read_frames(container, stream):
                if seconds is None:
                    damaged += 1
                    continue
                last = seconds
                while waiting and waiting[-1].start <= seconds:
                    active.append(waiting.pop())
                ended = [clip for clip in active if seconds >= clip.end]
                yield from _prepare_frame(frame, [c for c in active if c not in ended], prepare, frame_stride, to_rgb)
                ended += [clip for clip in active if max_frames and clip.kept >= max_frames]
                active = [clip for clip in active if clip not in ended]
                yield from (Finished(clip.utt_id) for clip in ended if clip.kept)
                if not waiting and not active:
                    break
    except (OSError, av.FFmpegError) as error:
        problems.append(f"{path}: cannot be decoded as video: {error}")
    except InputError as error:
        problems.append(str(error))
    yield from (Finished(clip.utt_id) for clip in active if clip.kept)
    if not problems:
        where = "holds no frame" if last is None else f"ends at {last:.2f} s"
        problems = [
            f"{clip.utt_id}: no frame between start {clip.start:.4f} and end {clip.end:.4f}: {path} {where}"
            for clip in clips
            if not clip.kept
        ]
    if damaged:
        logger.warning("%s: %d packets do not decode and were left out", path, damaged)
    yield VideoReport(rate, problems)


def _check_rows(path, rows, height):
    if rows and rows[1] > height:
        raise InputError(f"{path}: --rows {rows[0]}:{rows[1]} but the picture has {height} rows")


def _prepare_frame(frame, clips, prepare, frame_stride, to_rgb):
    """Yield one Frame per crop that the clips want of this frame, and count."""
    wanted = defaultdict(list)
    for clip in clips:
        if clip.seen % frame_stride == 0:
            wanted[clip.crop].append(clip.utt_id)
            clip.kept += 1
        clip.seen += 1
    if wanted:
        picture = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        for crop, utt_ids in wanted.items():
            yield Frame(prepare(picture, crop), utt_ids)


class FrameLoader:
    """Threads that cut videos and keep a bounded queue of their frames filled.

    Iterating gives the items of `cut_clips`; those of one video come in order, those of several are interleaved.

    Args:
        videos: list of (path, clips).
        cut: function of (path, clips) that yields the items.
        num_workers: videos decoded at a time.
        max_waiting: frames that may wait in the queue.
    """

    def __init__(self, videos, cut, num_workers, max_waiting):
        self.videos = queue.SimpleQueue()
        for video in videos:
            self.videos.put(video)
        self.cut, self.num_workers = cut, max(1, min(num_workers, len(videos)))
        self.chunks = queue.Queue(maxsize=max(2, max_waiting // CHUNK))
        self.stopped = threading.Event()

    def __iter__(self):
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.num_workers)]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                chunk = self.chunks.get()
                if isinstance(chunk, BaseException):
                    raise chunk
                running -= chunk is None
                yield from chunk or ()
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    def _work(self):
        try:
            while not self.stopped.is_set():
                try:
                    path, clips = self.videos.get_nowait()
                except queue.Empty:
                    break
                self._cut_video(path, clips)
            self._put(None)
        except Exception as error:  # noqa: BLE001 handed to the consumer, which raises it
            self._put(error)

    def _cut_video(self, path, clips):
        chunk = []
        for item in self.cut(path, clips):
            chunk.append(item)
            if len(chunk) >= CHUNK and not self._put(chunk):
                return
            if len(chunk) >= CHUNK:
                chunk = []
        self._put(chunk)

    def _put(self, chunk):
        """Wait for room in the queue; False when the consumer has left."""
        while not self.stopped.is_set():
            try:
                self.chunks.put(chunk, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


class FeatureWriter:
    """Collect the rows of each utterance and write `<out>/<utt_id>.npy` when it is complete, all or nothing.

    Args:
        out: folder.
        dtype: numpy dtype on disk.
    """

    def __init__(self, out, dtype):
        self.out, self.dtype, self.rows = Path(out), dtype, defaultdict(list)

    def add(self, features, owners):
        """Rows (B, dim) and, for each, the ids that it belongs to."""
        for row, utt_ids in zip(features, owners, strict=True):
            for utt_id in utt_ids:
                self.rows[utt_id].append(row)

    def finish(self, utt_id):
        write_array(self.out / f"{utt_id}.npy", np.stack(self.rows.pop(utt_id)).astype(self.dtype))


def encode_frames(items, encoder, writer, batch_size, progress=None):
    """Run the network over the stream of frames in batches that cross clips and videos, and write what is finished.

    The rows of a batch are fetched from the device while the next batch is computed.

    Returns: (Counter of frame rates, list of problems).
    """
    pixels, owners, finished, rates, problems = [], [], [], Counter(), []
    pending = None

    def fetch():
        if pending is None:
            return
        features, ids, done = pending
        if features is not None:
            writer.add(features.cpu().numpy(), ids)
        for utt_id in done:
            writer.finish(utt_id)
        if progress is not None:
            progress(len(ids), len(done))

    def launch():
        return (encoder(np.stack(pixels)) if pixels else None), owners, finished

    for item in items:
        if isinstance(item, Frame):
            pixels.append(item.pixels)
            owners.append(item.utt_ids)
        elif isinstance(item, Finished):
            finished.append(item.utt_id)
        else:
            rates[item.rate] += 1
            problems += item.problems
        if len(pixels) == batch_size:
            batch = launch()
            fetch()
            pending, pixels, owners, finished = batch, [], [], []
    batch = launch()
    fetch()
    pending = batch
    fetch()
    return rates, problems


def group_by_video(table):
    """The manifest's utterances by video: dict path -> list of Clips."""
    videos = defaultdict(list)
    for row in table.itertuples():
        start = -math.inf if math.isnan(row.start) else row.start
        end = math.inf if math.isnan(row.end) else row.end
        videos[row.video].append(Clip(row.id, start, end, row.crop))
    return videos


def share_videos(videos, index, count):
    """The part of the videos that process `index` of `count` takes: longest first, each to the least laden process."""

    def length(clips):
        known = [clip.end for clip in clips if math.isfinite(clip.end)]
        return max(known, default=4.5) + 0.1 * len(clips)

    loads, parts = [0.0] * count, [[] for _ in range(count)]
    for path, clips in sorted(videos.items(), key=lambda item: (-length(item[1]), item[0])):
        least = loads.index(min(loads))
        loads[least] += length(clips)
        parts[least].append((path, clips))
    return parts[index]


def describe_sources(table):
    """Where each utterance's frames come from, dict id -> `video start end crop`: kept in features.json."""
    return {
        row.id: f"{Path(row.video).name} {row.start:.4f} {row.end:.4f} {row.crop}".replace("nan", "-")
        for row in table.itertuples()
    }


def compare_settings(out, settings, sources, finished):
    """Refuse to mix features of different settings in one folder.

    Args:
        out: the feature folder.
        settings: what this run would record.
        sources: `describe_sources` of the manifest.
        finished: ids that have a file already.
    Returns: the record of the run before, a dict, empty for a new folder.
    Raises: InputError that names each difference.
    """
    path = Path(out) / SETTINGS_FILE
    if not path.is_file():
        if finished:
            raise InputError(f"{path}: missing, but {out} holds features ({finished[0]}.npy ...); use another --out")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    problems = [
        f"{path}: {key} is {record.get(key)!r}, asked for {value!r}; use another --out"
        for key, value in settings.items()
        if record.get(key) != value
    ]
    problems += [
        f"{path}: {utt_id} was cut from {record['sources'][utt_id]!r}, the manifest says {sources[utt_id]!r}; "
        f"remove {utt_id}.npy or use another --out"
        for utt_id in finished
        if record.get("sources", {}).get(utt_id, sources[utt_id]) != sources[utt_id]
    ]
    if finished and problems:
        raise InputError(join_problems(problems))
    return record


def write_record(out, settings, table, sources, previous, rates=None):
    """Write features.json: the settings, the frame rate, how many utterances are there and their sources."""
    done = {path.stem for path in Path(out).glob("*.npy")}
    sources = {**previous.get("sources", {}), **sources}
    known = [rate for rate, _ in (rates or Counter()).most_common() if rate]
    if len(known) > 1:
        logger.warning("videos of different frame rates: %s", ", ".join(f"{rate:.3f}" for rate in known))
    record = {
        **settings,
        "crop": sorted(set(table["crop"])),
        "frame_rate": round(known[0], 3) if known else previous.get("frame_rate"),
        "utterances": len(done & sources.keys()),
        "sources": dict(sorted(sources.items())),
    }
    write_json(Path(out) / SETTINGS_FILE, record)


def parse_rows(text):
    """`112:368` -> (112, 368); empty -> None."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise InputError(f"--rows {text}: expected FIRST:LAST+1, two rising row numbers such as 112:368")
    return int(first), int(last)


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.extract_clip",
        description="CLIP image embeddings of every utterance of a manifest.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--manifest", required=True, help="csv table of utterances (see manifest.py)")
    data.add_argument("--out", required=True, help="folder for <utt_id>.npy and features.json")
    data.add_argument("--rows", default="", metavar="A:B", help="picture rows A <= row < B; 112:368 for IEMOCAP")
    data.add_argument("--frame_stride", type=int, default=1, help="keep every Nth frame of an utterance")
    data.add_argument("--max_frames", type=int, default=180, help="frames kept of an utterance, the first; 0 = all")
    data.add_argument("--half", action="store_true", help="store float16 instead of float32")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--clip_model", default="openai/clip-vit-large-patch14", help="CLIP checkpoint: folder or hub id"
    )
    model.add_argument("--mixed_precision", choices=list(DTYPES), default="no", help="precision of the network")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, default=64, help="frames through the network at a time")
    run.add_argument(
        "--num_workers", type=int, default=0, help="videos decoded at a time by each process; 0 = one a core, at most 8"
    )
    run.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser


def check_arguments(args):
    """Raise InputError for every value out of range at once."""
    lowest = {"frame_stride": 1, "max_frames": 0, "batch_size": 1, "num_workers": 0}
    problems = [
        f"--{name} {getattr(args, name)}: at least {low}" for name, low in lowest.items() if getattr(args, name) < low
    ]
    if problems:
        raise InputError(join_problems(problems))


def check_videos(table):
    """Raise InputError naming every video that does not exist."""
    missing = [f"{path}: no such video (utterance {ids.iloc[0]})" for path, ids in table.groupby("video")["id"]
               if not Path(path).is_file()]  # fmt: skip
    if missing:
        raise InputError(join_problems(missing))


def extract(table, pending, args, state, encoder, prepare):
    """Cut and encode this process's share of the pending utterances.

    Returns: (Counter of frame rates, list of problems), over all processes.
    """
    videos = group_by_video(table[table["id"].isin(pending)])
    share = share_videos(videos, state.process_index, state.num_processes)
    cores = max(1, len(os.sched_getaffinity(0)) // state.num_processes)
    workers = args.num_workers or min(8, cores)

    def cut(path, clips):
        return cut_clips(path, clips, prepare, args.frame_stride, args.max_frames, max(1, cores // workers))

    loader = FrameLoader(share, cut, workers, max_waiting=4 * args.batch_size)
    total = sum(len(clips) for _, clips in share)
    with progress_bar(total=total, unit="utt", desc="CLIP", disable=not state.is_main_process) as bar:
        frames = 0

        def progress(n_frames, n_utterances):
            nonlocal frames
            frames += n_frames
            bar.update(n_utterances)
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-6):.0f} frames/s", refresh=False)

        writer = FeatureWriter(args.out, np.float16 if args.half else np.float32)
        rates, problems = encode_frames(loader, encoder, writer, args.batch_size, progress)
    if state.num_processes > 1:
        rates = sum(gather_object([rates]), Counter())
        problems = gather_object(problems)
    return rates, problems


@command
def main(argv=None):
    args = build_parser().parse_args(argv)
    check_arguments(args)
    rows = parse_rows(args.rows)
    table = read_manifest(args.manifest)
    check_videos(table)
    model, processor = load_clip(args.clip_model)
    prepare = FramePreparer(processor, rows)
    state = join_processes(args.cpu, timeout=timedelta(days=7))  # a process may be done long before the others
    settings = {
        "model": args.clip_model,
        "weights_crc32": checksum_weights(model),
        "dim": model.config.projection_dim,
        "frame_stride": args.frame_stride,
        "max_frames": args.max_frames,
        "rows": list(rows) if rows else None,
        "dtype": "float16" if args.half else "float32",
        "mixed_precision": args.mixed_precision,
    }
    out = Path(args.out)
    finished = [utt_id for utt_id in table["id"] if (out / f"{utt_id}.npy").is_file()]
    sources = describe_sources(table)
    previous = compare_settings(out, settings, sources, finished)
    pending = set(table["id"]) - set(finished)
    state.wait_for_everyone()  # all have looked before anyone writes
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        write_record(out, settings, table, sources, previous)
        logger.info("%d utterances, %d finished before, on %s", len(table), len(finished), state.device)
    state.wait_for_everyone()
    encoder = ClipEncoder(model, processor, state.device, DTYPES[args.mixed_precision])
    rates, problems = extract(table, pending, args, state, encoder, prepare)
    if state.is_main_process:
        write_record(out, settings, table, sources, previous, rates)
        logger.info("%d of %d utterances are in %s", len(table) - len(pending) + _count(out, pending), len(table), out)
        if problems:
            raise InputError(join_problems(sorted(problems)))
    elif problems:
        raise SystemExit(2)


def _count(out, utt_ids):
    return sum((out / f"{utt_id}.npy").is_file() for utt_id in utt_ids)


if __name__ == "__main__":
    start_cpu_processes(["-m", "scripts.extract_clip", *sys.argv[1:]])
    main()
