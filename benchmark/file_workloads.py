"""The arms of `data` and `extract`: reading of sound and features, decoding of video and the network behind it."""

import os
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile as sf
import torch
from torch.utils.data import DataLoader
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmark.stock import MAX_FRAMES, MAX_LENGTH, StockDataset
from benchmark.timing import Arm
from dataloader import SAMPLE_RATE, FoalDataset, Utterance, collate
from features.decoding import Frame
from features.extraction import encode_frames
from features.loading import build_frame_loader, group_by_video, share_videos
from features.picture_encoders import DTYPES, PictureEncoder
from features.preparing import FramePreparer
from features.store import FeatureWriter
from running.precision import choose_precision

WORKLOADS = ("data", "extract")
FRAME_RATE = 30
UTTERANCES = 256  # of data
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


def build_data_arms(folder, video_dim, seed):
    """Arms that read UTTERANCES (6 s of wav, 180 x video_dim float16) in batches of 16 by one worker process.

    Returns: arms, number of utterances.
    """
    rng, utterances = np.random.default_rng(seed), []
    for i in range(UTTERANCES):
        wav, npy = Path(folder, f"{i}.wav"), Path(folder, f"{i}.npy")
        sf.write(wav, rng.standard_normal(round(MAX_LENGTH * SAMPLE_RATE)) * 0.1, SAMPLE_RATE)
        np.save(npy, rng.standard_normal((MAX_FRAMES, video_dim)).astype(np.float16))
        utterances.append(Utterance(str(i), str(wav), 0, str(npy), MAX_LENGTH))

    def make(name, dataset):
        loader = DataLoader(dataset, 16, collate_fn=collate, num_workers=1, persistent_workers=True)
        return Arm(name, lambda: [None for _ in loader])

    return [make("stock", StockDataset(utterances)), make("ours", FoalDataset(utterances))], UTTERANCES


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


def write_dialogues(folder, seconds, rng, count=2):
    """Videos with an utterance of 2 s every 1.5 s, left and right in turn. Returns: the columns of a manifest."""
    rows = []
    for number in range(count):
        path = Path(folder, f"{number}.avi")
        write_video(path, seconds, rng)
        for i, start in enumerate(np.arange(0, seconds - 2, 1.5)):
            rows.append((f"{number}_{i}", str(path), start, start + 2.0, ["left", "right"][i % 2]))
    return pd.DataFrame(rows, columns=["id", "video", "start", "end", "crop"])


def build_clip(size, device):
    """A random CLIP of one of CLIP_SIZES. Returns: encoder, preparer of IEMOCAP's rows, precision."""
    config = CLIPVisionConfig(**CLIP_SIZES[size])
    edge = config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    precision = choose_precision("auto", device.type, config.hidden_size)
    encoder = PictureEncoder(CLIPVisionModelWithProjection(config), processor, device, DTYPES[precision])
    return encoder, FramePreparer(processor, (112, 368)), precision


def build_extract_arms(folder, clip_size, video_seconds, batch_size, seed, device):
    """Decoding alone, the network alone and both together, on two dialogues of overlapping utterances.

    Args:
        folder: for videos and features. clip_size: of CLIP_SIZES. video_seconds: of each dialogue.
        batch_size: frames through the network at a time. device: torch.device.
    Returns: arms, number of frames.
    """
    torch.manual_seed(seed)
    table = write_dialogues(folder, video_seconds, np.random.default_rng(seed))
    encoder, prepare, precision = build_clip(clip_size, device)

    def load():
        videos = share_videos(group_by_video(table), 0, 1)
        return build_frame_loader(videos, prepare, len(os.sched_getaffinity(0)), 4 * batch_size)

    frames = [item.pixels for chunk in load() for item in chunk if isinstance(item, Frame)]

    def run_network():
        for i in range(0, len(frames), batch_size):
            encoder(np.stack(frames[i : i + batch_size]))

    def run_both():
        encode_frames(load(), encoder, FeatureWriter(folder, np.float32), batch_size)

    return [
        Arm("decoding alone", lambda: sum(len(chunk) for chunk in load())),
        Arm("network alone", run_network, precision),
        Arm("both", run_both, precision),
    ], len(frames)
