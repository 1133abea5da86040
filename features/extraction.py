"""The run over a corpus: manifest -> videos shared out -> frames -> encoder -> one file an utterance.

Batches cross clips and videos. Finished utterances are skipped, so an interrupted run continues where it stopped.
Sources: Li et al. 2024 (CLIP ViT-L/14 frames as the video stream).
"""

import logging
import os
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import chain
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object

from corpus.manifest import read_manifest
from features.decoding import Finished, Frame
from features.face_tracks import FaceSettings
from features.loading import build_frame_loader, group_by_video, share_videos
from features.picture_encoders import (
    DTYPES,
    PictureEncoder,
    choose_dtype,
    fetch_later,
    find_family,
    find_width,
    load_picture_encoder,
)
from features.preparing import FramePreparer
from features.store import (
    FACES_FILE,
    FeatureWriter,
    begin_face_counts,
    compare_settings,
    describe_sources,
    find_finished,
    remove_unfinished,
    write_record,
)
from running.errors import InputError, join_problems
from running.launch import join_processes
from running.progress import progress_bar
from running.records import checksum_weights

logger = logging.getLogger("foalnet")


def extract_features(
    manifest,
    out,
    image_model,
    rows=None,
    crop="manifest",
    frame_stride=1,
    max_frames=0,
    half=False,
    mixed_precision="auto",
    batch_size=64,
    num_workers=0,
    cpu=False,
):
    """Write `<out>/<utt_id>.npy`, (frames, dim), for every utterance of a manifest that has none, and features.json.

    Args:
        manifest: csv file, see corpus/manifest.py.
        out: folder.
        image_model: folder or hub id of a picture encoder, see `load_picture_encoder`.
        rows: (first, last + 1) picture rows to keep, or None for all.
        crop: `manifest`, the part of the picture that each row names, or `face`, the face in that part.
        frame_stride: keep every Nth frame of an utterance.
        max_frames: frames kept of an utterance, the first; 0 = all.
        half: float16 on disk instead of float32.
        mixed_precision: a key of DTYPES, the precision of the network, or `auto`, see `choose_dtype`.
        batch_size: frames through the network at a time.
        num_workers: videos decoded at a time by each process of the launch, see `build_frame_loader`.
        cpu: use no GPU.
    Raises: InputError that names every video and utterance without frames, after all others are written.
    """
    table = read_manifest(manifest)
    check_videos(table)
    faces = FaceSettings(max_frames=max_frames) if crop == "face" else None
    model, processor = load_picture_encoder(image_model)
    prepare = FramePreparer(processor, rows)
    state = join_processes(cpu, timeout=timedelta(days=7))  # a process may be done long before the others
    mixed_precision = choose_dtype(mixed_precision, state.device)
    settings = {
        "model": image_model,
        "model_type": find_family(model.config),
        "weights_crc32": checksum_weights(model),
        "dim": find_width(model.config),
        "frame_stride": frame_stride,
        "max_frames": max_frames,
        "rows": list(rows) if rows else None,
        "face_crop": asdict(faces) if faces else None,
        "dtype": "float16" if half else "float32",
        "mixed_precision": mixed_precision,
    }
    finished, sources = find_finished(out, table["id"]), describe_sources(table)
    previous = compare_settings(out, settings, sources, finished)
    state.wait_for_everyone()  # all have looked before anyone writes
    if state.is_main_process:
        Path(out).mkdir(parents=True, exist_ok=True)
        remove_unfinished(out)
        if faces:
            begin_face_counts(out)
        write_record(out, settings, table, sources, previous)
        logger.info("%d utterances, %d finished before, on %s", len(table), len(finished), state.device)
    state.wait_for_everyone()

    videos = group_by_video(table[~table["id"].isin(finished)])
    encoder = PictureEncoder(model, processor, state.device, DTYPES[mixed_precision])
    writer = FeatureWriter(out, np.float16 if half else np.float32)
    cutting = {"frame_stride": frame_stride, "max_frames": max_frames, "faces": faces}
    reports = extract_share(videos, prepare, encoder, writer, batch_size, num_workers, state, **cutting)
    problems = [problem for report in reports for problem in report.problems]
    if state.is_main_process:
        record = write_record(out, settings, table, sources, previous, reports)
        past = [f"{c.utt_id} ({c.end:.2f} of {report.last:.2f} s)" for report in reports for c in report.past]
        if past:
            warn_past(manifest, sorted(past))
        if faces:
            say_faces(record["face_counts"], out)
        logger.info("%d of %d utterances are in %s", len(find_finished(out, table["id"])), len(table), out)
        if problems:
            raise InputError(join_problems(sorted(problems)))
    elif problems:
        raise SystemExit(2)


