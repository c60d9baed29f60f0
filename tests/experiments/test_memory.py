"""Bytes told are bytes taken, and what cannot be measured is told as failed."""

import pytest

from adaptive_moe.errors import AdaptiveMoEError, QuantizationError
from adaptive_moe.experiments import memory, quantised_base
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.pocket import model_path


def test_a_quantised_base_is_accounted_for():
    found = quantised_base.account(str(model_path()), device="cpu", rank=2, seed=0)
    # 4 bits a number, 32 for every 64 of them, and 16 numbers of 32 bits for every layer.
    assert 0.28125 < found["linear_share"] < 0.29
    assert found["bank_error"] == 0.0
    assert found["parameters"] == 4 * (4 * 256 * 256 + 3 * 256 * 768)


def test_a_pool_that_is_larger_than_told_would_be_noticed(monkeypatch):
    honest = quantised_base.LoraBank.allocated_bytes.fget
    smaller = property(lambda bank: honest(bank) // 2)
    monkeypatch.setattr(quantised_base.LoraBank, "allocated_bytes", smaller)
    found = quantised_base.account(str(model_path()), device="cpu", rank=2, seed=0)
    assert found["bank_error"] == 1.0


def test_what_cannot_be_measured_is_told_with_its_reason(monkeypatch):
    def without_system(*_: object, **__: object) -> int:
        raise AdaptiveMoEError("this system does not tell")

    def without_package(*_: object, **__: object) -> None:
        raise QuantizationError("nf4 needs bitsandbytes")

    monkeypatch.setattr(memory, "resident_of_chat", without_system)
    monkeypatch.setattr(memory, "peak_of_command", without_system)
    monkeypatch.setattr(memory, "_in_fresh_process", without_package)
    found = memory.run(Plan(), lambda _: None).figures
    assert {figure.verdict(contended=False) for figure in found} == {"failed"}
    assert [figure.note for figure in found] == [
        "AdaptiveMoEError: this system does not tell",
        "AdaptiveMoEError: this system does not tell",
        "QuantizationError: nf4 needs bitsandbytes",
    ]


@pytest.mark.slow
def test_a_chat_at_rest_is_measured():
    (chat,) = memory.run(Plan(quick=True, threads=1), lambda _: None).figures
    assert 0.1 < chat.value < 2
