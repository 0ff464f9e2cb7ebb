"""Is a file known to be illegal? Compare it with a list of hashes before anybody sees it."""

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

LAW = (
    "Files marked `screened` match the hash list that was given. Do not open, copy, send or delete them before "
    "you know your duties: in many countries possessing such material is an offence in itself and providers "
    "must report it without delay (in the USA to NCMEC's CyberTipline, 18 U.S.C. § 2258A; elsewhere to the "
    "police or the national hotline, see inhope.org). Ask a lawyer now, restrict access to the disk, keep the log."
)
_HEX_LENGTHS = {32: ("md5",), 40: ("sha1",), 64: ("sha256", "pdq")}
_KINDS = ("md5", "sha1", "sha256", "pdq")
_HASH_COLUMNS = {"", "value", "hex", "digest", *_KINDS}  # headers as `_plain` leaves them
_TYPE_COLUMNS = {"type", "kind", "algorithm", "algo"}
_MIN_QUALITY = 50  # below it PDQ's authors discard a hash: the picture has too little structure


class HashList(NamedTuple):
    """A list of known-bad hashes: sorted digests (bytes) by kind, PDQ hashes as uint64 (M, 4)."""

    digests: dict[str, np.ndarray]
    pdq: np.ndarray
    max_distance: int
    fingerprint: str

    def in_force(self) -> str:
        """How many hashes of which kind there are, in a sentence."""
        counts = {kind: len(known) for kind, known in self.digests.items()} | {"pdq": len(self.pdq)}
        listed = [f"{count:,} {kind}" for kind, count in counts.items() if count]
        return f"In force: {', '.join(listed)}; PDQ within {self.max_distance} of 256 bits."


def load_hashes(path: Path, *, kind: str = "", max_distance: int = 31) -> HashList:
    """Read a list of hashes, one a line, or a table of them.

    A line is `<hex>`, or `<hex>` with md5, sha1, sha256 or pdq before or behind it (a colon, comma, semicolon, blank or
    tab between them). Text behind that and lines starting with # are ignored. A first line without a hash is a header:
    where it names a column `hash`, or one by kind, hashes are read from those, their kinds from a column `type`.
    `kind`, "sha256" or "pdq", is what 64 digits are for which the list names none; `max_distance` the bits, of 256, by
    which a PDQ hash may differ (its authors recommend 31).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line holds no hash, or one whose kind cannot be told, or there is none; never a shorter list.
        ImportError: the list has PDQ hashes and the package `pdqhash` is missing.
    """
    path = Path(path)
    if kind not in ("", *_HEX_LENGTHS[64]):
        raise ValueError(f'kind of the hashes must be "", "sha256" or "pdq". Received: {kind!r}.')
    if not path.is_file():
        raise FileNotFoundError(f"The list of hashes does not exist: {path}. Nothing was screened.")
    text = path.read_bytes()
    found: dict[str, list[bytes]] = {name: [] for name in _KINDS}
    for number, named, digits in _listed(text.decode("utf-8-sig", "replace")):
        possible = _HEX_LENGTHS[len(digits)] if _is_hash(digits) else ()
        named = named or (possible[0] if len(possible) == 1 else kind)
        if possible and not named:
            raise ValueError(
                f"Line {number} of {path} does not say what its 64 digits are. Nothing was screened: give the kind of "
                'the list, "sha256" or "pdq" (load_hashes(kind=…), scan(screen_kind=…), in notebook 01 `screen_kind`).'
            )
        if named not in possible:
            said = f"Line {number} of {path} is not a hash: {f'{named} {digits}'.strip()[:60]!r}. Expected md5, sha1,"
            raise ValueError(f"{said} sha256 or pdq in hex, for example `sha256:9f86d0…`. Nothing was screened.")
        found[named].append(bytes.fromhex(digits))
    if not any(found.values()):
        raise ValueError(f"No hash in {path}: expected one md5, sha1, sha256 or pdq hash a line. Nothing was screened.")
    if found["pdq"] and not importlib.util.find_spec("pdqhash"):
        raise ImportError("The list holds PDQ hashes; they need the package pdqhash: pip install 'nsfwlib[pdq]'")
    digests = {name: np.unique(np.array(found[name])) for name in _KINDS[:3] if found[name]}
    pdq = np.frombuffer(b"".join(found["pdq"]), dtype=np.uint64).reshape(-1, 4)
    fingerprint = hashlib.sha256(text + kind.encode() + bytes([max_distance])).hexdigest()
    return HashList(digests, pdq, max_distance, fingerprint)


def _listed(text: str) -> Iterator[tuple[int, str, str]]:
    """(number of the line, the kind it names or "", its digits, or what stands in their place)."""
    columns, first = {}, True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = [word for word in re.split(r"[\s,;:\"']+", line) if word]
        header, first = first and not any(re.fullmatch("[0-9a-fA-F]{16,}", word) for word in words), False
        if header:
            separator = max("\t;,", key=line.count)
            cells = [_plain(cell) for cell in next(csv.reader([line], delimiter=separator))]
            columns = {i: cell for i, cell in enumerate(cells) if cell in _HASH_COLUMNS}
            types = [i for i, cell in enumerate(cells) if cell in _TYPE_COLUMNS][:1]
        elif columns:
            cells = dict(enumerate(cell.strip() for cell in next(csv.reader([line], delimiter=separator))))
            named = "".join(_plain(cells.get(i, "")) for i in types)
            filled = [i for i in columns if cells.get(i)]
            yield from ((number, columns[i] if columns[i] in _KINDS else named, cells[i]) for i in filled)
            if not filled:
                yield number, "", line
        else:
            place = next((i for i, word in enumerate(words) if _is_hash(word)), None)
            around = [] if place is None else [_plain(word) for word in (words[:place] + words[place + 1 :][:1])]
            named = next((word for word in around if word in _KINDS), "")
            yield number, named, line if place is None else words[place]


def _is_hash(word: str) -> bool:
    return len(word) in _HEX_LENGTHS and re.fullmatch("[0-9a-fA-F]+", word) is not None


def _plain(cell: str) -> str:
    """`SHA-256`, `sha256_hash` → sha256; `Hash` → "", `hash type` → type."""
    return re.sub(r"[^a-z0-9]|hash", "", cell.lower())


def matches_bytes(data: bytes, hashes: HashList) -> bool:
    """Is one of the file's digests on the list? Nothing is decoded."""
    return any(_contains(known, hashlib.new(kind, data).digest()) for kind, known in hashes.digests.items())


def _contains(known: np.ndarray, digest: bytes) -> bool:
    bare = digest.rstrip(b"\0")  # numpy strips closing zeros from bytes
    place = int(np.searchsorted(known, bare))
    return place < len(known) and known[place] == bare


def matches_picture(picture: Image.Image, hashes: HashList) -> bool:
    """Is the picture's PDQ hash, or that of a turned or mirrored copy, within `max_distance` of one on the list?"""
    if not len(hashes.pdq):
        return False
    import pdqhash

    bits, quality = pdqhash.compute_dihedral(np.asarray(picture))
    if quality < _MIN_QUALITY:
        return False
    own = np.packbits(np.asarray(bits, dtype=np.uint8), axis=1).view(np.uint64)
    return bool((np.bitwise_count(own[:, None] ^ hashes.pdq).sum(axis=2, dtype=int) <= hashes.max_distance).any())
