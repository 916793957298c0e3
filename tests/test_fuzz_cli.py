"""A sample of what ``python -m tests.fuzz_cli --calls 10000`` tries."""

import os
import subprocess
import sys
from pathlib import Path


def test_calls_made_up_at_random_end_as_they_should():
    # In a process of its own: what takes long is replaced there.
    command = [sys.executable, "-m", "tests.fuzz_cli", "--calls", "40"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "40 calls, 0 problems" in ended.stdout