def warn_past(manifest, past):
    """One line for all utterances that end behind the end of their video. Args: past: list of texts that name them."""
    names = ", ".join(past[:3]) + ", ..." * (len(past) > 3)
    logger.warning("%s: %d utterances end past their video and are cut at its end: %s", manifest, len(past), names)


def say_faces(counts, out):
    """One line of how many frames of a folder show a face. Args: counts: of `count_face_frames`."""
    frames, found, without = counts.values()
    share = 100 * found / max(frames, 1)
    rest = "; the others are taken as without --crop face" if found < frames else ""
    logger.info("faces in %d of %d frames (%.1f %%)%s", found, frames, share, rest)
    if without:
        logger.warning("%d utterances show no face at all: see %s", without, Path(out) / FACES_FILE)


def check_videos(table):
    """Raise InputError naming every video that does not exist."""
    missing = [f"{path}: no such video (utterance {ids.iloc[0]})" for path, ids in table.groupby("video")["id"]
               if not Path(path).is_file()]  # fmt: skip
    if missing:
        raise InputError(join_problems(missing))


def extract_share(videos, prepare, encoder, writer, batch_size, num_workers, state, **cutting):
    """Cut, encode and write this process's share of the videos.

    Args:
        videos: dict path -> Clips, of all processes.
        state: PartialState.
        cutting: frame_stride, max_frames and faces of `cut_clips`.
    Returns: list of VideoReport, over all processes.
    """
    share = share_videos(videos, state.process_index, state.num_processes)
    cores = max(1, len(os.sched_getaffinity(0)) // state.num_processes)
    loader = build_frame_loader(share, prepare, num_workers, 4 * batch_size, cores, **cutting)
    total = sum(len(clips) for _, clips in share)
    with progress_bar(total=total, unit="utt", desc="Pictures", disable=not state.is_main_process) as bar:
        frames = 0

        def progress(n_frames, n_utterances):
            nonlocal frames
            frames += n_frames
            bar.update(n_utterances)
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-6):.0f} frames/s", refresh=False)

        reports = encode_frames(loader, encoder, writer, batch_size, progress)
    return gather_object(reports) if state.num_processes > 1 else reports


@dataclass
class Batch:
    """Frames for the network, and what came between them."""

    frames: list = field(default_factory=list)
    finished: list = field(default_factory=list)  # Finished, of which no frame is in a later batch
    reports: list = field(default_factory=list)


def batch_frames(chunks, batch_size):
    """Batches of `batch_size` frames out of the chunks of a frame loader; the last one has fewer, or none."""
    batch = Batch()
    for item in chain.from_iterable(chunks):
        if isinstance(item, Frame):
            batch.frames.append(item)
        elif isinstance(item, Finished):
            batch.finished.append(item)
        else:
            batch.reports.append(item)
        if len(batch.frames) == batch_size:
            yield batch
            batch = Batch()
    yield batch


def encode_frames(chunks, encoder, writer, batch_size, progress=None):
    """Run the network over the stream of frames and write what is finished.

    The rows of a batch are fetched from the device while the next batch is computed.

    Args:
        chunks: of a frame loader. encoder: PictureEncoder. writer: FeatureWriter or FeatureCollector.
        batch_size: frames. progress: function of the frames and the utterances that are done since it was called.
    Returns: list of VideoReport.
    """
    reports, pending = [], None

    def write(batch, features):
        if features is not None:
            writer.add(features(), [frame.utt_ids for frame in batch.frames])
        for item in batch.finished:
            if item.faces is not None:
                writer.count_faces(item.utt_id, item.faces, item.kept)
            writer.finish(item.utt_id)
        if progress is not None:
            progress(len(batch.frames), len(batch.finished))

    for batch in batch_frames(chunks, batch_size):
        pixels = [frame.pixels for frame in batch.frames]
        features = fetch_later(encoder(np.stack(pixels))) if pixels else None
        if pending is not None:
            write(*pending)
        pending = batch, features
        reports += batch.reports
        for report in batch.reports:
            if report.damaged:
                logger.warning("%s: %d packets do not decode and were left out", report.path, report.damaged)
    write(*pending)
    return reports
