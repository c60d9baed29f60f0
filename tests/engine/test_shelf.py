"""What is out of service takes no room."""

import time
from dataclasses import replace

import pytest
import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.engine.events import Routed
from adaptive_moe.errors import BankFullError
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.weights import LoraPair


def add_expert(moe, name, folder, value=1.0):
    """An active expert of rank 2 in the first layer."""
    layer = moe.language_model.layers[0]
    folder.mkdir()
    pair = LoraPair(torch.full((2, layer.in_features), value), torch.ones(2, layer.out_features))
    write_adapter(
        folder,
        {layer.name: pair},
        scaling={layer.name: 1.0},
        header_ids=None,
        base_name="pocket",
    )
    moe.store.activate(moe.import_expert(name, folder, force=True).expert_id)


def test_the_second_choice_is_read_ahead(tmp_path):
    with AdaptiveMoE.from_pretrained("pocket", store=tmp_path / "store") as moe:
        add_expert(moe, "ones", tmp_path / "adapter")
        decision = next(x.decision for x in moe.stream("hello") if isinstance(x, Routed))
        chooser = Chooser(
            moe.language_model, moe._cache, moe.experts, moe.router.current, mixing="top1"
        )
        chooser.prefetch(decision)
        chooser.prefetch(replace(decision, runner_up="gone"))
        chooser.prefetch(replace(decision, runner_up="ones"))
        deadline = time.monotonic() + 30
        while not moe.cache_statistics().prefetched and time.monotonic() < deadline:
            time.sleep(0.01)
        held = moe.cache_statistics()
        assert (held.prefetched, held.device_experts) == (1, 0)
        assert held.host_bytes > 0
        chooser.close()


def test_a_pinned_expert_is_not_evicted(tmp_path):
    settings = load_settings(overrides=[f"store={tmp_path / 'store'}", "cache.device_experts=1"])
    with AdaptiveMoE.from_settings(settings) as moe:
        add_expert(moe, "ones", tmp_path / "ones")
        add_expert(moe, "twos", tmp_path / "twos", value=2.0)
        moe.pin_expert("ones")
        with pytest.raises(BankFullError, match="pinned"):
            moe.generate("hello", experts=["twos"], max_new_tokens=2)
        moe.pin_expert("ones", pinned=False)
        moe.generate("hello", experts=["twos"], max_new_tokens=2)
        assert moe.cache_statistics().evictions == 1


def test_a_removed_expert_leaves_both_tiers_of_the_cache(tmp_path):
    with AdaptiveMoE.from_pretrained("pocket", store=tmp_path / "store") as moe:
        add_expert(moe, "ones", tmp_path / "adapter")
        moe.generate("hello", experts=["ones"], max_new_tokens=2)
        held = moe.cache_statistics()
        assert held.device_experts == 1
        assert min(held.device_bytes, held.host_bytes) > 0

        moe.store.remove("ones")
        assert "ones" not in moe.experts
        left = moe.cache_statistics()
        assert (left.device_experts, left.device_bytes, left.host_bytes) == (0, 0, 0)
