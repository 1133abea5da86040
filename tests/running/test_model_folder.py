"""A checkpoint is whole: it loads in a fresh process that has never seen this project, and says what it is."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from dataloader import normalize_waveform
from features.preprocessing import Preprocessing, describe_clip
from model import FoalNet, FoalNetConfig
from running.errors import InputError
from running.model_folder import find_model, load_model, write_model
from tiny import build_model, make_batch

CLIP = {"model": "demo/clip", "weights_crc32": "0badcafe", "rows": [112, 368], "crop": ["left", "right"]}
PREPROCESSING = Preprocessing(6.0, 180, True, CLIP)
FRESH = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
batch = torch.load(sys.argv[2])
torch.save(model(**batch).logits.detach(), sys.argv[3])
assert "model" not in sys.modules and "wavlm" not in sys.modules
print(type(model).__module__, model.config.labels)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    write_model(folder, build_model(seed=5, modality_dropout=0.3), PREPROCESSING, "card")
    return folder


def test_a_fresh_process_elsewhere_loads_it_and_answers_alike(folder, tmp_path):
    batch = {key: value for key, value in make_batch([0, 1, 2]).items() if key != "labels"}
    torch.save(batch, tmp_path / "batch.pt")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_MODULES_CACHE": str(tmp_path / "c")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-I", "-c", FRESH, folder, tmp_path / "batch.pt", tmp_path / "logits.pt"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transformers_modules")
    with torch.no_grad():
        expected = load_model(folder)[0](**batch).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected)


def test_after_import_model_the_classes_of_transformers_know_it(folder):
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, FoalNet)
    assert isinstance(AutoConfig.from_pretrained(folder), FoalNetConfig)
    assert model.config.id2label == {0: "hap", 1: "neu", 2: "sad", 3: "ang"}


def test_transformers_prepares_sound_as_we_do(folder):
    wave = np.random.default_rng(0).normal(0.3, 2.0, 5000).astype(np.float32)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    prepared = extractor(wave, sampling_rate=16000, return_tensors="np")
    np.testing.assert_allclose(prepared["input_values"][0], normalize_waveform(wave), atol=1e-5)
    assert Preprocessing.read(folder) == PREPROCESSING


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as takes a commit; keeps the files that were sent."""

    files = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = f"http://{self.headers['Host']}/me/foalnet/commit/1"
        answer = {"commitUrl": url, "commitOid": "1", "pullRequestUrl": None}
        if "preupload" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
        elif "commit" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        pass


def test_every_file_goes_to_the_hub_and_what_comes_back_answers(folder, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="none")
        hub.upload_folder(repo_id="me/foalnet", folder_path=folder)
        server.shutdown()
    files = {
        "config.json",
        "model.safetensors",
        "model.py",
        "encoders.py",
        "wavlm.py",
        "preprocessor_config.json",
        "README.md",
    }
    assert set(Hub.files) == files
    for name, content in Hub.files.items():
        (tmp_path / name).write_bytes(content)
    weights = [load_model(place)[0].state_dict() for place in (folder, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads(Hub.files["config.json"])["auto_map"]["AutoModel"] == "model.FoalNet"


def test_a_download_from_the_hub_is_a_folder_like_any_other(folder, monkeypatch):
    monkeypatch.setattr("running.model_folder.snapshot_download", lambda name, allow_patterns: str(folder))
    assert find_model("me/foalnet") == folder


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "wavlm"}'), "no checkpoint of this model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"), "no checkpoint of this model"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), "has no 'sampling_rate'"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(spoil, reason, tmp_path):
    write_model(tmp_path, build_model(), PREPROCESSING)
    spoil(tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        load_model(find_model(tmp_path))
    assert "\n" not in str(caught.value)


def test_features_made_in_two_ways_are_not_recorded_as_one(tmp_path, caplog):
    class Item:
        def __init__(self, path):
            self.features = str(path)

    for name, rows in (("session1", None), ("session2", [1, 2])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features.json").write_text(json.dumps({"model": "clip", "rows": rows}))
    items = [Item(tmp_path / "session1" / "a.npy"), Item(tmp_path / "session2" / "b.npy")]
    assert describe_clip(items[:1])["model"] == "clip"
    assert describe_clip(items) is None
    assert "not made alike" in caplog.text
    assert describe_clip([Item(tmp_path / "c.npy")]) is None
