"""Files that are written whole or not at all."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o440])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "table.csv"
    path.touch()
    path.chmod(mode)
    write_whole(path, "text")
    assert path.read_text() == "text"
    assert path.stat().st_mode & 0o777 == mode


def test_a_link_leads_to_what_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "table.csv", tmp_path / "link.csv"
    target.parent.mkdir()
    link.symlink_to("disk/table.csv")
    for content in ("new", "other"):
        write_whole(link, content)
        assert link.is_symlink()
        assert target.read_text() == content
    with pytest.raises(KeyboardInterrupt):
        break_off(link)
    assert target.read_text() == "other"
    assert list(target.parent.iterdir()) == [target]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_device_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, "text")
    assert path.is_char_device()
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
