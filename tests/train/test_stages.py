"""What fine-tuning survives: kills, losses that are no number, full disks, several devices."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tiny import bright_and_dark, lopsided, staged_classifier

from nsfwlib.model import features, with_head
from nsfwlib.plots import evaluation
from nsfwlib.train import forecast, keeping, stages

FROM, TOP = "stage_3", "stage_4"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(images table, folder)"""
    folder = tmp_path_factory.mktemp("data")
    return bright_and_dark(folder), folder


@pytest.fixture(autouse=True)
def _no_graphs():
    """Tracing takes longer than training here; what runs in processes of its own is traced, as users' runs are."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def build():
    return staged_classifier(["bright", "dark"], size=64)


def fine_tune(classifier, data, work_dir, **options):
    options = {"fine_tune_from": FROM, "epochs": 2, "batch_size": 8, "verbose": 0, **options}
    return stages.fine_tune(classifier, data[0], data[0]["given_label"], data[1], work_dir=work_dir, **options)


def moved(classifier, before):
    """Largest change of each layer with weights."""
    return {
        name: max(abs(a - b).max() for a, b in zip(weights, classifier.get_layer(name).get_weights(), strict=True))
        for name, weights in before.items()
    }


def test_a_history_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    def full(self, target, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match=r"epochs\.csv could not be written \(No space left on device\).*Free space"):
        keeping.Keep(tmp_path, lambda: {"loss": 1.0}, pd.DataFrame(), 2).on_epoch_end(0, {"loss": 1.0})


def test_the_lower_a_stage_the_less_it_moves_and_batch_norm_and_what_is_frozen_never_do(data, tmp_path):
    classifier = lopsided(build())
    before = {layer.name: layer.get_weights() for layer in classifier.layers if layer.weights}
    stages.unfreeze_from(classifier, "stage_2")
    shares = stages._shares(classifier)
    assert [shares[f"{name}/kernel"] for name in ("logits", "conv_4", "conv_3")] == pytest.approx([1, 0.1, 0.01])
    fine_tune(classifier, data, tmp_path, fine_tune_from="stage_2", learning_rate=0.01)
    change = moved(classifier, before)
    assert change["conv_4"] > 3 * change["conv_3"] > 0
    still = {name for name in change if name.endswith("BN") or name in ("conv_1", "conv_2", "standardise")}
    assert not any(change[name] for name in still) and not list(tmp_path.iterdir())


def test_the_mean_of_both_stages_is_kept_where_it_is_the_best(data, tmp_path, monkeypatch):
    classifier, answers = build(), iter([2.0, 1.0, 0.5])  # before training, after an epoch, and of the mean
    start = classifier.get_layer("conv_4").get_weights()[0]
    monkeypatch.setattr(stages, "_measure", lambda *_, **__: lambda: {"loss": next(answers), "accuracy": 0.5})
    history = fine_tune(classifier, data, tmp_path, learning_rate=0.01, epochs=1, keep=True)
    assert history["learning_rate"].iloc[0] > 0, "of one epoch, too, a rate is drawn"
    end = build()
    end.load_weights(next(tmp_path.glob("*/epoch-001.weights.h5")))
    assert history["stage"].tolist() == ["fine-tune", "average"]
    mean = (start + end.get_layer("conv_4").get_weights()[0]) / 2
    assert np.allclose(classifier.get_layer("conv_4").get_weights()[0], mean, atol=1e-7)


def test_what_leaves_the_frozen_layers_for_val_is_computed_once_and_tells_the_same(data, tmp_path, monkeypatch):
    measure, layers, found = keras.Model.evaluate, [], []
    names, blocks = ["bright", "dark"], ["stage_2", TOP]
    monkeypatch.setattr(
        keras.Model, "evaluate", lambda self, *a, **o: layers.append(len(self.layers)) or measure(self, *a, **o)
    )
    for limit in (stages.KEPT, 0):
        monkeypatch.setattr(stages, "KEPT", limit)
        classifier = lopsided(with_head(build(), names, blocks=blocks))
        options = {"learning_rate": 0.01, "label_smoothing": 0.1, "batch_size": 3}
        found.append(fine_tune(classifier, data, tmp_path, **options))
    pd.testing.assert_frame_equal(*found, rtol=1e-4)
    assert max(layers[:4]) < min(layers[4:]), "measured before, after two epochs, and the mean of both"


def test_training_stops_when_the_loss_has_not_been_lower_for_so_many_epochs(tmp_path):
    losses = iter([0.5, 0.4, 0.6, 0.5])  # before training, and after each epoch
    kept = keeping.Keep(tmp_path, lambda: {"loss": next(losses)}, pd.DataFrame(), patience=2)
    kept.set_model(type("Model", (), {"stop_training": False, "save_weights": lambda self, path: path.touch()})())
    for epoch in range(3):
        assert not kept.model.stop_training
        kept.on_epoch_end(epoch, {"loss": 1.0})
    assert kept.model.stop_training
    assert sorted(file.name[:9] for file in tmp_path.glob("*.h5")) == ["epoch-001", "epoch-002", "epoch-003"]


def test_pictures_of_no_weight_teach_nothing(data, tmp_path):
    classifier = lopsided(build())
    before = {layer.name: layer.get_weights() for layer in classifier.layers if layer.weights}
    lone = data[0]["split"].ne("train").to_numpy(float)
    lone[0] = 1.0  # of the class that the head is sure of already
    fine_tune(classifier, data, tmp_path, learning_rate=0.01, weights=lone, augmented=False)
    assert max(moved(classifier, before).values()) < 1e-4


KILLED = """
    import os, pickle, signal, sys
    from nsfwlib.train import keeping
    sys.path[:0] = {tests!r}
    from test_stages import build, fine_tune
    finished = keeping.Keep.on_epoch_end

    def killed(self, epoch, logs=None):
        finished(self, epoch, logs)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    keeping.Keep.on_epoch_end = killed
    fine_tune(build(), pickle.load(open({data!r}, "rb")), {work!r}, epochs=4, patience=9, learning_rate=0.01)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Skipping variable loading")  # of the optimizer
