import sys

import pytest

from synthgrad import lab


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "synthgrad.lab.cli", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r"needs tyro.*pip install \"synthgrad\[lab\]\""):
        lab.main(["list"])
