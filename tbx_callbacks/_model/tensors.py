"""Holds one tensor a parameter and computes its statistics when they are first read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tbx_callbacks._stats import fused
from tbx_callbacks._stats.flat import elements, moved
from tbx_callbacks._stats.fused import Moments
from tbx_callbacks._stats.norms import count_nonfinite, square_norms


class Tensors:
    """One tensor a parameter, or None where there is none; statistics are computed once, when first asked for.

    Args:
        tensors: gradients or weights, in the order of the model's parameters.
        scale: what the tensors are multiplied by (a loss scale); squares are divided by its square.
    """

    def __init__(self, tensors: Sequence[Tensor | None], scale: Tensor | None = None) -> None:
        self._tensors: Sequence[Tensor | None] = tensors
        self._scale = scale
        self.present: tuple[bool, ...] = tuple(tensor is not None for tensor in tensors)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Tensor | None:
        return self._elements[index]

    @cached_property
    def squares(self) -> Tensor:
        """Sum of squares of each tensor, `[parameters]`; 0 where there is none."""
        squares = self._spread(self._raw_squares)
        return squares if self._scale is None else squares / self._scale.to(squares).square()

    @cached_property
    def nonfinite(self) -> Tensor:
        """Number of NaN and Inf elements of each tensor, `[parameters]`; 0 where there is none."""
        if self._moments is not None:
            return self._spread(self._moments.nonfinite)
        return self._spread(count_nonfinite(self._chosen, self._raw_squares))

    def grouped(self, groups: Mapping[str, Sequence[int]]) -> dict[str, tuple[list[Tensor], Tensor | None]]:
        """The tensors of each group, and the bounds of their elements (`[2]`) where those are known already.

        Groups without a tensor are left out.
        """
        there = {name: [index for index in indices if self.present[index]] for name, indices in groups.items()}
        there = {name: indices for name, indices in there.items() if indices}
        bounds: Sequence[Tensor | None] = [None] * len(there)
        if there and self._moments is not None:
            rank = list(accumulate(self.present, initial=0))  # of a place among those that hold a tensor
            bounds = self._moments.bounds([[rank[index] for index in indices] for indices in there.values()])
        return {
            name: ([tensor for index in indices if (tensor := self[index]) is not None], known)
            for (name, indices), known in zip(there.items(), bounds, strict=True)
        }

    def compute(self, *, nonfinite: bool) -> None:
        """Computes the statistics now: the tensors will have other contents later."""
        _ = self.squares, nonfinite and self.nonfinite

    def statistics_only(self, *, nonfinite: bool) -> Tensors:
        """The statistics alone, taken now, without a reference to the tensors."""
        self.compute(nonfinite=nonfinite)
        self.release()
        return self

    def release(self) -> None:
        """Lets go of the tensors; statistics that were taken stay."""
        self._tensors = [None] * len(self._tensors)
        self.__dict__.pop("_elements", None)
        self.__dict__.pop("_chosen", None)

    def squares_where(self, present: Sequence[bool]) -> Tensor:
        """`squares` of the tensors at the places that are `present`; 0 at others."""
        if all(present):
            return self.squares
        keep = moved(torch.tensor(present), self.squares.device)
        return torch.where(keep, self.squares, torch.zeros_like(self.squares))

    @cached_property
    def _elements(self) -> Sequence[Tensor | None]:
        """The tensors; of sparse ones their values, which are made once for all that is asked."""
        return [None if tensor is None else elements(tensor) for tensor in self._tensors]

    @cached_property
    def _chosen(self) -> list[Tensor]:
        return [tensor for tensor in self._elements if tensor is not None]

    @cached_property
    def _moments(self) -> Moments | None:
        """On CUDA one pass finds squares, what is not finite, and the bounds that a histogram needs."""
        return fused.of_each(self._chosen)

    @cached_property
    def _raw_squares(self) -> Tensor:
        return square_norms(self._chosen) if self._moments is None else self._moments.square_norms()

    def _spread(self, numbers: Tensor) -> Tensor:
        if all(self.present):
            return numbers
        indices = torch.tensor([index for index, there in enumerate(self.present) if there], dtype=torch.int64)
        return numbers.new_zeros(len(self.present)).index_copy_(0, moved(indices, numbers.device), numbers)
