"""What fine-tuning survives: kills, losses that are no number, full disks, several devices."""

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from tiny import awakened, bright_and_dark, lopsided

from nsfwlib.data import images
from nsfwlib.model import features
from nsfwlib.model.build import build_classifier
from nsfwlib.train import forecast, head, keeping, stages

SIZE, FROM, TOP = 64, "block_13_project_BN", "out_relu"  # a late boundary of MobileNetV2: little to train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(images table, folder)"""
    folder = tmp_path_factory.mktemp("data")
    return bright_and_dark(folder), folder


def build():
    made = build_classifier(["bright", "dark"], weights=None, backbone="MobileNetV2", image_size=SIZE)
    return awakened(made)


def fine_tune(classifier, data, work_dir, **options):
    options = {"fine_tune_from": FROM, "epochs": 2, "batch_size": 8, "verbose": 0, **options}
    return stages.fine_tune(classifier, data[0], data[0]["given_label"], data[1], work_dir=work_dir, **options)


def test_what_is_stored_is_what_the_lower_part_makes_of_the_pictures(data, tmp_path):
    classifier = build()
    paths = [data[1] / p for p in data[0]["path"][:5]]
    rows = stages.store_lower(classifier, FROM, paths, tmp_path, batch_size=2, progress=False)
    upper = stages.upper_model(classifier, FROM)
    pixels = np.stack([images.load_image(path, size=SIZE) for path in paths]).astype(np.float32)
    assert np.allclose(upper(rows.astype(np.float32)), classifier(pixels), atol=1e-3)


def test_a_disk_that_fills_up_while_lower_parts_are_stored_is_a_sentence_and_the_pass_goes_on(data, tmp_path):
    classifier, paths = build(), [data[1] / p for p in data[0]["path"]]
    options = {"batch_size": 4, "progress": False}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))
    try:
        with pytest.raises(
            OSError, match=rf"{FROM} could not be stored: File too large\. Free some room and run again"
        ):
            stages.store_lower(classifier, FROM, paths, tmp_path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    whole = stages.store_lower(classifier, FROM, paths, tmp_path, **options)
    assert len(whole) == len(paths) and np.abs(whole).reshape(len(paths), -1).max(axis=1).all()


def test_a_history_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    def full(self, target, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match=r"epochs\.csv could not be written \(No space left on device\).*Free space"):
        keeping.Keep(tmp_path, 1.0, pd.DataFrame()).on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})


def test_a_killed_pass_over_the_lower_part_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    classifier = build()
    paths = [data[1] / p for p in data[0]["path"]]
    batches, read = stages.decoded_batches, []

    def watched(some, **options):
        read.append(len(some))
        for i, batch in enumerate(batches(some, **options)):
            if len(read) == 1 and i == 21:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(stages, "decoded_batches", watched)
    options = {"batch_size": 1, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        stages.store_lower(classifier, FROM, paths, tmp_path / "a", **options)
    again = stages.store_lower(classifier, FROM, paths, tmp_path / "a", **options)
    whole = stages.store_lower(classifier, FROM, paths, tmp_path / "b", **options)
    assert read[:2] == [24, 3]
    assert np.allclose(again, whole, rtol=1e-3, atol=1e-3)


def test_every_epoch_takes_each_stored_picture_once_in_one_of_its_views():
    rows = np.arange(30, dtype=np.float16).reshape(30, 1, 1, 1)  # three views of ten pictures
    targets = np.eye(10, dtype=np.float32)
    dataset = head.rows_dataset(rows, targets, np.arange(30).reshape(3, 10), batch_size=4, shuffled=True)
    drawn = set()
    for _ in range(4):
        x, y = (np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True))
        assert sorted(y.argmax(axis=1)) == list(range(10))
        assert np.array_equal(x.ravel() % 10, y.argmax(axis=1))
        drawn |= set(x.ravel() // 10)
    assert drawn == {0, 1, 2}


def test_stored_views_train_the_same_layers_and_leave_nothing_behind(data, tmp_path):
    classifier = lopsided(build())
    before = {layer.name: layer.get_weights() for layer in classifier.layers if layer.weights}
    history = fine_tune(classifier, data, tmp_path, stored_views=2, learning_rate=0.01)
    moved = {
        name
        for name, weights in before.items()
        if any(not np.array_equal(a, b) for a, b in zip(weights, classifier.get_layer(name).get_weights(), strict=True))
    }
    assert {"Conv_1", "block_16_project", "logits"} <= moved
    assert not {name for name in moved if name.startswith(("block_1_", "block_12", "bn_")) or name.endswith("BN")}
    assert len(history) == 2 and not list(tmp_path.iterdir())


def test_nothing_can_be_stored_inside_a_block():
    with pytest.raises(ValueError, match=r"need more than its output.*stored_views=0"):
        stages.upper_model(build(), "block_12_expand")


def test_too_little_room_for_the_stored_views_is_said_before_anything_is_computed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stages.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"Expected .* GB of room.*stored_views=0"):
        fine_tune(build(), data, tmp_path, stored_views=1)


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
    fine_tune(build(), pickle.load(open({data!r}, "rb")), {work!r}, epochs=4, learning_rate=0.01)
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
    history = fine_tune(build(), data, tmp_path / "work", epochs=4, learning_rate=0.01)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert np.allclose(history["val_loss"][:2], log["val_loss"])


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
    monkeypatch.setattr(stages.StopOnNaN, "on_epoch_begin", None)  # an epoch would fail
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
    assert len(fine_tune(build(), data, tmp_path, learning_rate=0.0)) == 2


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
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.warns(UserWarning, match=rf"{damaged}.*\.damaged"):
        history = fine_tune(lopsided(build()), data, tmp_path, learning_rate=0.01, keep=True)
    assert history["epoch"].tolist() == [1, 2] and file.exists()
    assert file.with_name(f"{file.name}.damaged").stat().st_size == 100_000
    assert np.allclose(history["val_loss"][: len(left)], first["val_loss"][: len(left)])


