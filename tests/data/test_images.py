"""One decoder: equal to Pillow where nothing is odd, upright, in sRGB and on white where it is."""

import contextlib
import io
import itertools
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from corpus import encoded, reference
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from nsfwlib.data import images, inspection


def photographs():
    import matplotlib
    import skimage
    import sklearn.datasets

    folders = [
        Path(skimage.__file__).parent / "data",
        Path(sklearn.datasets.__file__).parent / "images",
        Path(matplotlib.get_data_path()) / "sample_data",
    ]
    suffixes = {".png", ".jpg", ".gif", ".tif"}
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix in suffixes)


def readable():
    found = []
    for path in photographs():
        with contextlib.suppress(UnidentifiedImageError), Image.open(path):
            found.append(path)
    return found


def independently(path):
    """The picture by other means: Pillow's conversions and, where a profile is embedded, its colour management."""
    with Image.open(path) as image:
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if "icc_profile" in image.info:
            profile = io.BytesIO(image.info["icc_profile"])
            return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@pytest.mark.parametrize("path", readable(), ids=lambda path: path.name)
def test_a_photograph_equals_pillows_decode_to_the_bit(path):
    loaded = images.load_image(path)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, np.asarray(independently(path)))
    row = inspection.inspect(path, min_side=1)
    assert row["problem"] == ""
    assert "damaged" not in row["oddities"]


def test_what_pillow_cannot_read_says_so():
    unreadable = set(photographs()) - set(readable())
    for path in unreadable:
        assert inspection.inspect(path)["problem"] == "unsupported format"


FORMS = [("JPEG", "RGB"), ("JPEG", "L")]  # JPEG has neither palette nor alpha
FORMS += itertools.product(["PNG", "WEBP", "BMP", "TIFF", "GIF"], ["RGB", "L", "P", "RGBA"])


@pytest.mark.parametrize(("kind", "mode"), FORMS)
def test_each_form_of_a_photograph_equals_pillows_decode(mode, kind):
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("flower.jpg")).resize((160, 107)).convert(mode)
    data = encoded(picture, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.load_image(data), expected)


def test_paths_strings_and_bytes_load_alike(tmp_path):
    path = tmp_path / "x.png"
    reference().save(path)
    from_path = images.load_image(path)
    np.testing.assert_array_equal(images.load_image(str(path)), from_path)
    np.testing.assert_array_equal(images.load_image(path.read_bytes()), from_path)


