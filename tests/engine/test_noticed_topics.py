"""The ledger knows which of the router's topics a prompt is of."""

import sqlite3

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings

KNOWN = "What is the capital of France?"
UNKNOWN = "Which keeper does Tarvik have?"


def test_what_is_known_of_a_prompts_topic_is_written_down(tmp_path):
    ledger = tmp_path / "gaps.sqlite"
    settings = load_settings(overrides=[f"store={tmp_path / 'store'}", f"gaps.ledger={ledger}"])
    with AdaptiveMoE.from_settings(settings) as moe:
        known, unknown = moe.generate([KNOWN, UNKNOWN], attribution=False, max_new_tokens=8)
    assert (known.route.domain, unknown.route.domain) == ("countries", None)
    with sqlite3.connect(ledger) as connection:
        rows = connection.execute("SELECT prompt, topic FROM observations").fetchall()
    assert dict(rows) == {KNOWN: "countries", UNKNOWN: None}
