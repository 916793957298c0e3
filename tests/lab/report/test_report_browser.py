"""The page in a real browser, where there is one."""

import os
import re
import shutil
import subprocess

import pytest

from synthgrad.lab.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here")

# Measures inside a frame of the width in question, because a window has a least width.
PROBE = """<!DOCTYPE html><body style="margin:0">
<iframe id="f" src="{page}" style="border:0;width:{width}px;height:2000px"></iframe>
<script>onload = () => {{
  const page = document.getElementById("f").contentDocument.documentElement;
  const texts = [...page.querySelectorAll("figure > svg")].flatMap(svg => {{
    const boxes = [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect());
    const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
      && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => meet(a, b)));
  }});
  document.body.dataset.found = [page.scrollWidth, texts.length,
    page.querySelectorAll("figure").length].join(" ");
}};</script></body>"""


@pytest.mark.parametrize("width", [320, 360, 390, 1280])
def test_page_does_not_scroll_sideways_and_no_texts_overlap(width, make_run, tmp_path):
    runs = [make_run(m, s) for m in ("backprop", "none", "dni", "cdni") for s in (0, 1)]
    runs += [make_run("dni", layers=12, finished=False, learning_rate=1e-4)]
    page = write_report(runs, tmp_path / "page.html", title="A" + "n uncommonly" * 9 + " long one")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=page.name, width=width))
    command = [str(BROWSER), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    # Its sandbox does not work for root.
    command += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command += ["--window-size=1400,2000", "--dump-dom", probe.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    found = re.search(r'data-found="(\d+) (\d+) (\d+)"', dumped.stdout)
    if not found and dumped.returncode:
        pytest.skip(f"chromium does not start here: {dumped.stderr[-300:]}")
    assert found, dumped.stdout[-2000:]
    scroll_width, overlaps, figures = map(int, found.groups())
    assert scroll_width <= width
    assert figures > 10
    assert overlaps == 0
