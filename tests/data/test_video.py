"""Videos: frames at even times, upright, as far as they are whole; everything else is a reason."""

import io
import sys

import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from nsfwlib import data
from nsfwlib.model import Files, load_picture

av = pytest.importorskip("av")


def load(path, **options):
    with path.open("rb") as stream:
        return data.load_video(stream, **{"size": 32, "frames": 5} | options)


def levels(pixels):
    return pixels[:, :, :12].mean(axis=(1, 2, 3)) / 255


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_frames_are_spaced_evenly_over_the_whole_clip(tmp_path, name):
    pixels, times, said = load(write_clip(tmp_path / name))
    assert pixels.shape == (5, 32, 32, 3) and said == ""
    assert times == pytest.approx([0.2, 0.6, 1.0, 1.4, 1.8], abs=0.06)
    assert levels(pixels) == pytest.approx(times / 2, abs=0.08)
    assert pixels[:, :, 20:].mean() < 12


def test_key_frames_are_those_that_stand_by_themselves(tmp_path):
    path = write_clip(tmp_path / "a.mp4", count=300, gop=50)
    with av.open(str(path)) as container:
        alone = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    pixels, times, _ = load(path, key_frames=True, frames=9)
    assert (
        5 < len(alone) < 10 and times == pytest.approx(alone) and levels(pixels) == pytest.approx(times / 12, abs=0.08)
    )
    assert len(load(path, key_frames=True, frames=3)[1]) == 3
    picture = load_picture(Files(str(tmp_path), key_frames=True), "a.mp4", size=32, frames=9)
    assert np.array_equal(picture.pixels, pixels)


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path):
    late = np.r_[np.linspace(0, 0.4, 40), np.linspace(0.5, 4, 10)]  # most frames at the beginning
    _, times, _ = load(write_clip(tmp_path / "a.mp4", times=late), frames=4)
    assert np.diff(times).min() > 0.5 and times[-1] > 3


def test_a_stream_that_does_not_say_how_long_it_is_is_sampled_in_passing(tmp_path):
    whole = write_clip(tmp_path / "a.mkv", count=300)
    (tmp_path / "live.mpegts").touch()
    with av.open(str(whole)) as source, av.open(str(tmp_path / "live.mkv"), "w", options={"live": "1"}) as live:
        stream = live.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                live.mux(packet)
    pixels, times, _ = load(tmp_path / "live.mkv")
    assert len(pixels) == 5 and times[-1] > 10 and np.diff(times).min() > 1.5


def test_a_clip_filmed_sideways_is_turned_upright(tmp_path):
    path = write_clip(tmp_path / "a.mp4", size=(96, 64))
    content = path.read_bytes()
    upright, turned = (np.array(some, ">i4").tobytes() for some in (
        [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    ))  # fmt: skip
    place = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:place] + turned + content[place + len(upright) :])
    pixels, _, _ = load(path, frames=1)
    assert pixels[0, 2:12].mean() > 80 and pixels[0, 20:].mean() < 12, "what was left is on top"


def test_a_broken_clip_gives_what_can_be_read_or_a_reason(tmp_path):
    whole = write_clip(tmp_path / "a.avi", count=200).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    pixels, times, said = load(tmp_path / "cut.avi")
    assert 1 <= len(pixels) < 5 and times[-1] < 5 and "parts were not read" in said
    for name, content in (
        ("noise.mp4", b"\0\0\0\x18ftypmp42" + bytes(5000)),
        ("cut.mp4", write_clip(tmp_path / "b.mp4").read_bytes()[:3000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(data.ImageProblem) as error:
            load(tmp_path / name)
        assert error.value.reason == "damaged" and error.value.detail, name


def test_a_limit_of_time_or_pixels_is_kept(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", count=100)
    monkeypatch.setattr("nsfwlib.data.frames.SECONDS", 0.0)
    pixels, _, said = load(path)
    assert len(pixels) == 1 and "parts were not read" in said
    with pytest.raises(data.ImageProblem) as error:
        load(path, max_pixels=1000)
    assert error.value.reason == "too many pixels"


def test_sound_alone_is_no_picture(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(data.ImageProblem) as error:
        load(tmp_path / "a.mp4")
    assert error.value.reason == "not an image"


def test_a_video_is_a_row_like_others_whatever_is_wrong_with_it(tmp_path, monkeypatch):
    write_clip(tmp_path / "good.mp4")
    (tmp_path / "empty.mp4").touch()
    Image.new("RGB", (40, 30), "red").save(buffer := io.BytesIO(), "PNG")
    (tmp_path / "picture.mp4").write_bytes(buffer.getvalue())
    (tmp_path / "text.mkv").write_text("nothing to see")
    files = Files(str(tmp_path))
    row = {name: load_picture(files, name, size=16, frames=4) for name in
           ("good.mp4", "empty.mp4", "picture.mp4", "text.mkv", "missing.avi")}  # fmt: skip
    assert row["good.mp4"].pixels.shape == (4, 16, 16, 3) and len(row["good.mp4"].sha256) == 64
    assert row["picture.mp4"].pixels.shape == (1, 16, 16, 3), "the content decides"
    assert [row[name].problem for name in ("empty.mp4", "text.mkv", "missing.avi")] == [
        "empty file",
        "not an image",
        "missing",
    ]
    assert load_picture(files, "good.mp4", size=16, frames=4, skip={row["good.mp4"].sha256}).pixels is None
    monkeypatch.setitem(sys.modules, "av", None)
    without = load_picture(files, "good.mp4", size=16, frames=4)
    assert (without.problem, without.sha256) == ("unsupported format", row["good.mp4"].sha256)
    assert "pip install 'nsfwlib[video]'" in without.detail


def test_memory_stays_flat_over_a_long_clip(tmp_path):
    import resource

    path = write_clip(tmp_path / "a.mp4", count=600, size=(640, 480), gop=250)
    load(path, frames=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(path, frames=16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB; 600 frames would be 550 MB
