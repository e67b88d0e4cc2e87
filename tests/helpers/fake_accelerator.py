"""Simulates a training on an accelerator that does not exist: its tensors have shapes but no elements.

A read of a number on the host raises, and so does a copy between host and device that waits. The training thread
may do neither. The script prints the number of copies to the host.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tbx_callbacks import TbxLoop
from tbx_callbacks._config.metric_set import load_config
from tbx_callbacks._distributed import reducer as together
from tbx_callbacks._engine import batch_keeper, example_log, initial_weights
from tbx_callbacks._engine.snapshots import WeightSnapshot
from tbx_callbacks._model.weight_store import Entry

DEVICE = "accel"


class NoWaiting(TorchDispatchMode):
    """Raises if a copy between the host and the device waits."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        if operator is torch.ops.aten._to_copy.default:
            across, waits = result.device != args[0].device, not kwargs.get("non_blocking", False)
        elif operator is torch.ops.aten.copy_.default:
            across, waits = args[0].device != args[1].device, not (len(args) > 2 and args[2])
        else:
            return result
        if across and waits:
            raise RuntimeError(f"a copy that waits: {operator} {[tuple(t.shape) for t in args if hasattr(t, 'shape')]}")
        return result


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, device=DEVICE)
        self.body = nn.ModuleList([nn.Linear(8, 8, device=DEVICE) for _ in range(2)])
        self.frozen = nn.Parameter(torch.empty(8, device=DEVICE), requires_grad=False)
        self.head = nn.Linear(8, 3, device=DEVICE, dtype=torch.bfloat16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result = self.embed(ids)
        for layer in self.body:
            result = layer(result).relu() + self.frozen
        return self.head(result.bfloat16())


class CompleteCopies(TorchDispatchMode):
    """Raises if a copy to the host does not wait: its data would be read too early."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        copies = operator is torch.ops.aten._to_copy.default and (kwargs or {}).get("non_blocking", False)
        if copies and result.device.type == "cpu" != args[0].device.type:
            raise RuntimeError("a copy to the host that does not wait")
        return result


def change_on_the_host() -> str:
    """The device of updates of weights on the host, by an optimizer whose flag is on the device."""
    weight, copies = torch.empty(3), WeightSnapshot()
    source: Any = SimpleNamespace(
        parameters=[1],
        sharding=SimpleNamespace(frees_gradients=False),
        weights_at=lambda indices: [weight for _ in indices],
        have_gradients=lambda indices: [True for _ in indices],
    )
    copies._copies["AdamW"] = {0: torch.empty(3)}
    with CompleteCopies():
        updates = copies.updates(source, "AdamW", torch.empty((), device=DEVICE))
    assert updates is not None
    assert updates[0] is not None
    return updates[0].device.type


class SingleRank:
    """A process group of this rank alone."""

    rank, size = 0, 1

    def all_reduce_max(self, numbers: torch.Tensor) -> None:
        """The only rank has the largest numbers."""

    def broadcast(self, numbers: torch.Tensor, root: int) -> None:
        """There is no other rank to send to."""

    def close(self) -> bool:
        return True


class Fetched:
    """Replaces HostCopy: fake tensors have nothing to copy."""

    made = 0

    def __init__(self, parts: Any) -> None:
        Fetched.made += 1
        self._parts = parts

    def read(self) -> Any:
        return [[0.0, 1.0] for _ in self._parts]


class Unfinished:
    """Replaces HostCopy: a copy that the device never finishes."""

    is_ready = False

    def __init__(self, parts: Any) -> None:
        """Keeps nothing."""

    def read(self) -> Any:
        return []


def merge_ranges() -> str:
    """The number of host copies of ranges of several types, and the device of the merged ranges."""
    together.HostCopy = Fetched  # type: ignore[assignment,misc]
    ranks = together.Reducer(SingleRank(), 10.0)  # type: ignore[arg-type]
    types = {"a": torch.float64, "b": torch.float32, "c": torch.float64}
    with NoWaiting():
        result = ranks.merge_ranges(
            1, ["due"], {tag: torch.empty(2, dtype=kind, device=DEVICE) for tag, kind in types.items()}
        )
    ranks.shutdown(10.0)
    assert all(result[tag].dtype == kind and result[tag].shape == (2,) for tag, kind in types.items())
    return f"{Fetched.made} {' '.join({each.device.type for each in result.values()})}"


def raised(read: Any) -> str:
    try:
        with NoWaiting():
            read()
    except Exception as error:
        return type(error).__name__
    return "nothing"


class FakeStore:
    """Keeps the shapes of weights: fake tensors have no elements to keep."""

    def __init__(self, tensors: Any) -> None:
        self._tensors = {name: torch.empty(tensor.numel(), dtype=tensor.dtype) for name, _, tensor in tensors}
        self.entries = {name: Entry("", "", tensor.numel(), 1.0) for name, tensor in self._tensors.items()}

    @classmethod
    def write(cls, path: str, tensors: Any) -> FakeStore:
        return cls(tensors)

    def read(self, name: str, device: torch.device) -> torch.Tensor:
        return self._tensors[name].to(device, non_blocking=True)


def main() -> None:
    _setup_privateuseone_for_python_backend(DEVICE)
    getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.bfloat16]
    full = load_config("full")
    others = [{"examples": {"group_by": "source"}}, "bad_batches", "drift", "gradient_noise", "padding", "time"]
    everything = {"every": 1, "strict": True, "metrics": [*sorted({item.name for item in full.items}), *others]}
    batch_keeper.HostCopy = example_log.HostCopy = Unfinished  # type: ignore[assignment,misc]
    initial_weights.FileStore = FakeStore  # type: ignore[assignment,misc]
    with FakeTensorMode():
        model = Net()
        one = torch.empty(1, device=DEVICE)
        reads = (one.item, one.tolist, one.nonzero, lambda: bool(one), one.cpu, lambda: torch.zeros(1).to(DEVICE))
        print("raises", *map(raised, reads))
        print("merged", merge_ranges())
        print("changed", change_on_the_host())
        ids, labels = torch.empty(4, dtype=torch.int64, device=DEVICE), torch.empty(4, dtype=torch.int64, device=DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
        loop = TbxLoop(model, optimizer, everything, log_dir="run", log_every=1, max_grad_norm=1.0)
        for _ in range(2):
            with NoWaiting():  # a micro-batch before that of the step
                nn.functional.cross_entropy(model(ids).float(), labels).backward()
                loop.end_step(samples=4, tokens=torch.empty(4, 6, dtype=torch.int64, device=DEVICE))
            logits = model(ids)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            with NoWaiting():
                loop.before_clip()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
            loop._session._engine.record_clipping(norm, 1.0)
            with NoWaiting():
                loop.log("mine/loss", loss)
                optimizer.step()  # metrics run in the optimizer's hook
                engine = loop._session._engine
                assert engine.recorder is not None
                on_host = torch.zeros(()), torch.zeros(4, dtype=torch.int64)
                # on host and device in turn: none may wait
                for one, of in ((loss.detach(), labels), on_host, (loss.detach(), labels)):
                    mask, source = torch.ones(4, 8, dtype=torch.int64, device=DEVICE), torch.zeros_like(ids)
                    inputs = torch.empty(4, 8, dtype=torch.int64, device=DEVICE)
                    loop._session.expect_rows({"input_ids": inputs, "attention_mask": mask, "source": source}, of)
                    engine.record_batch(loss=one, samples=4, tokens=of)
                    engine.record_outputs({"logits": logits, "aux_loss": one}, of)
                engine.record_outputs({"logits": torch.zeros(4, 3), "aux_loss": on_host[0]}, labels)
                engine.recorder.finish_step()
                engine._add_user_scalars(engine.recorder, engine.recorder.step)
            optimizer.zero_grad()
            step_values = engine.publisher.buffered
            assert step_values is not None
            engine.publisher.buffered = None  # the copy to the host would begin here
            counter = loop._session._counter
            assert counter is not None
            counter.step += 1
            with NoWaiting():
                counter.begin()
        print("tags", *step_values[1].tags)
        loop._session.running = False


if __name__ == "__main__":
    main()
