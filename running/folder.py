"""The folder of one training: what it holds, how it is begun, saved, resumed and finished.

    args.json environment.json train.log     what was asked for, and where
    last/                                    all that --resume needs, of the last whole epoch
    best/                                    the model of the best epoch
    metrics.jsonl curves.png                 an epoch a line
    predictions_<split>.csv embeddings_<split>.npz confusion_<split>.png
    result.json                              written last of all

Everything is there whole or not at all. The folder knows nothing of how a model is trained.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from running.errors import InputError
from running.finished import FREE_ON_RESUME
from running.pictures import plot_confusion, plot_curves
from running.records import (
    describe_environment,
    find_folder,
    read_json,
    replace_folder,
    write_json,
    write_predictions,
    write_text,
)

logger = logging.getLogger("foalnet.train")


@dataclass
class Progress:
    """How far a run is; saved with the weights in last/."""

    epoch: int = 0  # finished
    steps: int = 0  # of the optimizer so far, the seed of the next hard negatives
    best_epoch: int = 0
    best_score: float = -1.0  # UA or WA of that epoch, as --choose_by says
    history: list = field(default_factory=list)  # the lines of metrics.jsonl

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, state):
        self.__dict__.update(state)


class RunFolder:
    """The run folder of a training, the same in all its processes.

    Args:
        root: the folder; made by `open`.
        accelerator: accelerate's Accelerator, with everything prepared and registered that last/ is to hold.
        progress: the Progress registered there.
    """

    def __init__(self, root, accelerator, progress):
        self.root, self.accelerator, self.progress = Path(root), accelerator, progress

    def open(self, flags, lists):
        """Begin the folder, or go on with it and load last/.

        Args:
            flags: dict of the command line.
            lists: paths of the scp lists.
        Raises: InputError rather than lose or mix anything.
        """
        accelerator = self.accelerator
        environment = describe_environment(
            lists, mixed_precision=accelerator.mixed_precision, processes=accelerator.num_processes
        )
        last = find_folder(self.root / "last")
        if last and not flags["resume"]:
            raise InputError(
                f"--save_root {self.root}: holds a run already; --resume goes on with it, or name another folder"
            )
        if last:
            self._refuse_changes(flags, environment)
            accelerator.load_state(str(last))
            logger.info(f"Resume after epoch {self.progress.epoch} of {self.root}")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.root.mkdir(parents=True, exist_ok=True)
            write_json(self.root / "args.json", flags)
            write_json(self.root / "environment.json", environment)
            log = logging.FileHandler(self.root / "train.log", encoding="utf-8")
            logging.getLogger("foalnet").addHandler(log)
        self.write_history()  # an interruption may have come between last/ and these

    def _refuse_changes(self, flags, environment):
        """Raise InputError where a run would go on with other flags, lists, precision or processes than it began."""
        before, then = read_json(self.root / "args.json"), read_json(self.root / "environment.json")
        pairs = {f"--{name}": (before.get(name), flags[name]) for name in flags if name not in FREE_ON_RESUME}
        pairs |= {name: (then[name], environment[name]) for name in ("mixed_precision", "processes")}
        pairs |= {f"SHA-256 of {path}": (then["sha256"].get(path), now) for path, now in environment["sha256"].items()}
        changed = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new]
        if changed:
            raise InputError(f"--resume {self.root}: {', '.join(changed)}; resume with the same")

    def save(self, model, is_best):
        """Leave best/, last/, metrics.jsonl and curves.png as they are after this epoch.

        Args:
            model: with `save_pretrained`. is_best: whether it takes the place of best/.
        """
        if is_best:
            with replace_folder(self.root / "best", self.accelerator) as folder:
                if self.accelerator.is_main_process:
                    model.save_pretrained(folder)
        with replace_folder(self.root / "last", self.accelerator) as folder:
            self.accelerator.save_state(str(folder))
        self.write_history()

    def write_history(self):
        """Leave metrics.jsonl and curves.png of the epochs so far."""
        history = self.progress.history
        if self.accelerator.is_main_process and history:
            write_text(self.root / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
            plot_curves(history, self.root / "curves.png")

    @property
    def best(self):
        """The folder of the best epoch's model."""
        return find_folder(self.root / "best")

    def write_evaluation(self, split, evaluation, summary, labels, title):
        """Leave predictions, embeddings and confusion matrix of a list.

        Args:
            split: `valid` or `test`. evaluation: Evaluation. summary: of it.
            labels: the class names. title: of the picture.
        """
        if not self.accelerator.is_main_process:
            return
        root, halves = self.root, {k: v.astype(np.float16) for k, v in evaluation.embeddings.items()}
        write_predictions(
            root / f"predictions_{split}.csv", evaluation.utt_ids, evaluation.labels, evaluation.probabilities, labels
        )
        np.savez(root / f"embeddings_{split}.npz", utt_ids=evaluation.utt_ids, labels=evaluation.labels, **halves)
        plot_confusion(summary["confusion"], labels, root / f"confusion_{split}.png", title=title)

    def finish(self, result):
        """Write result.json, by which others know that the run is whole."""
        if self.accelerator.is_main_process:
            write_json(self.root / "result.json", result)
        self.accelerator.wait_for_everyone()
