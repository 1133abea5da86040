"""From an scp line to a padded batch: labels, lists, audio, video features, dataset, collator and samplers.

    scp line -> Utterance -> FoalDataset item -> collate -> batch dict

Every batch is a dict with the keys
    input_values    (B, Na) float32    waveform at 16 kHz, zero padded
    attention_mask  (B, Na) bool       True where input_values is sound
    video_features  (B, Tv, Dv) float32 zero padded
    video_mask      (B, Tv) bool       True where a row is a video frame
    audio_features  (B, Ta, Da) float32 instead of input_values: ready features (--audio_root)
    audio_states    (B, Ta, Da) float32 the same of what lies below trained layers (--train_layers)
    audio_mask      (B, Ta) bool       True where a row is an audio frame
    labels          (B,) int64
    utt_ids         list of B str
(without the keys of the stream that a one-stream model does not use). `check_utterances` finds before training starts
what headers and features tell of a bad file; a sound that holds NaN or ends early is named when it is read.
"""

import atexit
import logging
import math
import multiprocessing.util  # first: at exit, what is registered later goes first
import os
import signal
import struct
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset, Sampler

from features.checked import CheckedFiles, check_files
from features.folder import FeatureFolder, read_features
from running.errors import InputError, join_problems
from running.parent import die_with_parent
from running.progress import progress_bar

logger = logging.getLogger("foalnet.dataloader")

SAMPLE_RATE = 16000  # Hz, what WavLM was trained on
MIN_SAMPLES = 400  # 25 ms, the receptive field of one WavLM frame
RATES = (1000, 768_000)  # Hz; outside of these a header is damaged
LARGEST_FILTER = 5e7  # weights of a resampling filter
BLOCK = 1 << 20  # steps of sound read at a time
RESAMPLE_MARGIN = 0.05  # seconds read past the cut, so that the resampling filter never sees it
UNREADABLE = (sf.LibsndfileError, TypeError)  # of libsndfile; the latter for names that end in .raw
PREROLL = 1.0  # seconds decoded ahead of a cut: the first frames after a seek in a compressed stream are not whole
LABELS = ("hap", "neu", "sad", "ang")  # the released order
ID_BYTES = 200  # of an utterance id at most: it becomes a file name, of at most 255 with all that is put around it
FRAME_RATE, STATE_RATE = 30, 50  # rows of video and audio features a second, for the order of an evaluation
ENDLESS = 0x7FFFF000  # bytes of sound; programs that write into a pipe promise this or more


@dataclass(frozen=True)
class Stream:
    """One of the streams that a model may have.

    Attributes:
        name: in the names of models and embeddings. entries: {entry of a batch: its mask}.
        word: what a user calls it. source: what it is of.
    """

    name: str
    entries: dict
    word: str
    source: str

    @property
    def keys(self):
        """All entries of a batch that it has."""
        return tuple(dict.fromkeys([*self.entries, *self.entries.values()]))


