"""A model as a folder that is whole: weights, configuration, preprocessing, code, card; the Hub knows every file.

config.json model.safetensors     as transformers writes them
adapter/                          of a training by LoRA; what is under it is loaded from its own checkpoint
model.py encoders.py wavlm.py     the code; config.json names it (`auto_map`), so that it loads without this project
preprocessor_config.json          from files to inputs, see features/preprocessing.py
README.md                         the model card, once the training is finished
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

import encoders as encoders_code
import model as model_code
import wavlm as wavlm_code
from encoders import ADAPTERS, UNLOADABLE, write_adapters
from features.preprocessing import Preprocessing
from model import FoalNet
from running.errors import InputError
from running.quiet import quiet_transformers
from running.records import checksum_weights, read_json, write_text

AUTO_MAP = {"AutoConfig": "model.FoalNetConfig", "AutoModel": "model.FoalNet"}
CARD = "README.md"
FILES = ["*.json", "*.safetensors", "*.py", CARD]  # in folders, too


def write_model(folder, model, preprocessing, card=None, state_dict=None):
    """Write a model's files into a folder.

    Args:
        folder: made where it is missing. model: FoalNet. preprocessing: Preprocessing.
        card: text of README.md, or None.
        state_dict: weights to write in place of those that the model has now.
    """
    model.config.auto_map = AUTO_MAP
    weights, prefix = state_dict or model.own_state_dict(), f"{model.encoder_name}."
    adapters = {name.removeprefix(prefix): w for name, w in weights.items() if ".lora_" in name}
    model.save_pretrained(folder, state_dict={name: w for name, w in weights.items() if ".lora_" not in name})
    if adapters:
        write_adapters(model.encoder, Path(folder, ADAPTERS), adapters, model.config.audio_model)
    preprocessing.write(folder)
    for code in (model_code, encoders_code, wavlm_code):
        source = Path(code.__file__).read_text(encoding="utf-8")
        relative = re.sub(r"^from (wavlm|encoders) import", r"from .\1 import", source, flags=re.MULTILINE)
        write_text(Path(folder, f"{code.__name__}.py"), relative)
    if card is not None:
        write_text(Path(folder, CARD), card)


def find_model(checkpoint):
    """The folder of a checkpoint: itself, `best/` of a run folder, or a download from the Hub.

    Args:
        checkpoint: folder or hub id.
    Raises: InputError that says what is missing.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and (folder / "best" / "config.json").is_file():
            folder = folder / "best"
        if not (folder / "config.json").is_file():
            raise InputError(f"{checkpoint}: holds no config.json; a run folder, its best/ or a hub id is expected")
        return folder
    try:
        return Path(snapshot_download(str(checkpoint), allow_patterns=FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{checkpoint}: no such folder, and not to be had from the Hub: {reason}") from error


def load_model(folder):
    """The FoalNet and the Preprocessing of a folder of `find_model`. Raises: InputError that names the folder."""
    config = read_json(Path(folder, "config.json"))
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != FoalNet.config_class.model_type:
        raise InputError(f"{folder}: no checkpoint of this model: its config.json says model_type {found!r}")
    try:
        with quiet_transformers():
            model, info = FoalNet.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, *UNLOADABLE) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: no checkpoint of this model: {reason}") from error
    if missing := sorted(set(info["missing_keys"]) - {f"{model.encoder_name}.masked_spec_embed"}):
        raise InputError(f"{folder}: lacks {len(missing)} weights, such as {missing[0]}")
    if model.config.lora_rank and (found := checksum_weights(model.base_weights())) != model.config.audio_crc32:
        raise InputError(
            f"{folder}: its adapters are of {model.config.audio_model} with the CRC-32 {model.config.audio_crc32}; "
            f"found there: {found}"
        )
    return model.eval(), Preprocessing.read(folder)
