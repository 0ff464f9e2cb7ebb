"""What does this file show? One decoder for training, review and scoring: bytes in, RGB uint8 out."""

import errno
import io
import itertools
import os
import re
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from nsfwlib.data.colour import to_rgb
from nsfwlib.data.containers import check, sniff
from nsfwlib.data.rescue import clear_wide, mend_tiles, rescued

REASONS = {
    "missing": "there is no such file, or the link leads nowhere",
    "unreadable": "the file or folder exists but may not be read, or the disk failed",
    "not a regular file": "a folder, FIFO, socket or device",
    "link loop": "a link to itself, to a folder that contains it, or to one that is listed already",
    "empty file": "zero bytes",
    "too many bytes": "the file is larger than `MAX_BYTES`",
    "not an image": "the content is not that of any image format: an error page, a video, text",
    "unsupported format": "an image, but of a format that is not decoded here",
    "too many pixels": "the header announces more than `max_pixels`, a JPEG four times as many: a bomb, or a huge scan",
    "too small": "a side is shorter than the scan's `min_side`",
    "truncated": "the file ends before the picture does",
    "damaged": "the decoder or a checksum met data that cannot be right",
    "crashed the decoder": "decoding it ended the process",
    "took too long": "decoding it did not end in time",
    "screened": "its hash is on the list of known-bad hashes",
}
MAX_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a GiB as RGB; JPEGs of four times as many are halved
MOST_PIXELS = 4 * MAX_PIXELS  # that a scan may be told to admit: what reads its pictures need not be told
MAX_BYTES = 1 << 30
_HIDDEN_SIDE = 24  # pixels on the long side that a blurred thumbnail is made of
_BYTES_A_PIXEL = 12  # that decoding may take: with `MAX_PIXELS`, 1 GiB
_DECODING = {"WEBP": 8, "AVIF": 8, "HEIF": 8, "JPEG2000": 16}  # bytes a pixel in the decoder, beside the picture
HIDDEN_DEFAULT = "hidden default picture"  # the flag of an APNG whose first picture is not of its animation
DAMAGED_ANIMATION = "damaged animation"  # the flag where frames cannot be counted
Source = Path | str | bytes
_NOT_READ = (SyntaxError, IndexError, TypeError, struct.error)  # how Pillow's formats say that they are not meant


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
    source: Source, *, size: int | tuple[int, int] | None = None, max_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """Decode a file or its bytes → uint8 (H, W, 3), upright, sRGB, on white.

    The content decides the format, never the extension. EXIF rotation and colour profiles are applied, 16-bit grey is
    scaled to 8, of an animation the first frame is taken; all else equals Pillow's own accurate decode to the bit.

    Args:
        size: (height, width), or one number for both: Pillow BILINEAR on the decoded picture, stretched.
        max_pixels: limit, checked from the header before anything is decoded. So is the memory that decoding takes:
            12 bytes for each of them, which heavy decoders (WebP, JPEG 2000) reach first. A JPEG may have four times
            as many; above it, or above `MAX_PIXELS` as those of some phones are, the decoder halves its sides. The
            default trusts that a scan or a scoring run, whose own is `MAX_PIXELS`, has let the picture in.

    Raises:
        ImageProblem: whatever is wrong with the file; `.reason` is a key of `REASONS`.
    """
    return to_array(_decode_named(source, max_pixels=max_pixels), size)


def _decode_named(source: Source, **options: int) -> Image.Image:
    """The picture, with the options of `decode`; a problem names the file."""
    try:
        return decode(read_bytes(source), **options).picture
    except ImageProblem as problem:
        name = "" if isinstance(source, bytes) else ascii(os.fspath(source))[1:-1]
        raise ImageProblem(problem.reason, problem.detail, name) from None


def to_array(picture: Image.Image, size: int | tuple[int, int] | None) -> np.ndarray:
    """An RGB picture → uint8 (H, W, 3), at the `size` that `load_image` is given."""
    if size is not None:
        height, width = (size, size) if isinstance(size, int | np.integer) else size
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture)


