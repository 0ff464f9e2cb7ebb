"""What do the embedded stand-ins look like? Five families of plainly abstract pictures, drawn with numpy and Pillow.

A family is a function (random generator, height, width) → float (H, W, 3) in 0–1, and how near it lies to another.
"""

import colorsys
from functools import partial

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Rng = np.random.Generator
Array = np.ndarray


def draw_picture(rng: Rng, label: str) -> tuple[Image.Image, float]:
    """Draw one picture of a class; return it with its ambiguity."""
    width, height = (int(side) for side in rng.integers(160, 321, 2))
    picture, ambiguity = _FAMILIES[label](rng, height, width)
    if rng.random() < 0.06:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    return _to_image(picture), round(ambiguity, 2)


def vary(rng: Rng, image: Image.Image) -> Image.Image:
    """The next shot of a series: framed, scaled and lit a little differently, at times mirrored."""
    left, top, right, bottom = rng.uniform(0, 0.10, 4)
    w, h = image.size
    image = image.crop((int(w * left), int(h * top), int(w * (1 - right)), int(h * (1 - bottom))))
    if rng.random() < 0.3:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = min(rng.uniform(0.7, 1.15), 320 / max(image.size))
    size = [max(160, int(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), float)
    return _to_image((pixels * rng.uniform(0.88, 1.1) + rng.normal(0, 5)) / 255)


def _rings(rng: Rng, h: int, w: int, *, fine: bool) -> tuple[Array, float]:
    """Warped interference rings. Wavelengths are in pixels of a 220 px picture; the classes meet near 27."""
    wavelength = rng.uniform(9, 24) if fine else rng.uniform(26, 72)
    sources = int(rng.integers(2, 7) if fine else rng.integers(1, 5))
    length = wavelength * min(h, w) / 220
    y, x = np.ogrid[: float(h), : float(w)]
    field, warp = np.zeros((h, w)), _noise(rng, h, w, 3.2) * rng.uniform(0, 0.45) * length
    for _ in range(sources):
        cy, cx = rng.uniform(-0.3, 1.3, 2) * (h, w)
        distance = np.hypot(y - cy, (x - cx) * rng.uniform(0.7, 1.3)) + warp
        turns = distance / (length * rng.uniform(0.85, 1.18)) + rng.random()
        field += rng.uniform(0.5, 1) * np.cos(2 * np.pi * turns)
    field = 0.5 + 0.5 * field / np.abs(field).max() + 0.07 * _noise(rng, h, w, 1.8)
    if rng.random() < 0.25:  # discs out of focus, in front
        for _ in range(rng.integers(1, 4)):
            radius = rng.uniform(0.08, 0.25) * min(h, w)
            mask = _disc(y, x, *(rng.random(2) * (h, w)), radius, soft=0.12 * radius)
            field = field * (1 - mask) + rng.random() * mask
    ambiguity = max(0.0, 1 - abs(wavelength - 27) / 11) * (1 if 2 <= sources <= 4 else 0.4)
    return _photograph(rng, _gradient(field, _palette(rng, int(rng.integers(3, 5))))), ambiguity


def _nature(rng: Rng, h: int, w: int) -> tuple[Array, float]:
    """A landscape; now and then a mere texture or ripples, or a landscape posterised like a drawing."""
    if rng.random() < 0.14:
        field, ambiguity = 0.5 + 0.22 * _noise(rng, h, w, rng.uniform(1.4, 2.8)), 0.5
        if rng.random() < 0.6:
            (y, x), length = np.ogrid[: float(h), : float(w)], rng.uniform(18, 60) * min(h, w) / 220
            across = y * rng.uniform(0.6, 1) + x * rng.uniform(-0.6, 0.6) + length * 0.5 * _noise(rng, h, w, 3)
            field, ambiguity = 0.5 * field + 0.25 + 0.2 * np.cos(2 * np.pi * across / length), 0.8
        return _photograph(rng, _gradient(field, _palette(rng, 3))), ambiguity
    picture, has_lake = _landscape(rng, h, w)
    if rng.random() < 0.06:  # posterised
        levels = int(rng.integers(4, 7))
        flat = np.round(np.clip(picture, 0, 1) * levels) / levels
        edges = _to_image(flat).convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3))
        return _blend(flat, 0, 0.85 * (np.asarray(edges) > 0.12 * 255)), 0.8
    return _photograph(rng, picture), 0.15 if has_lake else 0.0


