import shutil
import subprocess
from pathlib import Path

import pytest

from slimdet.__main__ import main
from slimdet.commands import COMMANDS

pytest.importorskip("shtab")


@pytest.fixture
def script(tmp_path: Path, capsys) -> Path:
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, *words: str) -> set[str]:
    """Ask bash for the completions of the last of `words`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    code = f'source {script}; COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _shtab_slimdet'
    done = subprocess.run(
        [bash, "-c", f'{code}; echo "${{COMPREPLY[@]}}"', "bash", *words],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_commands_are_completed(script: Path) -> None:
    assert completed(script, "slimdet", "") >= COMMANDS.keys()
    assert completed(script, "slimdet", "b") == {"build", "bundle", "bench"}


def test_options_and_their_values_are_those_of_the_command(script: Path) -> None:
    assert completed(script, "slimdet", "build", "--pre") == {"--precision"}
    assert "--check" in completed(script, "slimdet", "run", "--")
    assert "--check" not in completed(script, "slimdet", "check", "--")
    assert completed(script, "slimdet", "predict", "--device", "") == {"cpu", "cuda", "tensorrt"}


def test_a_path_is_completed_to_files(script: Path) -> None:
    (script.parent / "recipe.yaml").write_text("")
    assert completed(script, "slimdet", "check", "rec") == {"recipe.yaml"}


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_that_names_every_command(shell: str, capsys) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
