"""One process to a run folder."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from synthgrad.errors import SynthgradWarning
from synthgrad.lab import cli
from synthgrad.lab.errors import UsageError
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import ImageTrainer
from synthgrad.lab.runs import lock
from synthgrad.lab.runs.folder import RunFolder
from synthgrad.lab.runs.run import run

DIGITS = RECIPES["digits-fcn"]
CONFIG = DIGITS.defaults.changed(units=8, iterations=4, eval_every=2, checkpoint_every=2)
SETTINGS = ("--units", "8", "--iterations", "4")


def _files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "command",
    [("run", "digits-fcn", *SETTINGS), ("launch", "digits-fcn", "--stages", "2", *SETTINGS)],
    ids=["run", "launch"],
)
def test_a_second_command_is_refused_before_it_trains_and_names_the_first(
    tmp_path, capsys, monkeypatch, command
):
    monkeypatch.setattr(ImageTrainer, "__init__", lambda *_: pytest.fail("it began"))
    with lock.alone(tmp_path):
        before = _files(tmp_path)
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, "--out", str(tmp_path)])
        assert ended.value.code == 2
        assert f"another process (pid {os.getpid()}) works in {tmp_path}" in capsys.readouterr().err
        assert _files(tmp_path) == before


@pytest.mark.parametrize("how", ["by run", "by launch"])
def test_a_command_holds_its_folder_while_it_trains_and_leaves_no_lock(tmp_path, monkeypatch, how):
    from synthgrad.lab.stages import launch

    seen = []

    def look(*_):
        with pytest.raises(UsageError, match="another process"), lock.alone(tmp_path):
            pass
        seen.append(1)

    if how == "by run":
        advance = ImageTrainer.advance
        monkeypatch.setattr(ImageTrainer, "advance", lambda trainer: (look(), advance(trainer)))
        run(DIGITS, CONFIG, tmp_path)
    else:
        monkeypatch.setattr(launch.Supervisor, "run", look)
        with pytest.raises(SystemExit):
            cli.main(["launch", "digits-fcn", "--stages", "2", *SETTINGS, "--out", str(tmp_path)])
    assert seen
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_finished_meanwhile_is_not_run_again(tmp_path, monkeypatch, resume):
    make, other = ImageTrainer.__init__, []

    def meanwhile(*arguments):  # the other begins after we have looked, and ends before we lock
        make(*arguments)
        if not other:
            other.append(None)
            other[0] = run(DIGITS, CONFIG, tmp_path, resume=resume)

    monkeypatch.setattr(ImageTrainer, "__init__", meanwhile)
    if resume:
        config = {"recipe": DIGITS.name, **DIGITS.settle(CONFIG).to_json()}
        RunFolder(tmp_path, config, resume=False).open()
        assert run(DIGITS, CONFIG, tmp_path, resume=True) == other[0]
    else:
        with pytest.raises(UsageError, match="already holds a run"):
            run(DIGITS, CONFIG, tmp_path)


def test_a_killed_process_leaves_its_folder_free(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from synthgrad.lab.runs.lock import alone\n"
        "with alone(Path(sys.argv[1])): print(flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline()
        with pytest.raises(UsageError, match=rf"pid {holder.pid}\)"):
            lock.refuse_if_held(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / lock.NAME).exists()
    lock.refuse_if_held(tmp_path)
    run(DIGITS, CONFIG, tmp_path)
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("filled", [False, True])
def test_a_folder_that_was_made_goes_if_nothing_came_of_it(tmp_path, filled):
    with lock.alone(tmp_path / "a" / "b"):
        if filled:
            (tmp_path / "a" / "b" / "x").write_text("")
    assert (tmp_path / "a" / "b").exists() is filled


def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.warns(SynthgradWarning, match="cannot be locked"), lock.alone(tmp_path):
        pass


def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / lock.NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"\.lock"), lock.alone(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
