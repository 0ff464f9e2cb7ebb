"""What does an animation or a video show over time? Evenly spaced frames, as far as it is whole and time allows."""

import contextlib
import io
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image, PngImagePlugin

from nsfwlib.data.colour import to_rgb
from nsfwlib.data.containers import gif_blocks
from nsfwlib.data.images import DAMAGED_ANIMATION, HIDDEN_DEFAULT, MAX_PIXELS, ImageProblem, decode, to_array
from nsfwlib.data.rescue import LEFT_OUT, rescued

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FRAME_PIXELS = 40 * MAX_PIXELS  # a frame needs those before it: so many pixels are decoded for one animation
SECONDS = 20.0  # that one file may take; then no further frame is sought
VIDEO_NAMES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # how MP4 and QuickTime begin


def load_frames(data: bytes, *, size: int, frames: int, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str]:
    """Evenly sampled frames of an animated GIF, WebP, APNG or AVIF, of anything else the picture.

    Returns:
        uint8 (F, size, size, 3), 1 ≤ F ≤ `frames`, each as `data.load_image` gives a still; and a sentence if some
        frames could not be read, else "".

    Raises:
        ImageProblem: not even the first frame can be read.
    """
    begun = time.monotonic()
    decoded = decode(data, max_pixels=max_pixels)
    found = [to_array(decoded.picture, size)]
    damaged = DAMAGED_ANIMATION in decoded.flags
    if frames < 2 or not (damaged or decoded.frames > 1) or decoded.format not in ANIMATED:
        return np.stack(found), ""
    if LEFT_OUT in decoded.flags:
        data = rescued(data, decoded.format)[0]
    first = int(HIDDEN_DEFAULT in decoded.flags)
    if decoded.format == "GIF":
        data, first = _on_nothing(data, (decoded.width, decoded.height)), 1
    with Image.OPEN[decoded.format][0](io.BytesIO(data), "") as animation:
        count, most = decoded.frames, max(1, FRAME_PIXELS // (decoded.width * decoded.height))
        with contextlib.suppress(Exception):  # of a damaged one, how many come before the damage
            while damaged and count < most and time.monotonic() < begun + SECONDS / 2:
                animation.seek(count + first)
                count += 1
        reach = min(count, most)
        wanted = np.unique(np.linspace(0, reach - 1, min(frames, reach)).round().astype(int))[1:].tolist()
        for number in wanted if decoded.format == "AVIF" else range(reach):  # AVIF alone reaches a frame by itself
            if time.monotonic() > begun + SECONDS:
                reach = number
                break
            try:
                _go_to(animation, number + first)
                if number in wanted:
                    found.append(to_array(to_rgb(animation.copy(), [])[0], size))
            except Exception as error:  # as in data.decode: decoders raise many kinds
                return np.stack(found), f"frame {number + 1} of {count} cannot be read ({error})"
    said = [f"damaged after {count} frames"] if damaged else []
    said += [f"sampled from the first {reach} of {count} frames"] if reach < count else []
    return np.stack(found), "; ".join(said)


def _on_nothing(data: bytes, size: tuple[int, int]) -> bytes:
    """A GIF after a clear first frame: Pillow takes what no frame covers for one of the first one's colours."""
    clear = Image.new("P", size)
    clear.putpalette([255, 255, 254])  # not grey, else Pillow composes no colours on it
    frame = GifImagePlugin.getdata(clear, transparency=0, include_color_table=True, disposal=1)
    start = gif_blocks(data)
    return b"".join([data[:start], *frame, data[start:]])


def _go_to(animation: Any, number: int) -> None:
    """Go to a frame; what Pillow is to put in its place afterwards is set right, as browsers have it."""
    animation.seek(number)
    if animation.format == "GIF" and animation.disposal_method == 2:
        left, top, right, bottom = animation.dispose_extent  # becomes clear, not of the background's colour
        animation.dispose = Image.core.fill("RGBA", (right - left, bottom - top), (0, 0, 0, 0))
    elif animation.format == "PNG" and animation.dispose_op == PngImagePlugin.Disposal.OP_PREVIOUS:
        before = animation.im.copy()
        animation.load()
        animation._prev_im = before  # Pillow has painted over its own
    elif animation.format == "WEBP":  # it would decode all that it passes with the next frame that is wanted
        animation.load()


def is_video(head: bytes) -> bool:
    """Whether a file that begins so is a video; the content decides, an AVIF called .mp4 is a picture."""
    family = head[4:8] in _ATOMS and head[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    return family or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def load_video(
    stream: BinaryIO, *, size: int, frames: int, key_frames: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray, str]:
    """Evenly spaced frames of a video, upright; sound is not touched.

    Frames are sought by their time, so that variable frame rates are no matter. Like every picture they are stretched
    to a square, which makes the pixels' aspect no matter either.

    Args:
        stream: the file, open and seekable.
        key_frames: of the frames that stand by themselves alone, where scenes often begin: less is decoded.
        max_pixels: a video of larger frames is not decoded.

    Returns:
        uint8 (F, size, size, 3), 1 ≤ F ≤ `frames`; their times in seconds (F,); a sentence if it is not whole, else "".

    Raises:
        ImageProblem: not even one frame can be read, or PyAV, the extra `video`, is not installed.
    """
    try:
        import av
    except ImportError:
        raise ImageProblem("unsupported format", "a video; run: pip install 'nsfwlib[video]'") from None
    deadline, found, missing = time.monotonic() + SECONDS, {}, 0
    try:
        with av.open(stream, metadata_errors="ignore") as container:
            video = next(iter(container.streams.video), None)
            if video is None:
                raise ImageProblem("not an image", "sound only")
            if video.width * video.height > max_pixels:
                raise ImageProblem("too many pixels", f"frames of {video.width} × {video.height}")
            video.thread_count = 1  # of each file; files are decoded side by side
            start, length = video.start_time or 0, 0  # in the video's own unit of time
            if not key_frames:  # where no header says the length frames come from the beginning
                length = video.duration or int(Fraction(container.duration or 0, 1_000_000) / video.time_base)
            video.codec_context.skip_frame = "NONKEY" if key_frames else "DEFAULT"
            if not length:
                found = _in_passing(container.decode(video), size, frames, deadline)
            for number in range(frames if length else 0):
                wanted = start + int(length * (number + 0.5) / frames)
                if found and time.monotonic() > deadline:
                    missing += frames - number
                    break
                with contextlib.suppress(av.FFmpegError):  # what cannot be sought is read on
                    container.seek(wanted, stream=video)
                frame, reached = _frame_at(container.decode(video), wanted, deadline)
                missing += not reached
                if frame is not None and frame.pts not in found:
                    found[frame.pts] = _shown(frame, size)
    except av.FFmpegError as error:
        if not found:
            raise ImageProblem("damaged", error.strerror) from None
        missing = max(missing, frames - len(found))
    if not found:
        raise ImageProblem("damaged", "no frame of the video could be decoded")
    moments = np.array([float((pts - start) * video.time_base) for pts in found])
    return np.stack(list(found.values())), moments, f"{missing} of {frames} parts were not read" if missing else ""


def _frame_at(decoded: Iterator[Any], wanted: int, deadline: float) -> tuple[Any, bool]:
    """The first frame that lasts beyond a moment, and True; where the video ends before, or time does, the last one."""
    last = None
    for frame in decoded:
        if frame.pts is not None:
            last = frame
            if frame.pts + (frame.duration or 0) > wanted:
                return frame, True
        if time.monotonic() > deadline:
            break
    return last, False


def _in_passing(decoded: Iterator[Any], size: int, frames: int, deadline: float) -> dict[int, np.ndarray]:
    """Evenly spaced frames by time where nobody knows how many come: of twice as many, every second one is dropped."""
    kept, step = [], 1
    for number, frame in enumerate(decoded):
        if number % step == 0:
            kept.append((number if frame.pts is None else frame.pts, _shown(frame, size)))
        if len(kept) > 2 * frames:
            kept, step = kept[::2], 2 * step
        if time.monotonic() > deadline:
            break
    picked = np.unique(np.linspace(0, len(kept) - 1, min(frames, len(kept))).round().astype(int))
    return dict(kept[i] for i in picked)


def _shown(frame: Any, size: int) -> np.ndarray:  # upright
    return to_array(frame.to_image().rotate(frame.rotation, expand=True), size)
