"""How similar are two thumbnails, even if one is cropped, captioned or turned a little? The second look at pairs."""

import numpy as np
from scipy.ndimage import convolve1d

MIN_CORRELATION = 0.93  # from here on two thumbnails count as the same picture,
MIN_DETAIL = 0.72  # and from here on two of the same outline, as all pie charts are
_MIDDLE_MAY_LACK = 0.12  # of the correlation that the whole must reach
_SAME_LEVELS = 3.0  # grey levels (RMS): closer than that, even plain middles agree
_PARTS = (slice(0, 32), slice(0, 26), slice(6, 32))  # rows: all, without a caption below, without one above
_MIDDLE = slice(6, 26)  # without either
# (32, 32) each: linear interpolation of a central part of 32 samples
_PLACES = [(np.arange(32) + 0.5 - 16) * scale + 15.5 for scale in (0.97, 0.94, 0.91, 0.88, 0.85)]
_ZOOMS = [np.stack([np.interp(x, np.arange(32), row) for row in np.eye(32)], 1).astype(np.float32) for x in _PLACES]
_Y, _X = np.mgrid[:32, :32].astype(np.float32)
_BASIS = np.stack([np.ones_like(_X), (_X - 15.5) / 16, (_Y - 15.5) / 16])  # of an affine move in x, and in y
_FITTED = ((_Y >= 4) & (_Y < 28)).astype(np.float32)  # captions lie above and below


def quick_likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Likeness of grey thumbnails, pair by pair: (P, 32, 32) and (P, 32, 32) → float32 (P,), at most 1.

    The best correlation over: the whole, without the lower and without the upper fifth (captions), one of the two
    cropped to its central 97…85 % (crops); the middles must agree as well.
    """
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    best = _correlations(a, b)
    for zoom in _ZOOMS:
        left = np.flatnonzero(best < MIN_CORRELATION)  # what is alike already needs no further try
        zoomed = _correlations(zoom @ a[left] @ zoom.T, b[left])
        best[left] = np.maximum.reduce([best[left], zoomed, _correlations(a[left], zoom @ b[left] @ zoom.T)])
    return best


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    best = np.maximum.reduce([_correlation(a[:, part], b[:, part]) for part in _PARTS])
    # The same white bar under two pictures correlates well: their middles must agree, too.
    a, b = a[:, _MIDDLE], b[:, _MIDDLE]
    difference = a - b
    difference -= difference.mean(axis=(1, 2), keepdims=True)
    flat = np.square(difference).mean(axis=(1, 2)) < _SAME_LEVELS**2
    return np.where(flat, best, np.minimum(best, _correlation(a, b) + _MIDDLE_MAY_LACK))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    product = np.einsum("pij,pij->p", a, b)
    norms = np.einsum("pij,pij->p", a, a) * np.einsum("pij,pij->p", b, b)
    # A floor of one grey level of contrast: in blank parts rounding would correlate with rounding.
    return product / np.sqrt(np.maximum(norms, (a.shape[1] * 32) ** 2))


def aligned_likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Likeness after the best affine alignment of each pair → float32 (P,); -1 where it overlaps by less than 60 %.

    For crops off the centre, stretched copies and small turns. Gauss-Newton on the squared difference of the normalised
    pictures (Lucas and Kanade 1981; Baker and Matthews, IJCV 2004), first blurred, then sharp.
    """
    moved, b, inside = _aligned(a, b)
    best = np.maximum.reduce([_weighted(moved[:, part], b[:, part], inside[:, part]) for part in _PARTS])
    best = np.minimum(best, _weighted(moved[:, _MIDDLE], b[:, _MIDDLE], inside[:, _MIDDLE]) + _MIDDLE_MAY_LACK)
    return np.where(inside.mean(axis=(1, 2)) >= 0.6, best, np.float32(-1))


