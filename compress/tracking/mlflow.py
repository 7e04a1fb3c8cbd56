"""MLflow: one run for a recipe, in the store that MLFLOW_TRACKING_URI names or in a local one."""

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from pydantic import JsonValue

from compress.tracking.tracker import Experiment, Outcome
from export.atomic import write_json
from export.optional import require

STORE = ".mlflow"  # beside the run folders, where no run can be named so
FINISHED: dict[Outcome, str] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
MOST_PARAMS, LONGEST_PARAM = 100, 6000  # in one call, in characters: limits of MLflow's stores
# Where the environment does not say otherwise: a server that is away must not hold a training up
# for MLflow's own seven tries of two minutes.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Mlflow:
    """Logs settings as parameters, figures as metrics `<model>/<figure>`, the report as artifacts.

    The run's id is kept in the run folder, so that an interrupted run goes on in the same one.
    """

    def __init__(self, experiment: Experiment) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        mlflow = require("mlflow", extra="mlflow", purpose="track: [mlflow]")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._entities = require("mlflow.entities", extra="mlflow", purpose="track: [mlflow]")
        store = experiment.home.resolve().parent / STORE
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            store.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(store / 'mlflow.db').as_posix()}"
            artifacts = (store / "artifacts").as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._run = self._resume(experiment, uri) or self._create(experiment, uri, artifacts)

    def begin(self, model: str, step: int) -> None:
        """Do nothing: a metric is known by its name."""

    def log(self, model: str, figures: Mapping[str, float], step: int) -> None:
        """Log one metric for each figure."""
        self._log({f"{model}/{name}": value for name, value in figures.items()}, step)

    def end(self, model: str) -> None:
        """Do nothing: the run stays open."""

    def report(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the figures as metrics `report/<figure>`, and the files below `report`."""
        self._log({f"report/{name}": value for name, value in figures.items()}, 0)
        for file in files:
            self._client.log_artifact(self._run, str(file), "report")

    def close(self, outcome: Outcome) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, FINISHED[outcome])

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(re.sub(r"[^\w\-. :/]", "_", name), float(value), now, step)
            for name, value in figures.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def _resume(self, experiment: Experiment, uri: str) -> str | None:
        """Return the id of this run in the store, if an earlier process began it there."""
        try:
            kept = json.loads(_record(experiment).read_text(encoding="utf-8"))
            run = str(kept["run"])
            if kept["uri"] != uri:
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        found = self._client.search_runs(
            [kept["experiment"]], filter_string=f"attributes.run_id = '{run}'", max_results=1
        )
        if not found:  # it was deleted there
            return None
        self._client.update_run(run, status="RUNNING")
        return run

    def _create(self, experiment: Experiment, uri: str, artifacts: str | None) -> str:
        group = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "slimdet"
        found = self._client.get_experiment_by_name(group)
        number = (
            self._client.create_experiment(group, artifact_location=artifacts)
            if found is None
            else found.experiment_id
        )
        run = str(self._client.create_run(number, run_name=experiment.name).info.run_id)
        params = iter(
            self._entities.Param(name, value[:LONGEST_PARAM])
            for name, value in flat(experiment.settings).items()
        )
        while part := list(islice(params, MOST_PARAMS)):
            self._client.log_batch(run, params=part)
        write_json({"uri": uri, "experiment": number, "run": run}, _record(experiment))
        return run


def flat(settings: JsonValue, key: str = "") -> dict[str, str]:
    """Return every leaf of a JSON tree as text under its dotted key: `distill.0.type`."""
    if isinstance(settings, dict) and settings:
        pairs = list(settings.items())
    elif isinstance(settings, list) and any(isinstance(one, dict | list) for one in settings):
        pairs = [(str(index), value) for index, value in enumerate(settings)]
    else:
        return {key: settings if isinstance(settings, str) else json.dumps(settings)}
    found: dict[str, str] = {}
    for name, value in pairs:
        found |= flat(value, f"{key}.{name}" if key else name)
    return found


def _record(experiment: Experiment) -> Path:
    return experiment.home / "mlflow.json"
