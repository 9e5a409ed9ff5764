"""IDX files are read exactly, and every damaged one is refused by a stated rule."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.data.idx import DTYPES, MAX_BYTES, DataError, read_idx


def header(code: int, *sizes: int) -> bytes:
    return bytes([0, 0, code, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


def written(path: Path, content: bytes, zipped: bool = False) -> Path:
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", sorted(DTYPES))
def test_every_element_type_comes_back_in_native_order(
    tmp_path: Path, code: int, zipped: bool
) -> None:
    stored = np.arange(24).reshape(2, 3, 4).astype(DTYPES[code])
    path = written(tmp_path / "x", header(code, 2, 3, 4) + stored.tobytes(), zipped)
    array = read_idx(path)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, stored)


def test_empty_and_scalar_arrays_are_legal(tmp_path: Path) -> None:
    assert read_idx(written(tmp_path / "a", header(8, 0, 28))).shape == (0, 28)
    assert read_idx(written(tmp_path / "b", header(8) + b"\x07")) == 7


def test_the_hash_is_of_the_decompressed_file(tmp_path: Path) -> None:
    content = header(8, 3) + b"abc"
    good = hashlib.sha256(content).hexdigest()
    for zipped in (False, True):
        path = written(tmp_path / "x", content, zipped)
        assert read_idx(path, good).tolist() == [97, 98, 99]
        with pytest.raises(DataError, match=f"must have sha256 {'0' * 64}, .* {good}"):
            read_idx(path, "0" * 64)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "magic number takes 4 bytes, and the file ends after 0"),
        (b"\0\0\x08", "magic number takes 4 bytes, and the file ends after 3"),
        (b"PK\x08\x01", "begins with bytes 00 00, this one with 50 4b"),
        (header(0x0A, 1) + b"x", "one of 08, 09, 0b, .*, and the file says 0a"),
        (b"\0\0\x08\xff", "at most 8 dimensions here, and the file says 255"),
        (b"\0\0\x08\x03\0\0", "sizes takes 12 bytes, and the file ends after 2"),
        (header(8, 1) + b"xy", r"shape \[1\] needs 9 bytes, and the file goes on"),
    ],
)
def test_a_malformed_file_is_refused(
    tmp_path: Path, content: bytes, rule: str, zipped: bool
) -> None:
    path = written(tmp_path / "bad", content, zipped)
    with pytest.raises(DataError, match=rule) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))


def test_a_plain_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "cut", header(8, 4) + b"abc")
    with pytest.raises(DataError, match=r"\[4\] needs 12 bytes, .* at most 11; "):
        read_idx(path)


def test_a_gzip_whose_content_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "cut", header(8, 4) + b"abc", zipped=True)
    with pytest.raises(DataError, match="takes 4 bytes, and the file ends after 3"):
        read_idx(path)


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ((0xFFFFFFFF,) * 4, f"at most {MAX_BYTES} bytes, and shape .* needs 3402823"),
        ((MAX_BYTES,), "the file holds at most"),
        ((1 << 28,), r"\[268435456\] needs 268435464 bytes"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_hostile_header_is_refused_before_anything_is_allocated(
    tmp_path: Path, sizes: tuple[int, ...], rule: str, zipped: bool
) -> None:
    """The message is of the size check, which comes before the payload is read."""
    path = written(tmp_path / "hostile", header(8, *sizes) + b"x", zipped)
    with pytest.raises(DataError, match=rule):
        read_idx(path)


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_torn_gzip_wrapper_is_refused(tmp_path: Path, cut: int) -> None:
    """Without its checksum or its length a gzip file is not believed."""
    whole = gzip.compress(header(8, 4) + b"abcd")
    path = written(tmp_path / "torn", whole[:-cut])
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path)


def test_a_flipped_bit_in_a_gzip_is_refused(tmp_path: Path) -> None:
    """Its checksum is of the content."""
    whole = bytearray(gzip.compress(header(8, 4) + b"abcd"))
    whole[-8] ^= 1
    with pytest.raises(DataError, match="cannot be read: CRC check failed"):
        read_idx(written(tmp_path / "flipped", bytes(whole)))


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_not_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "nothing"
    with pytest.raises(DataError, match="is not a file"):
        read_idx(path)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=40), good=st.booleans())
def test_no_content_does_anything_but_load_or_be_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, good: bool
) -> None:
    """Any bytes, half of them behind a good start, give an array or a DataError."""
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(b"\0\0\x08\x02\0\0\0\x02\0\0\0" + content if good else content)
    try:
        array = read_idx(path)
    except DataError:
        return
    assert array.nbytes <= 64
