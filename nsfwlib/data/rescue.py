"""What Pillow refuses although it is whole: a second way to read it, as a file that Pillow reads."""

import io
import struct

import numpy as np
from PIL import Image, PngImagePlugin
from simplejpeg import decode_jpeg

from nsfwlib.data.containers import boxes, png_without

_END = b"\xff\xd9"
LEFT_OUT = "metadata left out"


def rescued(data: bytes, kind: str) -> tuple[bytes, str]:
    """Bytes that show the same picture, and what is odd about the first ones; (b"", "") if there is no other way."""
    try:
        return _SECOND[kind](data) if kind in _SECOND else (b"", "")
    except (ValueError, IndexError, OSError, SyntaxError, struct.error):
        return b"", ""


def jpeg_complaint(data: bytes) -> str:
    """What libjpeg finds odd in a JPEG's data, "" if nothing: Pillow does not pass its warnings on."""
    try:
        decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=64, min_width=64)
    except ValueError as error:
        return str(error)
    return ""


def _jpeg(data: bytes) -> tuple[bytes, str]:
    """Every browser shows a JPEG without its end marker; whole it is if its data suffice."""
    ended = data + _END
    return (ended, "no end marker") if not data.endswith(_END) and not jpeg_complaint(ended) else (b"", "")


def _png(data: bytes) -> tuple[bytes, str]:
    """Text and profiles of megabytes: Pillow refuses them, and the picture with them."""
    smaller = png_without(data, (b"tEXt", b"zTXt", b"iTXt"))
    try:
        PngImagePlugin.PngImageFile(io.BytesIO(smaller))
    except ValueError:
        smaller = png_without(smaller, (b"iCCP",))
    return (smaller, LEFT_OUT) if len(smaller) < len(data) else (b"", "")


def _bmp(data: bytes) -> tuple[bytes, str]:
    """Bit fields of any width: Pillow knows the common ones."""
    offset, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    if compression not in (3, 6) or bits not in (16, 32):
        return b"", ""
    masks = struct.unpack_from("<4I", data, 54)[: 4 if size >= 56 or compression == 6 else 3]
    stride = (width * bits + 31) // 32 * 32 // bits
    values = np.frombuffer(data, f"<u{bits // 8}", abs(height) * stride, offset).reshape(abs(height), stride)[:, :width]
    values = values[::-1] if height > 0 else values
    fields = [(values.astype(np.uint64) & mask) * (255 / mask) for mask in masks if mask]
    if len(fields) < 3:
        return b"", ""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.dstack(fields)).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "bit fields"


def _avif(data: bytes) -> tuple[bytes, str]:
    """Two tables of which property is whose, where the decoder knows one: joined, and everything else in its place."""
    start = data.index(b"iprp") - 4
    end = start + int.from_bytes(data[start : start + 4])
    inside = [(kind, data[start + first : start + 8 + last]) for kind, first, last in boxes(data[start + 8 : end])]
    tables = [box[8:] for kind, box in inside if kind == b"ipma"]
    others = b"".join(box for kind, box in inside if kind != b"ipma")
    if len(tables) < 2 or len({table[:4] for table in tables}) > 1:
        return b"", ""
    count = sum(int.from_bytes(table[4:8]) for table in tables)
    joined = _box(b"ipma", tables[0][:4] + count.to_bytes(4) + b"".join(table[8:] for table in tables))
    properties = _box(b"iprp", others + joined)
    spare = _box(b"free", bytes(end - start - len(properties) - 8))
    return data[:start] + properties + spare + data[end:], "properties in two tables"


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def mend_tiles(image: Image.Image) -> None:
    """Planes of 16-bit samples, which Pillow would read as bytes."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(284) == 2 and max(tags.get(258, (8,))) > 8 and len(tags[258]) > 1:
        if any(tile.codec_name != "raw" for tile in image.tile) or set(tags[258]) != {16}:
            raise ValueError("Unsupported: a compressed TIFF with planes of more than 8 bits")
        order = ";16L" if image.tag_v2.prefix == b"II" else ";16B"
        image.tile = [tile._replace(args=(tile.args[0] + order, *tile.args[1:])) for tile in image.tile]


def clear_wide(image: Image.Image, data: bytes) -> None:
    """Transparency of a 16-bit PNG is one colour of 16 bits, which no longer shows in the 8 of Pillow's picture."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or image.mode != "RGB" or not isinstance(colour, tuple) or data[24] != 16:
        return
    low = PngImagePlugin.PngImageFile(io.BytesIO(data))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    low.load()
    values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    image.putalpha(Image.fromarray(np.where((values == colour).all(axis=2), 0, 255).astype(np.uint8)))


_SECOND = {"JPEG": _jpeg, "PNG": _png, "BMP": _bmp, "AVIF": _avif}
