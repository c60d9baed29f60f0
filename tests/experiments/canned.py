"""A small result of a run, as it lies in a JSON file."""

from adaptive_moe.experiments.figures import Figure

RATIO = Figure(
    "one_expert", "one expert", "pocket", 1.08, unit="x bare", batch=8,
    low=1.07, high=1.09, rounds=40, target=1.10,
)  # fmt: skip
PEER = Figure(
    "one_expert", "PEFT", "pocket", 1.21, unit="x bare", batch=8,
    low=1.2, high=1.22, rounds=10, is_peer=True,
)  # fmt: skip
FAILED = Figure.failed(
    "four_mixed", "PEFT X-LoRA", "pocket", "TypeError: scalings | no", batch=8, is_peer=True
)
EXACT = Figure("base_logits", "largest change", "pocket", 0.0, target=0.0, is_timed=False)
SLOW = Figure(
    "choosing", "1,000 experts", "pocket", 4.2, unit="ms",
    low=4.1, high=4.4, rounds=100, target=1.0, note="boundaries asked",
)  # fmt: skip


def found(*, contended: bool = False) -> dict[str, object]:
    everything = (RATIO, PEER, FAILED, EXACT, SLOW)
    return {
        "plan": {
            "models": ["pocket"], "rounds": 200, "minutes": 6, "seed": 0, "prompt_tokens": 64,
            "new_tokens": 64, "rank": 8,
        },
        "machine": {
            "device": "cpu", "processor": "x86_64", "processors": 2, "threads": 2,
            "python": "3.11.1", "versions": {"torch": "2.13.0", "peft": "0.21.2"},
        },
        "load": {"before": 0.05, "of_others_meanwhile": 0.4 if contended else 0.02},
        "contended": contended,
        "seconds": 900.0,
        "figures": [
            {"benchmark": "generate", **each.to_dict(contended=contended)} for each in everything
        ],
        "details": {},
    }  # fmt: skip
