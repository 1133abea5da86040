"""Videos -> a stream of prepared frames, decoded ahead of the network by processes of a DataLoader.

A video is the unit of work: one process decodes it from front to back, so the frames of an utterance come complete and
in order. The longest videos are begun first and a process that is done takes the next one.
"""

import ctypes
import math
import os
from collections import defaultdict
from itertools import islice

import torch
from torch.utils.data import DataLoader, IterableDataset

from features.decoding import Clip, cut_clips

CHUNK = 16  # frames handed over at a time


def group_by_video(table):
    """The manifest's utterances by video: dict path -> list of Clips."""
    videos = defaultdict(list)
    for row in table.itertuples():
        start = -math.inf if math.isnan(row.start) else row.start
        end = math.inf if math.isnan(row.end) else row.end
        videos[row.video].append(Clip(row.id, start, end, row.crop))
    return videos


def share_videos(videos, index, count):
    """The part of the videos that process `index` of `count` takes: longest first, each to the least laden process."""

    def length(clips):
        known = [clip.end for clip in clips if math.isfinite(clip.end)]
        return max(known, default=4.5) + 0.1 * len(clips)

    loads, parts = [0.0] * count, [[] for _ in range(count)]
    for path, clips in sorted(videos.items(), key=lambda item: (-length(item[1]), item[0])):
        least = loads.index(min(loads))
        loads[least] += length(clips)
        parts[least].append((path, clips))
    return parts[index]


class FrameDataset(IterableDataset):
    """Videos as chunks: lists of up to 16 of what `cut_clips` yields, never of two videos. It is read once.

    Args:
        videos: list of (path, Clips), the longest first.
        prepare, frame_stride, max_frames, threads: of `cut_clips`.
    """

    def __init__(self, videos, prepare, **options):
        self.videos, self.prepare, self.options = videos, prepare, options
        self.taken = torch.multiprocessing.Value(ctypes.c_long, 0)  # one count for all processes of the loader

    def __iter__(self):
        while (number := self._take()) < len(self.videos):
            items = cut_clips(*self.videos[number], self.prepare, **self.options)
            while chunk := list(islice(items, CHUNK)):
                yield chunk

    def _take(self):
        with self.taken.get_lock():
            self.taken.value += 1
            return self.taken.value - 1


def build_frame_loader(videos, prepare, num_workers, max_waiting, cores=None, **options):
    """A DataLoader of the chunks of a FrameDataset; those of several videos are interleaved as they get ready.

    Args:
        videos: list of (path, Clips), the longest first.
        num_workers: processes that decode, at most one a core and one a video; 0 = this one.
        max_waiting: frames that may wait, over all workers; each may have two chunks ready in any case.
        cores: that this loader may use; those without a worker go to the decoders. Default all.
        options: of `cut_clips`.
    """
    cores = cores or len(os.sched_getaffinity(0))
    num_workers = min(num_workers, cores, len(videos))
    ahead = {"prefetch_factor": max(2, max_waiting // (CHUNK * num_workers))} if num_workers else {}
    return DataLoader(
        FrameDataset(videos, prepare, threads=max(1, cores // max(1, num_workers)), **options),
        batch_size=None,
        num_workers=num_workers,
        in_order=False,  # a video with long gaps between its utterances holds up no other
        **ahead,
    )
