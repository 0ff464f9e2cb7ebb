import tempfile

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiny import bright_and_dark, lopsided, staged_classifier

from nsfwlib.data import images
from nsfwlib.labels import fit_head, heads
from nsfwlib.model import build, features
from nsfwlib.model.classifier import feature_model, head_blocks, head_model, save_model, with_head
from nsfwlib.model.features import bottleneck_features, row_positions
from nsfwlib.model.stream import stream_answers
from nsfwlib.train import head, stages

SIZE = 64
LOW, TOP, WIDTH = "stage_3", "stage_4", 1280


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(images table, folder)"""
    folder = tmp_path_factory.mktemp("data")
    return bright_and_dark(folder), folder


@pytest.fixture(scope="module")
def classifier():
    return network()


def network(seed=0):
    return staged_classifier(["bright", "dark"], size=SIZE, seed=seed, widths=(16, 32, 64, WIDTH))


def features_of(classifier, data, cache_dir, **options):
    table, folder = data
    options = {"blocks": TOP, **options}
    return bottleneck_features(classifier, table, folder, cache_dir=cache_dir, progress=False, **options)


def test_features_equal_the_backbones_output(classifier, data, tmp_path):
    features = features_of(classifier, data, tmp_path, blocks=LOW, batch_size=5)
    pixels = np.stack([images.load_image(data[1] / p, size=SIZE) for p in data[0]["path"]])
    expected = feature_model(classifier, [LOW]).predict(pixels, verbose=0)
    assert features.dtype == np.float16 and features.shape == (24, 64)
    assert np.allclose(features, expected, rtol=1e-2, atol=1e-3)


def test_several_blocks_stand_side_by_side(classifier, data, tmp_path):
    both = features_of(classifier, data, tmp_path, blocks=[LOW, TOP])
    assert both.shape == (24, 64 + WIDTH)
    assert np.array_equal(both[:, :64], features_of(classifier, data, tmp_path, blocks=LOW))


def test_cached_features_need_no_picture(classifier, data, tmp_path, monkeypatch):
    first = features_of(classifier, data, tmp_path / "cache")
    renamed = data[0].assign(path="moved/" + data[0]["path"], given_label="dark")[::-1]
    again = bottleneck_features(classifier, renamed, tmp_path / "nowhere", cache_dir=tmp_path / "cache", blocks=TOP)
    assert np.array_equal(again, first[::-1])


def test_an_interrupted_pass_keeps_what_it_computed(classifier, data, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        for i, batch in enumerate(stream_answers(*args, **kwargs)):
            if i == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(features, "stream_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features_of(classifier, data, tmp_path, batch_size=4)
    folder = next((tmp_path / "features").iterdir())
    assert (row_positions(folder, data[0]["sha256"], WIDTH) >= 0).sum() == 8


def test_other_weights_have_features_of_their_own(classifier, data, tmp_path):
    first, second = (features_of(m, data, tmp_path, blocks=LOW) for m in (classifier, network(seed=1)))
    assert not np.allclose(first, second) and len(list((tmp_path / "features").iterdir())) == 2


def test_a_file_that_broke_since_the_scan_is_a_row_of_nan(classifier, data, tmp_path):
    table, folder = data
    broken = pd.concat([table.head(3), table.head(1).assign(path="bright/gone.png", sha256="0" * 64)])
    broken = pd.concat([broken, table.tail(1).assign(sha256="1" * 64)], ignore_index=True)  # other content than noted
    with pytest.warns(UserWarning, match=r"2 files have no features\. The first: bright/gone\.png: missing"):
        found = bottleneck_features(classifier, broken, folder, cache_dir=tmp_path, blocks=TOP, progress=False)
    assert np.isnan(found).all(axis=1).tolist() == [False, False, False, True, True]


def test_features_and_predictions_have_the_limit_of_pixels_that_the_scan_had(classifier, data, tmp_path):
    table, folder = data[0].head(3).copy(), data[1]
    options = {"cache_dir": tmp_path, "blocks": TOP, "progress": False}
    table.attrs["max_pixels"] = 9
    with pytest.warns(UserWarning, match=r"3 files have no features\. The first: .*: too many pixels"):
        assert np.isnan(bottleneck_features(classifier, table, folder, **options)).all()
    assert np.isnan(head.predict(classifier, table, folder, progress=False)).all()
    assert np.isfinite(bottleneck_features(classifier, table, folder, max_pixels=10**6, **options)).all()
    table.attrs["max_pixels"] = 10**6
    assert np.isfinite(head.predict(classifier, table, folder, progress=False)).all()


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_computed_and_read_where_all_is_there(
    classifier, data, tmp_path, monkeypatch
):
    first = features_of(classifier, data, tmp_path / "whole")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only")))
    monkeypatch.setattr(features, "stream_answers", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(PermissionError, match=r"cache_dir must be a folder that can be written.*Read-only.*another"):
        features_of(classifier, data, tmp_path / "empty")
    assert np.array_equal(features_of(classifier, data, tmp_path / "whole"), first)


def test_the_head_is_the_one_solution_on_the_features_and_answers_inside_the_model(classifier, data, rng):
    labels, splits = data[0]["given_label"], data[0]["split"]
    features = rng.normal(3, 2, (24, WIDTH)).astype(np.float16)
    features[:12, :400] += 3
    history = head.train_head(classifier, features, labels, splits)
    rows = splits.eq("train")
    heads = [fit_head(features[rows], labels[rows], clouds=clouds) for clouds in (False, True)]
    found = np.log(head_model(classifier).predict(features.astype(np.float32), verbose=0))
    share = [record["share"] for record in history.attrs["blocks"]]
    expected = sum(part * np.log(one.predict_proba(features)) for one, part in zip(heads, share, strict=True))
    assert np.allclose(np.diff(found), np.diff(expected), atol=1e-2) and max(share) > 0
    assert history[["stage", "epoch", "val_accuracy"]].values.tolist() == [["head", 1, 1.0]]


def test_rows_of_no_weight_teach_the_head_nothing(classifier, data, rng):
    table = data[0]
    features = rng.normal(0, 1, (24, WIDTH)).astype(np.float16)
    features[:12, :40] += 3
    wrong = table["given_label"].mask(np.arange(24) % 12 < 3, table["given_label"].iloc[::-1].to_numpy())
    weights = wrong.eq(table["given_label"]).to_numpy().astype(float)
    losses = [
        head.train_head(classifier, features, wrong, table["split"], weights=some)["val_loss"][0]
        for some in (weights, None)
    ]
    assert losses[0] < 0.8 * losses[1]


def test_balanced_classes_count_the_same():
    targets = np.eye(2)[[0, 0, 0, 1]]
    assert head.row_weights(targets, np.ones(4), "balanced") @ targets == pytest.approx([2, 2])
    with pytest.raises(ValueError, match="class_weight must be 'balanced' or None"):
        head.row_weights(targets, np.ones(4), "even")


def test_a_block_counts_by_what_it_tells_of_rows_that_its_head_never_saw(data, classifier, rng):
    wide = with_head(classifier, ["bright", "dark"], blocks=[LOW, TOP])
    labels = pd.Series(np.array(["bright", "dark"])[np.arange(160) % 2])
    splits = pd.Series(np.where(np.arange(160) < 100, "train", "val"))
    features = rng.normal(0, 1, (160, 64 + WIDTH)).astype(np.float32)  # 1280 columns of noise: to be known by heart
    features[:, :8] += np.where(labels.eq("dark"), 1.2, 0)[:, None]
    history = head.train_head(wide, features, labels, splits)
    records = history.attrs["blocks"]
    assert [(r["block"], r["head"]) for r in records] == [(b, k) for b in (LOW, TOP) for k in ("logistic", "clouds")]
    low, clouds, top, _ = records
    assert low["share"] + clouds["share"] > 0.7 and low["low"] < low["log_loss"] < low["high"] < top["log_loss"]
    assert history["val_accuracy"][0] >= 0.85
    answers = head_model(wide).predict(features[100:], verbose=0)
    assert np.mean(answers.argmax(axis=1) == (np.arange(100, 160) % 2)) == history["val_accuracy"][0]


def test_a_head_of_dense_layers_is_not_fitted(data, rng):
    old = build.build_classifier(["bright", "dark"], weights=None, backbone="MobileNetV2", image_size=32)
    with pytest.raises(ValueError, match=r"must be 'logistic'.*with_head"):
        head.train_head(old, rng.random((24, WIDTH)), data[0]["given_label"], data[0]["split"])


def test_a_class_without_training_images_is_named(classifier, data, rng):
    splits = data[0]["split"].mask(data[0]["given_label"].eq("dark"), "val")
    with pytest.raises(ValueError, match=r"Every class needs training images\. Without any: dark"):
        head.train_head(classifier, rng.random((24, WIDTH)), data[0]["given_label"], splits)


def test_a_label_that_the_model_does_not_know_is_named(classifier, data, rng):
    with pytest.raises(ValueError, match=r"classes of the model \(bright, dark\)\. Received: pink"):
        head.train_head(
            classifier, rng.random((24, WIDTH)), data[0]["given_label"].replace("dark", "pink"), data[0]["split"]
        )


def test_fine_tuning_moves_the_upper_blocks_and_leaves_batch_norm_as_it_was(data, tmp_path):
    classifier = lopsided(network())

    def weights(kind, name=""):
        layers = [layer for layer in classifier.layers if isinstance(layer, kind)]
        return [w for layer in layers for w in layer.get_weights()]

    norms, convolutions = weights(keras.layers.BatchNormalization), weights(keras.layers.Conv2D)
    table, folder = data
    history = stages.fine_tune(
        classifier, table, table["given_label"], folder, work_dir=tmp_path, epochs=1, batch_size=8,
        learning_rate=1e-2, verbose=0, fine_tune_from="stage_2",
    )  # fmt: skip
    assert history["stage"].tolist() == ["fine-tune", "average"]
    assert all(map(np.array_equal, norms, weights(keras.layers.BatchNormalization)))
    moved = [not np.array_equal(a, b) for a, b in zip(convolutions, weights(keras.layers.Conv2D), strict=True)]
    assert moved == [False, False, True, True]
    save_model(classifier, tmp_path / "tuned.keras")
    loaded = build.load_model(tmp_path / "tuned.keras")
    again = [
        w for layer in loaded.layers if isinstance(layer, keras.layers.BatchNormalization) for w in layer.get_weights()
    ]
    assert all(map(np.array_equal, norms, again))


def test_augmentation_keeps_shape_and_range_and_follows_its_seed(rng):
    pixels = tf.constant(rng.integers(0, 256, (4, 32, 32, 3)), tf.uint8)
    one, same, other = (stages.augment(pixels, seed).numpy() for seed in ((1, 2), (1, 2), (3, 4)))
    assert one.shape == (4, 32, 32, 3) and one.min() >= 0 and one.max() <= 255
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_augmentation_by_nothing_changes_nothing_but_the_side(rng, monkeypatch):
    for name in ("ROTATION", "SHIFT", "SHEAR", "ZOOM", "CHANNEL_SHIFT"):
        monkeypatch.setattr(stages, name, 0.0)
    pixels = rng.integers(0, 256, (16, 9, 9, 3)).astype(np.uint8)
    still = stages.augment(tf.constant(pixels), (0, 1)).numpy()
    flipped = [np.allclose(a[:, ::-1], b, atol=1e-2) for a, b in zip(pixels, still, strict=True)]
    same = [np.allclose(a, b, atol=1e-2) for a, b in zip(pixels, still, strict=True)]
    assert np.logical_xor(flipped, same).all() and any(flipped) and any(same)


def test_predictions_come_in_the_order_of_the_table_with_nan_for_what_cannot_be_read(classifier, data, monkeypatch):
    monkeypatch.setattr(head, "BATCH", 2)
    table, folder = data
    asked = pd.concat([table[::-5], table.head(1).assign(path="gone.png")], ignore_index=True)
    found = head.predict(classifier, asked, folder, progress=False)
    pixels = np.stack([images.load_image(folder / p, size=SIZE) for p in asked["path"][:-1]])
    assert np.allclose(found[:-1], classifier.predict(pixels, verbose=0), atol=1e-5)
    assert np.isnan(found[-1]).all()


def test_predictions_open_no_picture_whose_features_are_known_and_all_of_a_backbone_that_has_changed(data, tmp_path):
    table, folder = data
    classifier = network()
    expected = head.predict(classifier, table, folder, progress=False)
    blocks = {"blocks": head_blocks(classifier), "cache_dir": tmp_path}
    bottleneck_features(classifier, table.head(20), folder, progress=False, **blocks)
    nowhere = [head.predict(classifier, table, tmp_path, cache_dir=tmp_path, progress=False)]
    bottleneck_features(classifier, table, folder, progress=False, **blocks)
    known = head.predict(classifier, table[::-1], tmp_path, cache_dir=tmp_path, progress=False)
    assert np.allclose(known[::-1], expected, atol=1e-3) and np.ptp(expected[:, 0]) > 0.01
    layer = classifier.get_layer("conv_4")
    layer.set_weights([1.1 * kernel for kernel in layer.get_weights()])
    nowhere += [head.predict(classifier, table, tmp_path, cache_dir=tmp_path, progress=False)]
    assert all(np.isnan(found).all() for found in nowhere)


def test_a_class_called_like_a_column_of_the_predictions_is_refused():
    table = pd.DataFrame({"path": ["a.jpg"], "split": ["val"]})
    with pytest.raises(ValueError, match="called like a column of a table, or like a decision: split"):
        head.predictions_table(table, np.ones((1, 2)) / 2, ["cat", "split"])


def test_few_rows_do_not_make_a_model_too_sure(classifier, rng):
    """Forty rows, all of them right out of fold, ask for shares without an end."""
    wide = with_head(classifier, ["bright", "dark"], blocks=[LOW, TOP])
    labels = pd.Series(np.array(["bright", "dark"])[np.arange(440) % 2])
    splits = pd.Series(np.where(np.arange(440) < 40, "train", "val"))
    features = rng.normal(0, 1, (440, 64 + WIDTH)).astype(np.float32)
    features[:, :64] += rng.normal(0, 0.5, (2, 64))[np.arange(440) % 2]
    history = head.train_head(wide, features, labels, splits)
    assert history["val_loss"][0] < 0.15 and history["val_accuracy"][0] > 0.95


def test_clouds_are_the_shrunken_discriminant_and_a_row_of_weight_two_counts_as_two(rng):
    x = rng.normal(0, 1, (90, 6)).astype(np.float32)
    labels, counts = np.arange(90) % 3, rng.integers(0, 3, 90)
    x[:, 0] += 2 * labels
    mine = fit_head(x, labels, weights=counts, clouds=True).predict_proba(x)
    twice = np.repeat(np.arange(90), counts)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = (
        LinearDiscriminantAnalysis("lsqr", shrinkage=heads.SHRINKAGE[0])
        .fit(scaled[twice], labels[twice])
        .predict_proba(scaled)
    )
    assert np.allclose(mine, theirs, atol=1e-4)
