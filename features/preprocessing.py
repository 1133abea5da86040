"""From files to the inputs of a model, as it was when the model was trained: kept beside its weights.

`preprocessor_config.json` is one that transformers reads as a Wav2Vec2FeatureExtractor, which prepares sound just so;
`max_length` (seconds), `max_frames` and `clip` (what features.json said of the video features) are ours.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from dataloader import SAMPLE_RATE
from features.store import SETTINGS_FILE, read_record
from running.errors import InputError
from running.records import read_json, write_json

logger = logging.getLogger("foalnet")

PREPROCESSING_FILE = "preprocessor_config.json"
CLIP_KEYS = "model model_type weights_crc32 dim rows crop frame_stride frame_rate max_frames picture_size".split()
CLIP_KEYS += ["dtype", "mixed_precision", "face_crop"]
EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": SAMPLE_RATE,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
}


@dataclass(frozen=True)
class Preprocessing:
    """What was done to sound and picture.

    Attributes:
        max_length: seconds of sound used of an utterance. max_frames: rows of video features.
        normalize_audio: zero mean and unit variance over each waveform.
        clip: CLIP_KEYS of features.json: `model`, `weights_crc32`, `rows` [first, last + 1] or None, `crop` list,
            `face_crop` FaceSettings or None, `frame_rate` a second, `frame_stride`, ...; None where the features
            did not say.
        audio: AUDIO_KEYS (features/speech.py) of the ready audio features, None where they did not say, and where the
            model takes the sound itself.
    """

    max_length: float = 6.0
    max_frames: int = 180
    normalize_audio: bool = False
    clip: dict | None = None
    audio: dict | None = None

    def write(self, folder):
        """Leave preprocessor_config.json in a folder."""
        own = {"max_length": self.max_length, "max_frames": self.max_frames, "clip": self.clip}
        own["audio"] = self.audio
        write_json(Path(folder, PREPROCESSING_FILE), {**EXTRACTOR, "do_normalize": self.normalize_audio, **own})

    @classmethod
    def read(cls, folder):
        """Raises: InputError that names the file."""
        path = Path(folder, PREPROCESSING_FILE)
        content = read_json(path)
        try:
            if content["sampling_rate"] != SAMPLE_RATE:
                raise InputError(f"{path}: sampling_rate {content['sampling_rate']}; {SAMPLE_RATE} is what is read")
            fields = [content[name] for name in ("max_length", "max_frames", "do_normalize", "clip")]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: has no {error}; a folder that train.py wrote is expected") from error
        return cls(*fields, content.get("audio"))


def describe_clip(utterances):
    """What features.json beside the video features of some Utterances says of how they were made.

    Returns: dict of CLIP_KEYS, or None where there is none or several differ, which is warned of.
    """
    folders = sorted({os.path.dirname(u.features) for u in utterances if u.features})
    found = {}
    for folder in folders:
        for place in (Path(folder), Path(folder).parent):
            if (place / SETTINGS_FILE).is_file():
                record = read_record(place / SETTINGS_FILE)
                found[json.dumps({key: record.get(key) for key in CLIP_KEYS}, sort_keys=True)] = place
                break
        else:
            found[json.dumps(None)] = Path(folder)
    if len(found) == 1:
        return json.loads(next(iter(found)))
    if found:
        places = " and ".join(str(place) for place in found.values())
        logger.warning(f"the video features in {places} were not made alike; the model won't know how to make more")
    return None
