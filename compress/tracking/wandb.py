"""Weights & Biases: one run for a recipe; offline where no API key is known."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.tracking.tracker import Experiment, Outcome
from export.atomic import write_json
from export.optional import require

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "interrupted": 130}
START_S, FINISH_S = 30, 120  # a server that is away must not hold a run up for longer


class Wandb:
    """Logs settings as config, figures as `<model>/<figure>` over `<model>/step`, the report.

    Files are in the run folder's `wandb`; `wandb sync` uploads those that were written offline.
    The run's id is kept in the run folder, so that an interrupted run goes on in the same one.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._wandb = require("wandb", extra="wandb", purpose="track: [wandb]")
        mode = os.environ.get("WANDB_MODE")
        if not mode and not self._wandb.login(prompt=False, verify=False):
            mode = "offline"  # asking for a key would hold the run up
        record = experiment.home / "wandb.json"
        try:
            name = str(json.loads(record.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            name = secrets.token_hex(4)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "slimdet",
            name=experiment.name,
            id=name,
            resume="allow",
            dir=str(experiment.home),
            config=experiment.settings,
            mode=mode,
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True, console="off", init_timeout=START_S, finish_timeout=FINISH_S
            ),
        )
        self._name = experiment.name
        write_json({"run": name}, record)

    def begin(self, model: str, step: int) -> None:  # noqa: ARG002 - W&B keeps what it has
        """Give the training an axis of its own: trainings follow each other, all from step 0."""
        self._run.define_metric(f"{model}/step", hidden=True)
        self._run.define_metric(f"{model}/*", step_metric=f"{model}/step")

    def log(self, model: str, figures: Mapping[str, float], step: int) -> None:
        """Log the figures together with the step."""
        named = {f"{model}/{name}": value for name, value in figures.items()}
        self._run.log({**named, f"{model}/step": step})

    def end(self, model: str) -> None:
        """Do nothing: the run stays open."""

    def report(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Put the figures into the summary as `report/<figure>`, and the files into an artifact."""
        self._run.summary.update({f"report/{name}": value for name, value in figures.items()})
        artifact = self._wandb.Artifact(f"{self._name}-report", type="report")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome) -> None:
        """Finish the run; wait for uploads at most `FINISH_S` seconds."""
        self._run.finish(exit_code=EXIT_CODES[outcome])
