"""What does this file show? One decoder for training, review and scoring: bytes in, RGB uint8 out."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter, UnidentifiedImageError

from nsfwlib.data.colour import to_rgb
from nsfwlib.data.containers import Container, check, sniff

REASONS = {
    "missing": "there is no such file, or the link leads nowhere",
    "unreadable": "the file or folder exists but may not be read, or the disk failed",
    "not a regular file": "a folder, FIFO, socket or device",
    "link loop": "a link to a folder that contains it, or to one that is listed already",
    "empty file": "zero bytes",
    "too many bytes": "the file is larger than `MAX_BYTES`",
    "not an image": "the content is not that of any image format: an error page, a video, text",
    "unsupported format": "an image, but of a format that is not decoded here",
    "too many pixels": "the header announces more than `max_pixels`: a decompression bomb, or a huge scan",
    "too small": "a side is shorter than the scan's `min_side`",
    "truncated": "the file ends before the picture does",
    "damaged": "the decoder or a checksum met data that cannot be right",
    "crashed the decoder": "decoding it ended the process",
    "took too long": "decoding it did not end in time",
    "screened": "its hash is on the list of known-bad hashes",
}
MAX_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a GiB as RGB
MAX_BYTES = 1 << 30
DAMAGED_ANIMATION = "damaged animation"  # the flag where frames cannot be counted
Source = Path | str | bytes


class ImageProblem(ValueError):
    """A file that cannot be used. `.reason` is a key of `REASONS`, `.detail` says more."""

    def __init__(self, reason: str, detail: str = "", name: str = "") -> None:
        super().__init__(reason, detail, name)
        self.reason, self.detail, self.name = reason, detail, name

    def __str__(self) -> str:
        return ": ".join(part for part in (self.name, self.reason, self.detail or REASONS[self.reason]) if part)


class Decoded(NamedTuple):
    """A decoded picture and what is worth knowing of its file."""

    picture: Image.Image  # mode RGB, upright
    format: str
    width: int  # of the whole picture, upright, whatever size was decoded
    height: int
    frames: int
    transparent: bool
    flags: tuple[str, ...]  # what is odd but does not exclude the file


def load_image(
    source: Source, *, size: int | tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a file or its bytes → uint8 (H, W, 3), upright, sRGB, on white.

    The content decides the format, never the extension. EXIF rotation and colour profiles are applied,
    16-bit grey is scaled to 8, transparency is composited on white, of an animation the first frame is taken.
    Everything else equals Pillow's own accurate decode to the bit.

    Args:
        size: (height, width), or one number for both: Pillow BILINEAR on the decoded picture, stretched.
        max_pixels: limit, checked from the header before anything is decoded; at most twice `MAX_PIXELS`.

    Raises:
        ImageProblem: whatever is wrong with the file; `.reason` is a key of `REASONS`.
    """
    return to_array(decode(read_bytes(source), max_pixels=max_pixels, name=_name(source)).picture, size)


def to_array(picture: Image.Image, size: int | tuple[int, int] | None) -> np.ndarray:
    """An RGB picture → uint8 (H, W, 3), at the `size` that `load_image` is given."""
    if size is not None:
        height, width = (size, size) if isinstance(size, int | np.integer) else size
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture)


def blurred_thumbnail(
    source: Source | np.ndarray, *, size: int = 96, blur: float = 4.0, grey: bool = True
) -> np.ndarray:
    """A small, blurred picture for display → uint8 (h, w, 3), at most `size` on the long side.

    Args:
        source: a file, its bytes, or a picture decoded already.
        blur: radius of the Gaussian in pixels of the thumbnail; 0 shows it sharp.

    Raises:
        ImageProblem: as `load_image`.
    """
    if isinstance(source, np.ndarray):
        picture = Image.fromarray(source).convert("RGB")
    else:
        picture = decode(read_bytes(source), at_least=2 * size, name=_name(source)).picture
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


def read_bytes(source: Source) -> bytes:
    """All bytes of a regular file; a FIFO, device or socket is refused without waiting for it.

    Raises:
        ImageProblem: missing, unreadable, not a regular file, empty file, too many bytes.
    """
    data = source if isinstance(source, bytes) else _read_regular(os.fspath(source))
    if not data:
        raise ImageProblem("empty file", name=_name(source))
    return data


