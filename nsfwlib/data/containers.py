"""What kind of file is this, and is it whole? Reads magic numbers and containers, decodes no pixel.

Decoders are forgiving: Pillow never looks at the checksums of PNG pixel data, OpenJPEG fills what is missing
with grey, and none of them minds what follows the picture. So the containers are walked here.
"""

import re
import struct
import zlib
from collections.abc import Iterator

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
_BRANDS = {"AVIF": {b"avif", b"avis"}, "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}}
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of a JPEG's segment, or of its end
_MAX_SCANS = 500  # a progressive JPEG needs about ten; thousands of empty ones keep a decoder busy for hours
_ZEROS = bytes(512)  # a lost disk sector


class _Broken(ValueError):
    """A reason and its detail, which end a walk."""


def sniff(data: bytes) -> tuple[str, str]:
    """The format by content → (format, ""), or (reason, detail) as in `data.REASONS` if it is none of ours."""
    for kind, magics in _MAGIC.items():
        if data.startswith(magics) or (len(data) > 3 and any(magic.startswith(data) for magic in magics)):
            return kind, ""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", ""
    if data[4:8] == b"ftyp":
        brands = {data[i : i + 4] for i in (8, *range(16, min(int.from_bytes(data[:4]), 256), 4))}
        other = f"a video or another file of the MP4 family ({ascii(data[8:12])[2:-1].strip()})"
        return next(((kind, "") for kind, known in _BRANDS.items() if brands & known), ("not an image", other))
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for pattern, reason, detail in _FOREIGN:
        if re.match(pattern, head):
            return reason, detail
    if not data.strip(b"\0"):
        return "not an image", "nothing but zeros"
    shown = data[:1024].decode(errors="replace").removesuffix("\ufffd")  # the last character may be cut
    text = shown and not re.search("[\x00-\x08\x0e-\x1a\x7f\ufffd]", shown)
    return "not an image", "text" if text else f"unknown content, starts with {data[:8].hex(' ')}"


def check(data: bytes, kind: str) -> tuple[list[str], tuple[str, ...]]:
    """Walk the container of a file of format `kind` → flags; and where the first picture cannot be whole why not.

    Flags name what is odd without touching it: "trailing garbage", "truncated tail", "damaged metadata", "damaged data:
    …". The reason, "truncated" or "damaged", comes with its detail, and without flags.
    """
    try:
        return list(_WALKS[kind](data)), ()
    except _Broken as broken:
        return [], broken.args
    except (IndexError, struct.error):
        return [], ("truncated", "the file ends inside its own headers")


def _trailing(data: bytes, end: int) -> Iterator[str]:
    if len(data) > end:
        yield "trailing garbage"


def _hole(data: bytes, start: int, end: int) -> Iterator[str]:
    if data.find(_ZEROS, start, end) >= 0:
        yield "damaged data: a long run of zeros"


def _check_end(data: bytes, end: int) -> None:
    if end > len(data):
        raise _Broken("truncated", f"{len(data):,} of {end:,} bytes")


def _check_jpeg(data: bytes) -> Iterator[str]:
    scans = restart = 0
    position, several = 2, False
    while found := _MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:
            # Multi-picture files (phones' depth maps, panoramas) carry further pictures behind the first.
            yield from () if several else _trailing(data, position)
            return
        length = struct.unpack_from(">H", data, position)[0]
        several |= marker == 0xE2 and data[position + 2 : position + 6] == b"MPF\0"
        restart = struct.unpack_from(">H", data, position + 2)[0] if marker == 0xDD else restart
        position += length
        if marker == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                raise _Broken("damaged", f"more than {_MAX_SCANS} scans: a decompression bomb")
            following = _MARKER.search(data, position)
            end = following.start() if following else len(data)
            numbers = [match[1][0] - 0xD0 for match in re.compile(rb"\xff([\xd0-\xd7])").finditer(data, position, end)]
            if any(number != i % 8 for i, number in enumerate(numbers)) or (numbers and not restart):
                yield "damaged data: restart markers out of order"
            yield from _hole(data, position, end)
            position = end
    raise _Broken("truncated", "no end marker")


def _check_png(data: bytes) -> Iterator[str]:
    name, end, seen = b"", 8, False
    for name, start, end in _chunks(data):
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            if name in (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND"):
                raise _Broken("damaged", f"checksum of {name.decode()} does not match")
            yield "damaged metadata"
        seen |= name == b"IDAT"
        if name == b"IEND":
            yield from _trailing(data, end)
            return
    # Behind the last pixel chunk a missing tail does no harm to the first frame.
    if not seen or (name == b"IDAT" and end > len(data)):
        raise _Broken("truncated", "no IEND chunk")
    yield "truncated tail"


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


def _check_gif(data: bytes) -> Iterator[str]:
    position = gif_blocks(data)
    while position < len(data):
        block = data[position]
        if block == 0x3B:
            yield from _trailing(data, position + 1)
            return
        if block == 0x2C:
            position += 11 + _colour_table(data[position + 9])
        elif block == 0x21:
            position += 2
        elif block:  # Pillow, too, skips zeros between blocks
            yield "damaged data: unknown GIF block"
            return
        while block and position < len(data) and data[position]:
            position += data[position] + 1
        position += 1
    yield "truncated tail"


def _colour_table(packed: int) -> int:
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _check_webp(data: bytes) -> Iterator[str]:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    _check_end(data, end)
    yield from _hole(data, 12, end)
    yield from _trailing(data, end + end % 2)


def _check_bmp(data: bytes) -> Iterator[str]:
    announced = struct.unpack_from("<I", data, 2)[0]
    return _trailing(data, announced if announced > 54 else len(data))


def _check_tiff(data: bytes) -> Iterator[str]:
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 42:  # else BigTIFF: left to the decoder
        directory = struct.unpack_from(order + "I", data, 4)[0]
        count = struct.unpack_from(order + "H", data, directory)[0]
        struct.unpack_from(f"{12 * count}x", data, directory + 2)
    return iter(())


def _check_jpeg2000(data: bytes) -> Iterator[str]:
    start, end = 0, len(data)
    if data[4:8] == b"jP  ":
        for kind, first, last in boxes(data):
            _check_end(data, last)
            if kind == b"jp2c":
                start, end = first, last
                break
        else:
            raise _Broken("truncated", "no code stream")
    # The end marker may be followed by bytes that the box does not count.
    last = data.rfind(b"\xff\xd9", start, end)
    if last < 0 or (last + 2 < end and start > 0 and data[last + 2 : end].strip(b"\0")):
        raise _Broken("truncated", "the code stream has no end")
    yield from _hole(data, start, end)
    yield from () if start else _trailing(data, last + 2)


def _check_boxes(data: bytes) -> Iterator[str]:
    end = 0
    for kind, _, last in boxes(data):
        if not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", kind):
            break
        _check_end(data, last)
        end = last
    yield from _trailing(data, end)


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
