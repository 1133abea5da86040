"""The frames of a video in the order of time, with the time of each."""

from fractions import Fraction

import av


def read_frames(container, stream):
    """Decode a video from front to back.

    Args:
        container: an open av container.
        stream: its video stream.
    Yields: (seconds since the start of the container rounded to microseconds, av.VideoFrame). A packet that does not
        decode gives (None, error) instead, and decoding goes on behind it.
    """
    offset = Fraction(container.start_time or 0, av.time_base)
    step = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    previous = -step
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            yield None, error
            continue
        for frame in frames:
            exact = previous + step if frame.pts is None else frame.pts * frame.time_base - offset
            previous = exact
            yield round(float(exact), 6), frame
