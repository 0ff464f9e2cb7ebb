"""One decoder: equal to Pillow where nothing is odd, upright, in sRGB and on white where it is."""

import contextlib
import io
import itertools
import os
import pickle
import struct
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from corpus import encoded, reference
from PIL import GifImagePlugin, Image, ImageCms, ImageFile, UnidentifiedImageError

from nsfwlib.data import images, inspection
from nsfwlib.data.frames import load_frames


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


def test_a_jpeg_of_a_phone_with_108_megapixels_is_halved_and_admitted():
    picture = Image.fromarray(np.tile(np.asarray(reference()), (142, 126, 1))[:9000, :12000])
    data = encoded(picture, "JPEG", quality=75)
    row = inspection.inspect(data)
    assert (row["problem"], row["width"], row["height"]) == ("", 12000, 9000)
    assert images.load_image(data, size=(30, 40)).shape == (30, 40, 3)
    with pytest.raises(images.ImageProblem, match=r"too many pixels: 12000 × 9000, limit 40,000,000"):
        images.blurred_thumbnail(data, max_pixels=10_000_000)


def test_halving_is_decoding_at_half_the_size_and_the_limit_may_be_raised():
    whole = Image.fromarray(np.tile(np.asarray(reference()), (3, 3, 1)))
    data, png = encoded(whole, "JPEG", quality=95), encoded(whole, "PNG")
    halved = images.load_image(data, max_pixels=30_000)
    assert halved.shape == (96, 144, 3)
    assert np.abs(halved.astype(int) - np.asarray(whole.resize((144, 96), Image.Resampling.BOX))).mean() < 3
    np.testing.assert_array_equal(images.load_image(png, max_pixels=60_000), np.asarray(whole))
    assert load_frames(png, size=8, frames=1, max_pixels=60_000)[0].shape == (1, 8, 8, 3)
    with pytest.raises(images.ImageProblem, match="too many pixels"):
        load_frames(png, size=8, frames=1, max_pixels=30_000)


def test_what_a_raised_limit_let_in_is_read_by_all_that_follows(tmp_path):
    from nsfwlib.model import decoded_batches

    file = tmp_path / "large.png"
    Image.new("1", (9500, 9500), 1).save(file, compress_level=1)
    assert inspection.inspect(file)["problem"] == "too many pixels"
    assert inspection.inspect(file, max_pixels=10**8)["problem"] == ""
    assert (images.load_image(file, size=2) == 255).all()
    assert images.blurred_thumbnail(file).shape == (96, 96, 3)
    _, pixels, problems = next(decoded_batches([file], size=2))
    assert (pixels == 255).all() and not problems


def png_with(name, content):
    import zlib

    data = encoded(reference(), "PNG")
    chunk = name + content
    chunk = len(content).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    return data[:33] + chunk + data[33:], data[:-12] + chunk + data[-12:]


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_a_png_with_megabytes_of_text_or_profile_is_read(name):
    import zlib

    for data in png_with(name, b"x\0\0" + zlib.compress(bytes(2 << 20)))[: 1 if name == b"iCCP" else 2]:
        np.testing.assert_array_equal(images.load_image(data), np.asarray(reference()))
        assert inspection.inspect(data)["oddities"] == "metadata left out"


def test_an_avif_with_two_tables_of_properties_is_read():
    picture = reference().convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 128))
    data = encoded(picture, "AVIF", quality=90)
    ipma, iloc = data.index(b"ipma") - 4, data.index(b"iloc") + 8
    size, version, count = struct.unpack_from(">I4xII", data, ipma)
    split = ipma + 16 + 3 + data[ipma + 18]  # behind the first picture's properties
    tables = [
        struct.pack(">I4sII", 16 + end - begin, b"ipma", version, 1) + data[begin:end]
        for begin, end in ((ipma + 16, split), (split, ipma + size))
    ]
    odd = bytearray(data[:ipma] + b"".join(tables) + data[ipma + size :])
    for name in (b"iprp", b"meta"):
        place = odd.index(name) - 4
        odd[place : place + 4] = (int.from_bytes(odd[place : place + 4]) + 16).to_bytes(4)
    for item in range(count):
        place = iloc + 4 + 14 * item + 6
        odd[place : place + 4] = (int.from_bytes(odd[place : place + 4]) + 16).to_bytes(4)
    np.testing.assert_array_equal(images.load_image(bytes(odd)), images.load_image(data))
    assert inspection.inspect(bytes(odd))["oddities"] == "properties in two tables"


def test_every_frame_of_an_animation_with_megabytes_of_text_is_read():
    import zlib

    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    chunk = b"zTXt" + b"x\0\0" + zlib.compress(bytes(2 << 20))
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    data = data[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]
    shown, said = load_frames(data, size=8, frames=3)
    assert (shown.shape, said) == ((3, 8, 8, 3), "")
    assert shown[2, 0, 0].tolist() == [0, 0, 255]


PATCHES = {(5, 5, 20, 20): 1, (10, 10, 30, 25): 2, (0, 0, 10, 10): 3, (25, 3, 38, 12): 1}
PALETTE = [(0, 0, 0), (255, 0, 0), (0, 200, 0), (0, 0, 255)]  # the background's comes first