def test_a_killed_run_goes_on_at_its_epoch_with_its_history(data, tmp_path, request):
    import pickle

    (tmp_path / "data.pickle").write_bytes(pickle.dumps(data))
    names = {
        "tests": [str(folder) for folder in request.path.parents[:2]],
        "data": str(tmp_path / "data.pickle"),
        "work": str(tmp_path / "work"),
    }
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED).format(**names)], capture_output=True)
    assert child.returncode == -9, child.stderr.decode()[-2000:]
    log = pd.read_csv(next((tmp_path / "work").glob("*/epochs.csv")))
    history = fine_tune(build(), data, tmp_path / "work", epochs=4, patience=9, learning_rate=0.01)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 1]
    assert np.allclose(history["val_loss"][:2], log["val_loss"])


def test_interrupted_in_the_kernel_the_model_is_as_before_and_the_same_call_goes_on(data, tmp_path, monkeypatch):
    classifier, finished = lopsided(build()), keeping.Keep.on_epoch_end
    before = classifier.get_weights()

    def interrupted(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        finished(self, epoch, logs)

    monkeypatch.setattr(keeping.Keep, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(classifier, data, tmp_path, learning_rate=0.01)
    assert all(map(np.array_equal, classifier.get_weights(), before))
    log = pd.read_csv(next(tmp_path.glob("*/epochs.csv")))
    monkeypatch.undo()
    history = fine_tune(classifier, data, tmp_path, learning_rate=0.01)
    assert history["epoch"][:2].tolist() == [1, 2] and history["val_loss"][0] == pytest.approx(log["val_loss"][0])


def test_the_curves_are_drawn_anew_after_each_epoch(data, tmp_path, monkeypatch):
    shown = []

    class Place:
        def update(self, figure):
            shown.append([len(line.get_xdata()) for line in figure.axes[0].lines[:2]])

    monkeypatch.setattr(evaluation, "display", lambda *_, **__: Place())
    numbers = dict.fromkeys(["loss", "val_loss"], 1.0) | dict.fromkeys(["accuracy", "val_accuracy"], 0.5)
    stage_1 = pd.DataFrame([{"stage": "head", "epoch": 1, **numbers, "learning_rate": 0.0}])
    redraw = evaluation.live_history(stage_1)
    history = fine_tune(build(), data, tmp_path, epochs=2, patience=9, on_epoch=redraw)
    assert shown == [[2, 2], [3, 3]] and history["learning_rate"][:2].gt(0).all()
    assert not plt.get_fignums(), "none is shown a second time at the end of the cell"


def test_the_best_weights_of_a_killed_run_are_not_lost_to_a_worse_epoch(data, tmp_path):
    """The log of a killed run says that its first epoch was unbeatable: its weights must come back."""
    classifier = build()
    fine_tune(classifier, data, tmp_path, epochs=2, learning_rate=1e-3, keep=True)
    folder = next(tmp_path.iterdir())
    (folder / "epoch-002.weights.h5").unlink()
    log = pd.read_csv(folder / "epochs.csv")
    log.assign(val_loss=0.0).to_csv(folder / "epochs.csv", index=False)
    marked = build()
    marked.set_weights([np.zeros_like(w) for w in marked.get_weights()])
    marked.save_weights(folder / "epoch-001.weights.h5")
    resumed = build()
    fine_tune(resumed, data, tmp_path, epochs=2, learning_rate=1e-3)
    assert not np.any(resumed.get_layer("logits").kernel)


def test_a_finished_stage_is_kept_until_told_and_found_again_without_training(data, tmp_path, monkeypatch):
    first, again = lopsided(build()), lopsided(build())
    history = fine_tune(first, data, tmp_path, learning_rate=0.01, keep=True)
    monkeypatch.setattr(keras.Model, "train_on_batch", None)
    monkeypatch.setattr(stages.Keep, "on_train_batch_end", None)  # an epoch would fail
    pd.testing.assert_frame_equal(fine_tune(again, data, tmp_path, learning_rate=0.01), history)
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))
    assert not list(tmp_path.iterdir())


