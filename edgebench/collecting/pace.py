"""How long the rest of a campaign takes, reckoned from the runs that are done, and the line that says so.

Seconds are those of the monotonic clock. What comes before a model's first run (loading, warming up, the idle
baseline) is no part of a run's time and is reckoned apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgebench.shell.progress import Progress


@dataclass
class ModelPace:
    """One model: what is left of it, and how long its runs took."""

    runs_left: int
    weight: float  # bytes that one token or one loading moves: what a model without runs is reckoned by
    runs_done: int = 0
    run_s: float = 0.0  # of all its runs together
    startups_left: int = 1
    startup_s: float | None = None  # of its last loading and first baseline


class Pace:
    """The time that is left, from each model's own runs where it has some."""

    def __init__(self, models: Mapping[str, ModelPace]) -> None:
        self.models = dict(models)

    def started(self, model_id: str, seconds: float) -> None:
        """The model is loaded and its first baseline known."""
        model = self.models[model_id]
        model.startups_left = 0
        model.startup_s = seconds

    def ran(self, model_id: str, seconds: float) -> None:
        """One run of the model, with the pause before it."""
        model = self.models[model_id]
        model.runs_left -= 1
        model.runs_done += 1
        model.run_s += seconds

    def left_s(self) -> float | None:
        """Seconds until the end; None before the first run is done.

        A model without runs is reckoned by the others, in proportion to the bytes that a token reads.
        """
        done = [model for model in self.models.values() if model.runs_done]
        if not done:
            return None
        moved = sum(model.runs_done * model.weight for model in done)
        run_s_per_weight = sum(model.run_s for model in done) / moved
        startups_s = [model.startup_s for model in self.models.values() if model.startup_s is not None]
        startup_s = sum(startups_s) / len(startups_s) if startups_s else 0.0
        left_s = 0.0
        for model in self.models.values():
            if model.runs_left <= 0:
                continue
            one_run_s = model.run_s / model.runs_done if model.runs_done else model.weight * run_s_per_weight
            left_s += model.runs_left * one_run_s + model.startups_left * startup_s
        return left_s


class CampaignProgress(Progress):
    """The progress of a campaign over models of different speed."""

    def __init__(self, total: int, pace: Pace) -> None:
        super().__init__(total)
        self.pace = pace

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the end; None before the first run is done."""
        return self.pace.left_s()