def test_size_is_height_then_width_by_pillows_bilinear():
    data = encoded(reference(), "PNG")
    loaded = images.load_image(data, size=(40, 70))
    assert loaded.shape == (40, 70, 3)
    expected = reference().resize((70, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loaded, np.asarray(expected))
    assert images.load_image(data, size=32).shape == (32, 32, 3)


def test_a_loaded_picture_may_be_written_to():
    images.load_image(encoded(reference(), "PNG"))[0, 0] = 0


def test_pixels_are_counted_before_decoding():
    with pytest.raises(images.ImageProblem) as caught:
        images.load_image(encoded(reference(), "PNG"), max_pixels=96 * 64 - 1)
    assert caught.value.reason == "too many pixels"
    assert "96 × 64" in str(caught.value)
    images.load_image(encoded(reference(), "PNG"), max_pixels=96 * 64)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    began = time.monotonic()
    for source, reason in ((tmp_path / "pipe.jpg", "not a regular file"), (tmp_path, "not a regular file")):
        with pytest.raises(images.ImageProblem) as caught:
            images.load_image(source)
        assert caught.value.reason == reason
    assert time.monotonic() - began < 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(images.ImageProblem, match=r"gone\.jpg: missing: there is no such file"):
        images.load_image(tmp_path / "gone.jpg")


def test_a_problem_survives_the_way_out_of_a_worker():
    problem = pickle.loads(pickle.dumps(images.ImageProblem("truncated", "half", "a.jpg")))
    assert (problem.reason, problem.detail, problem.name) == ("truncated", "half", "a.jpg")
    assert isinstance(problem, ValueError)


def test_every_reason_is_explained():
    assert all(images.REASONS.values())
    for reason in images.REASONS:
        assert str(images.ImageProblem(reason))


def test_thumbnails_are_small_grey_and_blurred_unless_told_otherwise():
    from sklearn.datasets import load_sample_image

    picture = load_sample_image("china.jpg")
    thumbnail = images.blurred_thumbnail(picture)
    assert thumbnail.shape == (64, 96, 3)
    assert (thumbnail[..., 0] == thumbnail[..., 1]).all()
    sharp = images.blurred_thumbnail(encoded(Image.fromarray(picture), "JPEG"), blur=0, grey=False)
    assert sharp.shape == (64, 96, 3)
    assert (sharp[..., 0] != sharp[..., 2]).any()
    detail = [np.abs(np.diff(part[..., 0].astype(int), axis=1)).mean() for part in (thumbnail, sharp)]
    assert detail[0] < detail[1] / 3


def test_a_thumbnail_is_never_larger_than_its_picture():
    assert images.blurred_thumbnail(encoded(reference(), "PNG"), size=500).shape == (64, 96, 3)


def test_encoded_jpegs_come_back():
    picture = images.load_image(encoded(reference(), "PNG"))
    again = images.load_image(images.encode_jpeg(picture, quality=95))
    assert np.abs(again.astype(int) - picture).mean() < 4


def test_the_mirror_hash_is_the_hash_of_the_mirror_image():
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("china.jpg"))
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = inspection.measure(picture), inspection.measure(mirrored)
    assert (one["phash_mirror"] ^ other["phash"]).bit_count() <= 2
    assert (one["phash"] ^ other["phash"]).bit_count() > 16


def test_the_hash_agrees_with_imagehash():
    imagehash = pytest.importorskip("imagehash")
    from sklearn.datasets import load_sample_image

    grey = Image.fromarray(load_sample_image("flower.jpg")).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    ours, _ = inspection.perceptual_hashes(np.asarray(grey))
    theirs = np.asarray(imagehash.phash(grey).hash).ravel()
    assert f"{ours:064b}" == "".join(str(int(bit)) for bit in theirs)


def test_measures_say_dark_sharp_and_grey():
    from sklearn.datasets import load_sample_image

    picture = Image.fromarray(load_sample_image("china.jpg"))
    plain = inspection.measure(picture)
    dark = inspection.measure(picture.point(lambda level: level // 4))
    soft = inspection.measure(picture.resize((40, 27)).resize(picture.size))
    grey = inspection.measure(picture.convert("L").convert("RGB"))
    flat = inspection.measure(Image.new("RGB", (50, 50), "white"))
    assert dark["brightness"] < plain["brightness"] / 3
    assert soft["sharpness"] < plain["sharpness"] / 5
    assert grey["grey"]
    assert not plain["grey"]
    assert (flat["brightness"], flat["contrast"], flat["sharpness"], flat["entropy"]) == (1, 0, 0, 0)


def test_rot_in_a_jpegs_data_is_flagged():
    from sklearn.datasets import load_sample_image

    data = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG", quality=85)
    assert inspection.inspect(data)["oddities"] == ""
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(512).replace(b"\xff", b"\0")
    rotten = data[:middle] + noise + data[middle + 512 :]  # one disk sector
    assert "damaged data: Corrupt JPEG data" in inspection.inspect(rotten)["oddities"]


def test_decoding_needs_neither_tensorflow_nor_pandas():
    code = "import sys, nsfwlib.data.images, nsfwlib.data.inspection; assert not {'tensorflow', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_truncated_files_are_refused_even_where_pillow_was_told_to_accept_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(reference(), kind)
        with pytest.raises(images.ImageProblem, match="truncated"):
            images.load_image(data[: len(data) * 2 // 3])
