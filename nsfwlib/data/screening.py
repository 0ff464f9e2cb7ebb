"""Is a file known to be illegal? Compare it with a list of hashes before anybody sees it."""

from __future__ import annotations

import hashlib
import re
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
_HEX_LENGTHS = {32: "md5", 40: "sha1", 64: "sha256"}
_KINDS = ("md5", "sha1", "sha256", "pdq")
_MIN_QUALITY = 50  # below it PDQ's authors discard a hash: the picture has too little structure


class HashList(NamedTuple):
    """A list of known-bad hashes: sorted digests (bytes) by kind, PDQ hashes as uint64 (M, 4)."""

    digests: dict[str, np.ndarray]
    pdq: np.ndarray
    max_distance: int
    fingerprint: str

    def __len__(self) -> int:
        return sum(map(len, self.digests.values())) + len(self.pdq)


def load_hashes(path: Path, *, max_distance: int = 31) -> HashList:
    """Read a list of hashes, one a line.

    A line is `<hex>` or `<kind>:<hex>` (a comma or a blank may stand for the colon), kind being md5, sha1,
    sha256 or pdq; bare hashes are told apart by length, 64 digits meaning sha256. Text behind the hash and
    lines starting with # are ignored, a first line without a hash is taken for a header.

    Args:
        max_distance: bits, of 256, by which a PDQ hash may differ; 31 is what PDQ's authors recommend.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line holds no hash, or there is none at all; never silently a shorter list.
        ImportError: the list has PDQ hashes and the package `pdqhash` is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The list of hashes does not exist: {path}. Nothing was screened.")
    text = path.read_bytes()
    found: dict[str, list[bytes]] = {kind: [] for kind in _KINDS}
    for number, line in enumerate(text.decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(r"\s*[\"']?(?:(md5|sha-?1|sha-?256|pdq)\s*[:,;\s]\s*)?[\"']?([0-9a-f]+)\b", line, re.I)
        kind = _kind_of(match)
        if kind:
            found[kind].append(bytes.fromhex(match[2]))
        elif number > 1:
            raise ValueError(
                f"Line {number} of {path} is not a hash: {line[:40]!r}. Expected md5, sha1, sha256 or pdq in hex, "
                "for example `sha256:9f86d0…`."
            )
    if not any(found.values()):
        raise ValueError(f"No hash in {path}: expected one md5, sha1, sha256 or pdq hash a line.")
    if found["pdq"]:
        _require_pdqhash()
    digests = {kind: np.unique(np.array(found[kind])) for kind in _KINDS[:3] if found[kind]}
    pdq = np.frombuffer(b"".join(found["pdq"]), dtype=np.uint64).reshape(-1, 4)
    fingerprint = hashlib.sha256(text + bytes([max_distance])).hexdigest()
    return HashList(digests, pdq, max_distance, fingerprint)


def _kind_of(match: re.Match | None) -> str:
    if match is None:
        return ""
    by_length = _HEX_LENGTHS.get(len(match[2]), "")
    named = (match[1] or by_length).lower().replace("-", "")
    return named if by_length in (named, "sha256" if named == "pdq" else named) else ""


def _require_pdqhash() -> None:
    try:
        import pdqhash  # noqa: F401
    except ImportError:
        message = "The list holds PDQ hashes; they need the package pdqhash: pip install 'nsfwlib[pdq]'"
        raise ImportError(message) from None


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
    distance = np.bitwise_count(own[:, None, :] ^ hashes.pdq[None, :, :]).sum(axis=2, dtype=np.int64)
    return bool((distance <= hashes.max_distance).any())
