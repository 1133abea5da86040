"""The folder of one training: what it holds, how it is begun, saved, resumed and finished.

    args.json environment.json data.json     what was asked for, where, and the size and time of every file used
    starts.jsonl train.log                   every start, first and resumed; what was said
    last/ last.old/                          all that --resume needs, and the same one save before
    best/ best.old/                          the model of the best epoch, and of the best one before
    metrics.jsonl curves.png                 an epoch a line
    predictions_<split>.csv embeddings_<split>.npz confusion_<split>.png
    result.json                              written last of all

Everything is there whole or not at all. The folder knows nothing of how a model is trained.
"""

import fcntl
import json
import logging
import os
import time
from pathlib import Path

from accelerate.utils import broadcast_object_list

from running.checkpoint import MANIFEST, adopt, find_version, forget_older, read_manifest, versions, write_version
from running.errors import InputError
from running.finished import FREE_ON_RESUME, explain_refusal, may_train_longer
from running.parent import LOCKED
from running.pictures import plot_curves
from running.records import describe_environment, read_json, write_json, write_text

logger = logging.getLogger("foalnet.train")


class RunFolder:
    """The run folder of a training, the same in all its processes.

    Args:
        root: the folder; made by `open`.
        state: TrainingState.
        save_every: (number, `min` or `steps`) between two saves inside an epoch.
    """

    COST = 0.02  # share of the time that saving may take

    def __init__(self, root, state, save_every=(5.0, "min")):
        self.root, self.state, self.save_every = Path(root), state, save_every
        self.accelerator, self.progress = state.accelerator, state.progress
        self.saved_at, self.saved_step, self.seconds, self.lock = time.monotonic(), 0, 0.0, None

    def open(self, flags, lists, data):
        """Begin the folder, or go on with it and load last/.

        Args:
            flags: dict of the command line.
            lists: paths of the scp lists.
            data: FileTable of the files that they name.
        Raises: InputError rather than lose or mix anything.
        """
        accelerator = self.accelerator
        environment = describe_environment(
            lists, mixed_precision=accelerator.mixed_precision, processes=accelerator.num_processes
        )
        if accelerator.is_main_process:
            self._lock()
        accelerator.wait_for_everyone()
        new, *written = versions(self.root / "last")
        begun = any(folder.is_dir() for folder in written) or (new / MANIFEST).is_file()
        self._refuse_to_overwrite(begun, flags["resume"])
        if begun:
            self._refuse_changes(flags, environment, data)
            self._load()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._record_start(flags, environment, data, begun)
        self.write_history()  # an interruption may have come between last/ and these
        self.saved_at, self.saved_step = time.monotonic(), self.progress.steps

    def _lock(self):
        """One training a folder, for as long as this process lives."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if os.environ.get(LOCKED) == str(self.root.resolve()):
                return  # a driver holds it for this very training
            self.lock = (self.root / "lock").open("a")
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--save_root {self.root}: another training is at work in this folder") from None
        except OSError as error:
            if self.lock is None:
                raise InputError(f"--save_root {self.root}: {error.strerror}") from error
            logger.warning(f"{self.root}: this file system has no locks; see to it that no second training runs here")

    def close(self):
        """Let others have the folder."""
        if self.lock is not None:
            self.lock.close()

    def _refuse_to_overwrite(self, begun, resume):
        if begun and not resume:
            raise InputError(
                f"--save_root {self.root}: holds a run already; --resume goes on with it, or name another folder"
            )
        if not begun and (self.root / "result.json").exists():
            raise InputError(
                f"--save_root {self.root}: holds a finished run (result.json) and no last/ to go on from; "
                "name another folder, or remove this one to train it again"
            )

    def _refuse_changes(self, flags, environment, data):
        """Raise InputError where a run would go on with other flags, data, precision or processes than it began."""
        before, then = read_json(self.root / "args.json"), read_json(self.root / "environment.json")
        pairs = {f"--{name}": (before.get(name), flags[name]) for name in flags if name not in FREE_ON_RESUME}
        pairs |= {name: (then.get(name), environment[name]) for name in ("mixed_precision", "processes")}
        hashes = then.get("sha256", {})
        pairs |= {f"SHA-256 of {path}": (hashes.get(path), now) for path, now in environment["sha256"].items()}
        if may_train_longer(before, flags):
            del pairs["--epochs"]
        changed = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new]
        if changed:
            raise InputError(
                f"--resume {self.root}: {', '.join(changed)}; resume with the same{explain_refusal(changed)}"
            )
        recorded = read_json(self.root / "data.json")
        written = [path for path, entry in data.items() if recorded.get(path) != entry]
        if written:
            what = f"{len(written)} of {len(data)} files were written since this run began, such as {written[0]}"
            if not flags["accept_changes"]:
                raise InputError(f"--resume {self.root}: {what}; --accept_changes goes on all the same")
            logger.warning(f"--accept_changes: {what}")
        for name in ("git_commit", "versions"):
            if then.get(name) != environment[name] and self.accelerator.is_main_process:
                logger.warning(f"{name} was {then.get(name)} and is {environment[name]}: the numbers may differ")

    def _load(self):
        """Take up last/, or the one before where it is damaged, and see to it that best/ is of the same run."""
        last, best = self.root / "last", self.root / "best"
        folder = self._choose(last)
        self.state.read(folder)
        manifest = read_manifest(folder)
        if (manifest["epoch"], manifest["step"]) != (self.progress.epoch, self.progress.steps):
            raise InputError(f"{folder}: state.json is of another step than manifest.json")
        progress = self.progress
        where = f" and {progress.batch} steps of the next" if progress.batch else ""
        logger.info(f"Resume after epoch {progress.epoch}{where} of {self.root}")
        if progress.best_epoch:
            self._choose(best, progress.best_epoch)

    def _choose(self, path, epoch=None):
        """The whole version of a checkpoint in its place, in every process; says what is wrong with newer ones."""
        chosen = [None, "", []]
        if self.accelerator.is_main_process:
            try:
                folder, problems = find_version(path, epoch)
                if folder is not None:
                    adopt(path, folder)
                chosen = [folder is not None, "", problems]
            except InputError as error:
                chosen = [None, str(error), []]
        found, error, problems = self._tell(chosen)
        if error or not found:
            raise InputError(error or f"{path}: is missing, and the run can't go on without it")
        for problem in problems:
            logger.warning(f"{problem}; the one before is used")
        return path

    def _tell(self, content):
        """The first process's content in every process."""
        content = [content]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(content)
        return content[0]

    def _record_start(self, flags, environment, data, begun):
        if self.progress.epoch < flags["epochs"]:  # a finished run that is to go on is no finished one
            (self.root / "result.json").unlink(missing_ok=True)
        if not begun or read_json(self.root / "args.json").get("epochs") != flags["epochs"]:
            write_json(self.root / "args.json", flags)
        if not begun:
            write_json(self.root / "environment.json", environment)
            data.write(self.root / "data.json")
        start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": self.progress.steps, **environment}
        with (self.root / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**start, "flags": flags}) + "\n")
        log = logging.FileHandler(self.root / "train.log", encoding="utf-8")
        log.handleError = lambda record: None  # a full disk ends a run by what it loses, not by its log
        logging.getLogger("foalnet").addHandler(log)

    def is_due(self):
        """Whether the state is to be saved inside an epoch, by the first process's clock."""
        number, unit = self.save_every
        if unit == "steps":
            return self.progress.steps - self.saved_step >= number
        return time.monotonic() - self.saved_at >= 60 * number and self.is_cheap()

    def is_cheap(self):
        """Whether saving now takes no more than COST of the time since the last save."""
        return self.seconds <= self.COST * (time.monotonic() - self.saved_at)

    def save(self):
        """Leave best/ and last/ as the training is now.

        best/ comes first and its one before stays: an interruption in between leaves the last/ and best.old/ of the
        save before.
        """
        started, state = time.monotonic(), self.state
        if state.best_is_new:
            self._write_best(state.write_best)
        write_version(self.root / "last", self.accelerator, state.write, self._about())
        state.best_is_new = False
        self.saved_at, self.saved_step = time.monotonic(), self.progress.steps
        self.seconds = self.saved_at - started

    def _write_best(self, fill):
        about = {**self._about(), "epoch": self.progress.best_epoch}
        write_version(self.root / "best", self.accelerator, fill, about)

    def _about(self):
        return {"epoch": self.progress.epoch, "step": self.progress.steps, "batch": self.progress.batch}

    def write_history(self):
        """Leave metrics.jsonl and curves.png of the epochs so far."""
        history = self.progress.history
        if self.accelerator.is_main_process and history:
            lines = "".join(json.dumps(line, allow_nan=False) + "\n" for line in history)
            write_text(self.root / "metrics.jsonl", lines)
            plot_curves(history, self.root / "curves.png")

    @property
    def best(self):
        """The folder of the best epoch's model, read and found whole."""
        return self._choose(self.root / "best", self.progress.best_epoch)

    def finish(self, result, write_model):
        """Leave the described model in best/, then result.json, by which others know that the run is whole.

        Args: result: dict. write_model: function of the folder that the model's files go to.
        """
        self._write_best(lambda folder: write_model(folder) if self.accelerator.is_main_process else None)
        if self.accelerator.is_main_process:
            write_json(self.root / "result.json", result)
            for name in ("last", "best"):
                forget_older(self.root / name)
        self.accelerator.wait_for_everyone()
