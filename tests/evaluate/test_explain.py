"""Heat lies where the evidence is, for models whose every weight is frozen too."""

import keras
import numpy as np
import pytest

from nsfwlib.evaluate import robustness
from nsfwlib.model import set_logistic_head, with_head


@pytest.fixture(scope="module")
def detector():
    """Red speaks for class 0, blue for class 1; nothing is trainable, as in a frozen backbone."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 4, strides=4, name="colours")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="decision")(x))
    kernel = np.zeros((4, 4, 3, 2), np.float32)
    kernel[:, :, 0, 0] = kernel[:, :, 2, 1] = 1
    model.get_layer("colours").set_weights([kernel, np.zeros(2, np.float32)])
    model.get_layer("decision").set_weights([np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    model.trainable = False
    return model


@pytest.fixture
def picture():
    """Red in the upper left corner, blue in the lower right."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[0, :8, :8, 0] = pixels[0, 24:, 24:, 2] = 255
    return pixels


@pytest.mark.parametrize(("chosen", "corner"), [(0, (slice(0, 2), slice(0, 2))), (1, (slice(6, 8), slice(6, 8)))])
def test_heat_lies_on_what_speaks_for_the_class(detector, picture, chosen, corner):
    heat = robustness.heat_maps(detector, picture, [chosen])[0]
    assert heat.shape == (8, 8) and heat.max() == pytest.approx(1)
    assert heat[corner].sum() == pytest.approx(heat.sum())


def test_batches_do_not_change_the_maps(detector, picture):
    pixels = np.concatenate([picture, picture[:, ::-1], picture[:, :, ::-1]])
    together, apart = (
        robustness.heat_maps(detector, pixels, [0, 1, 0]),
        robustness.heat_maps(detector, pixels, [0, 1, 0], batch_size=1),
    )
    assert together == pytest.approx(apart, abs=1e-6)


def test_a_blank_picture_has_no_heat_and_no_picture_no_map(detector):
    assert robustness.heat_maps(detector, np.zeros((1, 32, 32, 3)), [0]).max() == 0
    assert robustness.heat_maps(detector, np.zeros((0, 32, 32, 3)), []).shape == (0, 8, 8)


def test_a_network_that_is_no_classifier_of_this_kit_is_refused():
    inputs = keras.Input((4,))
    flat = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="flat")
    with pytest.raises(ValueError, match=r"has no block 'features'"):
        robustness.heat_maps(flat, np.zeros((1, 4)), [0])


def test_evidence_of_a_lower_block_is_on_the_map_too(picture):
    """Red is seen by the fine block alone, the coarse one sees blue; the head of both is asked for red."""
    inputs = keras.Input((32, 32, 3), name="rgb")
    fine = keras.layers.Conv2D(1, 2, strides=2, use_bias=False, name="fine")(inputs)
    coarse = keras.layers.Conv2D(1, 8, strides=8, use_bias=False, name="coarse")(inputs)
    both = keras.layers.Add(name="both")([keras.layers.AveragePooling2D(4)(fine), coarse])
    model = with_head(keras.Model(inputs, both), ["red", "blue"], blocks=["fine", "coarse"])
    for name, colour in (("fine", 0), ("coarse", 2)):
        kernel = np.zeros(model.get_layer(name).kernel.shape)
        kernel[:, :, colour] = 1e-3
        model.get_layer(name).set_weights([kernel])
    set_logistic_head(model, np.array([[1.0, -1.0], [-1.0, 1.0]]), np.zeros(2), np.zeros(2), np.ones(2))
    heat = robustness.heat_maps(model, picture, [0])[0]
    assert heat.shape == (16, 16) and heat[:4, :4].sum() == pytest.approx(heat.sum())
