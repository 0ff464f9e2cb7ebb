"""What does this file show? One decoder for training, review and scoring: bytes in, RGB uint8 out."""

import contextlib
import hashlib
import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

REASONS = {
    "missing": "there is no such file, or the link leads nowhere",
    "unreadable": "the file exists but may not be read, or the disk failed",
    "not a regular file": "a folder, FIFO, socket or device",
    "empty file": "zero bytes",
    "too many bytes": "the file is larger than `MAX_BYTES`",
    "not an image": "the content is not that of any image format known here (an error page, a video, text)",
    "unsupported format": "an image, but of a format this kit does not decode",
    "too many pixels": "the header announces more than `max_pixels`: a decompression bomb, or a poster scan",
    "too small": "a side is shorter than the scan's `min_side`",
    "truncated": "the file ends before the picture does",
    "damaged": "the decoder met data that cannot be right",
    "crashed the decoder": "decoding ended the process",
    "took too long": "decoding did not end in time",
    "screened": "its hash is on the list of known-bad hashes",
}
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "HEIF")
MAX_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a GiB as RGB
MAX_BYTES = 1 << 30

Source = Path | str | bytes


class ImageProblem(ValueError):
    """A file that cannot be used. `.reason` is a key of `REASONS`, `.detail` says more."""

    def __init__(self, reason: str, detail: str = "", *, name: str = "") -> None:
        self.reason, self.detail, self.name = reason, detail, name
        super().__init__(": ".join(part for part in (name, reason, detail or REASONS[reason]) if part))

    def __reduce__(self) -> tuple:
        return _rebuild_problem, (self.reason, self.detail, self.name)


def _rebuild_problem(reason: str, detail: str, name: str) -> ImageProblem:
    return ImageProblem(reason, detail, name=name)


def read_bytes(source: Source) -> bytes:
    """All bytes of a regular file; a FIFO, device or socket is refused without waiting for it.

    Raises:
        ImageProblem: missing, unreadable, not a regular file, empty file, too many bytes.
    """
    if isinstance(source, bytes):
        data = source
    else:
        data = _read_regular(os.fspath(source))
    if not data:
        raise ImageProblem("empty file", name=_name(source))
    return data


def _read_regular(path: str) -> bytes:
    name = _name(path)
    try:
        # Never open before this look: opening a FIFO waits for a writer, opening a device can act on it.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise ImageProblem("not a regular file", name=name)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageProblem("not a regular file", name=name)
            if status.st_size > MAX_BYTES:
                raise ImageProblem("too many bytes", f"{status.st_size:,} bytes", name=name)
            return file.read()
    except FileNotFoundError:
        raise ImageProblem("missing", name=name) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageProblem):
            raise
        raise ImageProblem("unreadable", str(error), name=name) from None


def _name(source: Source) -> str:
    return "" if isinstance(source, bytes) else ascii(os.fspath(source))[1:-1]


