"""Memory is the system's own count."""

import pytest

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments.processes import memory_of, peak_of_command, resident_bytes_now

MIB = 1 << 20

pytestmark = pytest.mark.skipif(memory_of() is None, reason="needs /proc")


def test_a_large_buffer_shows():
    before = resident_bytes_now()
    buffer = bytearray(b"x" * (64 * MIB))
    grown = resident_bytes_now() - before
    assert 60 * MIB < grown < 80 * MIB
    assert memory_of().peak >= before + 60 * MIB
    assert len(buffer) == 64 * MIB


def test_the_peak_of_a_command_is_its_own_and_not_that_of_its_parent():
    buffer = bytearray(b"x" * (512 * MIB))
    assert 10 * MIB < peak_of_command(["--version"], threads=1) < 256 * MIB
    assert len(buffer) == 512 * MIB


def test_a_command_that_fails_gives_no_figure():
    with pytest.raises(AdaptiveMoEError, match="adaptive-moe nope ended with 2"):
        peak_of_command(["nope"], threads=1)


def test_a_process_that_is_gone_has_no_memory():
    assert memory_of(2**22 + 1) is None
