import gzip

import pytest
import torch

from synthgrad.lab.data import DataError
from synthgrad.lab.data.idx import parse, parse_gzip

GOOD = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])


def test_parses_shape_and_values():
    parsed = parse(GOOD, 2, "f")
    assert parsed.dtype == torch.uint8
    assert parsed.tolist() == [[1, 2, 3], [4, 5, 255]]
    assert torch.equal(parse_gzip(gzip.compress(GOOD), 2, "f"), parsed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\1" + GOOD[1:], "magic number 0x01000802, expected 0x00000802"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "magic number 0x00000d02, expected 0x00000802"),
        (b"\0\0\x08\1" + GOOD[4:], "magic number 0x00000801, expected 0x00000802"),
        (GOOD[:-1], r"5 bytes of data, expected 6 for the shape \(2, 3\)"),
        (GOOD + b"\0", r"7 bytes of data, expected 6"),
        (GOOD[:9], "9 bytes, expected at least 12 of IDX header"),
        (b"", "0 bytes"),
    ],
)
def test_what_is_not_idx_is_refused(content, message):
    with pytest.raises(DataError, match=f"name-of-file: {message}"):
        parse(content, 2, "name-of-file")


# Named, because gzip writes the time into its bytes, and workers must collect the same tests.
@pytest.mark.parametrize(
    "content", [GOOD, gzip.compress(GOOD)[:-9], b""], ids=["raw", "truncated", "empty"]
)
def test_what_is_not_gzip_is_refused(content):
    with pytest.raises(DataError, match="name-of-file: "):
        parse_gzip(content, 2, "name-of-file")
