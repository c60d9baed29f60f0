"""`experts import`: an adapter for this base comes in, one for another base needs --force."""

import json
import shutil

import pytest
import torch

from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.loading import load_language_model
from tests.cli.running import run


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of the pocket model, as `experts export` writes it."""
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
def test_an_adapter_that_may_be_of_this_base_comes_in(adapter, tmp_path, base):
    folder = renamed(adapter, tmp_path / "known", base)
    done = run("experts", "import", "mine", folder, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.stderr
