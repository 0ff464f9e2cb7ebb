"""What is worth knowing about one file? Hashes, measures and oddities, in one read and one decode."""

import hashlib
import os
import signal
import warnings

import numpy as np
from PIL import Image

from nsfwlib.data.images import MAX_PIXELS, Decoded, ImageProblem, Source, decode, read_bytes
from nsfwlib.data.rescue import jpeg_complaint
from nsfwlib.data.screening import HashList, matches_bytes, matches_picture

COLUMNS = {  # what content alone decides, with the value where nothing is known
    "sha256": "",
    **dict.fromkeys(("phash", "phash_mirror", "width", "height"), 0),
    "format": "",
    **dict.fromkeys(("bytes", "frames"), 0),
    **dict.fromkeys(("problem", "detail", "oddities"), ""),
    **dict.fromkeys(("brightness", "contrast", "sharpness", "entropy"), float("nan")),
    **dict.fromkeys(("grey", "transparent"), False),
}
THUMB = 32  # side of the grey thumbnail that near-duplicates are confirmed with
_LEVELS = np.arange(256.0)
_k, _x = np.mgrid[:8, :THUMB]
_DCT = np.cos(np.pi * _k * (2 * _x + 1) / (2 * THUMB))
_options: dict = {}  # of a worker


def inspect(
    source: Source, *, max_pixels: int = MAX_PIXELS, min_side: int = 16, screen: HashList | None = None
) -> dict:
    """All that the scan records of one file. Never raises: what is wrong stands in `problem`.

    Returns a dict with the keys of `COLUMNS` and `thumb`, the grey (32, 32) picture as bytes (b"" if unusable). A file
    on the hash list is never decoded, or, where only the perceptual hash can tell, nothing of its picture is kept.
    """
    row = {**COLUMNS, "thumb": b""}
    try:
        data = read_bytes(source)
        row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if screen is not None and matches_bytes(data, screen):
            raise ImageProblem("screened", "byte-identical to an entry of the hash list")
        # PDQ is meant to be taken at 512 pixels; at 256 it strays by up to 22 of its 31 bits.
        decoded = decode(data, max_pixels=max_pixels, at_least=512 if screen is not None and len(screen.pdq) else 256)
        if screen is not None and matches_picture(decoded.picture, screen):
            raise ImageProblem("screened", "perceptually close to an entry of the hash list")
        row |= _facts(decoded, data, source)
        if min(decoded.width, decoded.height) < min_side:
            raise ImageProblem("too small", f"{decoded.width} × {decoded.height}, at least {min_side} expected")
        row |= measure(decoded.picture)
    except ImageProblem as problem:
        row |= {"problem": problem.reason, "detail": problem.detail}
    return row


def _facts(decoded: Decoded, data: bytes, source: Source) -> dict:
    flags = list(decoded.flags)
    if not isinstance(source, bytes):
        suffix = os.path.splitext(os.fspath(source))[1].lower()  # noqa: PTH122 - names need not be valid text
        said = Image.registered_extensions().get(suffix, "")
        if {"MPO": "JPEG", "DIB": "BMP"}.get(said, said) != decoded.format:
            flags.append(f"extension {ascii(suffix)[1:-1]} on {decoded.format}" if suffix else "no extension")
    complaint = jpeg_complaint(data) if decoded.format == "JPEG" else ""
    if "orrupt" in complaint or ("remature" in complaint and "no end marker" not in flags):
        flags.append(f"damaged data: {complaint}")
    facts = {name: value for name, value in decoded._asdict().items() if name in COLUMNS}
    return facts | {"oddities": "; ".join(flags)}


def measure(picture: Image.Image) -> dict:
    """Perceptual hashes, quality measures and the thumbnail of an RGB picture.

    brightness (mean), contrast (standard deviation): 0–1; sharpness: variance of the Laplacian of the grey
    picture, at most 256 pixels a side; entropy: bits of its grey histogram; grey: no colour to speak of.
    """
    luma = picture.convert("L")
    luma.thumbnail((256, 256), Image.Resampling.BOX)
    thumb = np.asarray(luma.resize((THUMB, THUMB), Image.Resampling.BOX))
    phash, mirror = perceptual_hashes(thumb)
    grey = np.asarray(luma, dtype=np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    edges = (around - 4 * grey[1:-1, 1:-1]).ravel()
    share = np.asarray(luma.histogram(), dtype=np.float64) / (luma.width * luma.height)
    mean = share @ _LEVELS
    seen = share[share > 0]
    tint = np.asarray(picture.reduce(max(1, min(picture.size) // THUMB)), dtype=np.int16)
    return {
        "phash": phash,
        "phash_mirror": mirror,
        "brightness": float(mean / 255),
        "contrast": float(np.sqrt(share @ np.square(_LEVELS - mean)) / 255),
        "sharpness": float(edges @ edges / edges.size - edges.mean() ** 2) if edges.size else 0.0,
        "entropy": float(-(seen @ np.log2(seen))) + 0.0,
        "grey": bool((tint.max(axis=2) - tint.min(axis=2)).max() <= 8),
        "thumb": thumb.tobytes(),
    }


def perceptual_hashes(grey: np.ndarray) -> tuple[int, int]:
    """pHash of a grey (32, 32) picture and of its mirror image, 64 bits each.

    A bit says whether one of the 8×8 lowest DCT frequencies exceeds their median, as ImageHash's `phash` does.
    Mirroring negates the odd horizontal frequencies, so the second hash costs no second transform.
    """
    frequencies = _DCT @ np.asarray(grey, dtype=np.float64) @ _DCT.T
    both = np.stack([frequencies, frequencies * np.where(np.arange(8) % 2, -1, 1)]).reshape(2, 64)
    bits = np.packbits(both > np.sort(both)[:, 31:33].mean(axis=1, keepdims=True), axis=1)
    phash, mirror = bits.view(">u8").ravel().tolist()
    return phash, mirror


def begin_inspecting(options: dict) -> None:
    """Make this process a worker of the scan, with the keyword arguments of `inspect`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    warnings.simplefilter("ignore")  # what Pillow warns of is in the rows
    _options.update(options)


def inspect_all(paths: list[str]) -> list[dict]:
    """A worker's rows of these files."""
    return [inspect(path, **_options) for path in paths]