def detail_likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Likeness of what fills the middle, piece by piece → float32 (P,): the better of as they lie and aligned.

    The correlation of the whole is that of the outline, where it is strong: a disc on white, the frame of a window.
    """
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    best = _in_pieces(a, b, np.ones_like(a))
    left = np.flatnonzero(best < MIN_DETAIL)
    best[left] = np.maximum(best[left], _in_pieces(*_aligned(a[left], b[left])))
    return best


def _in_pieces(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean correlation of pieces of 4 × 4 that show anything; 1 where hardly any does."""
    a, b, weight = (x[:, 8:24, 4:28].reshape(-1, 4, 4, 6, 4).swapaxes(2, 3).reshape(-1, 4, 4) for x in (a, b, weight))
    (_, spread_a), (_, spread_b) = _normalised(a, weight), _normalised(b, weight)
    shows = (np.maximum(spread_a, spread_b).ravel() >= _SAME_LEVELS) & (weight.sum(axis=(1, 2)) > 8)
    alike, shows = np.where(shows, _weighted(a, b, weight), 0).reshape(-1, 24), shows.reshape(-1, 24).sum(axis=1)
    return np.where(shows < 4, 1, alike.sum(axis=1) / np.maximum(shows, 1)).astype(np.float32)


def _aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a moved onto b, b, and where a has something to show there: float32 (P, 32, 32) each."""
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    moves = np.zeros((len(a), 6), dtype=np.float32)
    for source, target in ((_blur(a), _blur(b)), (a, b)):
        for _ in range(4):
            moves = _improved(moves, source, target)
    moved, _, _, inside = _sample(a, moves)
    return moved, b, inside


def _improved(moves: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    moved, slope_x, slope_y, inside = _sample(a, moves)
    weight = inside * _FITTED
    moved, spread = _normalised(moved, weight)
    target, _ = _normalised(b, weight)
    missing = ((target - moved) * weight).reshape(len(a), 1024, 1)
    slopes = np.stack([slope_x / spread, slope_y / spread], axis=1)[:, :, None] * _BASIS
    slopes = (slopes * weight[:, None, None]).reshape(len(a), 6, 1024)
    normal = slopes @ slopes.transpose(0, 2, 1)
    damping = np.trace(normal, axis1=1, axis2=2) * 1e-3 + 1e-3
    normal += damping[:, None, None] * np.eye(6, dtype=np.float32)
    return np.clip(moves + np.clip(np.linalg.solve(normal, slopes @ missing)[..., 0], -1.5, 1.5), -5, 5)


def _sample(a: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures moved (bilinear), their slopes in x and y, and where that lies inside them: all (P, 32, 32)."""
    x = _X + np.tensordot(moves[:, :3], _BASIS, axes=1)
    y = _Y + np.tensordot(moves[:, 3:], _BASIS, axes=1)
    inside = ((x >= -0.5) & (x <= 31.5) & (y >= -0.5) & (y <= 31.5)).astype(np.float32)
    x, y = np.clip(x, 0, 31), np.clip(y, 0, 31)
    column, row = np.minimum(x.astype(np.int32), 30), np.minimum(y.astype(np.int32), 30)
    right, down = x - column, y - row
    place = np.arange(len(a), dtype=np.int64)[:, None, None] * 1024 + row * 32 + column
    upper, upper_right, lower, lower_right = (a.reshape(-1)[place + k] for k in (0, 1, 32, 33))
    top, bottom = upper + (upper_right - upper) * right, lower + (lower_right - lower) * right
    slope_x = (upper_right - upper) * (1 - down) + (lower_right - lower) * down
    return top + (bottom - top) * down, slope_x, bottom - top, inside


def _normalised(a: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1)
    a = a - (a * weight).sum(axis=(1, 2), keepdims=True) / total
    spread = np.maximum(np.sqrt((a * a * weight).sum(axis=(1, 2), keepdims=True) / total), 1)
    return a / spread, spread


def _weighted(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    (a, _), (b, _) = _normalised(a, weight), _normalised(b, weight)
    return (a * b * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1)


def _blur(a: np.ndarray) -> np.ndarray:
    for axis in (1, 2, 1, 2):
        a = convolve1d(a, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return a
