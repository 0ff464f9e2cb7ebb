"""What does an animation show over time? Evenly sampled frames, as far as it is whole."""

import contextlib
import io
import time
from typing import Any

import numpy as np
from PIL import GifImagePlugin, Image, PngImagePlugin

from nsfwlib.data.colour import to_rgb
from nsfwlib.data.containers import gif_blocks
from nsfwlib.data.images import DAMAGED_ANIMATION, HIDDEN_DEFAULT, MAX_PIXELS, Decoded, decode, to_array
from nsfwlib.data.rescue import LEFT_OUT, rescued

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FRAME_PIXELS = 40 * MAX_PIXELS  # a frame needs those before it: so many pixels are decoded for one animation
SECONDS = 20.0  # and for so long


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
    moving = decoded.frames > 1 or DAMAGED_ANIMATION in decoded.flags
    if frames < 2 or not moving or decoded.format not in ANIMATED:
        return np.stack(found), ""
    if LEFT_OUT in decoded.flags:
        data = rescued(data, decoded.format)[0]
    first = int(HIDDEN_DEFAULT in decoded.flags)
    if decoded.format == "GIF":
        data, first = _on_nothing(data, (decoded.width, decoded.height)), 1
    with Image.OPEN[decoded.format][0](io.BytesIO(data), "") as animation:
        count = _frames_before_damage(animation, first, decoded, begun + SECONDS / 2)
        reach = max(1, min(count, FRAME_PIXELS // (decoded.width * decoded.height)))
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
    said = [f"damaged after {count} frames"] if DAMAGED_ANIMATION in decoded.flags else []
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


def _frames_before_damage(animation: Image.Image, first: int, decoded: Decoded, deadline: float) -> int:
    """How many frames there are; of a damaged animation, how many come before the damage, as far as there is time."""
    if DAMAGED_ANIMATION not in decoded.flags:
        return decoded.frames
    count, most = 1, FRAME_PIXELS // (decoded.width * decoded.height)
    with contextlib.suppress(Exception):
        while count < most and time.monotonic() < deadline:
            animation.seek(count + first)
            count += 1
    return count