def test_a_loss_that_is_no_number_stops_keeps_the_last_good_weights_and_names_the_batch(data, tmp_path):
    classifier = build()
    before = classifier.get_layer("logits").get_weights()[0]
    with pytest.raises(FloatingPointError, match=r"epoch \d+, batch \d+.*best weights.*smaller learning_rate"):
        fine_tune(classifier, data, tmp_path, learning_rate=1e30, augmented=False)
    after = classifier.get_layer("logits").get_weights()[0]
    assert np.isfinite(after).all() and np.array_equal(before, after)


def test_a_head_whose_loss_is_no_number_says_so(data, rng):
    table = data[0]
    spread = rng.normal(0, 1, (24, 1280)).astype(np.float32) * 1e30
    with pytest.raises(FloatingPointError, match=r"epoch \d+, batch 1"):
        head.train_head(build(), spread, table["given_label"], table["split"], learning_rate=1e30)


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
    before = classifier.get_layer("Conv_1").get_weights()[0]
    history = fine_tune(classifier, pickle.load(open({data!r}, "rb")), {work!r}, learning_rate=0.01)
    moved = abs(classifier.get_layer("Conv_1").get_weights()[0] - before).max()
    print("MOVED", moved > 0, len(history), history["val_loss"].notna().all())
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
        "validation": 16,
        "predictions": 8,
    }
    assert (plan["minutes"] >= 0).all() and plan.loc["fine-tuning", "minutes"] > 0
    features.bottleneck_features(classifier, table, folder, cache_dir=tmp_path, blocks=TOP, progress=False)
    assert forecast.training_cost(classifier, table, folder, **options)["images"][0] == 0
    stored = forecast.training_cost(classifier, table, folder, stored_views=2, **options).set_index("step")
    assert stored.loc["lower part, stored", "images"] == 36


@pytest.mark.parametrize(("views", "seconds"), [(0, [5, 11, 5, 5]), (2, [5, 2, 9, 3, 5])])
def test_the_forecast_counts_a_backward_pass_twice_and_stored_parts_once(data, tmp_path, monkeypatch, views, seconds):
    passes = iter([5.0, 2.0])  # the whole network, and its lower part
    monkeypatch.setattr(forecast, "_seconds", lambda forward, pixels: next(passes))
    options = {"cache_dir": tmp_path, "blocks": [TOP], "fine_tune_from": FROM, "fine_tune_epochs": 3}
    plan = forecast.training_cost(build(), *data, stored_views=views, **options)
    assert plan["seconds_per_image"].tolist() == pytest.approx(seconds, abs=0.5)  # decoding takes milliseconds
    assert plan["minutes"].tolist() == pytest.approx((plan["images"] * seconds / 60).tolist(), rel=0.2)
    assert plan.set_index("step").loc["fine-tuning", "images"] == 48


def test_more_images_make_a_better_head_on_the_learning_curve(rng):
    labels = pd.Series(np.array(["a", "b"])[np.arange(600) % 2])
    values = rng.normal(0, 1, (600, 40)) + 0.35 * np.where(labels.eq("a"), 1, -1)[:, None] * (np.arange(40) < 8)
    splits = pd.Series(np.where(np.arange(600) % 3 == 0, "val", "train"))
    curve = forecast.learning_curve(values, labels, splits, groups=pd.Series(np.arange(600) // 2), fractions=(0.1, 1.0))
    means = curve.groupby("images")["log_loss"].mean()
    assert len(curve) == 4 and means.index.min() == pytest.approx(40, abs=12)
    assert means.iloc[-1] < means.iloc[0]
