"""What does an animation show over time? Evenly sampled frames, as far as it is whole."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image

from nsfwlib.data.colour import to_rgb
from nsfwlib.data.images import DAMAGED_ANIMATION, MAX_PIXELS, Decoded, decode, to_array

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
FRAME_PIXELS = 40 * MAX_PIXELS  # a frame needs those before it: so many pixels are decoded for one animation


def load_frames(data: bytes, *, size: int, frames: int) -> tuple[np.ndarray, str]:
    """Evenly sampled frames of an animated GIF, WebP, APNG or AVIF, of anything else the picture.

    Returns:
        uint8 (F, size, size, 3), 1 ≤ F ≤ `frames`, each as `data.load_image` gives a still; and a sentence if some
        frames could not be read, else "".

    Raises:
        ImageProblem: not even the first frame can be read.
    """
    decoded = decode(data)
    found = [to_array(decoded.picture, size)]
    moving = decoded.frames > 1 or DAMAGED_ANIMATION in decoded.flags
    if frames < 2 or not moving or decoded.format not in ANIMATED:
        return np.stack(found), ""
    with Image.open(io.BytesIO(data), formats=[decoded.format]) as animation:
        count = _frames_before_damage(animation, decoded)
        reach = max(1, min(count, FRAME_PIXELS // (decoded.width * decoded.height)))
        for number in np.unique(np.linspace(0, reach - 1, min(frames, reach)).round().astype(int))[1:].tolist():
            try:
                animation.seek(number)
                found.append(to_array(to_rgb(animation.copy(), [])[0], size))
            except Exception as error:  # as in data.decode: decoders raise many kinds
                return np.stack(found), f"frame {number + 1} of {count} cannot be read ({error})"
    if DAMAGED_ANIMATION in decoded.flags:
        return np.stack(found), f"damaged after {count} frames"
    return np.stack(found), "" if reach == count else f"sampled from the first {reach} of {count} frames"


def _frames_before_damage(animation: Image.Image, decoded: Decoded) -> int:
    """How many frames there are; of a damaged animation, how many come before the damage."""
    if DAMAGED_ANIMATION not in decoded.flags:
        return decoded.frames
    count, most = 1, max(1, FRAME_PIXELS // (decoded.width * decoded.height))
    with contextlib.suppress(Exception):
        while count < most:
            animation.seek(count)
            count += 1
    return count
