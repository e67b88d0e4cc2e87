"""Statistics of series that rules share."""

from __future__ import annotations

from tbx_callbacks.rules.series_stats import outermost, stack
from tests.helpers.rule_cases import series


def test_stack_of_parameters_gives_layer_norms() -> None:
    parameters = {
        f"grad_norm/encoder.layer.{n}.{part}.weight": series([3.0 + part]) for n in (10, 2) for part in (0, 1)
    }
    layers = stack(outermost(parameters))
    assert list(layers) == ["encoder.layer.2", "encoder.layer.10"]
    assert layers["encoder.layer.2"].tolist() == [5.0]
    with_layer = {**parameters, "grad_norm/encoder.layer.2": series([7.0])}
    assert "encoder.layer.2.0.weight" not in outermost(with_layer)
    assert "encoder.layer.10.0.weight" in outermost(with_layer)