def composed(disposal):
    """What browsers show of `PATCHES`, one after the other on nothing."""
    canvas, shown = Image.new("RGB", (40, 30), "white"), []
    for box, colour in PATCHES.items():
        before = canvas.copy()
        canvas.paste(PALETTE[colour], box)
        shown.append(np.asarray(canvas.resize((20, 20), Image.Resampling.BILINEAR)))
        if disposal == "background":
            canvas.paste("white", box)
        canvas = before if disposal == "previous" else canvas
    return np.stack(shown)


@pytest.mark.parametrize(("code", "disposal"), list(enumerate(["", "keep", "background", "previous"])))
def test_later_frames_of_a_gif_lie_on_nothing_where_none_covers_the_canvas(code, disposal):
    data = b"GIF89a" + struct.pack("<HHBBB", 40, 30, 0x81, 0, 0) + bytes(sum(PALETTE, ()))
    for (left, top, right, bottom), colour in PATCHES.items():
        frame = Image.new("P", (right - left, bottom - top), colour)
        frame.putpalette(sum(PALETTE, ()))
        frame.encoderinfo = {}
        data += b"!\xf9\x04" + bytes([code << 2, 9, 0, 0, 0]) + b"".join(GifImagePlugin.getdata(frame, (left, top)))
    shown, said = load_frames(data + b";", size=20, frames=4)
    np.testing.assert_array_equal(shown, composed(disposal))
    assert not said


@pytest.mark.parametrize(("code", "disposal"), list(enumerate(["keep", "background", "previous"])))
def test_frames_of_an_apng_are_composed_as_browsers_do(code, disposal):
    frames = [Image.new("RGBA", (40, 30)) for _ in PATCHES]
    for frame, (box, colour) in zip(frames, PATCHES.items(), strict=True):
        frame.paste(PALETTE[colour], box)
    options = {"save_all": True, "append_images": frames[1:], "disposal": code, "blend": 1}
    shown, _ = load_frames(encoded(frames[0], "PNG", **options), size=20, frames=4)
    np.testing.assert_array_equal(shown, composed(disposal))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_without_its_end_marker_is_read_and_flagged(options):
    data = encoded(reference(), "JPEG", **options)
    np.testing.assert_array_equal(images.load_image(data[:-2]), images.load_image(data))
    row = inspection.inspect(data[:-2])
    assert (row["problem"], row["oddities"]) == ("", "no end marker")
    assert inspection.inspect(data[:-40])["problem"] == "truncated"


@pytest.mark.parametrize(
    "masks", [(0x3FF00000, 0xFFC00, 0x3FF), (0x3FC00000, 0x7F000, 0xFF0), (0xFF, 0xFF00, 0xFF0000)]
)
@pytest.mark.parametrize("flip", [1, -1])
def test_bmps_with_odd_bit_fields_are_read(masks, flip):
    truth = np.asarray(reference()).astype(np.uint64)
    shift = [(mask & -mask).bit_length() - 1 for mask in masks]
    fields = [np.rint(truth[..., i] * ((masks[i] >> shift[i]) / 255)).astype(np.uint32) << shift[i] for i in range(3)]
    packed = sum(fields)
    header = struct.pack(
        "<2sIIIIiiHHIIiiII", b"BM", 66 + packed.size * 4, 0, 66, 40, 96, 64 * flip, 1, 32, 3, 0, 0, 0, 0, 0
    )
    data = header + struct.pack("<3I", *masks) + packed.astype("<u4")[::-flip].tobytes()
    assert np.abs(images.load_image(data).astype(int) - truth.astype(int)).max() <= 1
    assert inspection.inspect(data)["problem"] == ""


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_sixteen_bits_are_read(order):
    tifffile = pytest.importorskip("tifffile")
    truth = np.asarray(reference()).transpose(2, 0, 1)
    for options, problem in (({}, ""), ({"compression": "zlib"}, "unsupported format")):
        buffer = io.BytesIO()
        wide = (truth.astype(np.uint16) << 8) + 77
        tifffile.imwrite(buffer, wide, photometric="rgb", planarconfig="separate", byteorder=order, **options)
        row = inspection.inspect(buffer.getvalue())
        assert row["problem"] == problem
        if not problem:
            np.testing.assert_array_equal(images.load_image(buffer.getvalue()), truth.transpose(1, 2, 0))


def test_what_a_gif_does_not_cover_is_white():
    data = bytearray(encoded(Image.new("P", (10, 10)), "GIF"))
    data[6:10] = struct.pack("<HH", 30, 20)  # the canvas; its only frame stays at the top left
    shown = images.load_image(bytes(data))
    assert shown.shape == (20, 30, 3)
    assert (shown[:10, :10] == 0).all()
    assert (shown[10:] == 255).all()
    assert (shown[:, 10:] == 255).all()
    assert inspection.inspect(bytes(data))["transparent"]