def blurred_thumbnail(
    source: Source | np.ndarray, *, size: int = 96, blur: float = 4.0, grey: bool = True, max_pixels: int = MOST_PIXELS
) -> np.ndarray:
    """A small, blurred picture of a file or an array → uint8 (h, w, 3), at most `size` on the long side.

    `blur` is the radius of the Gaussian in pixels of the thumbnail; 0 shows it sharp. Any other shrinks the picture to
    24 pixels before, so that no filter brings back more than those. Errors are those of `load_image`.
    """
    if isinstance(source, np.ndarray):
        picture = Image.fromarray(source).convert("RGB")
    else:
        picture = _decode_named(source, max_pixels=max_pixels, at_least=2 * size)
    picture.thumbnail((size, size), Image.Resampling.BILINEAR)
    if blur > 0:  # a blur alone can be undone: what it should hide is thrown away first
        scale = min(1, _HIDDEN_SIDE / max(picture.size))
        small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(blur * _HIDDEN_SIDE / size))
        picture = small.resize(picture.size, Image.Resampling.BILINEAR)
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
    if not (data := source if isinstance(source, bytes) else _read_regular(Path(source))):
        raise ImageProblem("empty file")
    return data


def _read_regular(path: Path) -> bytes:
    try:
        status = path.stat()  # before opening: that of a FIFO waits for its writer, that of a device can act on it
        if not stat.S_ISREG(status.st_mode):
            raise ImageProblem("not a regular file")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        # not waited for where a FIFO took its place since; some have no honest size (in /proc), so the read is limited
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_BYTES + 1) if status.st_size <= MAX_BYTES else None
    except (FileNotFoundError, NotADirectoryError):
        raise ImageProblem("missing") from None
    except ImageProblem:
        raise
    except (OSError, ValueError) as error:
        reason = "link loop" if getattr(error, "errno", 0) == errno.ELOOP else "unreadable"
        raise ImageProblem(reason, getattr(error, "strerror", "") or str(error)) from None
    if data is None or len(data) > MAX_BYTES:
        raise ImageProblem("too many bytes", f"more than {MAX_BYTES:,}")
    return data


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Decoded:
    """Decode the bytes of a file; `max_pixels` and errors as in `load_image`.

    A JPEG may come out at 1/2, 1/4 or 1/8 of its size, `at_least` so many pixels a side.
    """
    try:
        return _decode(data, max_pixels, at_least)
    except ImageProblem as problem:
        if problem.reason not in ("damaged", "unsupported format", "truncated"):
            raise
        kind = sniff(data)[0]
        other, flag = rescued(data, kind)
        if not other:
            raise
    decoded = _decode(other, max_pixels, at_least)
    return decoded._replace(format=kind, flags=(flag, *decoded.flags))


