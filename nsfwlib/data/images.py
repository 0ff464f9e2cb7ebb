"""What does this file show? One decoder for training, review and scoring: bytes in, RGB uint8 out."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFilter, UnidentifiedImageError

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
    picture = decode(read_bytes(source), max_pixels=max_pixels, name=_name(source)).picture
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
        picture, transparent = _to_rgb(image, flags)
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
    if image.format == "TIFF" and 50706 in image.tag_v2:  # DNGVersion: the first page is a thumbnail
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
        flags.append("damaged animation")
        return 1
    if frames > 1:
        flags.append("several frames")
    return frames


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; what ImageOps.exif_transpose does, less a copy of every picture


def _to_rgb(image: Image.Image, flags: list[str]) -> tuple[Image.Image, bool]:
    profile = image.info.get("icc_profile")
    try:
        turn = _TURNS.get(image.getexif().get(0x0112))
    except Exception:  # a broken EXIF block is no reason to lose the picture
        flags.append("damaged metadata")
        turn = None
    image = _to_8_bit(image, flags)
    image, alpha = _split_alpha(image if turn is None else image.transpose(turn))
    if profile:
        image = _apply_profile(image, profile, flags)
    elif image.mode == "LAB":
        image = ImageCms.applyTransform(image, _lab_transform())
    image = image if image.mode == "RGB" else image.convert("RGB")
    if alpha is None:
        return image, False
    white = Image.new("RGB", image.size, "white")
    return Image.composite(image, white, alpha), alpha.getextrema()[0] < 255


def _to_8_bit(image: Image.Image, flags: list[str]) -> Image.Image:
    """16-bit and wider grey → "L" (or "LA" where one level means transparent); other modes as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = int(tags.get(258, (16,))[0])
        grey = (values >> max(bits - 8, 0)).astype(np.uint8)  # the high byte, as Pillow does for 16-bit RGB
        grey = 255 - grey if tags.get(262) == 0 else grey  # TIFF's "minimum is white"
    else:
        grey = _stretched(values, flags)
    picture = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture


def _stretched(values: np.ndarray, flags: list[str]) -> np.ndarray:
    """32-bit grey has no agreed white: take 1, 255 or 65535, whichever holds all; else from darkest to lightest."""
    candidates = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    whites = [white for white in candidates if high <= white]
    if low < 0 or not whites:
        flags.append("stretched grey range")
        return np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return np.rint(values * (255 / whites[0])).astype(np.uint8)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if not image.has_transparency_data:
        return image, None
    rgba = image.convert("RGBA")
    grey = image.mode in ("L", "LA", "La", "1")
    return (image.convert("L") if grey else rgba.convert("RGB")), rgba.getchannel("A")


_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


def _apply_profile(image: Image.Image, profile: bytes, flags: list[str]) -> Image.Image:
    if image.mode in ("P", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    try:
        space, transform = _profile_transform(profile)
        if _PROFILE_MODES.get(space) != image.mode:  # e.g. an RGB profile left in a grey JPEG
            flags.append("colour profile of another mode")
            return image
        return image if transform is None else ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        flags.append("damaged colour profile")
        return image


@functools.lru_cache(maxsize=32)
def _profile_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The profile's colour space and a transform to sRGB; None where that would change nothing to speak of."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space
    mode = _PROFILE_MODES.get(space)
    if mode is None:
        return space, None
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "RGB":
        cube = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), axis=-1).reshape(16, 256, 3).astype(np.uint8)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform), dtype=int)
        if np.abs(moved - cube).max() <= 2:  # sRGB under one of its many names: keep every bit
            return space, None
    return space, transform


@functools.lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


DAMAGED = "damaged animation"  # the flag of data.decode where frames cannot be counted
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
    first = np.asarray(_resized(decoded.picture, size))
    moving = decoded.frames > 1 or DAMAGED in decoded.flags
    if frames < 2 or not moving or decoded.format not in ANIMATED:
        return first[None], ""
    found = [first]
    with Image.open(io.BytesIO(data), formats=[decoded.format]) as animation:
        count = _frames_before_damage(animation, decoded)
        reach = max(1, min(count, FRAME_PIXELS // (decoded.width * decoded.height)))
        for number in np.unique(np.linspace(0, reach - 1, min(frames, reach)).round().astype(int))[1:].tolist():
            try:
                animation.seek(number)
                picture, _ = _to_rgb(animation.copy(), [])
            except Exception as error:  # as in data.decode: decoders raise many kinds
                return np.stack(found), f"frame {number + 1} of {count} cannot be read ({error})"
            found.append(np.asarray(_resized(picture, size)))
    if DAMAGED in decoded.flags:
        return np.stack(found), f"damaged after {count} frames"
    return np.stack(found), "" if reach == count else f"sampled from the first {reach} of {count} frames"


def _frames_before_damage(animation: Image.Image, decoded: Decoded) -> int:
    """How many frames there are; of a damaged animation, how many come before the damage."""
    if DAMAGED not in decoded.flags:
        return decoded.frames
    count, most = 1, max(1, FRAME_PIXELS // (decoded.width * decoded.height))
    with contextlib.suppress(Exception):
        while count < most:
            animation.seek(count)
            count += 1
    return count


def _resized(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BILINEAR)
