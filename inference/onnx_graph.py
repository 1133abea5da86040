"""A checkpoint as one ONNX file, for places without torch: export, description, int8, and the proof that it is right.

    checkpoint -> ExportableFoalNet -> fp32 graph, checked against FoalNet -> (int8 graph) -> OUT.onnx

The packed encoder of wavlm.py can't be traced, since its shapes are made from lengths on the host. The graph takes the
same weights through transformers' own forward, on padded batches, and is compared with FoalNet before it gets its name.
TorchScript traces it; torch's other exporter finds the same, thirty times as slow and with one package more.
"""

import json
import logging
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from dataloader import SAMPLE_RATE, build_evaluation_loader, check_utterances, read_scp
from features.preprocessing import PREPROCESSING_FILE, Preprocessing
from running.errors import InputError
from running.metrics import count_confusion, summarize_confusion
from running.model_folder import find_model, load_model
from running.progress import progress_bar
from running.records import checksum_weights, git_commit, sync
from wavlm import has_group_norm

OPSET = 18
TOLERANCE = 1e-4  # of logits and probabilities, absolute
LARGEST = 2**31 - 2**24  # bytes of weights; protobuf writes no message of 2 GiB, and the graph itself takes some
STAND_INS = {  # what FoalNet takes for a stream after its encoder, and the parameter in its place where it is absent
    "a": ("audio_features", "audio_mask", "absent_audio"),
    "v": ("video_features", "video_mask", "absent_video"),
}
TIMES = {"input_values": "samples", "attention_mask": "samples", "audio_features": "steps", "audio_mask": "steps"}
TIMES |= {"video_features": "frames", "video_mask": "frames"}
OUTPUTS = ("logits", "probabilities")
TRACED = {"samples": (5200, 3700), "frames": (5, 7)}  # two rows: an exporter may take a batch of one for a constant
CHECKED = (  # uneven, none of them traced; beyond 1.6 s WavLM's positions go from exact to logarithmic
    {"samples": (40_000,), "frames": (75,)},
    {"samples": (96_000, 17_123, 400), "frames": (1, 180, 31)},
)


def import_onnx():
    """The modules onnx and onnxruntime. Raises: InputError where they are not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError("the export of an ONNX graph needs onnx and onnxruntime: make export") from error
    return onnx, onnxruntime


def choose_modality(config, requested=None):
    """The streams of the graph, `av`, `a` or `v`.

    Args:
        config: FoalNetConfig. requested: None takes all streams of the model.
    Raises: InputError for a stream that the model lacks, or one that it can't do without.
    """
    if requested in (None, config.modality):
        return config.modality
    if config.modality != "av":
        raise InputError(f"--modality {requested}: the checkpoint is of modality {config.modality}")
    if not config.modality_dropout:
        raise InputError(
            f"--modality {requested}: the model was not trained for a missing stream (modality_dropout is 0)"
        )
    return requested


def check_encoder(model, modality):
    """Merge adapters, and raise InputError for an encoder that no graph is made of."""
    if model.config.lora_rank:
        model.merge_adapters()
    kind = model.encoder is not None and "a" in modality and model.encoder.config.model_type
    if kind in ("whisper", "data2vec-audio"):
        raise InputError(
            f"{kind}: no graph is made of it (its answer depends on the padding that it was traced with); train with "
            "--freeze_encoder, and the graph takes its features"
        )


class ExportableFoalNet(nn.Module):
    """FoalNet's prediction in operations that a graph can hold: every step on the padded batch.

    Args:
        model: FoalNet in evaluation mode.
        modality: of the graph; for a stream that it lacks and the model has, the learnt stand-in is a constant.
    """

    def __init__(self, model, modality):
        super().__init__()
        self.model, self.modality = model, modality
        self.temperature = model.config.calibration_temperature

    def forward(self, *inputs):
        """inputs: tensors in the order of `input_names`. Returns: logits, probabilities, (B, C) float32 each."""
        inputs = dict(zip(input_names(self.model.config, self.modality), inputs, strict=True))
        rows, streams = next(iter(inputs.values())).shape[0], dict(inputs)
        if "input_values" in inputs:
            sound = streams.pop("input_values"), streams.pop("attention_mask")
            streams["audio_features"], streams["audio_mask"] = self.encode(*sound)
        for stream in set(self.model.config.modality) - set(self.modality):
            states, mask, stand_in = STAND_INS[stream]
            streams[states] = self.model.get_parameter(stand_in).expand(rows, 1, -1)  # (B, 1, D)
            streams[mask] = torch.ones(rows, 1, dtype=torch.bool)
        logits = self.model(**streams).logits
        return logits, torch.softmax(logits / self.temperature, -1)

    def encode(self, input_values, attention_mask):
        """What encoders.encode returns: states (B, Ta, D), zero where padded, and the mask (B, Ta) bool."""
        encoder, mix = self.model.encoder, self.model.mix_layers()
        output = encoder(input_values, attention_mask, output_hidden_states=mix is not None)
        states = output.last_hidden_state
        if mix is not None:
            states = sum(weight * hidden for weight, hidden in zip(mix, output.hidden_states, strict=True))
        mask = encoder._get_feature_vector_attention_mask(states.shape[1], attention_mask)
        return states * mask[..., None], mask


def stream_names(config):
    """The inputs of each stream: the sound, or the features that the model was trained on, and the picture's."""
    sound = ("input_values", "attention_mask") if config.audio_config is not None else ("audio_features", "audio_mask")
    return {"a": sound, "v": ("video_features", "video_mask")}


