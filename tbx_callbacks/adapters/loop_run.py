"""What a loop of one's own can ask, and where its run goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import nn
from tqdm.auto import tqdm

from tbx_callbacks.adapters.counted import CountedSteps
from tbx_callbacks.facts import Setup
from tbx_callbacks.folders import Place, beside, fresh_folder
from tbx_callbacks.verdict import Verdict

Batch = TypeVar("Batch")


class LoopRun(CountedSteps):
    """What `TbxLoop` gives a loop beside the steps themselves."""

    _model: nn.Module | None = None

    @property
    def should_stop(self) -> bool:
        """Whether a rule wants the training to stop; True from an `end_step` on, the same one on every rank."""
        return Verdict.STOP in self._verdict

    @property
    def should_checkpoint(self) -> bool:
        """Whether a rule wants a checkpoint now; True after one `end_step`, the same one on every rank."""
        return Verdict.CHECKPOINT in self._verdict

    def track(self, batches: Iterable[Batch], description: str | None = None) -> Iterator[Batch]:
        """The batches, with a progress bar for terminals and notebooks that shows the loss as it is logged.

        The time that they take to come is that of the metric `input_share`.
        """
        with tqdm(batches, desc=description, disable=not self._writes) as bar:
            for batch in self._timed(bar):
                yield batch
                loss = self._monitor.publisher.last("train/loss")
                if isinstance(loss, float):
                    bar.set_postfix(step=self._step, loss=f"{loss:.4g}", refresh=False)

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; waiting for them counts while the model trains, and the end of them does not."""
        watch, coming = self._monitor.stopwatch, iter(batches)
        while True:
            if self._model is not None and self._model.training:
                watch.wait()
            try:
                batch = next(coming)
            except StopIteration:
                watch.forget_wait()
                return
            watch.got()
            yield batch

    def _begin(self, place: Place | None, step: int, *, setup: Setup) -> None:
        self._model = setup.model
        super()._begin(place, step, setup=setup)

    def _place(self, start_step: int) -> Place:
        wanted = self._wanted_dir
        resumes = start_step > 0 and wanted is not None
        folder = wanted if resumes else beside(wanted) if wanted else fresh_folder("runs")
        return Place(str(folder), purge=resumes)