def _landscape(rng: Rng, h: int, w: int) -> tuple[Array, bool]:
    """Sky, clouds, perhaps a sun, ranges of hills, perhaps a lake."""
    y, x = np.ogrid[: float(h), : float(w)]
    horizon = rng.uniform(0.3, 0.7) * h
    hues = rng.choice([0.58, 0.6, 0.62, 0.05, 0.08, 0.75, 0.1]), rng.choice([0.55, 0.08, 0.12, 0.95])
    high = _hsv(hues[0] + rng.normal(0, 0.02), rng.uniform(0.15, 0.7), rng.uniform(0.35, 0.95))
    low = _hsv(hues[1] + rng.normal(0, 0.02), rng.uniform(0.05, 0.5), rng.uniform(0.7, 1))
    picture = _gradient(y / horizon, [high, low])
    clouds = np.clip(_noise(rng, h, w, 2.6) * 0.5 + rng.uniform(-0.5, 0.3), 0, 1) * rng.uniform(0, 0.8)
    picture = _blend(picture, rng.uniform(0.75, 1), clouds)
    if rng.random() < 0.5:
        cy, cx = rng.uniform(0.05, 0.9) * horizon, rng.uniform(0.1, 0.9) * w
        radius = rng.uniform(0.02, 0.08) * min(h, w)
        sun = _disc(y, x, cy, cx, radius, soft=0.2 * radius + 0.5)
        picture = _blend(picture, _hsv(0.13, rng.uniform(0, 0.5), 1), sun)
    picture = _hills(rng, picture, horizon)
    if rng.random() >= 0.3:
        return picture, False
    # a lake mirrors the upper part, with ripples that narrow towards the shore
    shore = rng.uniform(0.7, 0.88) * h
    depth = np.clip(y - shore, 0, None) / (h - shore)
    phase = 2 * np.pi * rng.uniform(2, 5) / (depth + 0.12) + 0.6 * _noise(rng, h, w, 2.4)
    water = 0.55 * picture[::-1] + 0.45 * low * (0.8 + 0.2 * np.cos(phase))[..., None]
    return np.where((y > shore)[..., None], water, picture), True


def _hills(rng: Rng, picture: Array, horizon: float) -> Array:
    h, w = picture.shape[:2]
    y, x = np.ogrid[: float(h), : float(w)]
    hue, grain = rng.choice([0.28, 0.33, 0.1, 0.6, 0.08, 0.45]), _noise(rng, h, w, 1.6)
    count, wave = int(rng.integers(2, 6)), np.arange(1, 7)[:, None]
    for k in range(count):
        turns = wave * x / w * rng.uniform(0.5, 1.6, (6, 1)) + rng.random((6, 1))
        ridge = (rng.normal(0, 0.09 * h / wave) * np.sin(2 * np.pi * turns)).sum(axis=0)
        ridge += horizon + (h - horizon) * k / count * 0.9
        light = 0.75 - 0.5 * (k + 1) / count + rng.uniform(-0.08, 0.12)  # near hills are darker
        colour = _hsv(hue + rng.normal(0, 0.03), rng.uniform(0.2, 0.7), light)
        hill = colour * (1 + (0.08 + 0.1 * k / count) * grain[..., None])
        picture = np.where((y > ridge)[..., None], hill, picture)
    return picture


