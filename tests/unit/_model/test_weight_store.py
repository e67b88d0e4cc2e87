"""Tests that stored weights come back bit by bit, and that a broken file is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tbx_callbacks._model.weight_store import FileStore, MemoryStore, WeightStore

CPU = torch.device("cpu")
TENSORS: dict[str, Tensor] = {
    "matrix": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)),
    "half": torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "float16": torch.tensor([1.0, -65504.0, 6e-8], dtype=torch.float16),
    "double": torch.tensor([1 / 3, 1e-300], dtype=torch.float64),
    "complex": torch.tensor([[1 + 2j, 3 - 4j]]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).view(2, 3).t(),
    "bad": torch.tensor([float("nan"), float("inf"), -0.0]),
}


def triples() -> list[tuple[str, str, Tensor]]:
    return [(name, f"layout of {name}", tensor) for name, tensor in TENSORS.items()]


def flat(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def stores(folder: Path) -> list[WeightStore]:
    path = str(folder / "sub" / "weights.bin")
    return [MemoryStore(triples()), FileStore.write(path, triples()), FileStore(path)]


def test_stores_return_the_same_bits(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        assert list(store.entries) == list(TENSORS)
        for name, tensor in TENSORS.items():
            found, expected = store.read(name, CPU), flat(tensor)
            assert found.dtype == expected.dtype
            assert found.contiguous().view(torch.uint8).tolist() == expected.contiguous().view(torch.uint8).tolist()
            entry = store.entries[name]
            assert (entry.numel, entry.layout) == (expected.numel(), f"layout of {name}")
            assert entry.square == pytest.approx(expected.double().square().sum().item(), rel=1e-6, nan_ok=True)


def test_memory_store_keeps_copies() -> None:
    tensor = torch.ones(3)
    store = MemoryStore([("w", "", tensor)])
    tensor.zero_()
    assert store.read("w", CPU).tolist() == [1.0, 1.0, 1.0]


def test_file_store_leaves_one_file(tmp_path: Path) -> None:
    stores(tmp_path)
    assert os.listdir(tmp_path / "sub") == ["weights.bin"]
    assert not [
        name
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}") and "weights.bin" in os.path.realpath(f"/proc/self/fd/{name}")
    ]


def test_file_store_failed_write_keeps_old_file(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.bin")
    store = FileStore.write(path, [("w", "", torch.ones(2))])

    def broken() -> object:
        yield "w", "", torch.zeros(2)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        FileStore.write(path, broken())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["weights.bin"]
    assert store.read("w", CPU).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [0, 5, 31, 200])
def test_file_store_shortened_file_raises(tmp_path: Path, size: int) -> None:
    path = str(tmp_path / "weights.bin")
    store = FileStore.write(path, [("w", "", torch.ones(400))])
    os.truncate(path, size)
    with pytest.raises(OSError, match="must be a complete file of weights, but it is not"):
        store.read("w", CPU)
    with pytest.raises(OSError, match="must be a complete file of weights, but it is not"):
        FileStore(path)


def test_file_store_replaced_file_raises(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.bin")
    store = FileStore.write(path, [("w", "", torch.ones(4))])
    FileStore.write(path, [("w", "", torch.zeros(4))])
    with pytest.raises(OSError, match="must stay until the training ends, but they cannot be read: another train"):
        store.read("w", CPU)


def test_file_store_missing_file_raises(tmp_path: Path) -> None:
    path = str(tmp_path / "weights.bin")
    store = FileStore.write(path, [("w", "", torch.ones(4))])
    os.unlink(path)
    with pytest.raises(OSError, match=r"the initial weights in .* cannot be read: No such file or directory; start"):
        store.read("w", CPU)
    with pytest.raises(FileNotFoundError):
        FileStore(str(tmp_path / "none.bin"))
