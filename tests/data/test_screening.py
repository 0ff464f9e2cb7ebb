"""Files on a list of known-bad hashes are marked, never shown. All hashes here are of innocent pictures."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from nsfwlib.data import folder_scan, inspection, screening


@pytest.fixture
def folder(tmp_path):
    from sklearn.datasets import load_sample_image

    for label, name in (("neutral", "china.jpg"), ("drawings", "flower.jpg")):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.fromarray(load_sample_image(name)).save(tmp_path / "data" / label / name, quality=90)
    return tmp_path / "data"


def digest(kind, path):
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def pdq(path):
    pdqhash = pytest.importorskip("pdqhash")
    bits, _ = pdqhash.compute(np.asarray(Image.open(path)))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


@pytest.mark.parametrize("form", ["{kind}:{hex}", "{kind},{hex},seen 2020", "{hex}", "{KIND} {HEX}"])
@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_a_listed_file_is_marked_and_nothing_of_its_picture_kept(folder, tmp_path, kind, form):
    known = digest(kind, folder / "neutral" / "china.jpg")
    line = form.format(kind=kind, KIND=kind.upper(), hex=known, HEX=known.upper())
    (tmp_path / "bad.txt").write_text(f"# a list\n{'0' * len(known)}\n{line}\n")
    table = folder_scan.scan(
        folder, screen=tmp_path / "bad.txt", screen_kind="sha256", progress=False, workers=0
    ).set_index("path")
    row = table.loc["neutral/china.jpg"]
    assert row["problem"] == "screened"
    assert (row["phash"], row["width"]) == (0, 0)
    assert np.isnan(row["brightness"])
    assert table.loc["drawings/flower.jpg", "problem"] == ""
    said = folder_scan.warnings_of(table).set_index("name")["message"]["screened"]
    assert said.startswith("1 files match")
    assert "inhope.org" in said


def test_a_listed_file_is_not_decoded(folder, tmp_path, monkeypatch):
    path = folder / "neutral" / "china.jpg"
    (tmp_path / "bad.txt").write_text("sha256:" + digest("sha256", path))
    known = screening.load_hashes(tmp_path / "bad.txt")
    monkeypatch.setattr(inspection, "decode", lambda *args, **kwargs: pytest.fail("decoded"))
    assert inspection.inspect(path, screen=known)["problem"] == "screened"


def test_pdq_recognises_a_recompressed_smaller_mirrored_copy(folder, tmp_path):
    path = folder / "neutral" / "china.jpg"
    (tmp_path / "bad.csv").write_text(f"kind,hash\npdq,{pdq(path)}\n")
    copy = Image.open(path).resize((512, 341)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copy.save(folder / "neutral" / "copy.webp", quality=60)
    table = folder_scan.scan(folder, screen=tmp_path / "bad.csv", progress=False, workers=0).set_index("path")
    assert (table["problem"] == "screened").sum() == 2
    assert table.loc["neutral/copy.webp", "oddities"] == ""
    assert table.loc["drawings/flower.jpg", "problem"] == ""


@pytest.mark.parametrize(
    "form",
    [
        "hash,type\n{h},pdq\n",
        "type\thash\nPDQ\t{h}\n",
        '"id","pdq_hash"\n"{i}","{h}"\n',
        "{h},pdq\n",
        "id;type;hash\n{i};pdq;{h}",
    ],
)
def test_a_table_of_pdq_hashes_is_read_by_its_columns_and_its_force_is_told(folder, tmp_path, form):
    known = pdq(folder / "neutral" / "china.jpg")
    (tmp_path / "bad.csv").write_text(form.format(h=known, i="a" * 32))
    table = folder_scan.scan(folder, screen=tmp_path / "bad.csv", progress=False, workers=0)
    assert table.loc[table["problem"] == "screened", "path"].tolist() == ["neutral/china.jpg"]
    said = folder_scan.warnings_of(table).set_index("name")["message"]["hash list"]
    assert said == "In force: 1 pdq; PDQ within 31 of 256 bits."


def test_a_table_with_several_kinds_is_read_whole(tmp_path):
    rows = ["MD5,SHA-1,SHA-256,FileName", f'{"1" * 32},{"2" * 40},{"3" * 64},"a, b"', f",{'4' * 40},,c"]
    (tmp_path / "bad.csv").write_text("\n".join(rows))
    assert screening.load_hashes(tmp_path / "bad.csv").in_force().startswith("In force: 1 md5, 2 sha1, 1 sha256;")


@pytest.mark.parametrize("form", ["{h}\n", "hash\n{h}\n", "{h},seen 2020\n"])
def test_sixty_four_digits_without_a_kind_are_asked_for(folder, tmp_path, form):
    known = pdq(folder / "neutral" / "china.jpg")
    (tmp_path / "bad.txt").write_text(form.format(h=known))
    with pytest.raises(ValueError, match=r"does not say what its 64 digits are.*screen_kind"):
        folder_scan.scan(folder, screen=tmp_path / "bad.txt", progress=False, workers=0)
    table = folder_scan.scan(folder, screen=tmp_path / "bad.txt", screen_kind="pdq", progress=False, workers=0)
    assert (table["problem"] == "screened").sum() == 1


def test_the_distance_decides(folder, tmp_path):
    path = folder / "neutral" / "china.jpg"
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(pdq(path)), np.uint8))
    bits[:40] ^= 1
    (tmp_path / "bad.txt").write_text("pdq:" + np.packbits(bits).tobytes().hex())
    for distance, problem in ((31, ""), (60, "screened")):
        table = folder_scan.scan(
            folder, screen=tmp_path / "bad.txt", screen_distance=distance, progress=False, workers=0
        )
        assert table.set_index("path").loc["neutral/china.jpg", "problem"] == problem


def test_a_new_list_screens_files_that_the_cache_knows(folder, tmp_path):
    cache = tmp_path / "cache"
    assert (folder_scan.scan(folder, cache_dir=cache, progress=False, workers=0)["problem"] == "").all()
    (tmp_path / "bad.txt").write_text(digest("md5", folder / "neutral" / "china.jpg"))
    screened = folder_scan.scan(folder, cache_dir=cache, screen=tmp_path / "bad.txt", progress=False, workers=2)
    assert (screened["problem"] == "screened").sum() == 1


@pytest.mark.parametrize("digest_end", ["00", "0000"])
def test_digests_that_end_in_zeros_are_found(tmp_path, digest_end):
    value = "ab" * (32 - len(digest_end) // 2) + digest_end
    (tmp_path / "bad.txt").write_text(f"{'cd' * 32}\n{value}\n{value[:-2]}ff\n")
    known = screening.load_hashes(tmp_path / "bad.txt", kind="sha256").digests["sha256"]
    assert screening._contains(known, bytes.fromhex(value))
    assert not screening._contains(known, bytes.fromhex("ab" * 32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "header\n",
        "abc123\nnot a hash\n",
        "md5:" + "a" * 64 + "\n\nx",
        "hash,type\n" + "a" * 64 + ",photodna",
        "a" * 63,
    ],
)
def test_a_list_that_cannot_be_read_whole_is_refused(tmp_path, text):
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.txt"):
        screening.load_hashes(tmp_path / "bad.txt")


def test_a_missing_list_stops_the_scan(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing was screened"):
        folder_scan.scan(folder, screen=tmp_path / "gone.txt", progress=False)