def _ink(rng: Rng, h: int, w: int, *, toned: bool) -> tuple[Array, float]:
    """Outlined shapes on paper, drawn at twice the size; `toned` ones mostly over screentone or a burst."""
    size, unit = (2 * w, 2 * h), min(h, w) / 110  # unit: one pixel of a 220 px picture
    violet = rng.random() < (0.6 if toned else 0.15)
    has_tone, has_burst = rng.random(2) < ((0.93, 0.72) if toned else (0.015, 0.01))
    image = Image.new("RGB", size, _rgb(_hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.82, 1))))
    ink = tuple(int(v) for v in rng.integers(0, 60, 3))
    if has_burst:  # speed lines: thin wedges that run outwards from a point
        focus = rng.uniform(0.2, 0.8, 2) * size
        for _ in range(rng.integers(40, 110)):
            angles = rng.uniform(0, 2 * np.pi) + rng.uniform(0.006, 0.03) * np.array([0, -1, 1])
            radii = np.array([rng.uniform(0.2, 0.5) * min(size), 6 * w, 6 * w])
            ImageDraw.Draw(image).polygon(_points(focus, radii, angles), fill=ink)
    if has_tone:
        colour = _crayon(rng, violet) if rng.random() < 0.5 else ink
        image.paste(colour, mask=_screentone(rng, size, rng.uniform(0, 0.5), rng.uniform(5, 11) * unit))
    for _ in range(rng.integers(3, 11)):
        _shape(rng, image, ink, unit, violet=violet, has_tone=has_tone, hatched=0.15 if toned else 0.3)
    picture = np.asarray(image.resize((w, h), Image.Resampling.LANCZOS), float) / 255
    if rng.random() < 0.3:  # scanned paper
        picture = picture * (1 + 0.03 * _noise(rng, h, w, 1)[..., None])
    if toned:
        return picture, (0.9, 0.4, 0.0)[int(has_tone) + int(has_burst)]
    return picture, 0.8 if has_tone or has_burst else 0.3 * violet  # violet is the palette of the other class


def _screentone(rng: Rng, size: tuple[int, int], start: float, pitch: float) -> Image.Image:
    """A mask of staggered dots that begin at the fraction `start` of the height and grow downwards."""
    y, x = np.ogrid[: float(size[1]), : float(size[0])]
    top = start * size[1]
    row = np.round((y - top) / pitch)
    dx = (x / pitch - row % 2 / 2 + 0.5) % 1 - 0.5
    dy = (y - top) / pitch - row
    radius = rng.uniform(0.12, 0.4) + 0.25 * row * pitch / (size[1] - top)
    dots = (row >= 0) & (dx**2 + dy**2 < radius**2)
    return Image.fromarray(dots.astype(np.uint8) * 255)


def _shape(
    rng: Rng, image: Image.Image, ink: tuple, unit: float, *, violet: bool, has_tone: bool, hatched: float
) -> None:
    """Draw one filled and outlined shape, at times dotted or hatched."""
    w, h = image.size
    draw = ImageDraw.Draw(image)
    centre, radius = rng.uniform(0.05, 0.95, 2) * (w, h), rng.uniform(0.06, 0.3) * min(w, h)
    outline = _outline(rng, centre, radius)
    if has_tone and rng.random() < 0.3:
        draw.polygon(outline, fill=_crayon(rng, violet))
        inside = Image.new("L", image.size, 0)
        ImageDraw.Draw(inside).polygon(outline, fill=255)
        box = inside.getbbox() or (0, 0, 1, 1)
        tone = _screentone(rng, (box[2] - box[0], box[3] - box[1]), 0, rng.uniform(4, 9) * unit)
        image.paste(ink, box[:2], mask=ImageChops.darker(inside.crop(box), tone))
    elif rng.random() < 0.85:
        draw.polygon(outline, fill=_crayon(rng, violet))
    draw.line(outline + outline[:2], fill=ink, width=max(2, int(rng.uniform(1, 3.2) * unit)), joint="curve")
    if rng.random() < hatched:
        (cx, cy), rise = centre, 0.6 * radius
        for offset in np.arange(-radius, radius, 5 * unit):
            line = [(cx + offset, cy - rise), (cx + offset + 0.4 * radius, cy + rise)]
            draw.line(line, fill=ink, width=max(1, int(0.7 * unit)))


