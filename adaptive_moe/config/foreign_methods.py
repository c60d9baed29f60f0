"""Why methods that people know from elsewhere, AdaLoRA and DoRA, cannot be taken here."""

from collections.abc import Mapping

FOREIGN_METHODS: Mapping[str, str] = {
    "adalora": (
        "AdaLoRA changes its ranks while it trains and keeps a trained lambda between its two "
        "factors, a form that the bank does not hold"
    ),
    "dora": (
        "DoRA rescales every column of the frozen weight by a trained magnitude, which is no "
        "low-rank sum, so the bank cannot serve several such experts in one batch"
    ),
}
"""By name in lower case, the reason in one clause."""
