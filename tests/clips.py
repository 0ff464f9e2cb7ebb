"""Clips drawn by PyAV."""

from fractions import Fraction

import numpy as np


def write_clip(path, *, count=50, rate=25, codec="mpeg4", size=(96, 64), times=None, gop=10):
    """A clip whose left half brightens from frame to frame, its right half black."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gop
        base = stream.codec_context.time_base = Fraction(1, 1000 if times is not None else rate)
        for i in range(count):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[:, : size[0] // 2] = 255 * i // count
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (i if times is None else int(1000 * times[i])), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
