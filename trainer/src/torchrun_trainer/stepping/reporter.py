"""Reporter: collects how the steps went, and shows it as lines, posts to the collector, and tracked values."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from torchrun_trainer.launch.ranks import Ranks
from torchrun_trainer.snapshots.saver import AnySaver
from torchrun_trainer.watch.progress import NoPublisher, Progress, Publisher, open_publisher, write_line
from torchrun_trainer.watch.straggler import Straggler
from torchrun_trainer.watch.tracking import Tracker

_BEAT_SECONDS = 1.0


class Reporter:
    """The reports of a run. All ranks contribute their loss; rank 0 writes.

    Between ``open`` and ``close`` rank 0 also posts to the collector.
    """

    def __init__(self, ranks: Ranks, trackers: Sequence[Tracker], report_seconds: float) -> None:
        self._ranks = ranks
        self._trackers = trackers
        self._report_seconds = report_seconds
        self._publisher: Publisher | NoPublisher = NoPublisher()
        self._loss: float | Tensor | None = None
        self._epoch: int | None = None
        self._metrics: dict[str, float | Tensor] = {}
        self._samples = 0
        self._reported = 0.0
        self._latest: Progress | None = None
        self._beat = 0
        self._beat_at = 0.0

    @property
    def deadline(self) -> float:
        """The seconds without a step after which the collector takes the workers to hang; 0 for none."""
        return self._publisher.deadline

    def open(self) -> None:
        """Begin to post, and to count samples."""
        self._publisher = open_publisher(self._ranks.rank % self._ranks.reached)
        self._samples = 0
        self._reported = time.monotonic()

    def close(self) -> None:
        """Send what is left."""
        self._publisher.close()
        self._publisher = NoPublisher()
        for tracker in self._trackers:
            tracker.flush()

    def record(
        self, loss: float | Tensor | None, samples: int, epoch: int | None, metrics: Mapping[str, float | Tensor]
    ) -> None:
        """Note how the current step went; see ``Run.report``."""
        if loss is not None:
            self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        if epoch is not None:
            self._epoch = epoch
        self._samples += samples
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"{name} has {value.numel()} values; report one number")
            self._metrics[name] = value.detach() if isinstance(value, Tensor) else float(value)

    def due(self) -> bool:
        """Return whether it is time for a report. Only rank 0 decides.

        Reports are frequent enough that the silence does not count as a hang.
        """
        interval = min(self._report_seconds, self.deadline / 10) if self.deadline else self._report_seconds
        return self._ranks.rank == 0 and time.monotonic() - self._reported >= interval

    def report(self, step: int, total_steps: int, saver: AnySaver, slow: Straggler | None) -> None:
        """Report that ``step`` steps are done. A collective: call it on all ranks."""
        loss = self._mean_loss()
        if self._ranks.rank != 0:
            return
        elapsed = time.monotonic() - self._reported
        progress = Progress(
            step=step,
            total_steps=total_steps,
            epoch=self._epoch,
            loss=loss,
            samples_per_second=self._samples / elapsed if self._samples and elapsed else None,
            world_size=self._ranks.size,
            snapshot_step=saver.newest.step if saver.newest else None,
            snapshot_time=saver.newest.time if saver.newest else None,
            snapshot_seconds=saver.blocked,
            beat=self._beat,
            slow_rank=slow.rank if slow else None,
            slow_node=slow.rank // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if slow else None,
            slow_seconds=slow.lag_seconds if slow else None,
            step_seconds=slow.step_seconds if slow else None,
        )
        self._samples = 0
        self._reported = time.monotonic()
        self._latest = progress
        write_line(progress.line(time.time()))
        self._publisher.publish(progress)
        if self._trackers:
            self._track(progress)

    def alive(self) -> None:
        """Post a sign of life between two steps, at most once per second."""
        if self._latest and time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = time.monotonic()
            self._beat += 1
            self._publisher.publish(replace(self._latest, beat=self._beat))

    def _track(self, progress: Progress) -> None:
        values = {
            "loss": progress.loss,
            "samples_per_second": progress.samples_per_second,
            "world_size": progress.world_size,
            "epoch": progress.epoch,
            **{name: float(value) for name, value in self._metrics.items()},
        }
        self._metrics.clear()
        for tracker in self._trackers:
            tracker.log(progress.step, {name: value for name, value in values.items() if value is not None})

    def _mean_loss(self) -> float | None:
        """Return the mean over the ranks that have reported a loss."""
        own = [0.0, 0.0] if self._loss is None else [float(self._loss), 1.0]
        losses, ranks = self._ranks.sums(own)
        return losses / ranks if ranks else None
