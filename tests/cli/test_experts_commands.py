import json
import os
from pathlib import Path

import pytest

from adaptive_moe.experts.store import Store
from tests.cli.running import run
from tests.experts.published import publish


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        publish(opened, content=b"one")
        publish(opened, content=b"two")
        publish(opened, "http", content=b"three", status="rejected")
    return tmp_path / "store"


def values(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_looking_at_the_default_store_does_not_make_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert values("experts", "list")["experts"] == []
    assert "no expert store in" in run("experts", "list").stdout
    assert values("experts", "verify") == {"sound": True, "experts": []}
    assert [*tmp_path.iterdir(), *Path(os.environ["HOME"]).iterdir()] == []


def test_list_shows_what_serves_and_all_the_rest_on_request(store):
    assert [e["version"] for e in values("experts", "list", "--store", store)["experts"]] == [2]
    everything = values("experts", "list", "--store", store, "--all")["experts"]
    assert [(e["name"], e["version"], e["serving"]) for e in everything] == [
        ("chemistry", 1, False), ("chemistry", 2, True), ("http", 1, False),
    ]  # fmt: skip
    assert "chemistry" in run("experts", "list", "--store", store).stdout


def test_show_tells_the_manifest(store):
    shown = values("experts", "show", "chemistry", "--store", store)
    assert shown["manifest"]["modules"]["model.layers.0.mlp.up_proj"]["rank"] == 2
    assert shown["parameters"] == 20
    out = run("experts", "show", "chemistry", "--version", "1", "--store", store).stdout
    assert "chemistry v1 (active)" in out
    assert "up_proj" in out


def test_verify_finds_a_flipped_bit_and_takes_the_expert_out_of_service(store):
    assert values("experts", "verify", "--store", store)["sound"]
    with Store(store) as opened:
        file = opened.get("chemistry").folder / "adapter_model.safetensors"
    file.chmod(0o600)
    file.write_bytes(b"tvo")
    done = run("experts", "verify", "--store", store, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [each["sound"] for each in found["experts"]] == [True, False, True]
    left = values("experts", "list", "--store", store, "--all")["experts"]
    assert [each["status"] for each in left] == ["active", "quarantine", "rejected"]


def test_rollback_activate_and_remove_change_what_serves(store):
    assert values("experts", "rollback", "chemistry", "--store", store)["version"] == 1
    assert values("experts", "activate", "chemistry", "--store", store)["version"] == 2
    assert values("experts", "remove", "chemistry", "--store", store)["removed"]
    assert values("experts", "list", "--store", store)["experts"] == []


def test_without_a_version_the_newest_that_may_serve_is_activated(store):
    with Store(store) as opened:
        publish(opened, content=b"bad", status="rejected", reason="no gain")
        opened.rollback("chemistry")
    assert values("experts", "activate", "chemistry", "--store", store)["version"] == 2
    refused = run("experts", "activate", "chemistry", "--version", "3", "--store", store)
    assert refused.exit_code == 2
    assert "version 3 was rejected by the gate: no gain; train it again" in refused.stderr
    assert run("experts", "activate", "http", "--store", store).exit_code == 2
    kept = values("experts", "list", "--store", store, "--all")["experts"]
    assert [(each["status"], each["reason"]) for each in kept][2] == ("rejected", "no gain")


def test_the_store_comes_from_the_settings_too(store, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(f"store: {store}\n")
    assert values("--config", file, "experts", "list")["store"] == str(store)
    assert values("experts", "list", "--set", f"store={store}")["store"] == str(store)
