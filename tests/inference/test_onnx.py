"""The ONNX file against the model that it is made of, and what it says of itself."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from test_encoders import train_adapters, write_encoder

import wavlm
from features.preprocessing import Preprocessing
from inference import onnx_graph
from inference.onnx_graph import ExportableFoalNet, export_checkpoint, open_graph, run_graph
from model import FoalNet, FoalNetConfig
from running.errors import InputError
from running.model_folder import write_model
from running.records import checksum_weights
from scripts import export_onnx
from tiny import LABELS, VIDEO_DIM, build_model, make_batch, make_utterances, pad, write_corpus, write_wavlm

BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
MODELS = {  # large weights, so that a wrong frame shows in the logits
    "av": {"calibration_temperature": 1.7},
    "a": {"modality": "a", "normalize_audio": True},
    "v": {"modality": "v"},
    "max": {"pooling": "max"},
    "base": {"wavlm": BASE},
    "dropped": {"modality_dropout": 0.3},
    "weighted": {"audio_layer": "weighted"},
    "first": {"audio_layer": 1},
}
PREPROCESSING = Preprocessing(5.5, 150, clip={"model": "é", "rows": [1, 2]})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folder with a checkpoint of each of MODELS."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: make export")
    root = tmp_path_factory.mktemp("checkpoints")
    for name, fields in MODELS.items():
        model = build_model(initializer_range=0.2, **fields)
        if name == "dropped":
            torch.nn.init.normal_(model.absent_audio)
            torch.nn.init.normal_(model.absent_video)
        write_model(root / name, model, PREPROCESSING)
    return root


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """The graph of the checkpoint `av`."""
    path = tmp_path_factory.mktemp("exported") / "av.onnx"
    export_checkpoint(checkpoints / "av", path)
    return path


def keep_streams(batch, modality):
    """The entries of a batch that a graph of this modality takes."""
    names = {"a": ("input_values", "attention_mask"), "v": ("video_features", "video_mask")}
    return {name: batch[name] for stream in modality for name in names[stream]}


@pytest.mark.parametrize(
    ("name", "modality"),
    [("av", "av"), ("a", "a"), ("v", "v"), ("max", "av"), ("base", "av"), ("dropped", "a"), ("dropped", "v")]
    + [("weighted", "av"), ("first", "av")],
)
def test_the_file_is_the_model_at_lengths_that_were_not_traced(checkpoints, tmp_path, name, modality):
    import onnx

    export = export_checkpoint(checkpoints / name, tmp_path / "foal.onnx", modality)
    assert [path.name for path in tmp_path.iterdir()] == ["foal.onnx"]
    assert export.difference <= 1e-4
    proto = onnx.load(tmp_path / "foal.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    model = FoalNet.from_pretrained(checkpoints / name).eval()
    session = open_graph(tmp_path / "foal.onnx")
    for rows, seed in ((1, 7), (4, 8), (2, 9)):
        batch = make_batch([0] * rows, seed, samples=(700, 40_000), frames=(1, 40))
        inputs = keep_streams(batch, modality)
        with torch.no_grad():
            expected = model(**inputs).logits
        logits, probabilities = run_graph(session, inputs)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        expected = (expected / MODELS[name].get("calibration_temperature", 1.0)).softmax(-1)
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)


def test_a_graph_of_other_encoders_of_adapters_and_of_ready_features(checkpoints, tmp_path):
    batch, config = make_batch([0, 1, 2], samples=(700, 9000)), {"video_dim": VIDEO_DIM, "embed_dim": 16}
    ready = FoalNet(FoalNetConfig(audio_dim=20, initializer_range=0.2, **config)).eval()
    hubert = FoalNet.from_encoder(write_encoder(tmp_path / "hubert", "hubert"), initializer_range=0.2, **config).eval()
    adapted = train_adapters(write_encoder(tmp_path / "wavlm", "wavlm"), initializer_range=0.2)
    features = {"audio_features": torch.randn(3, 9, 20), "audio_mask": torch.arange(9) < torch.tensor([[9], [4], [1]])}
    for name, model in (("ready", ready), ("hubert", hubert), ("adapted", adapted)):
        write_model(tmp_path / "best" / name, model, PREPROCESSING)
        export_checkpoint(tmp_path / "best" / name, tmp_path / f"{name}.onnx")
        inputs = keep_streams(batch, "av")
        if name == "ready":
            inputs = {**keep_streams(batch, "v"), **features}
        with torch.no_grad():
            expected = model(**inputs).logits
        logits, _ = run_graph(open_graph(tmp_path / f"{name}.onnx"), inputs)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    whisper = FoalNet.from_encoder(write_encoder(tmp_path / "whisper", "whisper"), **config)
    write_model(tmp_path / "best" / "whisper", whisper, PREPROCESSING)
    with pytest.raises(InputError, match="whisper: no graph is made of it"):
        export_checkpoint(tmp_path / "best" / "whisper", tmp_path / "whisper.onnx")


@pytest.mark.parametrize("name", ["av", "base"])
def test_the_states_of_the_graph_are_those_of_the_packed_encoder(checkpoints, name):
    model = FoalNet.from_pretrained(checkpoints / name).eval()
    batch = make_batch([0, 1, 2], seed=3)
    with torch.no_grad():
        states, mask = ExportableFoalNet(model, "av").encode(batch["input_values"], batch["attention_mask"].long())
        expected = wavlm.encode(model.wavlm, batch["input_values"], batch["attention_mask"].sum(1).tolist())
    steps = expected[1].shape[1]
    torch.testing.assert_close(states[:, :steps], expected[0], rtol=0, atol=2e-5)
    assert torch.equal(mask[:, :steps], expected[1])
    assert not mask[:, steps:].any()


def test_padding_changes_nothing(exported):
    session, utterances = open_graph(exported), make_utterances([0, 1, 2], seed=4)
    tight = run_graph(session, keep_streams(pad(*utterances), "av"))
    loose = run_graph(session, keep_streams(pad(*utterances, more_samples=9000, more_frames=5), "av"))
    for first, second in zip(tight, loose, strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)


def test_the_file_says_what_it_is(checkpoints, exported):
    import onnx

    proto = onnx.load(exported)
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(entries["labels"]) == LABELS
    stored = json.loads(entries["preprocessor_config"])
    assert (stored["max_length"], stored["max_frames"], stored["clip"]["model"]) == (5.5, 150, "é")
    words = {name: entries[name] for name in ("modality", "precision", "sampling_rate", "max_length", "max_frames")}
    assert words == dict(zip(words, ("av", "fp32", "16000", "5.5", "150"), strict=True))
    assert (entries["normalize_audio"], entries["calibration_temperature"]) == ("false", "1.7")
    assert entries["weights_crc32"] == checksum_weights(FoalNet.from_pretrained(checkpoints / "av"))
    assert json.loads(entries["exporter"])["torch"] == torch.__version__.split("+")[0]
    described = json.loads(entries["inputs"])
    assert {name: (text["shape"], text["dtype"]) for name, text in described.items()} == {
        "input_values": (["batch", "samples"], "float32"),
        "attention_mask": (["batch", "samples"], "int64"),
        "video_features": (["batch", "frames", VIDEO_DIM], "float32"),
        "video_mask": (["batch", "frames"], "int64"),
    }
    tensors = described | json.loads(entries["outputs"])
    assert tensors["probabilities"]["shape"] == ["batch", 4]
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
    for value in (*proto.graph.input, *proto.graph.output):
        text, kind = tensors.pop(value.name), value.type.tensor_type
        assert [dim.dim_param or dim.dim_value for dim in kind.shape.dim] == text["shape"]
        assert types[kind.elem_type] == text["dtype"]
        assert text["unit"] in value.doc_string
    assert not tensors


def test_the_units_follow_the_model(checkpoints):
    units = {
        name: onnx_graph.describe_tensors(FoalNet.from_pretrained(checkpoints / name).config, modality)
        for name, modality in (("a", "a"), ("base", "av"), ("av", "av"))
    }
    assert set(units["a"]) == {"input_values", "attention_mask", "logits", "probabilities"}
    assert "unit variance" in units["a"]["input_values"]["unit"]
    assert "unit variance" not in units["av"]["input_values"]["unit"]
    assert "padding changes" in units["base"]["input_values"]["unit"]
    assert "padding changes" not in units["av"]["input_values"]["unit"]


def test_int8_holds_integer_products_and_is_compared_on_a_list(checkpoints, tmp_path, capsys):
    import onnx

    corpus = write_corpus(tmp_path / "corpus", train=1, valid=24, test=1)
    arguments = ["--test_src", str(corpus / "valid.scp"), "--video_root", str(corpus / "features")]
    export = export_onnx.main([str(checkpoints / "av"), str(tmp_path / "int8.onnx"), "--int8", *arguments])
    proto = onnx.load(tmp_path / "int8.onnx")
    kinds = [node.op_type for node in proto.graph.node]
    assert not {"ConvInteger", "Gemm"} & set(kinds)
    weights = {weight.name: weight.data_type for weight in proto.graph.initializer}
    products = [node.input[1] for node in proto.graph.node if node.op_type == "MatMulInteger"]
    assert len(products) >= 2 * 6 + 4 * 4  # two blocks of WavLM, four of the fusion
    assert {weights[name] for name in products} == {onnx.TensorProto.INT8}
    assert not [node for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert {entry.key: entry.value for entry in proto.metadata_props}["precision"] == "int8"
    assert 1e-6 < export.moved < 0.1
    assert export.comparison["differing"] <= 6
    assert f"{export.comparison['differing']} of 24 predictions differ" in capsys.readouterr().out


def test_two_graphs_are_compared_by_ua(checkpoints, exported, tmp_path):
    """Of two models, which differ more than two precisions."""
    corpus = write_corpus(tmp_path / "corpus", train=1, valid=24, test=1)
    models = [FoalNet.from_pretrained(checkpoints / name).eval() for name in ("av", "max")]
    arguments = corpus / "valid.scp", corpus / "features", None, {}, models[0].config, "av", PREPROCESSING
    loader = onnx_graph.load_list(*arguments)
    onnx_graph.write_graph(models[1], "av", tmp_path / "max.onnx")
    labels = [int(batch["labels"]) for batch in loader]
    with torch.no_grad():
        predictions = [[int(m(**keep_streams(b, "av")).logits.argmax()) for b in loader] for m in models]
    differing = sum(first != second for first, second in zip(*predictions, strict=True))
    assert differing > 0
    assert onnx_graph.compare_precisions(exported, tmp_path / "max.onnx", loader, LABELS) == {
        "fp32": pytest.approx(balanced_accuracy_score(labels, predictions[0])),
        "int8": pytest.approx(balanced_accuracy_score(labels, predictions[1])),
        "differing": differing,
        "utterances": 24,
    }


def test_a_graph_that_is_not_the_model_gets_no_name(checkpoints, tmp_path, monkeypatch, capsys):
    whole = ExportableFoalNet.encode
    monkeypatch.setattr(
        ExportableFoalNet, "encode", lambda self, values, mask: whole(self, values, torch.ones_like(mask))
    )
    out = tmp_path / "foal.onnx"
    out.write_bytes(b"an earlier one")
    with pytest.raises(SystemExit) as end:
        export_onnx.main([str(checkpoints / "av"), str(out)])
    assert end.value.code == 2
    assert "away from PyTorch" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an earlier one"]


def test_what_cannot_be_exported_is_refused_in_one_line(checkpoints, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "foal.onnx")
    (tmp_path / "empty").mkdir()
    write_wavlm(tmp_path / "encoder")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((checkpoints / "v" / "config.json").read_bytes())
    model = build_model(modality="v")
    weights = {name: weight for name, weight in model.state_dict().items() if name != "cls_head.bias"}
    write_model(tmp_path / "lacking", model, PREPROCESSING, state_dict=weights)
    (tmp_path / "damaged.scp").write_text("only_an_id\n")
    before = sorted(tmp_path.iterdir())
    for arguments, words in (
        ([tmp_path / "empty", out], "holds no config.json"),
        ([tmp_path / "encoder", out], "no checkpoint of this model"),
        ([tmp_path / "bare", out], "no checkpoint of this model"),
        ([tmp_path / "lacking", out], "lacks 1 weights, such as cls_head.bias"),
        ([checkpoints / "av", out, "--modality", "a"], "not trained for a missing stream"),
        ([checkpoints / "a", out, "--modality", "v"], "the checkpoint is of modality a"),
        ([checkpoints / "a", tmp_path / "foal.bin"], "ends in .onnx"),
        ([checkpoints / "a", tmp_path / "absent" / "foal.onnx"], "no such folder"),
        ([checkpoints / "a", out, "--test_src", "list.scp"], "give --int8 too"),
        ([checkpoints / "a", out, "--int8", "--test_src", tmp_path / "damaged.scp"], "line 1"),
    ):
        with pytest.raises(SystemExit) as end:
            export_onnx.main([str(argument) for argument in arguments])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert end.value.code == 2
        assert len(errors) == 1
        assert words in errors[0]
    monkeypatch.setattr(onnx_graph, "LARGEST", 1000)
    with pytest.raises(onnx_graph.InputError, match="GB of weights"):
        export_checkpoint(checkpoints / "a", out)
    assert sorted(tmp_path.iterdir()) == before


def test_without_the_packages_it_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit) as end:
        export_onnx.main([str(tmp_path), str(tmp_path / "foal.onnx")])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: the export of an ONNX graph needs onnx and onnxruntime: make export\n"
