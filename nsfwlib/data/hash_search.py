"""Which perceptual hashes are near one another, and how near may still be chance? Exact search in Hamming distance."""

import itertools

import numpy as np

FALSE_NEIGHBOURS = 0.01  # expected per image, where the hash alone decides
_AT_ONCE = 4_000_000  # candidates that are compared at once: some 100 MB
_OUTRIGHT = 1e9  # pairs that are compared one by one: seconds


def safe_distance(hashes: np.ndarray, *, max_distance: int = 64, tries: int = 1) -> int:
    """The largest distance at which chance gives an image at most 0.01 neighbours among these hashes.

    Chance rules where an image has ten neighbours or more, however many true copies the table holds. There the
    logarithm of their number is nearly a parabola in the distance; it is fitted to distances of pairs drawn at random
    and continued to 0.01. `tries` are comparisons made per pair, 2 where mirror images count.
    """
    n = len(hashes)
    if n < 20:  # too few to say anything of chance, too few for it to do harm
        return max_distance
    expected = _neighbours_within(hashes, 300) * tries
    fitted = np.flatnonzero((expected >= min(10, n / 20)) & (expected <= n / 4))
    if len(fitted) < 3:  # most hashes are far too alike to tell anything by them
        return 0
    curve = np.polynomial.Polynomial.fit(fitted, np.log(expected[fitted]), 2)
    predicted = np.exp(curve(np.arange(fitted[0])))
    return int(min(max(np.searchsorted(predicted, FALSE_NEIGHBOURS, side="right") - 1, 0), max_distance))


def _neighbours_within(hashes: np.ndarray, shifts: int) -> np.ndarray:
    """How many neighbours one has within 0 … 64 bits, expected from pairs drawn at random → (65,)."""
    hashes = np.random.default_rng(0).permutation(hashes)
    counts = np.zeros(65, dtype=np.int64)
    for step in np.unique(np.linspace(1, len(hashes) - 1, shifts).astype(int)):
        counts += np.bincount(np.bitwise_count(hashes ^ np.roll(hashes, step)), minlength=65)
    return np.cumsum(counts) / counts.sum() * (len(hashes) - 1)


def affordable_distance(hashes: np.ndarray, max_distance: int) -> int:
    """The largest distance with at most 20 candidates per image: each costs a second look.

    In big tables the search has its price as well: two bands may differ by 2 bits, or 1, not more.
    """
    n = len(hashes)
    if n < 2:
        return max_distance
    quick = 64 if n**2 <= _OUTRIGHT else 11 if n <= 300_000 else 7
    return int(min(max(np.searchsorted(_neighbours_within(hashes, 50), 20, side="right") - 1, 4), quick, max_distance))


def near_pairs(a: np.ndarray, b: np.ndarray, *, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with a[i] and b[j] within `max_distance` bits → two int64 arrays, sorted, each pair once.

    Of a table with itself (`a is b`) only the pairs i < j are returned. Small tables are compared outright. Above, the
    64 bits are cut into four bands of 16: two hashes within d bits agree within d // 4 bits in one band at least, so
    only such buckets are compared.
    """
    if len(a) * len(b) <= _OUTRIGHT or max_distance > 15:
        import faiss  # a large library

        index = faiss.IndexBinaryFlat(64)
        index.add(b.view(np.uint8).reshape(-1, 8))
        limits, _, right = index.range_search(a.view(np.uint8).reshape(-1, 8), max_distance + 1)
        found = [(np.repeat(np.arange(len(a)), np.diff(limits.astype(np.int64))), right)]
    else:
        found = [_band_pairs(a, b, band, max_distance) for band in range(4)]
    pairs = np.concatenate(found, axis=1)
    return unique_pairs(pairs[:, pairs[0] < pairs[1]] if a is b else pairs, len(b))  # found from both of its ends


def unique_pairs(pairs: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Each of the pairs (2, P) once, sorted; the second of each is less than `n`."""
    return np.divmod(np.unique(pairs[0] * np.int64(n) + pairs[1]), max(n, 1))


def _band_pairs(a: np.ndarray, b: np.ndarray, band: int, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs within `max_distance` bits that agree in a band within a quarter of them: one flip of its key at a time."""
    keys = np.arange(1 << 16)
    flips = keys[np.bitwise_count(keys.astype(np.uint16)) <= max_distance // 4]
    (order_a, starts_a), (order_b, starts_b) = _buckets(a, band), _buckets(b, band)
    sorted_a, sorted_b = a[order_a], b[order_b]
    keys = np.repeat(keys, np.diff(starts_a))  # of each of the sorted a
    left, right = [], []
    for flip in flips:
        first, last = starts_b[keys ^ flip], starts_b[(keys ^ flip) + 1]
        passed = np.cumsum(last - first)
        cuts = np.searchsorted(passed, np.arange(_AT_ONCE, passed[-1], _AT_ONCE))
        for start, end in itertools.pairwise(np.unique([0, *cuts, len(a)])):
            i = np.repeat(np.arange(start, end), (last - first)[start:end])
            j = _ranges(first[start:end], last[start:end])
            near = np.bitwise_count(sorted_a[i] ^ sorted_b[j]) <= max_distance
            left.append(order_a[i[near]])
            right.append(order_b[j[near]])
    return np.concatenate(left), np.concatenate(right)


def _buckets(hashes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions sorted by one band's 16 bits, and where each of the 65,536 buckets starts."""
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1)
    # Every fourth bit, staggered by row: low and high frequencies in each band keep the buckets even.
    mine = bits[:, [i for i in range(64) if (i + i // 8) % 4 == band]]
    keys = np.ascontiguousarray(np.packbits(mine, axis=1)).view(np.uint16).ravel()
    order = np.argsort(keys, kind="stable")
    return order, np.searchsorted(keys[order], np.arange((1 << 16) + 1))


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers of all the ranges first[i]…last[i]-1, one after another."""
    lengths = last - first
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)
