"""How does a decoded picture become plain RGB? Upright, 8 bits, sRGB, transparency on white."""

import functools
import io

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps

_LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


def to_rgb(image: Image.Image, flags: list[str]) -> tuple[Image.Image, bool]:
    """A picture as Pillow opened it → upright, sRGB, on white; whether it was transparent. Adds oddities to `flags`."""
    profile = image.info.get("icc_profile") or (_LAB if image.mode == "LAB" else None)
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        flags.append("damaged metadata")
    image, alpha = _to_8_bit(image, flags), None
    if image.has_transparency_data:
        grey, rgba = image.mode in ("L", "LA", "La", "1"), image if image.mode == "RGBA" else image.convert("RGBA")
        image, alpha = image.convert("L") if grey else rgba.convert("RGB"), rgba.getchannel("A")
    if profile:
        image = _apply_profile(image, profile, flags)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if alpha is None:
        return image, False
    image.paste("white", mask=ImageChops.invert(alpha))
    return image, alpha.getextrema()[0] < 255


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
    rows = np.array_split(values, 1 + (values.size >> 20))  # in one piece, the copies would take gigabytes
    lows, highs = zip(*((part.min(), part.max()) for part in map(_finite, rows)), strict=True)
    low, high = float(min(lows)), float(max(highs))
    white = next((white for white in candidates if low >= 0 and high <= white), None)
    if white is None:
        flags.append("stretched grey range")
    darkest, scale = (0.0, 255 / white) if white else (low, 255 / max(high - low, 1e-12))
    return np.concatenate([np.rint((_finite(part) - darkest) * scale).astype(np.uint8) for part in rows])


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


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
        cube = np.moveaxis(17 * np.indices((16, 16, 16), np.uint8), 0, -1).reshape(16, 256, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform), dtype=int)
        if np.abs(moved - cube).max() <= 2:  # sRGB under one of its many names: keep every bit
            return space, None
    return space, transform