def _outline(rng: Rng, centre: Array, radius: float) -> list:
    """An ellipse, a regular polygon, a star or a wavy blob, as points around `centre`."""
    kind, corners, start = rng.integers(4), int(rng.integers(3, 9)), rng.uniform(0, 2 * np.pi)
    if kind == 0:
        return _points(centre, radius, np.linspace(0, 2 * np.pi, 40), squash=0.7)
    if kind == 1:
        return _points(centre, radius, start + np.linspace(0, 2 * np.pi, corners, endpoint=False))
    if kind == 2:
        angles = start + np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
        return _points(centre, radius * np.tile([0.42, 1], corners), angles)
    angles, wave = np.linspace(0, 2 * np.pi, 60), np.arange(4)[:, None]
    waves = np.sin((wave + 2) * angles + rng.uniform(0, 2 * np.pi, (4, 1))) / (wave + 1)
    return _points(centre, radius * (1 + 0.22 * waves.sum(axis=0)), angles)


_FAMILIES = {
    "drawings": partial(_ink, toned=False),
    "hentai": partial(_ink, toned=True),
    "neutral": _nature,
    "porn": partial(_rings, fine=True),
    "sexy": partial(_rings, fine=False),
}


def _photograph(rng: Rng, picture: Array) -> Array:
    """What a camera adds: blur, vignette, exposure, sensor noise."""
    h, w = picture.shape[:2]
    blurred = _to_image(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.4)))
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)
    picture = np.asarray(blurred) / 255 * (1 - rng.uniform(0, 0.35) * (x**2 + y**2) / 2)[..., None]
    picture = (picture - 0.5) * rng.uniform(0.75, 1.2) + 0.5 + rng.normal(0, 0.05)
    return picture + rng.standard_normal(picture.shape) * rng.uniform(0.004, 0.035)


def _noise(rng: Rng, h: int, w: int, beta: float) -> Array:
    """(H, W) noise with power spectrum 1/f^beta, zero mean, unit deviation."""
    f = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    f[0, 0] = np.inf
    spectrum = (rng.standard_normal(f.shape) + 1j * rng.standard_normal(f.shape)) / f ** (beta / 2)
    field = np.fft.irfft2(spectrum, s=(h, w))
    return field / field.std()


def _disc(y: Array, x: Array, cy: float, cx: float, radius: float, *, soft: float) -> Array:
    return 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - radius) / soft))


def _blend(picture: Array, colour: Array | float, mask: Array) -> Array:
    mask = mask[..., None]
    return picture * (1 - mask) + colour * mask


def _gradient(field: Array, colours: list[Array]) -> Array:
    """Map a field of 0–1 through equally spaced colours."""
    stops, colours = np.linspace(0, 1, len(colours)), np.asarray(colours)
    return np.stack([np.interp(field, stops, channel) for channel in colours.T], axis=-1)


def _palette(rng: Rng, count: int) -> list[Array]:
    """Colours from dark to light whose hues are neighbours, thirds or opposites."""
    hue, step = rng.random(), rng.choice([0.08, 0.17, 0.33, 0.5])
    hues = hue + step * np.arange(count) + rng.normal(0, 0.02, count)
    values = np.linspace(rng.uniform(0.05, 0.3), rng.uniform(0.7, 1), count)
    return [_hsv(h, s, v) for h, s, v in zip(hues, rng.uniform(0.25, 0.85, count), values, strict=True)]


def _crayon(rng: Rng, violet: bool) -> tuple[int, ...]:
    hue = rng.uniform(0.7, 0.97) if violet else rng.random()
    return _rgb(_hsv(hue, rng.uniform(0.15, 0.9), rng.uniform(0.45, 1)))


def _hsv(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _rgb(colour: Array) -> tuple[int, ...]:
    return tuple(int(255 * channel) for channel in colour)


def _points(centre: Array, radii: Array | float, angles: Array, *, squash: float = 1.0) -> list:
    """Points around `centre` as a list of (x, y), which is what Pillow draws."""
    x, y = centre[0] + radii * np.cos(angles), centre[1] + squash * radii * np.sin(angles)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _to_image(picture: Array) -> Image.Image:
    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
