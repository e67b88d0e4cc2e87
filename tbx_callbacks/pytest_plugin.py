"""Provides the fixture `check_training` to pytest, which finds this module by its entry point.

pytest imports it in every project where the package is installed: it imports nothing else until a test asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tbx_callbacks.training_check import TrainingCheck


@pytest.fixture
def check_training(tmp_path: Path) -> TrainingCheck:
    """Trains a few steps and fails the test if the doctor finds something wrong; see `TrainingCheck`."""
    from tbx_callbacks.training_check import TrainingCheck

    return TrainingCheck(tmp_path / "tbx_callbacks")