def test_a_kill_while_an_epoch_is_written_leaves_nothing_half(data, tmp_path, monkeypatch):
    save = keras.Model.save_weights

    def stopped(self, filepath, **options):
        save(self, filepath, **options)
        if Path(filepath).name in ("epoch-001.weights.h5", "latest.weights.h5"):
            os.truncate(filepath, 1000)
            raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save_weights", stopped)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(build(), data, tmp_path, learning_rate=0.0)
    monkeypatch.undo()
    assert fine_tune(build(), data, tmp_path, learning_rate=0.0)["stage"].tolist() == ["fine-tune"] * 2 + ["average"]


def test_a_disk_too_full_for_an_epoch_is_named_with_the_way_out(tmp_path):
    class Full:
        def save_weights(self, path):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"epoch-001\.weights\.h5.*No space left.*Free space"):
        keeping.save_whole(Full(), tmp_path / "epoch-001.weights.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("damaged", "left"), [("epoch-002", [1]), ("epoch-001", [])])
def test_a_damaged_epoch_is_put_aside_and_the_run_goes_on_from_the_one_before(data, tmp_path, damaged, left):
    first = fine_tune(lopsided(build()), data, tmp_path, learning_rate=0.01, keep=True)
    (folder,) = tmp_path.iterdir()
    file = folder / f"{damaged}.weights.h5"
    half = file.stat().st_size // 2
    os.truncate(file, half)
    with pytest.warns(UserWarning, match=rf"{damaged}.*\.damaged"):
        history = fine_tune(lopsided(build()), data, tmp_path, learning_rate=0.01, keep=True)
    assert history["epoch"].tolist() == [1, 2, 1] and file.exists()
    assert file.with_name(f"{file.name}.damaged").stat().st_size == half
    assert np.allclose(history["val_loss"][: len(left)], first["val_loss"][: len(left)])


def test_a_loss_that_is_no_number_stops_keeps_the_last_good_weights_and_names_the_batch(data, tmp_path):
    classifier = build()
    before = classifier.get_layer("logits").get_weights()[0]
    with pytest.raises(FloatingPointError, match=r"epoch \d+, batch \d+.*best weights.*smaller learning_rate"):
        fine_tune(classifier, data, tmp_path, learning_rate=1e38, augmented=False)
    after = classifier.get_layer("logits").get_weights()[0]
    assert np.isfinite(after).all() and np.array_equal(before, after)


MIRRORED = """
    import pickle, sys
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    from nsfwlib.train import stages
    sys.path[:0] = {tests!r}
    from test_stages import build, fine_tune, lopsided
    stages._strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    classifier = lopsided(build())
    before = classifier.get_layer("conv_4").get_weights()[0]
    history = fine_tune(classifier, pickle.load(open({data!r}, "rb")), {work!r}, learning_rate=0.01)
    moved = abs(classifier.get_layer("conv_4").get_weights()[0] - before).max()
    print("MOVED", moved > 0, len(history) - 1, history["val_loss"].notna().all())
"""


@pytest.mark.slow
def test_several_devices_share_the_training_in_mixed_precision(data, tmp_path, request):
    import pickle

    (tmp_path / "data.pickle").write_bytes(pickle.dumps(data))
    names = {
        "tests": [str(folder) for folder in request.path.parents[:2]],
        "data": str(tmp_path / "data.pickle"),
        "work": str(tmp_path / "work"),
    }
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED).format(**names)], capture_output=True, text=True
    )
    assert "MOVED True 2 True" in child.stdout, child.stderr[-3000:]


