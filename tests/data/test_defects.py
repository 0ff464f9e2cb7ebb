"""No crash, no hang, no silently wrong picture: every defective or unusual file gets its right reason."""

import numpy as np
import pytest
from corpus import Case, cases, heic

from nsfwlib.data import images, inspection

CASES = cases()


def verify(case: Case, folder) -> None:
    path = folder / case.name
    path.write_bytes(case.data)
    row = inspection.inspect(path)
    assert row["problem"] == case.problem, row
    assert case.flag in row["oddities"], row
    if case.problem not in ("", "too small"):
        with pytest.raises(images.ImageProblem) as caught:
            images.load_image(path)
        assert caught.value.reason == case.problem
        assert caught.value.reason in images.REASONS
    if case.truth is not None:
        shown = images.load_image(path)
        assert shown.dtype == np.uint8
        assert shown.shape == case.truth.shape
        assert np.abs(shown.astype(int) - case.truth).mean() <= case.tolerance
        assert (row["height"], row["width"]) == case.truth.shape[:2]


def test_the_corpus_has_at_least_sixty_kinds_of_file():
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert sum(case.problem != "" for case in CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_file_gets_its_reason_and_each_picture_is_right(case, tmp_path):
    verify(case, tmp_path)


def test_heic_is_read_like_any_other_format(tmp_path):
    pytest.importorskip("pillow_heif")
    for case in heic():
        verify(case, tmp_path)
