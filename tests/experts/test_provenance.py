"""An adapter comes in for the base it was made for, on proof or on the user's own word."""

import json
from pathlib import Path

import pytest

from adaptive_moe.errors import AdapterFormatError, BaseMismatchError
from adaptive_moe.experts.provenance import Base, check_base, write_origin

OURS = Base("sha256:" + "a" * 64, "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")
POCKET = Base("sha256:" + "b" * 64, "pocket", "/usr/lib/adaptive_moe/pocket/model")


def adapter(folder: Path, base_name: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base_name}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "named",
    [
        "Qwen/Qwen3-0.6B",
        "qwen/qwen3-0.6b",
        "/cache/models--Qwen--Qwen3-0.6B/snapshots/c1899de",
    ],
)
def test_an_adapter_that_names_the_same_hub_id_comes_in(tmp_path: Path, named: str) -> None:
    check_base(adapter(tmp_path, named), OURS, force=False)


@pytest.mark.parametrize(
    ("named", "base", "reason"),
    [
        ("someone/Qwen3-0.6B", OURS, "is for the base 'someone/Qwen3-0.6B', this model is"),
        ("Qwen/Qwen3-1.7B", OURS, "is for the base 'Qwen/Qwen3-1.7B'"),
        ("/cache/models--x--Qwen3-0.6B/snapshots/c18", OURS, "is for the base"),
        ("Qwen3-0.6B", OURS, "names its base only 'Qwen3-0.6B', which proves nothing"),
        ("/data/models/Qwen3-0.6B/", OURS, "which proves nothing"),
        ("C:\\models\\Qwen3-0.6B", OURS, "which proves nothing"),
        ("pocket", POCKET, "names its base only 'pocket'"),
        ("Owner/Pocket", POCKET, "names its base only 'Owner/Pocket'"),
        ("/x\0y/pocket", POCKET, "which proves nothing"),
        ("", POCKET, "it names no base"),
        (None, POCKET, "it names no base"),
    ],
)
def test_every_other_name_needs_the_users_word(
    tmp_path: Path, named: str | None, base: Base, reason: str
) -> None:
    with pytest.raises(BaseMismatchError, match=r"give --force \(force=True\)") as caught:
        check_base(adapter(tmp_path, named), base, force=False)
    assert reason in str(caught.value)
    check_base(tmp_path, base, force=True)


def test_the_very_same_folder_is_proof_and_its_namesake_is_none(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "tiny").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "here")
    base = Base("sha256:1", "tiny", str(tmp_path / "here" / "tiny"))
    for named in (tmp_path / "here" / "tiny", tmp_path / "link" / "tiny"):
        check_base(adapter(tmp_path / "adapter", str(named)), base, force=False)
    for named in (str(tmp_path / "there" / "tiny"), "here/tiny"):
        with pytest.raises(BaseMismatchError):
            check_base(adapter(tmp_path / "adapter", named), base, force=False)


def test_a_fingerprint_beside_the_adapter_decides_whatever_is_said(tmp_path: Path) -> None:
    write_origin(adapter(tmp_path, "somebody/else"), OURS.base_id)
    check_base(tmp_path, OURS, force=False)
    adapter(tmp_path, "pocket")
    for force in (False, True):
        with pytest.raises(BaseMismatchError, match=r"base sha256:a{12}, .*--force cannot"):
            check_base(tmp_path, POCKET, force=force)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"base_id": ""}', '{"base_id": 3}', '{"base_id": "x", "more": 1}']
)
def test_a_fingerprint_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (adapter(tmp_path, OURS.name) / "adaptive_moe.json").write_text(text)
    for force in (False, True):
        with pytest.raises(AdapterFormatError, match=r"adaptive_moe\.json.*export it again"):
            check_base(tmp_path, OURS, force=force)


def test_an_endless_fingerprint_is_refused(tmp_path: Path) -> None:
    (adapter(tmp_path, OURS.name) / "adaptive_moe.json").write_bytes(b" " * (1 << 17))
    with pytest.raises(AdapterFormatError, match="larger than"):
        check_base(tmp_path, OURS, force=False)