def load_image(
    source: Source, *, size: int | tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a file or its bytes → uint8 (H, W, 3), upright, sRGB, on white.

    The content decides the format, never the extension. EXIF rotation and colour profiles are applied,
    16-bit grey is scaled to 8, transparency is composited on white, of an animation the first frame is taken.
    Everything else equals Pillow's own accurate decode to the bit.

    Args:
        size: (height, width), or one number for both: Pillow BILINEAR on the decoded picture, aspect not kept.
        max_pixels: limit, checked from the header before anything is decoded.

    Raises:
        ImageProblem: whatever is wrong with the file; `.reason` is a key of `REASONS`.
    """
    picture = decode(read_bytes(source), max_pixels=max_pixels, name=_name(source))
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture)


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None, name: str = ""
) -> Image.Image:
    """Decode bytes into an upright RGB picture.

    Args:
        at_least: a JPEG may come out at 1/2, 1/4 or 1/8 of its size, this many pixels a side or more.

    Raises:
        ImageProblem: as `load_image`.
    """
    image = open_header(data, max_pixels=max_pixels, name=name)
    if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (at_least, at_least))
    try:
        image.load()
        return to_rgb(image)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError, …
        raise ImageProblem(_reason_of(error), str(error), name=name) from None


def open_header(data: bytes, *, max_pixels: int = MAX_PIXELS, name: str = "") -> Image.Image:
    """Read the header only.

    Raises:
        ImageProblem: not an image, unsupported format, too many pixels, truncated, damaged.
    """
    _register_heif()
    try:
        image = Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in _known_formats()])
    except UnidentifiedImageError:
        raise ImageProblem(*_sniff_foreign(data), name=name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageProblem("too many pixels", str(error), name=name) from None
    except Exception as error:
        raise ImageProblem(_reason_of(error), str(error), name=name) from None
    if image.width * image.height > max_pixels:
        detail = f"{image.width} × {image.height}, limit {max_pixels:,}"
        raise ImageProblem("too many pixels", detail, name=name)
    return image


def _known_formats() -> set[str]:
    Image.init()
    return set(Image.ID)


def _register_heif() -> None:
    if "HEIF" in Image.ID:
        return
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _sniff_foreign(data: bytes) -> tuple[str, str]:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"{", b"<svg")):
        return "not an image", "text or a web page"
    return "not an image", "unknown content"


def _reason_of(error: Exception) -> str:
    text = str(error).lower()
    return "truncated" if "truncat" in text or isinstance(error, EOFError) else "damaged"


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened picture of any mode → upright RGB in sRGB, composited on white."""
    with contextlib.suppress(Exception):  # a broken EXIF block is no reason to lose the picture
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _scaled_to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and image.mode == "F":
        scaled = values * 255
    elif low >= 0 and high <= 255:
        scaled = values
    elif low >= 0 and high <= 65535:
        scaled = values / 257
    else:
        scaled = (values - low) * (255 / (high - low))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def blurred_thumbnail(
    source: Source | np.ndarray, *, size: int = 96, blur: float = 4.0, grey: bool = True
) -> np.ndarray:
    """A small, blurred picture for display → uint8 (h, w, 3), at most `size` on the long side.

    Args:
        blur: radius of the Gaussian in pixels of the thumbnail; 0 shows it sharp.

    Raises:
        ImageProblem: as `load_image`.
    """
    if isinstance(source, np.ndarray):
        picture = Image.fromarray(source).convert("RGB")
    else:
        picture = decode(read_bytes(source), at_least=2 * size, name=_name(source))
    picture.thumbnail((size, size), Image.Resampling.BILINEAR)
    if blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    if grey:
        picture = picture.convert("L").convert("RGB")
    return np.array(picture)


def encode_jpeg(array: np.ndarray, *, quality: int = 75) -> bytes:
    """uint8 (H, W, 3) or (H, W) → JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def inspect(source: Source, *, max_pixels: int = MAX_PIXELS, min_side: int = 16) -> dict:
    """All that the scan records of one file, in one read and one decode. Never raises.

    Returns a dict with the columns of the images table that depend on content; `problem` is "" or a
    reason, `detail` explains it, `flags` lists what is odd but does not exclude the file.
    """
    row = dict(EMPTY_INSPECTION)
    try:
        data = read_bytes(source)
        row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        header = open_header(data, max_pixels=max_pixels)
        row |= {"format": "JPEG" if header.format == "MPO" else header.format, "width": header.width}
        row |= {"height": header.height, "frames": int(getattr(header, "n_frames", 1))}
        row |= {"transparent": bool(header.has_transparency_data)}
        if min(header.size) < min_side:
            raise ImageProblem("too small", f"{header.width} × {header.height}, at least {min_side} expected")
        picture = decode(data, max_pixels=max_pixels, at_least=256)
        if (picture.width > picture.height) != (header.width > header.height):
            row["width"], row["height"] = header.height, header.width
        row |= _measures(picture)
    except ImageProblem as problem:
        row |= {"problem": problem.reason, "detail": problem.detail}
    return row


EMPTY_INSPECTION = {
    "sha256": "",
    "phash": np.uint64(0),
    "phash_mirror": np.uint64(0),
    "width": 0,
    "height": 0,
    "format": "",
    "bytes": 0,
    "frames": 0,
    "problem": "",
    "detail": "",
    "flags": "",
    "brightness": np.nan,
    "contrast": np.nan,
    "sharpness": np.nan,
    "entropy": np.nan,
    "grey": False,
    "transparent": False,
}


def _measures(picture: Image.Image) -> dict:
    small = picture.resize((64, 64), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.int16)
    grey_picture = picture.convert("L")
    grey = np.asarray(grey_picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    phash, mirror = perceptual_hashes(grey)
    histogram = np.asarray(grey_picture.histogram(), dtype=np.float64)
    share = histogram[histogram > 0] / histogram.sum()
    scaled = grey_picture.copy()
    scaled.thumbnail((256, 256), Image.Resampling.BOX)
    return {
        "phash": phash,
        "phash_mirror": mirror,
        "brightness": float(grey.mean() / 255),
        "contrast": float(grey.std() / 255),
        "sharpness": _laplacian_variance(np.asarray(scaled, dtype=np.float64)),
        "entropy": float(-(share * np.log2(share)).sum()),
        "grey": bool((rgb.max(axis=2) - rgb.min(axis=2)).max() <= 8),
    }


def _laplacian_variance(grey: np.ndarray) -> float:
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var()) if inner.size else 0.0


def _cosines(rows: int = 8, columns: int = 32) -> np.ndarray:
    k, x = np.mgrid[:rows, :columns]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * columns))


_DCT = _cosines()
_BITS = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)


def perceptual_hashes(grey: np.ndarray) -> tuple[np.uint64, np.uint64]:
    """pHash of a grey (32, 32) picture and of its mirror image: the signs of 8×8 low frequencies.

    Each frequency is compared with the median of all, as in ImageHash's `phash`. Mirroring a picture
    negates the odd horizontal frequencies, so the second hash costs no second transform.
    """
    frequencies = _DCT @ grey @ _DCT.T
    mirrored = frequencies * np.where(np.arange(8) % 2, -1, 1)
    return _sign_bits(frequencies), _sign_bits(mirrored)


def _sign_bits(frequencies: np.ndarray) -> np.uint64:
    return _BITS[(frequencies > np.median(frequencies)).ravel()].sum(dtype=np.uint64)
