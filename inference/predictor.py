"""A trained model that answers for files and arrays: loaded once, asked often.

predictor = FoalPredictor.from_pretrained("runs/session1/best")
predictor.predict(["clip.mp4", waveform, (waveform, 44100)])[0].label

source -> Loader -> segments of sound and CLIP features -> batches of like streams -> FoalNet -> Prediction
"""

import functools
import logging
import numbers
import os

import numpy as np
import torch

from dataloader import SAMPLE_RATE, normalize_waveform, pad_rows, resample
from encoders import find_checkpoint
from features.face_tracks import read_face_settings
from features.picture_encoders import DTYPES, PictureEncoder, choose_dtype, find_width, load_picture_encoder
from features.preparing import FramePreparer
from features.speech import SpeechEncoder
from inference.answers import Prediction, Window, name_streams
from inference.loading import Assumptions, Loaded, Loader
from inference.sources import Source
from running.errors import InputError
from running.model_folder import find_model, load_model
from running.precision import autocast, choose_precision
from running.records import checksum_weights

logger = logging.getLogger("foalnet")

GROUP = 16  # sources loaded at a time; an hour of sound takes 230 MB


class FoalPredictor:
    """Answers for sounds and videos, on the GPU if there is one.

    Args:
        model: FoalNet. preprocessing: Preprocessing that it was trained with.
        image_model: folder or hub id of the picture encoder; None: the recorded one. Its weights have to be the same.
        audio_model: the same of the speech encoder, for a model that was trained on its ready features.
        rows, crop: part of the pictures, (first, last + 1) and `full`, `left`, `right`; None: see Assumptions.
        way, overlap: of `cut_source`, for sources longer than the model takes.
        strict: refuse a source that lacks a stream of the model.
        calibrated: divide the logits by the model's calibration temperature.
        mixed_precision: of `choose_precision`. num_workers: processes that decode videos. cpu: use no GPU.
        folder: that the model came from.
    """

    def __init__(
        self,
        model,
        preprocessing,
        image_model=None,
        audio_model=None,
        rows=None,
        crop=None,
        way="windows",
        overlap=0.5,
        strict=False,
        calibrated=True,
        mixed_precision="auto",
        num_workers=0,
        cpu=False,
        folder=None,
    ):
        self.device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
        self.model, self.preprocessing, self.strict = model.to(self.device).eval(), preprocessing, strict
        self.image_model, self.audio_model, self.folder = image_model, audio_model, folder
        self.temperature = model.config.calibration_temperature if calibrated else 1.0
        config = model.config
        self.precision = choose_precision(mixed_precision, self.device.type, config.width)
        self.assumptions = Assumptions(preprocessing.clip or {}, rows, crop)
        cutting = {"way": way, "overlap": overlap, "num_workers": num_workers}
        inputs = config.modality, config.video_dim, preprocessing
        self.loader = Loader(*inputs, self.assumptions, self.find_encoder, self.find_faces, **cutting)

    @classmethod
    def from_pretrained(cls, checkpoint, **options):
        """Load a run folder, its best/, or a hub id. Args: options: of the class. Raises: InputError."""
        folder = find_model(checkpoint)
        return cls(*load_model(folder), folder=folder, **options)

    @property
    def labels(self):
        return self.model.config.labels

    @property
    def modality(self):
        return self.model.config.modality

    @functools.cached_property
    def clip(self):
        """(PictureEncoder, processor) that the training features were made with. Raises: InputError."""
        recorded = self.preprocessing.clip
        name = self.image_model or find_checkpoint((recorded or {}).get("model"), self.folder)
        if not name:
            raise InputError(
                "the checkpoint does not know how its video features were made; --image_model names the encoder, or "
                "--video_root a folder of such features"
            )
        network, processor = load_picture_encoder(name)
        found, width = checksum_weights(network), find_width(network.config)
        if recorded and recorded.get("weights_crc32") not in (None, found):
            raise InputError(
                f"--image_model {name}: its weights have the CRC-32 {found}; the model was trained on features of "
                f"{recorded['model']} with {recorded['weights_crc32']}"
            )
        if width != self.model.config.video_dim:
            needed = self.model.config.video_dim
            raise InputError(f"--image_model {name}: gives {width} numbers a frame, the model takes {needed}")
        exact = (recorded or {}).get("mixed_precision") == "no"
        dtype = DTYPES["no" if exact else choose_dtype("auto", self.device)]
        return PictureEncoder(network, processor, self.device, dtype), processor

    def find_faces(self):
        """FaceSettings that the training features were made with, None: no faces. Raises: InputError, see there."""
        recorded = self.assumptions.clip.get("face_crop")
        return read_face_settings(recorded) if recorded else None

    @functools.cached_property
    def speech(self):
        """SpeechEncoder of the ready features that the model was trained on. Raises: InputError."""
        recorded = self.preprocessing.audio
        if not recorded:
            raise InputError(
                "the model was trained on ready audio features (--audio_root) that do not say how they were made, "
                "so it can't answer for sounds"
            )
        name = self.audio_model or find_checkpoint(recorded["model"], self.folder)
        available = recorded["mixed_precision"] != "fp16" or self.device.type != "cpu"
        precision = recorded["mixed_precision"] if available else "auto"
        encoder = SpeechEncoder(name, recorded["layer"], self.device, precision, recorded["max_length"])
        if encoder.crc32 != recorded["weights_crc32"]:
            raise InputError(
                f"--audio_model {name}: its weights have the CRC-32 {encoder.crc32}; the model was trained on features "
                f"of {recorded['model']} with {recorded['weights_crc32']}"
            )
        return encoder

    def find_encoder(self, rows):
        """(PictureEncoder, FramePreparer) for pictures of which some rows are kept."""
        encoder, processor = self.clip
        return encoder, FramePreparer(processor, rows)

    def predict(self, sources, batch_size=16, skip_bad=False, progress=None):
        """Answer for sources.

        Args:
            sources: one or a list of: path; (n,) array at 16 kHz; (array, rate in Hz), the array (n,), (n, channels) or
                (channels, n), float or int; Source.
            batch_size: segments through the network at a time.
            skip_bad: give a Prediction with `error` for what can't be answered, instead of raising.
            progress: function of the number of sources that are done since it was called.
        Returns: list of Prediction, parallel to sources.
        Raises: InputError that names the first bad source, without skip_bad.
        """
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: must be at least 1")
        sources, predictions = sources if isinstance(sources, list) else [sources], []
        for first in range(0, len(sources), GROUP):
            group = self.load(sources[first : first + GROUP], first)
            for loaded in group:
                self._judge(loaded)
                if loaded.error is not None and not skip_bad:
                    raise InputError(loaded.error)
            predictions += self.answer(group, batch_size)
            if progress is not None:
                progress(len(group))
        return predictions

    def load(self, sources, first=0):
        """Sources in any form, the first of which is number `first` -> list of Loaded, parallel."""
        made, group = [], {}
        for i, source in enumerate(sources):
            try:
                made.append((i, make_source(source, first + i)))
            except InputError as error:
                group[i] = Loaded(Source(f"source {first + i}"), error=str(error))
        loaded = self.loader.load([source for _, source in made])
        group |= {i: item for (i, _), item in zip(made, loaded, strict=True)}
        return [group[i] for i in range(len(sources))]

    def _judge(self, loaded):
        """Note what is missing of a source; with `strict` that is an error."""
        if loaded.error is not None:
            return
        incomplete, parts = False, [segment.streams for segment in loaded.segments]
        for stream in self.modality:
            lacking = sum(stream not in part for part in parts)
            text = f"has no {name_streams(stream)}"
            if 0 < lacking < len(parts):
                text += f" in {lacking} of its {len(parts)} windows"
            incomplete |= lacking > 0
            if lacking and not any(note.startswith(text) for note in loaded.notes):
                loaded.notes.insert(0, text)
        if incomplete and self.strict:
            loaded.error = f"{loaded.source.name}: {'; '.join(loaded.notes)}"

    def answer(self, group, batch_size):
        """Run the network over the segments of a list of Loaded. Returns: list of Prediction, parallel."""
        segments = [segment for loaded in group if loaded.error is None for segment in loaded.segments]
        probabilities = {}
        for streams in ("av", "a", "v"):
            alike = sorted((s for s in segments if s.streams == streams), key=lambda s: s.start - s.end)
            for i in range(0, len(alike), batch_size):
                batch = alike[i : i + batch_size]
                for segment, row in zip(batch, self.run(batch), strict=True):
                    probabilities[id(segment)] = row
        predictions = []
        for loaded in group:
            prediction = Prediction(loaded.source.name, self.labels, [], loaded.error, loaded.notes)
            if loaded.error is None:
                rows = [probabilities[id(segment)] for segment in loaded.segments]
                if not np.isfinite(rows).all():
                    prediction.error = f"{loaded.source.name}: the model's answer is NaN; its input is out of bounds"
                else:
                    prediction.windows = [
                        Window(s.start, s.end, row, s.streams) for s, row in zip(loaded.segments, rows, strict=True)
                    ]
            predictions.append(prediction)
        return predictions

    def collate(self, segments):
        """Segments of the same streams -> the arguments of FoalNet.forward, on the device."""
        inputs = {}
        if segments[0].samples is not None:
            rows = [s.samples for s in segments]
            rows = [normalize_waveform(row) for row in rows] if self.preprocessing.normalize_audio else rows
            sounds = pad_rows(rows)[0].to(self.device), [len(row) for row in rows]
            if self.model.encoder is None:
                inputs["audio_features"], inputs["audio_mask"] = self.speech(*sounds)
            else:
                inputs["input_values"], inputs["samples"] = sounds
        if segments[0].features is not None:
            features, mask = pad_rows([s.features for s in segments])
            inputs["video_features"], inputs["video_mask"] = features.to(self.device), mask.to(self.device)
        return inputs

    def autocast(self):
        """The precision of the network, as a context."""
        return autocast(self.device.type, self.precision)

    @torch.inference_mode()
    def run(self, segments):
        """Probabilities of segments of the same streams, (B, C) float32 array."""
        with self.autocast():
            logits = self.model(**self.collate(segments)).logits
        return logits.float().div(self.temperature).softmax(-1).cpu().numpy()

    def explain_absence(self, name):
        """What an answer without a stream is worth, a sentence, by the list that chose the epoch.

        Args: name: `sound` or `picture`, what is absent.
        """
        evaluation = self.model.config.evaluation or {}
        trained = "" if self.model.config.modality_dropout else "NOT "
        text = f"the model was {trained}trained to do without the {name} (--modality_dropout)"
        if scores := evaluation.get("one_stream"):
            place, left = os.path.basename(evaluation["epoch_chosen_on"]), {"sound": "video", "picture": "audio"}[name]
            both, one = (100 * score for score in (evaluation["valid_ua"], scores[left]["ua"]))
            text += f", which takes its UA on {place} from {both:.1f} to {one:.1f} %"
        return text


