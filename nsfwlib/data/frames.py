"""What does an animation show over time? Evenly sampled frames, as far as it is whole."""

import contextlib
import io
import time

import numpy as np
from PIL import Image

from nsfwlib.data.colour import to_rgb
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
    with Image.OPEN[decoded.format][0](io.BytesIO(data), "") as animation:
        count = _frames_before_damage(animation, decoded, begun + SECONDS / 2)
        reach = max(1, min(count, FRAME_PIXELS // (decoded.width * decoded.height)))
        wanted = np.unique(np.linspace(0, reach - 1, min(frames, reach)).round().astype(int))[1:].tolist()
        for number in wanted if decoded.format == "AVIF" else range(1, reach):  # AVIF alone reaches a frame by itself
            if time.monotonic() > begun + SECONDS:
                reach = number
                break
            try:
                animation.seek(number + (HIDDEN_DEFAULT in decoded.flags))
                if decoded.format == "WEBP":  # it would decode all that it passes with the next frame that is wanted
                    animation.load()
                if number in wanted:
                    found.append(to_array(to_rgb(animation.copy(), [])[0], size))
            except Exception as error:  # as in data.decode: decoders raise many kinds
                return np.stack(found), f"frame {number + 1} of {count} cannot be read ({error})"
    said = [f"damaged after {count} frames"] if DAMAGED_ANIMATION in decoded.flags else []
    said += [f"sampled from the first {reach} of {count} frames"] if reach < count else []
    return np.stack(found), "; ".join(said)


def _frames_before_damage(animation: Image.Image, decoded: Decoded, deadline: float) -> int:
    """How many frames there are; of a damaged animation, how many come before the damage, as far as there is time."""
    if DAMAGED_ANIMATION not in decoded.flags:
        return decoded.frames
    count, most = 1, max(1, FRAME_PIXELS // (decoded.width * decoded.height))
    with contextlib.suppress(Exception):
        while count < most and time.monotonic() < deadline:
            animation.seek(count)
            count += 1
    return count
