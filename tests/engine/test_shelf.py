"""What is out of service takes no room."""

import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.weights import LoraPair


def test_a_removed_expert_leaves_both_tiers_of_the_cache(tmp_path):
    with AdaptiveMoE.from_pretrained("pocket", store=tmp_path / "store") as moe:
        layer = moe.language_model.layers[0]
        (tmp_path / "adapter").mkdir()
        pair = LoraPair(torch.ones(2, layer.in_features), torch.ones(2, layer.out_features))
        write_adapter(
            tmp_path / "adapter",
            {layer.name: pair},
            scaling={layer.name: 1.0},
            header_ids=None,
            base_name="pocket",
        )
        record = moe.import_expert("ones", tmp_path / "adapter", force=True)
        moe.store.activate(record.expert_id)
        moe.generate("hello", experts=["ones"], max_new_tokens=2)
        held = moe.cache_statistics()
        assert held.device_experts == 1
        assert min(held.device_bytes, held.host_bytes) > 0

        moe.store.remove("ones")
        assert "ones" not in moe.experts
        left = moe.cache_statistics()
        assert (left.device_experts, left.device_bytes, left.host_bytes) == (0, 0, 0)
