"""Commands that accept any model that `slimdet.load` opens.

The lower packages accept files only: a run, a bundle or a checkpoint is resolved to a file here.
Importing this loads nothing heavy.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.run import command_line as bench_command_line
from benchmarks.run import run_bench
from export.arguments import run_command, say
from export.backends import BACKENDS
from export.build import backend_of
from export.build import command_line as build_command_line
from export.bundle import command_line as bundle_command_line
from export.bundle import run_bundle
from export.errors import ExportError
from export.lint import command_line as lint_command_line
from export.lint import run_lint
from export.predict import command_line as predict_command_line
from export.verify import command_line as verify_command_line
from export.verify import main as verify_bundle


def build(arguments: Sequence[str] | None, prog: str) -> int:
    """Build an artifact; return the exit code."""
    options = build_command_line(prog).parse_args(arguments)

    def work() -> int:
        from slimdet.building import build_model

        path = build_model(options)
        for line in BACKENDS[backend_of(options)].summary(path).split("\n"):
            say(line)
        return 0

    return run_command(work)


def predict(arguments: Sequence[str] | None, prog: str) -> int:
    """Detect on photographs and videos; return the exit code."""
    options = predict_command_line(prog).parse_args(arguments)

    def work() -> int:
        from export.atomic import require_writable
        from export.predictions import require_free_outputs, write_predictions
        from slimdet.loading import load

        require_writable(options.out, "--out")  # before the model is loaded
        require_free_outputs(options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # `write_predictions` prints it
            model = load(
                options.model,
                artifact=options.artifact,
                device=options.device,
                threads=options.threads,
            )
        with model:
            return write_predictions(options, model.engine, model.path)

    return run_command(work)


def lint(arguments: Sequence[str] | None, prog: str) -> int:
    """Check quantised ONNX files; return the exit code."""
    options = lint_command_line(prog).parse_args(arguments)

    def work() -> int:
        from slimdet.loading import for_tensorrt

        with ExitStack() as stack:
            options.models = [
                file for given in options.models for file in for_tensorrt(given, stack)
            ]
            return _exported(options, run_lint)

    return run_command(work)


def bench(arguments: Sequence[str] | None, prog: str) -> int:
    """Measure accuracy and latency; return the exit code."""
    options = bench_command_line(prog).parse_args(arguments)
    return run_command(lambda: _exported(options, run_bench), "interrupted; no report was written")


def bundle(arguments: Sequence[str] | None, prog: str) -> int:
    """Pack models; return the exit code."""
    options = bundle_command_line(prog).parse_args(arguments)
    return run_command(lambda: _exported(options, run_bundle))


def verify(arguments: Sequence[str] | None, prog: str) -> int:
    """Verify a bundle (a folder, an archive, or that of a run); return the exit code."""
    options = verify_command_line(prog).parse_args(arguments)

    def work() -> int:
        from slimdet.loading import unpacked

        with ExitStack() as stack:
            folder = unpacked(options.bundle, stack)
            if (folder / "recipe.lock.json").is_file():
                folder = folder / "bundle"
            named = [] if options.artifact is None else ["--artifact", options.artifact]
            json = ["--json"] if options.json else []
            return verify_bundle([str(folder), *named, "--device", options.device, *json], prog)

    return run_command(work)


def _exported(options: argparse.Namespace, work: Callable[[argparse.Namespace], int]) -> int:
    """Run `work` on the files of `options.models`.

    Raises:
        ExportError: one is a checkpoint, or holds no model.
    """
    from slimdet.loading import TRAINED, artifact_in

    with ExitStack() as stack:
        options.models = [artifact_in(path, None, stack) for path in options.models]
        for path in options.models:
            if path.suffix in TRAINED:
                raise ExportError(
                    f"{path}: is a checkpoint, and an exported model was expected; make one with "
                    f"`slimdet build {path} --precision fp32 --out DIR`"
                )
        return work(options)
