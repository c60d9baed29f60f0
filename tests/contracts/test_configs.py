from pathlib import Path

import pytest

from adaptive_moe.config.loading import load_settings
from adaptive_moe.config.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_configuration_loads(file):
    load_settings(file, environment={})


def test_the_default_file_changes_nothing():
    assert load_settings(ROOT / "configs/default.yaml", environment={}) == Settings()
