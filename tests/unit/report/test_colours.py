"""Tests that the report's colours, symbols and dashes tell runs apart, for any colour vision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tbx_callbacks.report.colours import ON_DARK, PATHS, RUN_DASHES, RUNS, SYMBOLS

# Machado, Oliveira and Fernandes 2009, severity 1; on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    shares = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b*, where a distance of about 2 is just visible."""
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089], 1e-3))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("colours", [RUNS, [ON_DARK[colour] for colour in RUNS]], ids=["light", "dark"])
def test_run_colours_distinct_for_any_vision(colours: list[str], vision: str) -> None:
    seen = [lab(np.array(VISIONS[vision]) @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10


def test_run_styles_of_seventy_runs_differ() -> None:
    assert len({(RUNS[n % len(RUNS)], SYMBOLS[n % len(SYMBOLS)]) for n in range(70)}) == 70
    assert len({(RUNS[n % len(RUNS)], RUN_DASHES[n % len(RUN_DASHES)]) for n in range(30)}) == 30
    assert PATHS.keys() == set(SYMBOLS)