def _read_regular(path: str) -> bytes:
    name = _name(path)
    try:
        # Look before opening: opening a FIFO waits for its writer, opening a device can act on it.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise ImageProblem("not a regular file", name=name)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageProblem("not a regular file", name=name)
            # Some regular files have no honest size (those in /proc), so the read itself is limited.
            data = file.read(MAX_BYTES + 1) if status.st_size <= MAX_BYTES else None
    except (FileNotFoundError, NotADirectoryError):
        raise ImageProblem("missing", name=name) from None
    except ImageProblem:
        raise
    except (OSError, ValueError) as error:
        raise ImageProblem("unreadable", getattr(error, "strerror", "") or str(error), name) from None
    if data is None or len(data) > MAX_BYTES:
        raise ImageProblem("too many bytes", f"more than {MAX_BYTES:,}", name)
    return data


def _name(source: Source) -> str:
    return "" if isinstance(source, bytes) else ascii(os.fspath(source))[1:-1]


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None, name: str = "") -> Decoded:
    """Decode the bytes of a file.

    Args:
        at_least: a JPEG may come out at 1/2, 1/4 or 1/8 of its size, this many pixels a side or more.
        name: named in errors.

    Raises:
        ImageProblem: as `load_image`.
    """
    image, container = _open(data, max_pixels=max_pixels, name=name)
    flags = list(container.flags)
    frames = _count_frames(image, flags)
    size = image.size
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    reduced = image.size
    try:
        image.load()
        picture, transparent = to_rgb(image, flags)
    except MemoryError:
        raise ImageProblem("too many pixels", f"{size[0]} × {size[1]} do not fit into memory", name) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError, …
        raise ImageProblem(*_reason_of(error, container), name) from None
    width, height = picture.size
    if reduced != size:  # a fraction of the picture, perhaps turned since
        width, height = size if picture.size == reduced else size[::-1]
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return Decoded(picture, kind, width, height, frames, transparent, tuple(dict.fromkeys(flags)))


def _open(data: bytes, *, max_pixels: int, name: str) -> tuple[Image.Image, Container]:
    kind, detail = sniff(data)
    if kind in REASONS:
        raise ImageProblem(kind, detail, name)
    if kind == "HEIF" and not _register_heif():
        raise ImageProblem("unsupported format", "HEIC needs pillow-heif: pip install 'nsfwlib[heic]'", name)
    container = check(data, kind)
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageProblem("too many pixels", str(error), name) from None
    except UnidentifiedImageError as error:
        if kind == "TIFF" and not container.reason:  # TIFF knows more kinds of pixels than Pillow does
            raise ImageProblem("unsupported format", "a kind of TIFF that Pillow does not read", name) from None
        raise ImageProblem(*_reason_of(error, container), name) from None
    except Exception as error:
        raise ImageProblem(*_reason_of(error, container), name) from None
    if image.width * image.height > max_pixels:
        limit = f"{image.width} × {image.height}, limit {max_pixels:,}"
        raise ImageProblem("too many pixels", limit, name)
    if container.reason:
        raise ImageProblem(container.reason, container.detail, name)
    if image.format == "TIFF" and 50706 in getattr(image, "tag_v2", ()):  # DNGVersion: the first page is a thumbnail
        raise ImageProblem("unsupported format", "camera raw (DNG)", name)
    return image, container


def _register_heif() -> bool:
    if "HEIF" not in Image.ID:
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
    return True


def _reason_of(error: Exception, container: Container) -> tuple[str, str]:
    if container.reason:
        return container.reason, container.detail
    text = str(error)
    missing = "truncated tail" in container.flags or "truncat" in text.lower() or isinstance(error, EOFError)
    return ("truncated" if missing else "damaged"), text.split("<_io.BytesIO")[0].strip()


def _count_frames(image: Image.Image, flags: list[str]) -> int:
    if image.format == "MPO":  # its further pictures are depth maps and panorama parts, not an animation
        return 1
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception:
        flags.append(DAMAGED_ANIMATION)
        return 1
    if frames > 1:
        flags.append("several frames")
    return frames