def _decode(data: bytes, max_pixels: int, at_least: int | None) -> Decoded:
    image, flags = _open(data, max_pixels)
    frames = _count_frames(image, flags)
    if getattr(image, "default_image", False) and frames > 1:  # only viewers that know no APNG show the first picture
        flags.append(HIDDEN_DEFAULT)
        frames -= 1
    size = image.size
    wanted = size if at_least is None else (at_least, at_least)
    if size[0] * size[1] > min(max_pixels, MAX_PIXELS):
        wanted = min(wanted[0], size[0] // 2), min(wanted[1], size[1] // 2)
    if wanted != size:
        image.draft(None, wanted)
    reduced = image.size
    try:
        if HIDDEN_DEFAULT in flags:
            image.seek(1)
        covered = image.tile[0].extents if image.format == "GIF" and image.tile else None
        mend_tiles(image)
        image.load()
        clear_wide(image, data)
        picture, transparent = to_rgb(image, flags)
        if covered and covered != (0, 0, *size) and not transparent:  # what no frame covers is no background colour
            whole = Image.new("RGB", size, "white")
            whole.paste(picture.crop(covered), covered)
            picture, transparent = whole, True
    except MemoryError:
        raise ImageProblem("too many pixels", f"{size[0]} × {size[1]} do not fit into memory") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError, …
        raise ImageProblem(*_reason_of(error, flags)) from None
    width, height = size if picture.size == reduced else size[::-1]  # turned since
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    return Decoded(picture, kind, width, height, frames, transparent, tuple(dict.fromkeys(flags)))


def _open(data: bytes, max_pixels: int) -> tuple[Image.Image, list[str]]:
    kind, detail = sniff(data)
    if kind in REASONS:
        raise ImageProblem(kind, detail)
    if kind == "HEIF" and kind not in Image.ID:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            detail = "HEIC needs pillow-heif: pip install 'nsfwlib[heic]'"
            raise ImageProblem("unsupported format", detail) from None
        register_heif_opener()
    flags, broken = check(data, kind)
    if kind not in Image.OPEN:
        Image.init()
    try:
        image = Image.OPEN[kind][0](io.BytesIO(data), "")  # not Image.open, whose limit is the process's
        if kind == "TIFF" and _first_page(image) > len(data):
            broken = broken or ("truncated", "pixels lie behind the end of the file")
        need = _memory(image, max_pixels)
    except Exception as error:
        if kind == "TIFF" and isinstance(error, _NOT_READ) and not broken:  # TIFF knows more kinds of pixels
            raise ImageProblem("unsupported format", "a kind of TIFF that Pillow does not read") from None
        raise ImageProblem(*(broken or _reason_of(error, flags))) from None
    limit, memory = max_pixels * (4 if kind == "JPEG" else 1), _BYTES_A_PIXEL * max_pixels
    size = f"{image.width} × {image.height}"
    if image.width * image.height > limit:
        raise ImageProblem("too many pixels", f"{size}, limit {limit:,}")
    if need > memory:
        limits = f"limit {memory / 1e9:.1f} GB: {_BYTES_A_PIXEL} bytes for each of max_pixels"
        raise ImageProblem("too many pixels", f"{size} as {image.format} take {need / 1e9:.1f} GB to decode, {limits}")
    if broken:
        raise ImageProblem(*broken)
    if image.format == "TIFF" and 50706 in getattr(image, "tag_v2", ()):  # DNGVersion: the first page is a thumbnail
        raise ImageProblem("unsupported format", "camera raw (DNG)")
    return image, flags


def _first_page(image: Image.Image) -> int:
    """Go to the first page that is no reduced version of another, if there is one → where its strips and tiles end."""
    try:
        while image.tag_v2.get(254, 0) & 1 and image.tell() < 8:
            image.seek(image.tell() + 1)
    except EOFError:
        image.seek(0)
    tags = image.tag_v2
    strips, tiles = (zip(tags.get(at, ()), tags.get(long, ()), strict=False) for at, long in ((273, 279), (324, 325)))
    return max(map(sum, itertools.chain(strips, tiles)), default=0)


def _memory(image: Image.Image, max_pixels: int) -> float:
    """Bytes that decoding and converting take at their peak, from the header alone."""
    pixels = image.width * image.height
    each = (5 if image.mode in ("1", "L", "P") else 8) + _DECODING.get(str(image.format), 0)
    each += 4 * (image.mode in ("I", "F")) + 2 * image.has_transparency_data  # copies of values and alpha
    need = each * (min(pixels, max_pixels, MAX_PIXELS) if image.format in ("JPEG", "MPO") else pixels)  # else halved
    if image.info.get("progressive"):  # all coefficients at once, 2 bytes each
        areas = [across * down for _, across, down, _ in image.layer]
        need += 2 * pixels * sum(areas) / max(areas)
    if image.format == "TIFF" and 322 not in image.tag_v2:  # a strip at once, and it may be the whole picture
        bits = image.tag_v2.get(258, (1,))
        rows = min(int(image.tag_v2.get(278, image.height)), image.height)
        need += image.width * rows * sum(bits if isinstance(bits, tuple) else (bits,)) / 8
    return need


def _reason_of(error: Exception, flags: list[str]) -> tuple[str, str]:
    text = str(error)
    if re.search("unsupported|not supported|cannot handle|unknown raw mode|BMFF parsing failed", text, re.IGNORECASE):
        return "unsupported format", text
    missing = "truncated tail" in flags or "truncat" in text.lower() or isinstance(error, EOFError)
    return ("truncated" if missing else "damaged"), text.split("<_io.BytesIO")[0].strip()


def _count_frames(image: Image.Image, flags: list[str]) -> int:
    try:  # the further pictures of an MPO are depth maps and panorama parts, not an animation
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # decoders raise many kinds
        flags.append(DAMAGED_ANIMATION)
        return 1
    flags += ["several frames"] * (frames > 1)
    return frames
