import hashlib

import numpy as np
import pytest

from nsfwlib.model import features


def keys_of(n, start=0):
    return [hashlib.sha256(bytes([i])).hexdigest() for i in range(start, start + n)]


def test_stored_rows_are_found_by_their_key_in_any_order(tmp_path, rng):
    rows = rng.random((6, 4)).astype(np.float16)
    features.append_rows(tmp_path, keys_of(6), rows)
    asked = [keys_of(6)[i] for i in (5, 0, 3)]
    found = features.read_rows(tmp_path, features.row_positions(tmp_path, asked, 4), 4)
    assert np.array_equal(found, rows[[5, 0, 3]])


def test_a_key_that_is_not_stored_comes_out_as_nan(tmp_path, rng):
    features.append_rows(tmp_path, keys_of(2), rng.random((2, 4)))
    positions = features.row_positions(tmp_path, keys_of(3), 4)
    found = features.read_rows(tmp_path, positions, 4)
    assert positions.tolist() == [0, 1, -1]
    assert np.isnan(found[2]).all() and not np.isnan(found[:2]).any()


def test_rows_in_the_order_of_the_disk_come_without_a_copy(tmp_path, rng):
    features.append_rows(tmp_path, keys_of(5), rng.random((5, 4)))
    assert isinstance(features.read_rows(tmp_path, np.arange(1, 4), 4), np.memmap)


@pytest.mark.parametrize("cut", range(0, 3 * 8 + 1, 3))
def test_a_kill_between_rows_and_keys_costs_only_what_was_not_finished(tmp_path, rng, cut):
    first, second = rng.random((3, 4)).astype(np.float16), rng.random((3, 4)).astype(np.float16)
    features.append_rows(tmp_path, keys_of(3), first)
    with (tmp_path / "rows.f16").open("ab") as file:  # killed while rows were written: their keys are not there yet
        file.write(second.tobytes()[:cut])
    assert features.row_positions(tmp_path, keys_of(6), 4).tolist() == [0, 1, 2, -1, -1, -1]
    features.append_rows(tmp_path, keys_of(3, 3), second)
    found = features.read_rows(tmp_path, features.row_positions(tmp_path, keys_of(6), 4), 4)
    assert np.array_equal(found, np.concatenate([first, second]))


@pytest.mark.parametrize("cut", [1, 31, 33, 64])
def test_a_torn_key_loses_its_own_row_only(tmp_path, rng, cut):
    rows = rng.random((3, 4)).astype(np.float16)
    features.append_rows(tmp_path, keys_of(3), rows)
    index = tmp_path / "keys.bin"
    index.write_bytes(index.read_bytes()[:-cut])
    kept = 3 - -(-cut // 32)
    assert features.row_positions(tmp_path, keys_of(3), 4).tolist() == [*range(kept), *[-1] * (3 - kept)]
    features.append_rows(tmp_path, keys_of(3)[kept:], rows[kept:])
    found = features.read_rows(tmp_path, features.row_positions(tmp_path, keys_of(3), 4), 4)
    assert np.array_equal(found, rows)
