"""Small videos whose frames tell their number, for the tests of this room."""

import av
import numpy as np


def write_video(path, pictures, rate=30, **options):
    """Encode (n, height, width, 3) uint8 pictures as DivX in avi, frame k at k / rate seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "1", "qmax": "2", **options})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate, stream.codec_context.codec_tag = "yuv420p", 8_000_000, "DIVX"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def counting_pictures(count, height=64, width=96):
    """Plain grey pictures; frame k has the brightness 40 + 4 k."""
    return [np.full((height, width, 3), 40 + 4 * k, np.uint8) for k in range(count)]


def read_numbers(frames):
    """The frame numbers that the brightness of prepared pictures tells."""
    return [round((frame.pixels.mean() - 40) / 4) for frame in frames]
