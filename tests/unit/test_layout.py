"""Tests that the unit tests mirror the package and import no trainer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.runs import ROOT

UNIT = ROOT / "tests" / "unit"
PACKAGE = ROOT / "tbx_callbacks"
TRAINERS = {"transformers", "lightning", "pytorch_lightning", "accelerate", "peft", "trl", "sentence_transformers"}
INTEGRATIONS = {f"tbx_callbacks.integrations.{name}" for name in ("huggingface", "lightning")}
CALLBACKS = {f"tbx_callbacks.{name}" for name in ("TbxTrainerCallback", "TbxLightningCallback", "TbxTracker")}
"""Names of the package whose lookup imports a trainer."""

WITHOUT_UNIT_TEST = {
    "_config/bundled",
    "_config/errors",
    "_config/json_schema",
    "_engine/control",
    "_model/amp",
    "_model/forward_hooks",
    "_model/sharding/deepspeed",
    "_model/sharding/dtensor",
    "_model/sharding/fsdp1",
    "_model/update_norms",
    "_stats/histogram_cpu",
    "_stats/histogram_device",
    "_stats/triton_kernels",
    "_stats/types",
    "autolog/huggingface",
    "autolog/lightning_callback",
    "cli/metric_sets",
    "integrations/accelerate_tracker",
    "integrations/huggingface/abandoned_training",
    "integrations/huggingface/attach",
    "integrations/huggingface/batch_size",
    "integrations/huggingface/callback",
    "integrations/huggingface/forward_passes",
    "integrations/huggingface/info",
    "integrations/huggingface/item_weights",
    "integrations/huggingface/loss_scale",
    "integrations/huggingface/run_folder",
    "integrations/lightning/batch_outputs",
    "integrations/lightning/callback",
    "integrations/lightning/compat",
    "integrations/lightning/info",
    "integrations/lightning/logger",
    "metrics/base",
    "metrics/host_values",
    "metrics/optimizer_state",
    "report/distributions",
    "report/line_drawing",
    "rules/amp",
    "rules/base",
    "rules/clipping",
    "rules/dead_activations",
    "rules/gradient_flow",
    "rules/input_bound",
    "rules/learning_rate_too_high",
    "rules/required_series",
    "rules/update_ratio",
    "runs/tensorboard_loader",
}
"""Modules that only tests of other modules, or of whole trainings, cover. New modules get a test of their own."""


def imported_names(file: Path) -> Iterator[str]:
    """The full names of the modules and attributes that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def trainer_imports(file: Path, seen: set[Path] | None = None) -> list[str]:
    """The imports of trainers in a file and in the test helpers that it imports."""
    seen = set() if seen is None else seen
    if file in seen:
        return []
    seen.add(file)
    found = []
    for name in imported_names(file):
        parts = name.split(".")
        paths = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        if parts[0] in TRAINERS or paths & (INTEGRATIONS | CALLBACKS):
            found.append(f"{file.relative_to(ROOT)}: {name}")
        elif parts[0] == "tests":
            modules = [ROOT.joinpath(*parts[:length]).with_suffix(".py") for length in (len(parts) - 1, len(parts))]
            found += [each for module in modules if module.is_file() for each in trainer_imports(module, seen)]
    return found


def package_modules() -> dict[str, Path]:
    """The modules of the package with definitions, by path of their unit test below tests/unit."""
    modules = {}
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE)
        if file.name != "__init__.py" and path.parts[0] not in ("configs", "recipes"):
            modules[str(path.with_suffix(""))] = UNIT / path.parent / f"test_{file.stem.lstrip('_')}.py"
    return modules


def test_unit_tests_import_no_trainer() -> None:
    assert [each for file in sorted(UNIT.rglob("*.py")) for each in trainer_imports(file)] == []


def test_trainer_imports_direct_and_through_helpers_found(tmp_path: Path) -> None:
    through_helper = ROOT / "tests" / "trainers" / "test_activations.py"
    found = trainer_imports(through_helper)
    assert "tests/helpers/models.py: transformers.Trainer" in found
    assert "tests/trainers/test_activations.py: tbx_callbacks.TbxTrainerCallback" in found


def test_modules_without_unit_test_are_listed() -> None:
    missing = {name for name, test in package_modules().items() if not test.is_file()}
    assert missing - WITHOUT_UNIT_TEST == set()


def test_allow_list_names_only_untested_modules() -> None:
    modules = package_modules()
    assert set(modules) >= WITHOUT_UNIT_TEST
    assert {name for name in WITHOUT_UNIT_TEST if modules[name].is_file()} == set()