STREAMS = {  # by their letters in a modality; docs/extending.md says what a further one needs
    "a": Stream(
        "audio",
        {"input_values": "attention_mask", "audio_features": "audio_mask", "audio_states": "audio_mask"},
        "sound",
        "speech",
    ),
    "v": Stream("video", {"video_features": "video_mask"}, "picture", "face video"),
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of an scp list; `features` and `duration` (seconds) are filled in by `check_utterances`."""

    utt_id: str
    path: str
    label: int
    features: str | None = None
    duration: float | None = None
    audio_features: str | None = None


def parse_label_map(text):
    """`exc=hap,fru=ang` -> {"exc": "hap", "fru": "ang"}; an empty text is an empty map."""
    pairs = [part.strip().split("=") for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or any(len(name.split()) != 1 for name in pair) for pair in pairs):
        raise InputError(f"label map {text!r}: write old=new pairs with commas between, for example exc=hap,fru=ang")
    return {old.strip(): new.strip() for old, new in pairs}


def parse_labels(words):
    """Class names as a command line gives them, `a b c` or `a,b,c` -> ["a", "b", "c"]. Raises: InputError."""
    labels = [name.strip() for word in words for name in word.split(",") if name.strip()]
    if len(set(labels)) != len(labels) or not labels or any(name.split() != [name] for name in labels):
        raise InputError(f"--labels {' '.join(words)}: different names without a space in them are needed")
    return labels


def find_id_fault(utt_id):
    """Why an utterance id can't be the name of a file, the end of a sentence, or None."""
    if "/" in utt_id or "\\" in utt_id:
        return "holds a slash"
    if not utt_id.isprintable():
        return "holds a character that can't be printed"
    if (size := len(utt_id.encode())) > ID_BYTES:
        return f"is {size} bytes long; at most {ID_BYTES} fit into a file name"
    return None


def read_scp_lines(path):
    """The lines of an scp list as (line number, utt_id, path, label); blank lines are ignored, malformed ones reported.

    Raises: InputError that names every malformed line and every second use of an id.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False, too, for a name that is too long
        raise InputError(f"{path}: no such file; an scp list with a line `utt_id path label` an utterance is needed")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # CRLF reads as LF
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from error
    entries, problems, seen = [], [], {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        utt_id, *audio = line.strip().split(None, 1)
        audio = audio[0].rsplit(None, 1) if audio else []  # the path may hold spaces
        if len(audio) != 2:
            problems.append(f"{path}: line {number}: {line.strip()!r} is not `utt_id path label`")
            continue
        audio, label = audio
        if fault := find_id_fault(utt_id):
            problems.append(f"{path}: line {number}: id {utt_id!r} {fault}; `utt_id path label` is expected")
        if utt_id in seen:
            problems.append(f"{path}: line {number}: id {utt_id!r} stands on line {seen[utt_id]} already")
        seen.setdefault(utt_id, number)
        entries.append((number, utt_id, audio, label))
    if problems:
        raise InputError(join_problems(problems))
    if not entries:
        raise InputError(f"{path}: holds no utterance")
    return entries


def read_scp(path, labels=LABELS, label_map=None):
    """Read an scp list: `utt_id path label` a line, the path may hold spaces, UTF-8, LF or CRLF.

    Args:
        path: the list.
        labels: names of the classes in index order.
        label_map: {name in the list: name in labels}, applied first.
    Returns: list of Utterance in the order of the file.
    Raises: InputError that names every bad line at once.
    """
    label_map = label_map or {}
    index = {name: i for i, name in enumerate(labels)}
    utterances, problems = [], []
    for number, utt_id, audio, label in read_scp_lines(path):
        name = label_map.get(label, label)
        if name in index:
            utterances.append(Utterance(utt_id, audio, index[name]))
        else:
            problems.append(f"{path}: line {number}: label {label!r} is not one of {' '.join([*labels, *label_map])}")
    if problems:
        raise InputError(join_problems(problems))
    return utterances


def refuse_absent_classes(path, labels=LABELS, label_map=None):
    """Raise InputError where a class of the default labels has no utterance in the training list.

    A list that is not there passes; who reads it says so.

    Args:
        path: the list. labels: that nobody asked for. label_map: {name in the list: name in labels}, applied first.
    """
    if not os.path.isfile(path):
        return
    label_map = label_map or {}
    found = {label_map.get(name, name) for *_, name in read_scp_lines(path)}
    if absent := [name for name in labels if name not in found]:
        held = [name for name in labels if name in found] + sorted(found.difference(labels))
        advice = f"--labels {' '.join(held)} is what the list holds" if len(held) > 1 else "at least two are needed"
        raise InputError(f"{path}: no utterance of the class {' '.join(absent)}, only of {' '.join(held)}; {advice}")


def warn_oddities(splits, labels):
    """Warn of what may be meant but rarely is, a line each: classes that are not there, one sound under several ids.

    Args:
        splits: {split: list of Utterance}, `train` among them.
        labels: class names in index order.
    """
    for split, utterances in splits.items():
        found = {utterance.label for utterance in utterances}
        absent = " ".join(name for i, name in enumerate(labels) if i not in found)
        if len(found) == 1:
            logger.warning("%s: every utterance is of the class %s", split, labels[found.pop()])
        elif absent and split == "train":
            logger.warning("%s: no utterance of the class %s, which can't be learnt", split, absent)
    copies = find_copies(splits)
    across = [pairs for pairs in copies if len({split for split, _ in pairs}) > 1]
    within = [pairs for pairs in copies if len({split for split, _ in pairs}) == 1]
    for kind, groups in (("in several lists, so what is reported was trained on", across), ("in one list", within)):
        if groups:
            names = " = ".join(f"{split}:{utt_id}" for split, utt_id in groups[0])
            logger.warning("%d sounds stand under several ids %s, such as %s", len(groups), kind, names)


def find_copies(splits):
    """The files that several utterances name, by whatever path: a list of [(split, utt_id), ...]."""
    files = defaultdict(dict)
    for split, utterances in splits.items():
        for utterance in utterances:
            try:
                stat = os.stat(utterance.path)
            except (OSError, ValueError):  # a video-only model needs no sound
                continue
            files[stat.st_dev, stat.st_ino].setdefault(utterance.utt_id, split)
    return [[(split, utt_id) for utt_id, split in ids.items()] for ids in files.values() if len(ids) > 1]


def read_audio(path, max_length=None, start=0.0):
    """Read the part of a sound that is used, as 16 kHz mono.

    Args:
        path: any container with sound that libsndfile or FFmpeg (through PyAV) reads, video files too.
        max_length: seconds to read, None for all.
        start: seconds to skip.
    Returns: (n,) float32.
    Raises: InputError that names the file.
    """
    length = None if max_length is None else max_length + RESAMPLE_MARGIN
    try:
        samples, rate = _read_soundfile(path, length, start)
    except UNREADABLE:
        try:
            samples, rate = _read_av(path, length, start)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{path}: no sound that libsndfile or FFmpeg can read: {error}") from error
    _check_rate(path, rate)
    samples = resample(samples, rate)
    return samples if max_length is None else samples[: round(max_length * SAMPLE_RATE)]


def _read_soundfile(path, length, start):
    with sf.SoundFile(path) as file:
        rate = file.samplerate
        file.seek(min(round(start * rate), file.frames))
        parts, wanted = [], math.inf if length is None else round(length * rate)
        while wanted > 0 and len(part := file.read(min(wanted, BLOCK), dtype="float32", always_2d=True)):
            parts.append(part)  # in parts, since a broken header may promise more than any memory holds
            wanted -= len(part)
    samples = parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, file.channels), np.float32), *parts])
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(1), rate


def _read_av(path, length, start):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise InputError(f"{path}: has no sound track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise InputError(f"{path}: FFmpeg knows no decoder of its sound")
        rate = stream.codec_context.sample_rate
        _check_rate(path, rate)
        planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        wanted = None if length is None else round(length * rate)
        if start:
            container.seek(int(max(0.0, start - PREROLL) / stream.time_base), stream=stream)
        chunks, n, skip = [], 0, None
        for frame in container.decode(stream):
            if skip is None:  # a seek lands on or before the wanted time
                skip = max(0, round((start - float(frame.time or 0.0)) * rate)) if start else 0
            for part in planar.resample(frame):
                samples = part.to_ndarray().mean(0)[skip:]
                skip = max(0, skip - part.samples)
                chunks.append(samples)
                n += len(samples)
            if wanted is not None and n >= wanted:
                break
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    return samples[:wanted].astype(np.float32, copy=False), rate


def _check_rate(path, rate):
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{path}: a sampling rate of {rate} Hz; {RATES[0]} to {RATES[1]} Hz are read")


def resample(samples, rate):
    """(n,) float32 at any rate -> at 16 kHz; torchaudio's filter of a rate such as 44101 Hz would take gigabytes."""
    if rate == SAMPLE_RATE or not len(samples):
        return samples
    if rate * SAMPLE_RATE / math.gcd(rate, SAMPLE_RATE) ** 2 > LARGEST_FILTER:
        if not np.isfinite(samples).all():
            return samples  # librosa takes no NaN; whoever reads this names it
        import librosa  # takes a second, and hardly anybody needs it here

        return librosa.resample(samples, orig_sr=rate, target_sr=SAMPLE_RATE).astype(np.float32, copy=False)
    return _resampler(rate)(torch.from_numpy(samples)).numpy()


@lru_cache(maxsize=16)
def _resampler(rate):
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE)


