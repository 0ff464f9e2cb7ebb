"""Defective and unusual image files, each with what the kit must say of it. All drawn here, nothing fetched."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

WIDTH, HEIGHT = 96, 64


class Case(NamedTuple):
    name: str
    data: bytes
    problem: str = ""
    flag: str = ""  # must be among the flags
    truth: np.ndarray | None = None  # what a healthy one must look like
    tolerance: float = 4.0  # mean absolute difference in grey levels


def reference() -> Image.Image:
    """No two corners alike, no symmetry, smooth enough for JPEG."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    red = 255 * x / WIDTH
    green = 255 * y / HEIGHT
    blue = 128 + 100 * np.sin(x / 9) * np.cos(y / 13)
    picture = np.stack([red, green, blue], axis=2)
    picture[:16, :16] = (250, 240, 20)
    return Image.fromarray(picture.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noisy(side: int = 200) -> Image.Image:
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 255, (25, 25, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def flipped_bit(data: bytes, position: int, bit: int = 3) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def with_orientation(image: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif.tobytes(), **({"quality": 95} if kind == "JPEG" else {}))


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries (and curves) have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for first, second in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        profile = profile.replace(first, b"????").replace(second, first).replace(b"????", second)
    return profile


def jpeg_entropy(data: bytes) -> int:
    """Where the compressed pixels of a baseline JPEG begin."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4])


def foreign() -> list[Case]:
    """Files that are no pictures, or none that is decoded here."""
    no, other = "not an image", "unsupported format"
    video = struct.pack(">I4s4sI", 24, b"ftyp", b"isom", 512) + b"isommp42" + bytes(100)
    return [
        Case("empty.jpg", b"", "empty file"),
        Case("one_byte.jpg", b"\xff", no),
        Case("error_page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", no),
        Case("error_page_bom.jpg", b"\xef\xbb\xbf\n <html><head>Access denied</head></html>", no),
        Case("error.json.jpg", b'{"error": "rate limited"}', no),
        Case("text.png", "nichts da, tut uns leid: größer".encode(), no),
        Case("lfs_pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", no),
        Case("document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", no),
        Case("archive.jpg", b"PK\x03\x04" + bytes(40), no),
        Case("gzipped_page.jpg", b"\x1f\x8b\x08" + bytes(40), no),
        Case("video.jpg", video, no),
        Case("video.webp", b"\x1a\x45\xdf\xa3" + bytes(60), no),
        Case("sound.webp", b"RIFF" + struct.pack("<I", 36) + b"WAVE" + bytes(32), no),
        Case("zeros.jpg", bytes(5000), no),
        Case("random.jpg", np.random.default_rng(3).bytes(3000).replace(b"\xff", b"\0"), no),
        Case("drawing.svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', other),
        Case("favicon.jpg", encoded(reference(), "ICO", sizes=[(32, 32)]), other),
        Case("layers.psd", b"8BPS\0\1" + bytes(60), other),
        Case("next.jxl", b"\xff\x0a" + bytes(60), other),
        Case("plain.ppm", encoded(reference(), "PPM"), other),
    ]


def bombs() -> list[Case]:
    many = "too many pixels"
    jpeg = bytearray(encoded(reference(), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65500, 65500)
    gif = bytearray(encoded(reference(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(encoded(reference(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    jp2 = bytearray(encoded(reference(), "JPEG2000", no_jp2=True))
    jp2[8:16] = struct.pack(">II", 60000, 60000)
    baseline = encoded(reference(), "JPEG", progressive=True)
    last = baseline.rindex(b"\xff\xda")
    return [
        Case(
            "bomb.png", png_header(20000, 20000) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""), many
        ),
        Case("bomb_declared.png", png_header(0x7FFFFFFF, 0x7FFFFFFF) + chunk(b"IEND", b""), many),
        Case("bomb.jpg", bytes(jpeg), many),
        Case("bomb.gif", bytes(gif), many),
        Case("bomb.bmp", bytes(bmp), many),
        Case("bomb.j2k", bytes(jp2), many),
        Case("bomb_of_scans.jpg", baseline[:last] + baseline[last:-2] * 2000 + b"\xff\xd9", "damaged"),
    ]


def cut(name: str, data: bytes, share: float = 0.6) -> Case:
    return Case(name, data[: int(len(data) * share)], "truncated")


def damaged_jpegs() -> list[Case]:
    jpeg = encoded(noisy(), "JPEG", quality=90)
    restarts = encoded(noisy(), "JPEG", quality=90, restart_marker_blocks=20)
    second = [i for i in range(len(restarts)) if restarts[i] == 0xFF and 0xD0 <= restarts[i + 1] <= 0xD7][3]
    small = encoded(reference(), "JPEG", quality=95)
    body = jpeg_entropy(jpeg)
    truth = np.asarray(reference())
    hole = jpeg[: body + 3000] + bytes(2048) + jpeg[body + 5048 :]
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\xff\xff\xff\xff" * 3
    broken_exif = small[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + small[2:]
    return [
        Case("start_only.jpg", jpeg[:2], "truncated"),
        Case("cut_in_header.jpg", jpeg[:100], "truncated"),
        cut("cut.jpg", jpeg),
        cut("cut_late.jpg", jpeg, 0.98),
        cut("cut_progressive.jpg", encoded(noisy(), "JPEG", progressive=True)),
        Case("no_end.jpg", jpeg[:-2], flag="no end marker"),
        Case("half_downloaded.jpg", jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2), "truncated"),
        Case("hole.jpg", hole, flag="damaged data: a long run of zeros"),
        Case("lost_restart.jpg", restarts[:second] + restarts[second + 2 :], flag="damaged data: restart markers"),
        Case("page_behind.jpg", small + b"<script>alert(1)</script>", flag="trailing garbage", truth=truth),
        Case("archive_behind.jpg", small + b"PK\x03\x04" + bytes(300), flag="trailing garbage", truth=truth),
        Case("broken_exif.jpg", broken_exif, truth=truth),
    ]


def damaged_pngs() -> list[Case]:
    png = encoded(reference(), "PNG")
    truth = np.asarray(reference())
    data = png.index(b"IDAT") + 4
    length = int.from_bytes(png[data - 8 : data - 4])
    pixels = png[data : data + length]
    header, rest = png[: data - 8], png[data + length + 4 :]
    text = chunk(b"tEXt", b"Comment\0hello")
    return [
        cut("cut.png", png),
        Case("cut_in_header.png", png[:20], "truncated"),
        Case("signature_only.png", png[:8], "truncated"),
        Case("half_a_signature.png", png[:5], "truncated"),
        Case("bit_rot.png", flipped_bit(png, data + length // 2), "damaged"),
        Case("bit_rot_in_header.png", flipped_bit(png, 19), "damaged"),
        Case("bit_rot_in_checksum.png", flipped_bit(png, data + length + 1), "damaged"),
        Case("bad_stream.png", header + chunk(b"IDAT", b"\0\0" + pixels[2:]) + rest, "damaged"),
        Case(
            "short_stream.png",
            header + chunk(b"IDAT", zlib.compress(zlib.decompress(pixels)[:6000])) + rest,
            "truncated",
        ),
        Case("no_pixels.png", header + rest, "damaged"),
        Case("zero_wide.png", png_header(0, 10) + png[33:], "damaged"),
        Case("no_end.png", png[:-12], flag="truncated tail", truth=truth, tolerance=0),
        Case(
            "rotten_comment.png",
            header + flipped_bit(text, 12) + png[data - 8 :],
            flag="metadata left out",
            truth=truth,
            tolerance=0,
        ),
        Case("rotten_comment_behind.png", png[:-12] + flipped_bit(text, 12) + png[-12:], flag="damaged metadata"),
        Case("bytes_behind.png", png + b"\0" * 100, flag="trailing garbage", truth=truth, tolerance=0),
    ]


def damaged_others() -> list[Case]:
    still = encoded(noisy(), "GIF")
    frames = [noisy(), ImageOps.mirror(noisy()), ImageOps.flip(noisy())]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)
    webp = encoded(noisy(), "WEBP", quality=80)
    return [
        cut("cut.gif", still),
        cut("cut_header.gif", still, 0.001),
        Case("cut_later_frame.gif", moving[: int(len(moving) * 0.8)], flag="truncated tail"),
        Case("bytes_behind.gif", still + b"GIF was here", flag="trailing garbage"),
        cut("cut.webp", webp),
        cut("cut_lossless.webp", encoded(noisy(), "WEBP", lossless=True)),
        Case("bytes_behind.webp", webp + b"x" * 33, flag="trailing garbage"),
        Case("rotten.webp", webp[:40] + bytes(len(webp) - 40), flag="damaged data: a long run of zeros"),
        cut("cut.avif", encoded(noisy(), "AVIF")),
        Case("bytes_behind.avif", encoded(noisy(), "AVIF") + b"\0\1\2\3" * 20, flag="trailing garbage"),
        cut("cut.bmp", encoded(noisy(), "BMP")),
        cut("cut.tif", encoded(noisy(), "TIFF")),
        cut("cut_lzw.tif", encoded(noisy(), "TIFF", compression="tiff_lzw")),
        cut("cut.jp2", encoded(noisy(), "JPEG2000")),
        cut("cut.j2k", encoded(noisy(), "JPEG2000", no_jp2=True)),
        Case("one_pixel.gif", encoded(Image.new("RGB", (1, 1)), "GIF"), "too small"),
        Case("hairline.png", encoded(Image.new("RGB", (900, 2)), "PNG"), "too small"),
    ]


def unusual_jpegs() -> list[Case]:
    picture = reference()
    truth = np.asarray(picture)
    grey = picture.convert("L")
    three = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    cmyk = picture.convert("CMYK")
    profile = swapped_profile()
    swapped = truth[:, :, [1, 0, 2]]
    cases = [
        Case("grey.jpg", encoded(grey, "JPEG", quality=95), truth=three),
        Case("progressive.jpg", encoded(picture, "JPEG", quality=95, progressive=True), truth=truth),
        Case("cmyk.jpg", encoded(cmyk, "JPEG", quality=95), truth=truth),
        Case("panorama.mpo", encoded(picture, "MPO", save_all=True, append_images=[noisy()], quality=95), truth=truth),
        Case("other_primaries.jpg", encoded(picture, "JPEG", quality=95, icc_profile=profile), truth=swapped),
        Case(
            "profile_of_colour.jpg",
            encoded(grey, "JPEG", icc_profile=profile),
            truth=three,
            flag="colour profile of another mode",
        ),
        Case(
            "broken_profile.jpg",
            encoded(picture, "JPEG", quality=95, icc_profile=b"junk" * 50),
            truth=truth,
            flag="damaged colour profile",
        ),
        Case("in_truth_a_jpeg.png", encoded(picture, "JPEG", quality=95), truth=truth, flag="extension .png on JPEG"),
        Case("no_extension", encoded(picture, "JPEG", quality=95), truth=truth, flag="no extension"),
        Case("SHOUTED.JPG", encoded(picture, "JPEG", quality=95), truth=truth),
    ]
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each turn
    for orientation, method in stored.items():
        turned = picture if method is None else picture.transpose(Image.Transpose(method))
        cases.append(Case(f"turned_{orientation}.jpg", with_orientation(turned, orientation, "JPEG"), truth=truth))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    cases += [
        Case(f"turned.{kind.lower()}", with_orientation(turned, 6, kind), truth=truth) for kind in ("PNG", "WEBP")
    ]
    cases.append(Case("turned.tif", encoded(turned, "TIFF", tiffinfo={0x0112: 6}), truth=truth, tolerance=0))
    return cases


def unusual_lossless() -> list[Case]:
    picture = reference()
    truth = np.asarray(picture)
    grey = np.asarray(picture.convert("L"))
    three = np.repeat(grey[:, :, None], 3, axis=2)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    palette = picture.quantize(64)
    indexed = np.asarray(palette.convert("RGB"))
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, WIDTH // 2 :] = 255
    glass = picture.copy()
    glass.putalpha(Image.fromarray(alpha))
    on_white = np.where(alpha[:, :, None] == 255, truth, 255)
    clear = palette.copy()
    clear.info["transparency"] = 7
    hole = np.where((np.asarray(palette) == 7)[:, :, None], 255, indexed)
    bits = np.repeat((np.asarray(picture.convert("1")) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    frames = [ImageOps.mirror(picture), ImageOps.flip(picture)]
    moving = {"save_all": True, "append_images": frames}
    deep = png_header(WIDTH, HEIGHT, 16, 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in truth.astype(np.uint16) * 257)
    deep += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    light = Image.fromarray((255 - grey).astype(np.uint16) * 257)
    several = "several frames"

    def exact(name: str, data: bytes, expected: np.ndarray, flag: str = "") -> Case:
        return Case(name, data, truth=expected, tolerance=0, flag=flag)

    return [
        exact("grey_16.png", encoded(wide, "PNG"), three),
        exact("colour_16.png", deep, truth),
        exact("bits.png", encoded(picture.convert("1"), "PNG"), bits),
        exact("palette.png", encoded(palette, "PNG"), indexed),
        exact("palette_clear.png", encoded(clear, "PNG", transparency=7), hole),
        exact("alpha.png", encoded(glass, "PNG"), on_white),
        exact("alpha_grey.png", encoded(glass.convert("LA"), "PNG"), np.where(alpha[:, :, None] == 255, three, 255)),
        exact("alpha.webp", encoded(glass, "WEBP", lossless=True), on_white),
        exact("palette.bmp", encoded(palette, "BMP"), indexed),
        exact("lzw.tif", encoded(picture, "TIFF", compression="tiff_lzw"), truth),
        exact("cmyk.tif", encoded(picture.convert("CMYK"), "TIFF"), truth),
        exact("grey_16.tif", encoded(wide, "TIFF"), three),
        exact("white_is_zero_16.tif", encoded(light, "TIFF", tiffinfo={262: 0}), three),
        exact("float.tif", encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), three),
        exact("int_32.tif", encoded(Image.fromarray(grey.astype(np.int32)), "TIFF"), three),
        Case("lab.tif", encoded(lab(picture), "TIFF"), truth=truth, tolerance=6),
        exact("pages.tif", encoded(picture, "TIFF", **moving), truth, several),
        exact("moving.gif", encoded(palette, "GIF", **moving), indexed, several),
        exact("moving.webp", encoded(picture, "WEBP", lossless=True, **moving), truth, several),
        exact("moving.png", encoded(picture, "PNG", **moving), truth, several),
        Case("moving.avif", encoded(picture, "AVIF", quality=95, **moving), truth=truth, flag=several),
        Case("still.avif", encoded(picture, "AVIF", quality=95), truth=truth),
        exact("lossless.jp2", encoded(picture, "JPEG2000", irreversible=False), truth),
        exact("stream.j2k", encoded(picture, "JPEG2000", no_jp2=True), truth),
    ]


def lab(picture: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(picture, transform)


def heic() -> list[Case]:
    import pillow_heif

    def encode(image: Image.Image, **options) -> bytes:
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
        return buffer.getvalue()

    return [
        Case("phone.heic", encode(reference()), truth=np.asarray(reference())),
        Case("in_truth_heic.jpg", encode(reference()), truth=np.asarray(reference()), flag="extension .jpg on HEIF"),
        cut("cut.heic", encode(noisy())),
    ]


def cases() -> list[Case]:
    broken = [*foreign(), *bombs(), *damaged_jpegs(), *damaged_pngs(), *damaged_others()]
    return [*broken, *unusual_jpegs(), *unusual_lossless()]