def input_names(config, modality):
    """Names of a graph's inputs in their order."""
    return [name for stream in modality for name in stream_names(config)[stream]]


def draw_inputs(config, modality, samples, frames, seed=0):
    """A padded batch of noise.

    Args:
        config: FoalNetConfig. modality: of the graph.
        samples, frames: valid steps of each of the B rows; those of a stream that is not there are not used.
    Returns: {name: tensor}, masks int64, the rest float32.
    """
    generator, inputs = torch.Generator().manual_seed(seed), {}
    sound = (samples, ()) if config.audio_config is not None else (frames, (config.audio_dim,))
    for stream, lengths, width in (("a", *sound), ("v", frames, (config.video_dim,))):
        if stream in modality:
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (B, T)
            noise = torch.randn(*mask.shape, *width, generator=generator)
            noise[~mask] = 0
            inputs.update(zip(stream_names(config)[stream], (noise, mask.long()), strict=True))
    return inputs


def write_graph(model, modality, path):
    """Trace a FoalNet into one ONNX file of opset 18; the numbers of rows, samples and frames stay free.

    Raises: InputError where the weights do not fit into one file.
    """
    size = sum(weight.numel() * 4 for weight in model.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"{size / 1e9:.2f} GB of weights: an ONNX file without others beside it holds less than 2.15 GB"
        )
    example = draw_inputs(model.config, modality, **TRACED)
    axes = {name: {0: "batch", 1: TIMES[name]} for name in example}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace may take for constant: `check_graph` is what tells
        torch.onnx.export(
            ExportableFoalNet(model, modality).eval(),
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(OUTPUTS),
            dynamic_axes={**axes, **{name: {0: "batch"} for name in OUTPUTS}},
            opset_version=OPSET,
            dynamo=False,
        )


def describe_tensors(config, modality):
    """{input or output: {shape, dtype, unit}} of a graph, for those who hold only the file."""
    padding = "zero padded"
    if "a" in modality and config.audio_config is not None and has_group_norm(config.audio_config):
        padding += "; padding changes the answer, since the encoder's first norm takes it in: pad little"
    values = ", zero mean and unit variance over the valid samples" if config.normalize_audio else ", as read"
    batch, classes = "batch", len(config.labels)
    tensors = {
        "input_values": ([batch, "samples"], f"waveform of {SAMPLE_RATE} Hz, mono, full scale 1{values}; {padding}"),
        "attention_mask": ([batch, "samples"], "1 where input_values is sound: the first 400 or more of a row"),
        "audio_features": ([batch, "steps", config.audio_dim], "a row of the features of the training, zero padded"),
        "audio_mask": ([batch, "steps"], "1 where a row is one of audio_features: the first one or more"),
        "video_features": ([batch, "frames", config.video_dim], "a row of features a video frame, zero padded"),
        "video_mask": ([batch, "frames"], "1 where a row is a video frame: the first one or more"),
        "logits": ([batch, classes], "scores of the labels, in their order, before the softmax"),
        "probabilities": ([batch, classes], "softmax of logits / calibration_temperature, rows sum to 1"),
    }
    return {
        name: {"shape": tensors[name][0], "dtype": "int64" if "mask" in name else "float32", "unit": tensors[name][1]}
        for name in (*input_names(config, modality), *OUTPUTS)
    }