def read_duration(path):
    """Length of a sound in seconds, from its header alone. Raises: InputError that names the file."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    try:
        info = sf.info(str(path))
        _check_rate(path, info.samplerate)
        return info.frames / info.samplerate
    except UNREADABLE:
        pass
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: has no sound track")
            stream = container.streams.audio[0]
            if stream.duration is not None:
                return float(stream.duration * stream.time_base)
            return (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: no sound that libsndfile or FFmpeg can read: {error}") from error


def find_cut(path):
    """(bytes that the header of a RIFF wave file promises, bytes that are there) where it was cut short, else None."""
    with open(path, "rb") as file:
        start, there = file.read(12), os.fstat(file.fileno()).st_size
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            end = file.tell() + size
            if name == b"data":
                return (end, there) if end > there and size < ENDLESS else None
            file.seek(end + size % 2)
    return None


def normalize_waveform(samples):
    """Zero mean and unit variance over the utterance, as the feature extractor of WavLM-large does it."""
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


def read_states(path):
    """The ready audio features of one utterance, (Ta, Da). Raises: InputError that names the file."""
    states = read_features(path)
    if not np.isfinite(states).all():
        bad = int(np.argwhere(~np.isfinite(states).all(1))[0, 0])
        raise InputError(f"{path}: row {bad} holds NaN or infinity")
    return states


def check_utterances(
    utterances, modality="av", video_root=None, max_length=6.0, max_frames=180, progress=True, audio_root=None
):
    """Look at every file of a list before training starts: headers of sounds, values of features.

    What was found good once, and has the size and time of then, is not opened again (features/checked.py).

    Args:
        utterances: list of Utterance.
        modality: `av`, `a` or `v`; the files of an unused stream are not looked at.
        video_root, audio_root: folders of the features; without audio_root the sounds are taken.
        max_length, max_frames: seconds and video rows that will be used.
    Returns: the utterances with `features`, `audio_features` and `duration` (seconds used) filled in, and {"audio":
        dim, "video": dim} of the folders that were looked at.
    Raises: InputError that names every bad file at once.
    """
    utt_ids, streams = [utterance.utt_id for utterance in utterances], {}
    seconds, sound_errors = None, {}
    with progress_bar(total=len(utterances) * len(modality), desc="Check", unit="file", disable=not progress) as bar:
        if "a" in modality and audio_root:
            streams["audio"] = FeatureFolder(audio_root, "--audio_root").check(utt_ids, bar)
            seconds = streams["audio"].rows / STATE_RATE
        elif "a" in modality:
            seconds, sound_errors = _check_sounds([utterance.path for utterance in utterances], bar)
        if "v" in modality:
            streams["video"] = FeatureFolder(video_root).check(utt_ids, bar, max_frames)
            seconds = streams["video"].rows / FRAME_RATE if seconds is None else seconds
    errors = [sound_errors, *(found.errors for found in streams.values())]
    problems = [part[i] for i in sorted(set().union(*errors)) for part in errors if i in part]
    problems += [found.problem for found in streams.values() if found.problem]
    if problems:
        raise InputError(join_problems(problems))
    if "a" in modality:
        seconds = np.minimum(seconds, max_length)
    audio, video = (streams[name].places if name in streams else repeat(None) for name in ("audio", "video"))
    checked = [
        Utterance(u.utt_id, u.path, u.label, picture, duration, states)
        for u, picture, duration, states in zip(utterances, video, seconds.tolist(), audio, strict=False)
    ]
    return checked, {name: found.dim for name, found in streams.items()}


def _check_sounds(paths, bar):
    """Seconds of each sound, (n,) float64, and {i: message} of the bad ones; warns of those that were cut short."""
    root = os.path.dirname(os.path.commonprefix(paths))
    record = CheckedFiles(root, beside=False)
    names = [os.path.abspath(path) for path in paths]
    values, errors = check_files(record, names, paths, lambda i: _look_at_sound(paths[i]), bar)
    cut = np.flatnonzero(values[:, 1])
    names = [f"{paths[i]} ({values[i, 2]:.0f} of {values[i, 1]:.0f} bytes)" for i in cut]
    if names := list(dict.fromkeys(names)):  # a file may stand in several lists
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        logger.warning(
            "%d sounds were cut short, their headers promise more than the files hold: %s", len(names), shown
        )
    return values[:, 0], errors


def _look_at_sound(path):
    """Seconds of a sound, and what `find_cut` says of it or zeros. Raises: InputError."""
    duration = read_duration(path)
    if duration * SAMPLE_RATE < MIN_SAMPLES:
        raise InputError(f"{path}: {duration * 1000:.1f} ms of sound; at least 25 ms are needed")
    return duration, *(find_cut(path) or (0, 0))


class FoalDataset(Dataset):
    """Utterances as numpy arrays, cut to the used length.

    Args:
        utterances: list of Utterance out of `check_utterances`.
        modality: `av`, `a` or `v`.
        max_length: seconds of sound kept.
        max_frames: feature rows kept.
        normalize_audio: zero mean and unit variance over each utterance.
        audio_root: folder of the ready features that take the place of the waveform. audio_key: their entry.
    """

    def __init__(
        self,
        utterances,
        modality="av",
        max_length=6.0,
        max_frames=180,
        normalize_audio=False,
        audio_root=None,
        audio_key="audio_features",
    ):
        self.utterances = utterances
        self.modality = modality
        self.max_length = max_length
        self.max_frames = max_frames
        self.normalize_audio = normalize_audio
        self.audio_root, self.audio_key = audio_root, audio_key

    def __len__(self):
        return len(self.utterances)

    def __getitem__(self, i):
        utterance = self.utterances[i]
        item = {"utt_id": utterance.utt_id, "label": utterance.label}
        if "a" in self.modality and self.audio_root:
            item[self.audio_key] = read_states(utterance.audio_features)
        elif "a" in self.modality:
            samples = read_audio(utterance.path, self.max_length)
            if len(samples) < MIN_SAMPLES:
                raise InputError(f"{utterance.path}: decodes to {len(samples)} samples; at least 25 ms are needed")
            if not np.isfinite(samples).all():
                raise InputError(f"{utterance.path}: holds NaN or infinity")
            item["input_values"] = normalize_waveform(samples) if self.normalize_audio else samples
        if "v" in self.modality:
            item["video_features"] = read_features(utterance.features, self.max_frames)
        return item


def pad_rows(rows):
    """Pad arrays (n_i, ...) with zeros to the longest: (B, max n, ...) float32 and the (B, max n) bool mask."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.zeros(len(rows), int(lengths.max()), *rows[0].shape[1:])
    for target, row in zip(padded.numpy(), rows, strict=True):
        target[: len(row)] = row
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def collate(items):
    """Pad a list of FoalDataset items to the longest of them; see the module docstring for the keys."""
    batch = {"utt_ids": [item["utt_id"] for item in items], "labels": torch.tensor([item["label"] for item in items])}
    for stream in STREAMS.values():
        for key, mask in stream.entries.items():
            if key in items[0]:
                batch[key], batch[mask] = pad_rows([item[key] for item in items])
    return batch


