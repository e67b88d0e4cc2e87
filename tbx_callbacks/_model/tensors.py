"""Holds one tensor per parameter and computes its statistics on first access."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tbx_callbacks._stats import fused_moments as fused
from tbx_callbacks._stats.flat import elements, flat_all, moved
from tbx_callbacks._stats.fused_moments import Moments
from tbx_callbacks._stats.norms import accumulation_dtype, count_nonfinite, square_norms
from tbx_callbacks._stats.types import Number


class Tensors:
    """One tensor or None per parameter. Statistics are computed once, on first access.

    Args:
        tensors: gradients or weights, in the order of the model's parameters.
        scale: factor that the tensors contain (a loss scale); squares are divided by its square.
    """

    def __init__(self, tensors: Sequence[Tensor | None], scale: Tensor | None = None) -> None:
        self._tensors: Sequence[Tensor | None] = tensors
        self._scale, self._is_released = scale, False
        self.present: tuple[bool, ...] = tuple([tensor is not None for tensor in tensors])

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Tensor | None:
        return self._elements[index]

    @cached_property
    def squares(self) -> Tensor:
        """Sum of squares of each tensor, `[parameters]`; 0 for absent tensors."""
        squares = self._scatter(self._scaled_squares)
        return squares if self._scale is None else squares / self._scale.to(squares).square()

    @cached_property
    def nonfinite(self) -> Tensor:
        """Number of NaN and Inf elements of each tensor, `[parameters]`; 0 for absent tensors."""
        if self._moments is not None:
            return self._scatter(self._moments.nonfinite)
        return self._scatter(count_nonfinite(self._present_tensors, self._scaled_squares))

    @property
    def numels(self) -> Tensor:
        """Number of real elements of each tensor, `[parameters]`, on the CPU; 0 for absent tensors."""
        counts = [0 if t is None else t.numel() * (2 if t.is_complex() else 1) for t in self._elements]
        return torch.tensor(counts, dtype=torch.float64)

    def grouped(self, groups: Mapping[str, Sequence[int]]) -> dict[str, tuple[list[Tensor], Tensor | None]]:
        """Returns the tensors of each group, and the bounds of their elements (`[2]`) if already known.

        Groups without a tensor are left out.
        """
        members = {name: [index for index in indices if self.present[index]] for name, indices in groups.items()}
        members = {name: indices for name, indices in members.items() if indices}
        bounds: Sequence[Tensor | None] = [None] * len(members)
        if members and self._moments is not None:
            positions = list(accumulate(self.present, initial=0))  # parameter index -> index among the present tensors
            bounds = self._moments.bounds([[positions[index] for index in indices] for indices in members.values()])
        return {
            name: ([tensor for index in indices if (tensor := self[index]) is not None], group_bounds)
            for (name, indices), group_bounds in zip(members.items(), bounds, strict=True)
        }

    @property
    def has_elements(self) -> tuple[bool, ...]:
        """Whether each tensor is present and not empty."""
        return tuple([tensor is not None and tensor.numel() > 0 for tensor in self._elements])

    def apply(
        self, function: Callable[..., Number], others: Sequence[Tensors] = (), *, empty: float
    ) -> tuple[Tensor, tuple[bool, ...]]:
        """Returns `function(elements, ...)` of each tensor, `[parameters]`, and which parameters have all tensors.

        The function receives 1-D tensors, in float32 or in a wider type: of this tensor and of each of `others`. The
        number of absent and of empty tensors is `empty`.

        Raises:
            RuntimeError: the tensors are released, or the function changes its argument.
            ValueError: the function returns several numbers.
        """
        (numbers,), present = self.apply_all((function,), others, empty=empty)
        return numbers, present

    def apply_all(
        self, functions: Sequence[Callable[..., Number]], others: Sequence[Tensors] = (), *, empty: float
    ) -> tuple[list[Tensor], tuple[bool, ...]]:
        """Returns the numbers of several functions, and which parameters have all tensors; see `apply`.

        Each tensor is read once, and only while its numbers are computed.
        """
        sources = (self, *others)
        if any(source._is_released for source in sources):
            raise RuntimeError(
                "only squares and nonfinite are left of these tensors, because the training continues before the metric"
                " runs; use gradients or weights, in a metric without the needs batches, losses and predictions"
            )
        present = tuple([all(found) for found in zip(*(source.present for source in sources), strict=True)])
        indices = [index for index, found in enumerate(present) if found]
        target_device, rows = torch.device("cpu"), []
        for position, index in enumerate(indices):
            device, row = _numbers(functions, [source._wide(index) for source in sources], empty)
            target_device = target_device if position else device
            rows.append([moved(number.to(accumulation_dtype(target_device)), target_device) for number in row])
        columns = list(zip(*rows, strict=True)) or [()] * len(functions)
        return [_scattered(column, indices, len(present), target_device, empty) for column in columns], present

    def _wide(self, index: int) -> Tensor:
        """Returns the elements of a tensor that is present, 1-D, in float32 or in a wider type, without the scale."""
        tensor = self._elements[index]
        assert tensor is not None
        (elements_of,) = flat_all([tensor])
        wide = elements_of.float() if elements_of.dtype.itemsize < 4 else elements_of
        return wide if self._scale is None else wide / moved(self._scale, wide.device).to(wide.dtype)

    def compute(self, *, nonfinite: bool) -> None:
        """Computes the statistics now, before the contents of the tensors change."""
        _ = self.squares, nonfinite and self.nonfinite

    def statistics_only(self, *, nonfinite: bool) -> Tensors:
        """Computes the statistics now, releases the tensors and returns `self`."""
        self.compute(nonfinite=nonfinite)
        self.release()
        return self

    def release(self) -> None:
        """Drops the references to the tensors; computed statistics stay."""
        self._tensors, self._is_released = [None] * len(self._tensors), True
        self.__dict__.pop("_elements", None)
        self.__dict__.pop("_present_tensors", None)

    def squares_where(self, present: Sequence[bool]) -> Tensor:
        """Returns `squares` where `present` is True, and 0 elsewhere."""
        if all(present):
            return self.squares
        mask = moved(torch.tensor(present), self.squares.device)
        return torch.where(mask, self.squares, torch.zeros_like(self.squares))

    @cached_property
    def _elements(self) -> Sequence[Tensor | None]:
        """The tensors; for sparse ones their values, which are computed once for all statistics."""
        return [tensor if tensor is None or not tensor.is_sparse else elements(tensor) for tensor in self._tensors]

    @cached_property
    def _present_tensors(self) -> list[Tensor]:
        return [tensor for tensor in self._elements if tensor is not None]

    @cached_property
    def _moments(self) -> Moments | None:
        """On CUDA, one pass computes squares, non-finite counts and the bounds that a histogram needs."""
        return fused.tensor_moments(self._present_tensors)

    @cached_property
    def _scaled_squares(self) -> Tensor:
        return square_norms(self._present_tensors) if self._moments is None else self._moments.square_norms()

    def _scatter(self, numbers: Tensor) -> Tensor:
        if all(self.present):
            return numbers
        indices = torch.tensor([index for index, members in enumerate(self.present) if members], dtype=torch.int64)
        return numbers.new_zeros(len(self.present)).index_copy_(0, moved(indices, numbers.device), numbers)


def _numbers(
    functions: Sequence[Callable[..., Number]], arguments: Sequence[Tensor], empty: float
) -> tuple[torch.device, list[Tensor]]:
    """Returns the device of the first argument and the numbers of the functions."""
    return arguments[0].device, [_call(function, arguments, empty) for function in functions]


def _scattered(
    numbers: Sequence[Tensor], indices: Sequence[int], size: int, device: torch.device, empty: float
) -> Tensor:
    """Returns the numbers at their indices, `[size]`, and `empty` elsewhere."""
    stacked = torch.stack(list(numbers)) if numbers else torch.zeros(0, dtype=torch.float64)
    result = stacked.new_full((size,), empty)
    return result.index_copy_(0, moved(torch.tensor(indices, dtype=torch.int64), device), stacked)


def _call(function: Callable[..., Number], arguments: Sequence[Tensor], empty: float) -> Tensor:
    """Returns the function's number, 0-d."""
    if any(argument.numel() != arguments[0].numel() for argument in arguments):
        raise ValueError("several tensors must have the same elements; a sparse gradient stores only some")
    versions = [argument._version for argument in arguments]
    number = function(*arguments) if arguments[0].numel() else empty
    if [argument._version for argument in arguments] != versions:
        raise RuntimeError("the function must not change its argument: it may be a weight; use abs(), not abs_()")
    as_tensor = number.detach() if isinstance(number, Tensor) else torch.tensor(float(number))
    if as_tensor.numel() != 1:
        raise ValueError(f"the function must return one number per tensor, got shape {tuple(as_tensor.shape)}")
    return as_tensor.reshape(())
