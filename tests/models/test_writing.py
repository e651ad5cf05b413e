"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.writing import replacing, write_whole


def break_off(path: Path) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text("half of")
        raise KeyboardInterrupt


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, "before")
    with pytest.raises(KeyboardInterrupt):
        break_off(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_and_text_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.b.json"
    for content in ("Å", b"\x00"):
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, "text")
    assert path.is_char_device()
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