def test_the_hidden_default_picture_of_an_apng_is_not_the_picture():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, default_image=True, append_images=frames[1:])
    assert (images.load_image(data) == (0, 128, 0)).all()
    row = inspection.inspect(data)
    assert (row["frames"], row["oddities"]) == (2, "several frames; hidden default picture")
    assert load_frames(data, size=1, frames=5)[0].reshape(-1, 3).tolist() == [[0, 128, 0], [0, 0, 255]]


def test_a_thumbnail_before_the_page_is_passed_over():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(np.asarray(reference().resize((24, 16))), photometric="rgb", subfiletype=1)
        writer.write(np.asarray(reference()), photometric="rgb")
    np.testing.assert_array_equal(images.load_image(buffer.getvalue()), np.asarray(reference()))
    row = inspection.inspect(buffer.getvalue())
    assert (row["width"], row["height"]) == (96, 64)
    with pytest.raises(images.ImageProblem, match="too many pixels"):
        images.load_image(buffer.getvalue(), max_pixels=1000)


def test_sixteen_bit_transparency_is_one_colour_of_sixteen_bits():
    import zlib

    def chunk(name, content):
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    row = [(0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABD), (0, 0, 0)]
    pixels = b"\0" + struct.pack(">9H", *sum(row, ()))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">3H", *row[0]))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    assert images.load_image(data)[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A], [0] * 3]


def test_unsupported_is_not_damaged():
    data = bytearray(encoded(reference(), "BMP"))
    data[28:30] = (7).to_bytes(2, "little")  # bits a pixel
    assert inspection.inspect(bytes(data))["problem"] == "unsupported format"


def heavy(kind):
    """A few bytes that announce 36 megapixels; what they take at 12 bytes each is below what they need, or not."""
    size = (6000, 6000)
    if kind == "float":
        return encoded(Image.new("F", size), "TIFF", compression="tiff_deflate"), False
    if kind == "strip":
        picture = Image.new("RGBA", size)
        return encoded(picture, "TIFF", compression="tiff_deflate", strip_size=1 << 30), True
    modes = {"WEBP": ("RGB", True), "JPEG2000": ("RGB", True), "PNG": ("RGBA", False), "JPEG": ("RGB", False)}
    mode, refused = modes[kind]
    return encoded(Image.new(mode, size), kind, **({"lossless": True} if kind == "WEBP" else {})), refused


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000", "PNG", "JPEG", "float", "strip"])
def test_what_a_picture_takes_is_estimated_before_it_is_taken(kind):
    data, refused = heavy(kind)
    code = (
        "import sys, resource\nfrom nsfwlib.data import images, inspection\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = sys.stdin.buffer.read()\n"
        "try: images.load_image(data, size=8, max_pixels=38_000_000); print('fits')\n"
        "except images.ImageProblem as error: print(error.reason, error.detail)\n"
        f"assert (inspection.inspect(data, max_pixels=38_000_000)['problem'] == '') == (not {refused})\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout.decode()
    answer, peak = told.splitlines()
    assert (answer == "fits") != refused
    assert "GB to decode, limit 0.5 GB: 12 bytes for each of max_pixels" in answer or not refused
    assert int(peak) < (30e6 if refused else 12.5 * 36e6)


def test_a_fifo_that_takes_the_place_of_a_picture_is_not_waited_for(tmp_path, monkeypatch):
    regular, pipe = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (40, 40)).save(regular)
    os.mkfifo(pipe)
    looked_at = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: looked_at(regular if self == pipe else self, **how))
    answer = ThreadPool(1).apply_async(images.load_image, (pipe,))
    try:
        with pytest.raises(images.ImageProblem, match="empty file"):
            answer.get(timeout=10)
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # lets one that waits go


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


@pytest.mark.parametrize("blur", [1.0, 3.0, 4.0])
def test_no_filter_brings_back_more_than_24_pixels(blur):
    import skimage
    from skimage.restoration import wiener

    face = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB").crop((150, 0, 310, 160))
    truth = np.asarray(face.convert("L").resize((96, 96), Image.Resampling.BOX)) / 255
    coarse = np.asarray(face.convert("L").resize((24, 24), Image.Resampling.BOX).resize((96, 96), 2)) / 255
    shown = images.blurred_thumbnail(np.asarray(face), blur=blur)[..., 0] / 255
    y, x = np.mgrid[-16:17, -16:17]

    def recovered(picture):  # the best that a filter brings back, whose blur and noise may be chosen by the truth
        errors = []
        for radius in np.linspace(0.3, 2.5, 12) * blur:
            kernel = np.exp(-(x**2 + y**2) / (2 * radius**2))
            filtered = [wiener(picture, kernel / kernel.sum(), balance) for balance in 10.0 ** np.arange(-5, 0)]
            errors += [np.abs(np.clip(one, 0, 1) - truth).mean() for one in filtered]
        return min(errors)

    limit = recovered(coarse) if blur < 3 else np.abs(coarse - truth).mean()
    assert recovered(shown) >= limit
    assert images.blurred_thumbnail(np.asarray(face), blur=blur, grey=False).shape == (96, 96, 3)


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
