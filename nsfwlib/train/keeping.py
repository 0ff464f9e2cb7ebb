"""What is kept of a stage while it runs? Weights and history, whole or not there: a kill costs an epoch."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from nsfwlib import runs
from nsfwlib._tensorflow import keras
from nsfwlib.files import write_whole


def resumed(work_dir: Path) -> pd.DataFrame:
    """History of the epochs that a killed run of the same arguments has finished; what it had begun is removed."""
    work_dir.mkdir(parents=True, exist_ok=True)
    log, files = work_dir / "epochs.csv", sorted(work_dir.glob("epoch-*.weights.h5"))
    # Behind a damaged epoch nothing is of use: it may be the best.
    whole = list(itertools.takewhile(_is_whole, files)) if log.exists() else []
    epochs = int(whole[-1].name[6:9]) if whole else 0
    for file in files[len(whole) :] if epochs else [*files, log]:
        file.unlink(missing_ok=True)
    return pd.read_csv(log)[:epochs].drop(columns="learning_rate", errors="ignore") if epochs else pd.DataFrame()


def _is_whole(file: Path) -> bool:
    """Whether a file of weights can be read; a damaged one is put aside, with a warning."""
    names: list[str] = []
    try:
        with h5py.File(file) as stored:
            stored.visit(names.append)
            for item in map(stored.get, names):
                _ = item[()] if isinstance(item, h5py.Dataset) else None
    except (OSError, RuntimeError) as error:
        aside = file.replace(file.with_name(f"{file.name}.damaged"))
        warnings.warn(
            f"{file} is damaged ({error}) and was put aside as {aside.name}. An earlier epoch serves.", stacklevel=3
        )
        return False
    return True


def save_whole(model: keras.Model, path: Path) -> None:
    """Weights and the state of the optimizer, whole or not at all."""
    with write_whole(path) as draft:
        model.save_weights(draft)


class Keep(keras.callbacks.Callback):
    """After each epoch its row of `history` and its weights: the first, the best, and the last two to go on from.

    `measure` tells loss and accuracy on validation, `history` those of the epochs whose weights are on disk. Training
    stops after `patience` epochs without a lower loss.
    """

    def __init__(self, work_dir: Path, measure: Callable[[], dict], history: pd.DataFrame, patience: int) -> None:
        super().__init__()
        self.work_dir, self.measure, self.history, self.patience, self.nan = work_dir, measure, history, patience, ""
        self.before = measure()["loss"]

    def file(self, epoch: int) -> Path:
        """The weights after so many epochs."""
        return self.work_dir / f"epoch-{epoch:03d}.weights.h5"

    def best(self) -> Path:
        """The weights of the lowest loss, the first of several."""
        return self.file(int(self.losses().argmin()))

    def losses(self) -> np.ndarray:
        """On validation before training and after each epoch; infinite where there is none."""
        return np.nan_to_num([self.before, *self.history.get("val_loss", [])], nan=np.inf)

    def is_over(self) -> bool:
        """Whether the loss has not been lower for so many epochs."""
        return len(self.history) - self.losses().argmin() >= self.patience

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Called by Keras."""
        if len(self.history):
            self.model.optimizer.build(self.model.trainable_variables)  # else its state would be left out
            self.model.load_weights(self.file(len(self.history)))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Called by Keras."""
        if not self.nan and not np.isfinite((logs or {}).get("loss", 0.0)):
            self.nan = f"epoch {len(self.history) + 1}, batch {batch + 1}"
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Called by Keras."""
        logs |= {f"val_{name}": value for name, value in self.measure().items()}  # Keras shows them, too
        row = pd.DataFrame([{"stage": "fine-tune", "epoch": epoch + 1, **logs}])
        self.history = pd.concat([self.history, row], ignore_index=True)
        runs.write_table(self.history, self.work_dir / "epochs.csv")
        if np.isfinite(logs["loss"]):  # else training ends here
            save_whole(self.model, self.file(epoch + 1))
            for file in {self.file(n) for n in range(1, epoch)} - {self.best()}:
                file.unlink(missing_ok=True)
        self.model.stop_training |= self.is_over()