class BalancedBatchSampler(Sampler):
    """Class-balanced draws with replacement, weight 1 / class count, as many as there are utterances.

    The draw of an epoch is a function of (seed, epoch) alone. Global batch k is draws[k * B * N : (k + 1) * B * N] for
    N processes of batch size B, and process r holds its r-th part, so N processes see what one process with batch
    B * N would. The last, shorter batch is shared out evenly; it is left out if it can't give every process one.

    Args:
        labels: class index of each utterance.
        batch_size: utterances a process.
    """

    def __init__(self, labels, batch_size, seed, rank=0, world_size=1):
        labels = np.asarray(labels)
        weights = 1.0 / np.bincount(labels)[labels]
        self.probabilities = weights / weights.sum()
        self.global_batch = batch_size * world_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = self.first = 0

    def set_epoch(self, epoch, first=0):
        """Draw for an epoch, from its batch `first` on."""
        self.epoch, self.first = epoch, first

    @property
    def global_sizes(self):
        """Utterances over all processes of each batch."""
        full, rest = divmod(len(self.probabilities), self.global_batch)
        return [self.global_batch] * full + [rest] * (rest >= self.world_size)

    def first_row(self, size):
        """Where this process's rows begin in a global batch of this size."""
        rest = size % self.world_size  # as np.array_split shares it out
        return size // self.world_size * self.rank + min(self.rank, rest)

    def __len__(self):
        return len(self.global_sizes) - self.first

    def __iter__(self):
        n = len(self.probabilities)
        draws = np.random.default_rng([self.seed, self.epoch]).choice(n, size=n, p=self.probabilities)
        for k in range(self.first, len(self.global_sizes)):
            batch = draws[k * self.global_batch : (k + 1) * self.global_batch]
            yield np.array_split(batch, self.world_size)[self.rank].tolist()


