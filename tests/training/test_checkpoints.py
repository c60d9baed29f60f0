"""What the disk refuses is told with the folder and what to do, and leaves nothing half done."""

import errno
import os
from pathlib import Path

import pytest
import torch

from adaptive_moe.errors import StoreError
from adaptive_moe.training.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)


def checkpoint(step):
    return Checkpoint({"a": torch.full((2,), float(step))}, {"step": step})


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, checkpoint(1), fingerprint="f")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full; free some space or name") as caught:
        write_checkpoint(tmp_path, checkpoint(2), fingerprint="f")
    assert str(tmp_path) in str(caught.value)
    assert "rrno" not in str(caught.value)
    assert read_checkpoint(tmp_path, fingerprint="f").state == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["training.safetensors"]


def test_what_safetensors_is_refused_is_told_alike(tmp_path, monkeypatch):
    def no_folder(_path, **_options):
        """Leave it to safetensors to find that there is none."""

    monkeypatch.setattr(Path, "mkdir", no_folder)
    with pytest.raises(StoreError, match="absent: No such file or directory; name another store"):
        write_checkpoint(tmp_path / "absent", checkpoint(1), fingerprint="f")


@pytest.mark.parametrize("work", [write_checkpoint, remove_checkpoint])
def test_a_folder_below_a_file_is_a_store_error(tmp_path, work):
    (tmp_path / "file").touch()
    more = (checkpoint(1),) if work is write_checkpoint else ()
    options = {"fingerprint": "f"} if more else {}
    with pytest.raises(StoreError, match="Not a directory; name another store with --store"):
        work(tmp_path / "file" / "codes", *more, **options)
