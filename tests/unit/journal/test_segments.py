"""Files of log entries: complete frames are read back; cut or foreign frames cause no error."""

from __future__ import annotations

import os

import msgspec
import pytest
from parley_server.journal.segments import EntryRange, Segment, pack


def stretch(number: int, *entries: str, reply_id: str = "a") -> EntryRange:
    return EntryRange(reply_id, number, list(entries))


def append(segment: Segment, *stretches: EntryRange) -> None:
    segment.append([pack(each) for each in stretches])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tail0"


def test_appended_ranges_are_read_back(path):
    segment = Segment(path)
    append(segment, stretch(1, "tone", "t two"), stretch(7, '{"type":"usage"}', reply_id="b"))
    append(segment, stretch(3, "t\U0001f600"))
    found = Segment(path).read()
    assert found == [
        stretch(1, "tone", "t two"),
        stretch(7, '{"type":"usage"}', reply_id="b"),
        stretch(3, "t\U0001f600"),
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_empty(path):
    assert Segment(path).read() == []
    assert not path.exists()


def test_frames_before_a_cut_are_read_and_appends_can_follow(path):
    segment = Segment(path)
    append(segment, stretch(1, "tfirst"))
    kept = segment.size
    append(segment, stretch(2, "tsecond"))
    whole = path.read_bytes()
    for length in range(kept, len(whole)):
        path.write_bytes(whole[:length])
        again = Segment(path)
        assert again.read() == [stretch(1, "tfirst")]
        append(again, stretch(2, "t2"))
        assert Segment(path).read() == [stretch(1, "tfirst"), stretch(2, "t2")]


def test_reading_stops_at_a_corrupt_frame(path):
    segment = Segment(path)
    append(segment, stretch(1, "tfirst"))
    append(segment, stretch(2, "tsecond"))
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    assert Segment(path).read() == [stretch(1, "tfirst")]


def test_a_frame_of_another_release_is_skipped(path):
    segment = Segment(path)
    append(segment, stretch(1, "tfirst"))
    segment.append([msgspec.Raw(msgspec.msgpack.encode({"another": "shape"}))])
    append(segment, stretch(2, "tsecond"))
    assert Segment(path).read() == [stretch(1, "tfirst"), stretch(2, "tsecond")]


def test_a_partly_failed_append_is_overwritten(path, monkeypatch):
    segment = Segment(path)
    append(segment, stretch(1, "tfirst"))
    real = os.pwrite
    with monkeypatch.context() as patched:

        def full(file, data, offset):
            if len(data) < 10:
                raise OSError(28, "No space left on device")
            return real(file, data[:9], offset)

        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            append(segment, stretch(2, "tlost"))
    append(segment, stretch(2, "tfound"))
    assert Segment(path).read() == [stretch(1, "tfirst"), stretch(2, "tfound")]


def test_an_empty_file_is_removed_on_close(path):
    segment = Segment(path)
    append(segment, stretch(1, "tfirst"))
    segment.clear()
    assert (segment.size, path.stat().st_size) == (0, 0)
    append(segment, stretch(2, "tsecond"))
    segment.close()
    assert Segment(path).read() == [stretch(2, "tsecond")]
    left = Segment(path)
    left.read()
    left.clear()
    assert path.stat().st_size == 0
    again = Segment(path)
    append(again, stretch(1, "t"))
    again.clear()
    again.close()
    assert not path.exists()