def make_source(source, number=0):
    """A path, array, (array, rate) or Source -> Source. Raises: InputError for anything else, by its number."""
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Source(os.fspath(source), os.fspath(source))
    waveform, rate = source if isinstance(source, tuple) and len(source) == 2 else (source, SAMPLE_RATE)
    if not isinstance(waveform, (np.ndarray, torch.Tensor)):
        kind = type(waveform).__name__
        raise InputError(f"source {number}: {kind}; a path, an array or (array, rate) is needed")
    try:
        return Source(f"array {number}", samples=prepare_waveform(waveform, rate))
    except InputError as error:
        raise InputError(f"source {number}: {error}") from error


def prepare_waveform(waveform, rate):
    """Any waveform as (n,) float32 at 16 kHz, mono; integers are scaled by their range. Raises: InputError."""
    waveform = np.asarray(waveform)
    if not isinstance(rate, numbers.Real) or not 1 <= rate < 2**31:
        raise InputError(f"a rate of {rate!r}; Hz are needed")
    if waveform.ndim not in (1, 2) or not waveform.size:
        raise InputError(f"a waveform of shape {waveform.shape}; (n,) or (n, channels) is needed")
    if waveform.dtype.kind not in "if":
        raise InputError(f"a waveform of {waveform.dtype}; float or signed integers are needed")
    scale = -float(np.iinfo(waveform.dtype).min) if waveform.dtype.kind == "i" else 1.0
    samples = waveform.astype(np.float32) / np.float32(scale)
    if samples.ndim == 2:
        samples = samples.mean(int(np.argmin(samples.shape)))
    return resample(samples, round(rate))
