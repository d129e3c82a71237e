"""Records in one file: whole or not there, the latest counts, and what was cut off spoils none that follows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgpu_hub.engines.shepherd import read_record, write_record


@pytest.fixture
def records(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "records", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    yield fd
    os.close(fd)


def text(records: int) -> bytes:
    return os.pread(records, 1 << 20, 0)


def test_a_record_comes_back_and_the_latest_counts(records: int) -> None:
    write_record(records, "started", {"pid": 1, "said": "\nexit {}\n"})
    write_record(records, "exit", {"exit_code": 3})
    write_record(records, "exit", {"exit_code": 4}, durable=True)
    assert read_record(text(records), "started") == {"pid": 1, "said": "\nexit {}\n"}
    assert read_record(text(records), "exit") == {"exit_code": 4}
    assert read_record(text(records), "shepherd") is None


def test_at_no_byte_is_half_a_record_taken_for_a_whole_one(records: int) -> None:
    write_record(records, "launch", {"argv": ["true"]})
    before = text(records)
    write_record(records, "shepherd", {"pid": 12, "boot_id": "b"})
    whole = text(records)
    for cut in range(len(before), len(whole)):
        assert read_record(whole[:cut], "shepherd") is None
        os.ftruncate(records, cut)
        write_record(records, "shepherd", {"pid": 13})
        assert read_record(text(records), "shepherd") == {"pid": 13}
        assert read_record(text(records), "launch") == {"argv": ["true"]}
        os.ftruncate(records, 0)
        os.write(records, whole)
