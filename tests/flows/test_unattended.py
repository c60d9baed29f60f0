"""Nobody asks for a training: prompts alone verify a gap, and a worker fills it."""

from adaptive_moe import AdaptiveMoE
from adaptive_moe.gaps.states import GapState
from tests.flows.lighthouses import ISLES, settings, write_material


def test_prompts_alone_verify_a_gap_train_an_expert_and_route_to_it(tmp_path):
    material = write_material(tmp_path / "material")
    chosen = settings(tmp_path, "gaps.on_verified=train", f"gaps.sources=[{material}]")
    with AdaptiveMoE.from_settings(chosen) as moe:
        for light in list(ISLES)[:12]:
            moe.generate(f"Which keeper does {light} have?")
        assert moe.gaps.wait(timeout_seconds=240.0)
        (gap,) = (gap for gap in moe.gaps.list() if gap.state is GapState.FILLED)
        answer = moe.generate("What is the keeper of Harrowby?")
    assert answer.route.kind == "experts"
    assert answer.route.experts[0].name == gap.expert
    assert answer.text == "Signe"
