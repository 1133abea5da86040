"""The arms of `start`: all that train.py does with its lists before the first step, on a generated corpus.

    python -m scripts.benchmark --workloads start --utterances 100000
    python -m benchmark.start FOLDER          one start on a corpus that `write_corpus` left there, as JSON

Every start is a process of its own, so its peak of memory is its own; `first` finds no record of what was checked.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SAMPLES, SHAPE = 1600, (5, 16)  # of a sound (0.1 s) and of its features
CHOSEN = 10  # every tenth utterance is in the validation list
ARMS = ("first", "second")
CACHE = "cache"  # beside the corpus, in the place of the user's


def write_corpus(folder, count, seed):
    """Write `count` sounds, as many float32 features, train.scp and valid.scp."""
    rng, folder, lists = np.random.default_rng(seed), Path(folder), {"train": [], "valid": []}
    (folder / "features").mkdir()
    size = 2 * SAMPLES
    header = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0"
    header += (16000).to_bytes(4, "little") + (32000).to_bytes(4, "little") + b"\2\0\x10\0data"
    header += size.to_bytes(4, "little")
    for i in range(count):
        speaker = i * 100 // count
        if not (folder / f"speaker{speaker:02}").is_dir():
            (folder / f"speaker{speaker:02}").mkdir()
        wav = folder / f"speaker{speaker:02}" / f"speaker{speaker:02}_{i:07}.wav"
        wav.write_bytes(header + rng.bytes(size // 8) * 8)
        np.save(folder / "features" / f"{wav.stem}.npy", rng.standard_normal(SHAPE, np.float32))
        line = f"{wav.stem} {wav} {('hap', 'neu', 'sad', 'ang')[i % 4]}\n"
        lists["valid" if i % CHOSEN == 0 else "train"].append(line)
    for split, lines in lists.items():
        (folder / f"{split}.scp").write_text("".join(lines), encoding="utf-8")


def read_peak():
    """Bytes of memory that this process held at most so far (not those of the program that started it)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def start(folder):
    """Do what train.py does up to the first batch. Returns: {stage: seconds}, and `peak`, bytes beyond the imports."""
    import train
    from dataloader import build_dataloaders
    from features.folder import describe_files
    from features.preprocessing import describe_clip

    before, seconds, begun = read_peak(), {}, time.perf_counter()

    def lap(stage):
        seconds[stage] = time.perf_counter() - begun - sum(seconds.values())

    flags = [f"--train_src={folder}/train.scp", f"--valid_src={folder}/valid.scp", f"--video_root={folder}/features"]
    args = train.parse_args(flags)
    splits = train.read_lists(args)
    lap("read")
    splits, _ = train.check_lists(args, splits, None)
    lap("check")
    everything = [utterance for split in splits.values() for utterance in split]
    data = describe_files(everything, args.modality)
    describe_clip(everything)
    lap("describe")
    data.write(Path(folder, "data.json"))
    lap("write")
    loader, _ = build_dataloaders(splits.pop("train"), splits, batch_size=16, seed=1, num_workers=1)
    lap("build")
    next(iter(loader))
    lap("batch")
    return {**seconds, "peak": read_peak() - before}


def time_starts(folder):
    """Start twice. Returns: rows of the table, a dict an arm, with the seconds of each stage."""
    rows, environment = [], {**os.environ, "FOALNET_CACHE": str(Path(folder, CACHE))}
    for arm in ARMS:
        command = [sys.executable, "-m", "benchmark.start", str(folder)]
        place = Path(__file__).resolve().parents[1]
        answer = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=True).stdout
        stages = json.loads(answer.splitlines()[-1])
        peak = stages.pop("peak") / 2**30
        rows.append({"arm": arm, "seconds": sum(stages.values()), "peak GiB": peak, **stages})
    return rows


if __name__ == "__main__":
    print(json.dumps(start(sys.argv[1])))
