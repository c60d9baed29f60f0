"""`experts import`: an adapter proves that it is for this base, or needs --force."""

import json
import shutil

import pytest
import torch

from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.pocket import model_path
from tests.cli.running import run


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of the pocket model that says nothing of it but the name."""
    folder = tmp_path_factory.mktemp("adapter")
    layer = load_language_model("pocket").layers[0]
    pair = LoraPair(torch.ones(2, layer.in_features), torch.ones(2, layer.out_features))
    write_adapter(
        folder, {layer.name: pair}, scaling={layer.name: 1.0}, header_ids=None, base_name="pocket"
    )
    return folder


def renamed(adapter, folder, base):
    """A copy that names another base; None: it names none."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    file.write_text(json.dumps(config))
    return folder


def test_an_adapter_for_another_base_is_refused_unless_forced(adapter, tmp_path):
    foreign = renamed(adapter, tmp_path / "foreign", "someone/pocket-7b")
    words = ("experts", "import", "mine", foreign, "--store", tmp_path / "store")
    done = run(*words)
    assert done.exit_code == 2
    assert "for the base 'someone/pocket-7b', this model is 'pocket'" in done.stderr
    assert "--force" in done.stderr
    assert not (tmp_path / "store").exists()
    forced = run(*words, "--force", "--json")
    assert forced.exit_code == 0, forced.stderr
    assert json.loads(forced.stdout)["status"] == "quarantine"


@pytest.mark.parametrize("base", ["pocket", None, "/somewhere/else/pocket/", "Owner/Pocket"])
def test_a_name_alone_proves_no_base(adapter, tmp_path, base):
    folder = renamed(adapter, tmp_path / "named", base)
    words = ("experts", "import", "mine", folder, "--store", tmp_path / "store")
    done = run(*words)
    assert done.exit_code == 2
    assert "nothing shows that this adapter is for 'pocket'" in done.stderr
    assert "--force" in done.stderr
    assert run(*words, "--force").exit_code == 0


def test_an_adapter_that_names_this_very_folder_comes_in(adapter, tmp_path):
    folder = renamed(adapter, tmp_path / "known", str(model_path()))
    done = run("experts", "import", "mine", folder, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.stderr


def test_what_was_exported_comes_back_to_its_base_and_to_no_other(adapter, tmp_path):
    store = ("--store", tmp_path / "store")
    run("experts", "import", "mine", adapter, "--force", *store)
    run("experts", "activate", "mine", *store)
    for form in ("peft", "vllm"):
        words = ("experts", "import", f"again-{form}", tmp_path / form, *store)
        run("experts", "export", "mine", tmp_path / form, "--format", form, *store)
        done = run(*words)
        assert done.exit_code == 0, done.stderr
        record = tmp_path / form / "adaptive_moe.json"
        told = json.loads(record.read_text()) | {"base_id": "sha256:of-another-base"}
        record.write_text(json.dumps(told))
        refused = run(*words, "--force")
        assert refused.exit_code == 2
        assert "made on the base sha256:of-another-b" in refused.stderr