class EvaluationBatchSampler(Sampler):
    """Every utterance once: similar lengths together (padding is wasted work), each N-th utterance to each process."""

    def __init__(self, durations, batch_size, rank=0, world_size=1):
        order = np.argsort(-np.asarray(durations), kind="stable")[rank::world_size].tolist()
        self.batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def _leave_signals_to_parent(worker):
    """Signals are for the training process, which ends its workers; they end with it, whatever ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)


@atexit.register
def _end_workers():
    """Kill the workers of a program that ends with a loader in hand: they ignore SIGTERM, and Python would wait."""
    left, until = [process for process in multiprocessing.active_children() if process.daemon], time.monotonic() + 1
    for process in left:
        process.terminate()  # enough for any that is not ours
    for process in left:
        process.join(max(0, until - time.monotonic()))
        process.kill()


def build_loader(utterances, sampler, num_workers, **dataset_options):
    """A DataLoader over a list of Utterance, of at most one worker a core; dataset_options are those of FoalDataset."""
    num_workers = min(num_workers, len(os.sched_getaffinity(0)))
    return DataLoader(
        FoalDataset(utterances, **dataset_options),
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_parent,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # workers draw their seeds here and leave the global generator alone
        pin_memory=torch.cuda.is_available(),
    )


def build_evaluation_loader(utterances, batch_size, num_workers=0, rank=0, world_size=1, **dataset_options):
    """A loader that gives each utterance once, over all processes."""
    durations = [utterance.duration for utterance in utterances]
    sampler = EvaluationBatchSampler(durations, batch_size, rank, world_size)
    return build_loader(utterances, sampler, num_workers, **dataset_options)


def build_dataloaders(
    train, evaluation, batch_size, seed, num_workers=0, rank=0, world_size=1, passes=1, **dataset_options
):
    """The loader of the training list, and one for each evaluation list.

    Args:
        train: list of Utterance out of `check_utterances`.
        evaluation: {split name: list of Utterance}.
        batch_size: utterances a process and pass.
        passes: of WavLM, which make one training batch together.
        dataset_options: for FoalDataset.
    Returns: (DataLoader, {split name: DataLoader}).
    """
    labels = [utterance.label for utterance in train]
    sampler = BalancedBatchSampler(labels, batch_size * passes, seed, rank, world_size)
    return build_loader(train, sampler, num_workers, **dataset_options), {
        split: build_evaluation_loader(utterances, batch_size, num_workers, rank, world_size, **dataset_options)
        for split, utterances in evaluation.items()
    }