# ------------------------------------------------------------------------------------------------ features
def test_a_full_disk_keeps_what_was_computed_and_says_so(data, tmp_path, monkeypatch):
    table, folder = data
    classifier, append = build(), features.append_rows

    def full(place, keys, rows):
        append(place, keys[:10], rows[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "append_rows", full)
    options = {"cache_dir": tmp_path, "blocks": TOP, "progress": False}
    with pytest.raises(OSError, match=r"^No room for features in .*No space left on device.*run again"):
        features.bottleneck_features(classifier, table, folder, **options)
    monkeypatch.setattr(features, "append_rows", append)
    assert len(features.missing_rows(classifier, table, cache_dir=tmp_path, blocks=TOP)) == 14
    assert np.isfinite(features.bottleneck_features(classifier, table, folder, **options)).all()


# ------------------------------------------------------------------------------------------------ cost and promise
def test_the_forecast_counts_pictures_and_passes(data, tmp_path):
    classifier, (table, folder) = build(), data
    options = {"cache_dir": tmp_path, "blocks": [TOP], "fine_tune_from": FROM, "fine_tune_epochs": 3}
    plan = forecast.training_cost(classifier, table, folder, **options).set_index("step")
    assert plan["images"].to_dict() == {
        "features of the frozen backbone": 24,
        "fine-tuning": 48,
        "validation": 4,
        "predictions, where it helps": 8,
    }
    assert (plan["minutes"] >= 0).all() and plan.loc["fine-tuning", "minutes"] > 0
    features.bottleneck_features(classifier, table, folder, cache_dir=tmp_path, blocks=TOP, progress=False)
    assert forecast.training_cost(classifier, table, folder, **options)["images"][0] == 0
    plan = forecast.training_cost(classifier, table, folder, **options | {"fine_tune_epochs": 0})
    assert plan["images"].tolist() == [0], "the head's answers to known features cost nothing"


def test_the_forecast_counts_a_backward_pass_twice_and_frozen_layers_once_for_validation(data, tmp_path, monkeypatch):
    work = [3 * 16 * 32**2, 16 * 32 * 16**2, 32 * 48 * 8**2, 48 * 64 * 4**2]  # channels in and out, times positions
    upper = 5 * work[-1] / sum(work)
    seconds = [5, 5 + 2 * upper, 5 + 4 * upper, 5]
    monkeypatch.setattr(forecast, "_seconds", lambda forward, pixels: 5.0)
    options = {"cache_dir": tmp_path, "blocks": [TOP], "fine_tune_from": FROM, "fine_tune_epochs": 3}
    plan = forecast.training_cost(build(), *data, **options)
    assert plan["seconds_per_image"].tolist() == pytest.approx(seconds, abs=0.1)  # decoding takes milliseconds
    assert plan["minutes"].tolist() == pytest.approx((plan["images"] * seconds / 60).tolist(), rel=0.2)
    assert plan.set_index("step").loc["fine-tuning", "images"] == 48


def test_more_images_make_a_better_head_on_the_learning_curve(rng, monkeypatch):
    monkeypatch.setattr(forecast, "FRACTIONS", (0.1, 1.0))
    labels = pd.Series(np.array(["a", "b"])[np.arange(600) % 2])
    values = rng.normal(0, 1, (600, 40)) + 0.35 * np.where(labels.eq("a"), 1, -1)[:, None] * (np.arange(40) < 8)
    splits = pd.Series(np.where(np.arange(600) % 3 == 0, "val", "train"))
    curve = forecast.learning_curve(values, labels, splits, groups=pd.Series(np.arange(600) // 2))
    means = curve.groupby("images")["log_loss"].mean()
    assert len(curve) == 4 and means.index.min() == pytest.approx(40, abs=12)
    assert means.iloc[-1] < means.iloc[0]


def test_the_range_of_rates_shows_where_the_loss_falls_and_where_it_bursts_and_leaves_the_model_alone(
    data, monkeypatch
):
    monkeypatch.setattr(stages, "RATES", (1e-4, 1e4))
    monkeypatch.setattr(stages, "STEPS", 50)
    classifier = lopsided(build())
    before = classifier.get_weights()
    options = {"fine_tune_from": FROM, "batch_size": 8}
    filed = data[0]["given_label"].where(data[0].index % 8 > 0, "dark")  # one in eight is wrong: no rate fits them all
    found = stages.try_rates(classifier, data[0], filed, data[1], **options)
    assert found["learning_rate"].is_monotonic_increasing and found["learning_rate"].iloc[0] == 1e-4
    assert len(found) < 50 and found["loss"].min() < 0.7 * found["loss"].iloc[9] < found["loss"].iloc[-1]
    assert all((a == b).all() for a, b in zip(before, classifier.get_weights(), strict=True))
    assert not any(layer.trainable_weights for layer in classifier.layers if layer.name == "conv_4")
