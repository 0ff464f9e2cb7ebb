"""What does a video show over time? Evenly spaced frames, decoded as a stream: memory is flat, time is limited."""

import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from nsfwlib.data.images import MAX_PIXELS, ImageProblem, to_array

VIDEO_NAMES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # how MP4 and QuickTime begin
SECONDS = 20.0  # that one file may take; then no further frame is sought


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
            start, length = video.start_time or 0, 0 if key_frames else _length(container, video)
            video.codec_context.skip_frame = "NONKEY" if key_frames else "DEFAULT"
            if not length:
                found = _in_passing(container.decode(video), size, frames, deadline)
            for number in range(frames if length else 0):
                wanted = start + int(length * (number + 0.5) / frames)
                if found and time.monotonic() > deadline:
                    missing += frames - number
                    break
                with suppress(av.FFmpegError):  # what cannot be sought is read on
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


def _length(container: Any, video: Any) -> int:
    """The length in the video's own unit of time; 0 where no header says it: then frames come from the beginning."""
    if video.duration or not container.duration:
        return video.duration or 0
    return int(Fraction(container.duration, 1_000_000) / video.time_base)


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