def describe_graph(model, folder, modality, precision):
    """The metadata of a graph: {key: text}, JSON where it is more than a word or a number.

    Args:
        model: FoalNet. folder: its checkpoint, whose preprocessor_config.json is stored whole.
        modality: of the graph. precision: `fp32` or `int8`.
    """
    config, tensors = model.config, describe_tensors(model.config, modality)
    entries = {
        "labels": json.dumps(config.labels, ensure_ascii=False),
        "modality": modality,
        "precision": precision,
        "sampling_rate": str(SAMPLE_RATE),
        "normalize_audio": json.dumps(bool(config.normalize_audio)),
        "calibration_temperature": repr(config.calibration_temperature),
        "inputs": json.dumps({name: tensors[name] for name in input_names(config, modality)}, ensure_ascii=False),
        "outputs": json.dumps({name: tensors[name] for name in OUTPUTS}, ensure_ascii=False),
        "exporter": json.dumps({name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}),
        "commit": git_commit() or "unknown",
        "weights_crc32": checksum_weights(model),
    }
    entries["preprocessor_config"] = Path(folder, PREPROCESSING_FILE).read_text(encoding="utf-8")
    preprocessing = Preprocessing.read(folder)
    return entries | {key: str(getattr(preprocessing, key)) for key in ("max_length", "max_frames")}


def annotate(path, entries):
    """Write the metadata of `describe_graph` into a file, and what its inputs and outputs mean into their places."""
    onnx, _ = import_onnx()
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, entries)
    proto.doc_string = proto.graph.doc_string = (
        "Foal-Net: speech and video of one utterance -> emotion. Labels, units and lengths are in the metadata."
    )
    tensors = json.loads(entries["inputs"]) | json.loads(entries["outputs"])
    for value in (*proto.graph.input, *proto.graph.output):
        text = tensors[value.name]
        value.doc_string = f"({', '.join(map(str, text['shape']))}) {text['dtype']}: {text['unit']}"
    onnx.save(proto, path)


def quantize_products(source, target):
    """Copy a graph with its products by weights in int8; everything else, convolutions too, stays as it is.

    A weight has a scale for each column; an activation one for the whole batch, found as it comes, so that a row's
    answer moves a little with its neighbours. On x86 processors with AVX2 but without VNNI sums can saturate: compare
    on a list there. Unsigned weights would not, but are hardly faster than fp32.
    """
    import_onnx()
    from onnxruntime.quantization import quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it tells the root logger of every product that it leaves alone
    try:
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    finally:
        root.setLevel(level)


def open_graph(path):
    """An ONNX Runtime session on the CPU, with as many threads as torch has."""
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(session, inputs):
    """inputs: {name: tensor}, masks of any integer type or bool. Returns: logits and probabilities, (B, C) float32."""
    arrays = {name: (value.long() if "mask" in name else value).numpy() for name, value in inputs.items()}
    return session.run(list(OUTPUTS), arrays)


@torch.no_grad()
def check_graph(path, model, modality):
    """Compare a graph with FoalNet's own packed forward, on noise of lengths that were not traced.

    Returns: the largest absolute difference of logits, and of probabilities; NaN where either is.
    """
    session, temperature = open_graph(path), model.config.calibration_temperature
    differences = []
    for seed, lengths in enumerate(CHECKED, start=1):
        inputs = draw_inputs(model.config, modality, **lengths, seed=seed)
        logits = model(**inputs).logits
        expected = logits.numpy(), torch.softmax(logits / temperature, -1).numpy()
        differences.append([np.abs(a - b).max() for a, b in zip(run_graph(session, inputs), expected, strict=True)])
    return tuple(np.max(differences, 0).tolist())


@dataclass
class GraphExport:
    """What `export_checkpoint` wrote and found.

    Attributes:
        difference: largest of fp32 logits and probabilities from FoalNet's own.
        moved: largest of int8 probabilities from FoalNet's own, on the same noise; None without int8.
        comparison: of `compare_precisions`; None without a list.
    """

    path: Path
    modality: str
    precision: str
    labels: list
    difference: float
    moved: float | None = None
    comparison: dict | None = None

    def __str__(self):
        size = f"{self.path.stat().st_size / 1e6:.1f} MB"
        lines = [
            f"{self.path}: modality {self.modality}, {self.precision}, {size}, classes {' '.join(self.labels)}",
            f"fp32 graph against PyTorch: logits and probabilities differ by at most {self.difference:.1e} "
            "(batches of 1 and 3, lengths not traced)",
        ]
        if self.moved is not None:
            lines.append(f"int8 graph against PyTorch: probabilities differ by at most {self.moved:.1e}, on noise")
        if self.comparison is not None:
            found = self.comparison
            lines.append(
                f"{found['list']}: UA {100 * found['fp32']:.2f} in fp32, {100 * found['int8']:.2f} in int8, change "
                f"{100 * (found['int8'] - found['fp32']):+.2f} points; {found['differing']} of {found['utterances']} "
                "predictions differ"
            )
        return "\n".join(lines)


