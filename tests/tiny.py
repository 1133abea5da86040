"""Tiny models, batches and corpora that the tests share; seconds of CPU, no download."""

import numpy as np
import soundfile as sf
import torch
from transformers import WavLMConfig, WavLMModel

from model import FoalNet, FoalNetConfig

torch.set_num_threads(1)  # at width 32 threads wait for each other more than they work

LABELS = ["hap", "neu", "sad", "ang"]
VIDEO_DIM = 24
WAVLM = {  # the layout of WavLM-large at width 32
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.2,
}
NO_DROPOUT = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


def build_model(seed=0, wavlm=None, **config):
    """A random FoalNet without any dropout; `wavlm` overrides fields of WavLM, the rest those of FoalNetConfig."""
    torch.manual_seed(seed)
    fields = {"video_dim": VIDEO_DIM, "embed_dim": 16, "fusion_dropout": 0.0, "projection_dropout": 0.0, **config}
    return FoalNet(FoalNetConfig(wavlm={**WAVLM, **NO_DROPOUT, **(wavlm or {})}, **fields))


def write_wavlm(folder, seed=0, **config):
    """Save a random WavLM without dropout as a checkpoint folder."""
    torch.manual_seed(seed)
    WavLMModel(WavLMConfig(**{**WAVLM, **NO_DROPOUT, **config})).save_pretrained(folder)
    return str(folder)


def make_utterances(labels, seed=0, samples=(2400, 6400), frames=(2, 9)):
    """Random waveforms and features of uneven lengths, each utterance a pair of tensors (n,), (t, VIDEO_DIM)."""
    rng = np.random.default_rng(seed)
    draw = [(rng.integers(*samples), rng.integers(*frames)) for _ in labels]
    waves = [torch.from_numpy(rng.normal(size=n).astype(np.float32)) for n, _ in draw]
    videos = [torch.from_numpy(rng.normal(size=(t, VIDEO_DIM)).astype(np.float32)) for _, t in draw]
    return waves, videos


def pad(waves, videos, labels=None, more_samples=0, more_frames=0):
    """Batch of FoalNet.forward, zero padded to the longest and `more_...` beyond it."""
    length, steps = max(map(len, waves)) + more_samples, max(map(len, videos)) + more_frames
    batch = {
        "input_values": torch.zeros(len(waves), length),
        "attention_mask": torch.zeros(len(waves), length, dtype=torch.bool),
        "video_features": torch.zeros(len(videos), steps, videos[0].shape[1]),
        "video_mask": torch.zeros(len(videos), steps, dtype=torch.bool),
    }
    for i, (wave, video) in enumerate(zip(waves, videos, strict=True)):
        batch["input_values"][i, : len(wave)] = wave
        batch["attention_mask"][i, : len(wave)] = True
        batch["video_features"][i, : len(video)] = video
        batch["video_mask"][i, : len(video)] = True
    if labels is not None:
        batch["labels"] = torch.as_tensor(labels)
    return batch


def make_batch(labels, seed=0, **lengths):
    """A padded batch of random utterances with these labels."""
    return pad(*make_utterances(labels, seed, **lengths), labels)


def write_corpus(folder, train=36, valid=11, test=9, seed=0):
    """Sounds, features and the lists train.scp, valid.scp, test.scp of a corpus with a weak cue in each stream.

    Lengths, sample rates and channel counts vary; class counts are uneven. Returns: the folder.
    """
    rng = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    (folder / "features").mkdir()
    cues = rng.normal(size=(4, VIDEO_DIM))
    for split, n in {"train": train, "valid": valid, "test": test}.items():
        lines = []
        for i in range(n):
            label = i % 4 if i < 2 * n // 3 else i % 2
            utt_id, rate = f"{split}_{i:03d}", (16000, 8000, 44100)[i % 3]
            seconds = np.arange(int(rate * rng.uniform(0.12, 0.3))) / rate
            wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * label) * seconds) + 0.1 * rng.normal(size=len(seconds))
            path = folder / "wav" / f"{utt_id} a.wav"
            sf.write(path, np.stack([wave, 0.5 * wave], 1) if i % 2 else wave, rate)
            features = rng.normal(size=(rng.integers(3, 9), VIDEO_DIM)) + 0.5 * cues[label]
            np.save(folder / "features" / f"{utt_id}.npy", features.astype(np.float16 if i % 2 else np.float32))
            lines.append(f"{utt_id} {path} {LABELS[label]}\n")
        (folder / f"{split}.scp").write_text("".join(lines))
    return folder
