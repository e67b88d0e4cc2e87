"""Tests the selection of curves."""

from __future__ import annotations

from tbx_callbacks.monitor.curves import gradient_norms, losses
from tbx_callbacks.runs.series import Run
from tests.helpers.watched import series


def test_losses_under_names_of_others_found() -> None:
    run = Run(scalars={"val_loss": series([2.0]), "train_loss_step": series([1.0])})
    pair = losses(run)
    assert pair.main is run.scalars["train_loss_step"]
    assert pair.beside is run.scalars["val_loss"]
    assert losses(Run()) == (None, None)


def test_gradient_norm_after_clipping_from_factor() -> None:
    before, factor = series([4.0, 2.0, 1.0, 0.5]), series([0.5, 1.0], every=2)
    pair = gradient_norms(Run(scalars={"grad_norm/total": before, "clip/factor": factor}))
    assert pair.beside is not None
    assert dict(zip(pair.beside.steps.tolist(), pair.beside.values.tolist(), strict=True)) == {2: 1.0, 4: 0.5}


def test_gradient_norm_after_clipping_as_logged() -> None:
    scalars = {name: series([1.0]) for name in ("grad_norm/total", "grad_norm_clipped/total", "clip/factor")}
    assert gradient_norms(Run(scalars=scalars)).beside is scalars["grad_norm_clipped/total"]