def export_checkpoint(
    folder, out, modality=None, int8=False, test_src=None, video_root=None, audio_root=None, label_map=None
):
    """Write a checkpoint as one ONNX file; it gets its name when it is whole and agrees with FoalNet.

    Args:
        folder: run folder, its best/, or hub id. out: path of the file. modality: see `choose_modality`.
        int8: matrix products in int8.
        test_src: scp list on which int8 is compared with fp32; None: none. video_root, audio_root: its features.
        label_map: of the list, see `read_scp`.
    Returns: GraphExport.
    Raises: InputError for a checkpoint, a modality or a list that can't be used, and for a graph that is not the model.
    """
    import_onnx()
    out, folder = Path(out), find_model(folder)
    model, preprocessing = load_model(folder)
    modality = choose_modality(model.config, modality)
    check_encoder(model, modality)
    loader = None
    if test_src is not None:
        loader = load_list(test_src, video_root, audio_root, label_map, model.config, modality, preprocessing)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as part:
        exact, quantized = Path(part, "fp32.onnx"), Path(part, "int8.onnx")
        write_graph(model, modality, exact)
        annotate(exact, describe_graph(model, folder, modality, "fp32"))
        difference = float(np.max(check_graph(exact, model, modality)))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{out}: not written, the graph is {difference:.1e} away from PyTorch; {TOLERANCE} is allowed"
            )
        export = GraphExport(out, modality, "int8" if int8 else "fp32", model.config.labels, difference)
        if int8:
            quantize_products(exact, quantized)
            annotate(quantized, describe_graph(model, folder, modality, "int8"))
            export.moved = check_graph(quantized, model, modality)[1]
        if loader is not None:
            export.comparison = {"list": test_src, **compare_precisions(exact, quantized, loader, model.config.labels)}
        written = quantized if int8 else exact
        sync(written)
        os.replace(written, out)
    return export


def load_list(test_src, video_root, audio_root, label_map, config, modality, preprocessing):
    """A loader of an scp list, cut as in training: one utterance a batch, so that none moves the scales of another.

    Raises: InputError that names what is wrong.
    """
    lengths = {"max_length": preprocessing.max_length, "max_frames": preprocessing.max_frames}
    utterances = read_scp(test_src, config.labels, label_map)
    utterances, dims = check_utterances(utterances, modality, video_root, **lengths, audio_root=audio_root)
    for stream, width in dims.items():
        if width != (needed := getattr(config, f"{stream}_dim")):
            root = {"audio": audio_root, "video": video_root}[stream]
            raise InputError(f"{root}: features of dim {width}; the checkpoint takes {needed}")
    options = {"modality": modality, "normalize_audio": config.normalize_audio, "audio_root": audio_root}
    return build_evaluation_loader(utterances, 1, **options, **lengths)


def compare_precisions(exact, quantized, loader, names):
    """UA of two graphs on a list.

    Args:
        exact, quantized: paths. loader: of `load_list`. names: of the classes.
    Returns: dict of `fp32` and `int8` (UA, fractions of 1), `differing` predictions, and `utterances`.
    """
    sessions, labels, predictions = [open_graph(exact), open_graph(quantized)], [], []
    for batch in progress_bar(loader, desc="Compare", leave=False):
        inputs = {value.name: batch[value.name] for value in sessions[0].get_inputs()}
        predictions.append([run_graph(session, inputs)[0].argmax(1) for session in sessions])
        labels.append(batch["labels"].numpy())
    labels, (first, second) = np.concatenate(labels), np.concatenate(predictions, 1)
    ua = [summarize_confusion(count_confusion(labels, p, len(names)), names)["ua"] for p in (first, second)]
    differing = int((first != second).sum())
    return {"fp32": ua[0], "int8": ua[1], "differing": differing, "utterances": len(labels)}
