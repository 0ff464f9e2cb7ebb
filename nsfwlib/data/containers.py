"""What kind of file is this, and is it whole? Reads magic numbers and containers, decodes no pixel.

Decoders are forgiving: Pillow never looks at the checksums of PNG pixel data, OpenJPEG fills what is missing
with grey, and none of them minds what follows the picture. So the containers are walked here.
"""

import codecs
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_MAGIC = {
    "JPEG": (b"\xff\xd8",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_FOREIGN = (
    (rb"8bps", "unsupported format", "Photoshop"),
    (rb"\0\0\x01\0", "unsupported format", "Windows icon"),
    (rb"%!ps", "unsupported format", "PostScript"),
    (rb"\xff\n|\0\0\0\x0cjxl ", "unsupported format", "JPEG XL"),
    (rb"(?s).*<svg", "unsupported format", "SVG"),
    (rb"p[1-7][\s#]", "unsupported format", "PNM"),
    (rb"<!doctype html|<html|<head|<body|<script|<!--", "not an image", "a web page"),
    (rb"%pdf", "not an image", "a PDF document"),
    (rb"pk\x03\x04", "not an image", "a ZIP archive"),
    (rb"\x1f\x8b", "not an image", "gzip data"),
    (rb"rar!", "not an image", "a RAR archive"),
    (rb"\x1ae\xdf\xa3", "not an image", "a Matroska or WebM video"),
    (rb"riff", "not an image", "a RIFF file, but not WebP"),
    (rb"version https://git-lfs", "not an image", "a Git LFS pointer instead of the file"),
)  # patterns of a head in lower case
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_MAX_SCANS = 500  # a progressive JPEG needs about ten; thousands of empty ones keep a decoder busy for hours
_ZEROS = bytes(512)  # a lost disk sector


class Container(NamedTuple):
    """What a walk through the container tells: a reason where the picture itself is touched, flags elsewhere."""

    reason: str = ""
    detail: str = ""
    flags: tuple[str, ...] = ()


def sniff(data: bytes) -> tuple[str, str]:
    """The format by content → (format, ""), or (reason, detail) as in `data.REASONS` if it is none of ours."""
    for kind, magics in _MAGIC.items():
        if data.startswith(magics) or (len(data) > 3 and any(magic.startswith(data) for magic in magics)):
            return kind, ""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", ""
    if data[4:8] == b"ftyp":
        return _sniff_brand(data)
    return _sniff_foreign(data)


def _sniff_brand(data: bytes) -> tuple[str, str]:
    end = min(int.from_bytes(data[:4]), 256)
    brands = {data[8:12]} | {data[start : start + 4] for start in range(16, end, 4)}
    if brands & _AVIF_BRANDS:
        return "AVIF", ""
    if brands & _HEIF_BRANDS:
        return "HEIF", ""
    return "not an image", f"a video or another file of the MP4 family ({ascii(data[8:12])[2:-1].strip()})"


def _sniff_foreign(data: bytes) -> tuple[str, str]:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for pattern, reason, detail in _FOREIGN:
        if re.match(pattern, head):
            return reason, detail
    if not data.strip(b"\0"):
        return "not an image", "nothing but zeros"
    text = not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", data[:1024]) and _is_utf8(data[:1024])
    return "not an image", "text" if text else f"unknown content, starts with {data[:8].hex(' ')}"


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def check(data: bytes, kind: str) -> Container:
    """Walk the container of a file of format `kind`.

    `reason` is "truncated" or "damaged" where the first picture cannot be whole; flags name what is odd
    without touching it: "trailing garbage", "truncated tail", "damaged metadata", "damaged data: …".
    """
    try:
        return _WALKS[kind](data) if kind in _WALKS else Container()
    except (IndexError, struct.error):
        return Container("truncated", "the file ends inside its own headers")


def _trailing(data: bytes, end: int) -> tuple[str, ...]:
    return ("trailing garbage",) if len(data) > end else ()


def _check_jpeg(data: bytes) -> Container:
    flags: list[str] = []
    scans = restart = 0
    position, several = 2, False
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return Container("truncated", "no end marker")
        marker, position = data[position + 1], position + 2
        if marker == 0xD9:
            # Multi-picture files (phones' depth maps, panoramas) carry further pictures behind the first.
            flags += () if several else _trailing(data, position)
            return Container(flags=tuple(dict.fromkeys(flags)))
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position -= marker == 0xFF
            continue
        length = struct.unpack_from(">H", data, position)[0]
        several |= marker == 0xE2 and data[position + 2 : position + 6] == b"MPF\0"
        restart = struct.unpack_from(">H", data, position + 2)[0] if marker == 0xDD else restart
        position += length
        if marker == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                return Container("damaged", f"more than {_MAX_SCANS} scans: a decompression bomb")
            end = _end_of_scan(data, position)
            flags += _scan_flags(data, position, end, restart)
            position = end


def _end_of_scan(data: bytes, start: int) -> int:
    found = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, start)
    return found.start() if found else len(data)


def _scan_flags(data: bytes, start: int, end: int, restart: int) -> Iterator[str]:
    numbers = [match[1][0] - 0xD0 for match in re.compile(rb"\xff([\xd0-\xd7])").finditer(data, start, end)]
    if any(number != i % 8 for i, number in enumerate(numbers)) or (numbers and not restart):
        yield "damaged data: restart markers out of order"
    yield from _hole(data, start, end)


def _check_png(data: bytes) -> Container:
    flags: list[str] = []
    name, end, seen = b"", 8, False
    for name, start, end in _chunks(data):
        if end > len(data):
            break
        sound = zlib.crc32(memoryview(data)[start + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        if not sound and name in (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND"):
            return Container("damaged", f"checksum of {name.decode()} does not match")
        flags += [] if sound else ["damaged metadata"]
        seen |= name == b"IDAT"
        if name == b"IEND":
            return Container(flags=(*dict.fromkeys(flags), *_trailing(data, end)))
    # Behind the last pixel chunk a missing tail does no harm to the first frame.
    whole = seen and not (name == b"IDAT" and end > len(data))
    return Container(flags=("truncated tail",)) if whole else Container("truncated", "no IEND chunk")


def png_without(data: bytes, names: tuple[bytes, ...]) -> bytes:
    """A PNG less its chunks of these names."""
    return b"".join([data[:8], *(data[start:end] for name, start, end in _chunks(data) if name not in names)])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """A PNG's chunks: name, start, end, which may lie behind that of the file."""
    position = 8
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, position, position + 12 + length
        position += 12 + length


def gif_blocks(data: bytes) -> int:
    """Where the blocks of a GIF begin, behind its header and colours."""
    return 13 + _colour_table(data[10])


def _check_gif(data: bytes) -> Container:
    position = gif_blocks(data)
    while position < len(data):
        block = data[position]
        if block == 0x3B:
            return Container(flags=_trailing(data, position + 1))
        if block == 0x2C:
            position += 11 + _colour_table(data[position + 9])
        elif block == 0x21:
            position += 2
        elif block:  # Pillow, too, skips zeros between blocks
            return Container(flags=("damaged data: unknown GIF block",))
        else:
            position += 1
            continue
        while position < len(data) and data[position]:
            position += data[position] + 1
        position += 1
    return Container(flags=("truncated tail",))


def _colour_table(packed: int) -> int:
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _check_webp(data: bytes) -> Container:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        return Container("truncated", f"{len(data):,} of {end:,} bytes")
    return Container(flags=(*_hole(data, 12, end), *_trailing(data, end + end % 2)))


def _hole(data: bytes, start: int, end: int) -> tuple[str, ...]:
    return ("damaged data: a long run of zeros",) if data.find(_ZEROS, start, end) >= 0 else ()


def _check_bmp(data: bytes) -> Container:
    announced = struct.unpack_from("<I", data, 2)[0]
    return Container(flags=_trailing(data, announced) if announced > 54 else ())


def _check_tiff(data: bytes) -> Container:
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] != 42:  # BigTIFF: left to the decoder
        return Container()
    directory = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, directory)[0]
    struct.unpack_from(f"{12 * count}x", data, directory + 2)
    return Container()


def _check_jpeg2000(data: bytes) -> Container:
    start, end = 0, len(data)
    if data[4:8] == b"jP  ":
        for kind, first, last in boxes(data):
            if last > len(data):
                return Container("truncated", f"{len(data):,} of {last:,} bytes")
            if kind == b"jp2c":
                start, end = first, last
                break
        else:
            return Container("truncated", "no code stream")
    # The end marker may be followed by bytes that the box does not count.
    last = data.rfind(b"\xff\xd9", start, end)
    if last < 0 or (last + 2 < end and start > 0 and data[last + 2 : end].strip(b"\0")):
        return Container("truncated", "the code stream has no end")
    return Container(flags=(*_hole(data, start, end), *(_trailing(data, last + 2) if start == 0 else ())))


def _check_boxes(data: bytes) -> Container:
    end = 0
    for kind, _, last in boxes(data):
        if not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", kind):
            return Container(flags=("trailing garbage",))
        if last > len(data):
            return Container("truncated", f"{len(data):,} of {last:,} bytes")
        end = last
    return Container(flags=_trailing(data, end))


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """ISO base media boxes of the top level: (kind, first byte of the content, end)."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        first = position + 8
        if size == 1:
            size, first = struct.unpack_from(">Q", data, first)[0], first + 8
        last = len(data) if size == 0 else position + max(size, 8)
        yield kind, first, last
        position = last


_WALKS = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "WEBP": _check_webp,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
    "JPEG2000": _check_jpeg2000,
    "AVIF": _check_boxes,
    "HEIF": _check_boxes,
}
