import datetime
import re
from html.parser import HTMLParser

import pytest

from synthgrad.lab.report import ReportError, write_report


class _Page(HTMLParser):
    """What the page holds: tables as rows of texts, tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join((self._cell or "").split()))
            self._cell = None


@pytest.fixture
def folders(make_run):
    return [make_run(m, s) for m in ("backprop", "none", "dni", "cdni") for s in (0, 1, 2)]


def test_table_has_the_numbers_of_the_folders(make_run, tmp_path):
    runs = [
        make_run("cdni", s, final={"test_error": e, "train_loss": 0.1})
        for s, e in enumerate((1.4, 1.6))
    ]
    runs += [make_run("none", 0, final={"test_error": 12.25, "train_loss": 0.5}, learning_rate=0.1)]
    page = _Page(write_report(runs, tmp_path / "out.html").read_text())
    results, listed = page.tables
    columns = "Layers|Method|Test error, %|Paper|Training loss|Seeds|Iterations|Seconds|Settings"
    assert ["|".join(row) for row in results] == [
        columns,
        "4|none|12.25|12.6|0.500|1|3,500|40.5|learning rate 0.1",
        "4|cdni|1.50 ± 0.14|1.9|0.100 ± 0.000|2|3,500|41.0|learning rate default",
    ]
    assert [row[1:] for row in listed[1:]] == [
        ["mnist-fcn", "cdni", "0", "finished", "Test error 1.40%"],
        ["mnist-fcn", "cdni", "1", "finished", "Test error 1.60%"],
        ["mnist-fcn", "none", "0", "finished", "Test error 12.25%"],
    ]


def test_page_is_small_and_needs_nothing_besides_itself(folders, tmp_path):
    path = write_report(folders, tmp_path / "deep" / "out.html")
    text = path.read_text()
    assert path.stat().st_size < 1_500_000
    page = _Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


def test_every_chart_is_described_and_every_table_has_a_caption(folders, tmp_path):
    text = write_report(folders, tmp_path / "out.html").read_text()
    page = _Page(text)
    figures = text.count("<figure>")
    # Three curves, and three distances for each of the two methods that have a model.
    assert figures == 3 + 3 * 2
    charts = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == figures
    assert all("At the end: " in chart["aria-label"] for chart in charts)
    assert text.count("<caption>") == text.count("<table>") == 2
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_heading_says_what_when_and_with_what(folders, make_run, tmp_path):
    other = make_run("cdni", recipe="cifar10-fcn")
    text = write_report(
        [*folders, other], tmp_path / "o.html", title="A < B", date=datetime.date(2025, 2, 3)
    ).read_text()
    assert "<h1>A &lt; B</h1>" in text
    assert "<title>A &lt; B</title>" in text
    head = " ".join(text[text.index("<header>") : text.index("</header>")].split())
    assert "mnist-fcn, cifar10-fcn · 13 runs" in head
    assert '<time datetime="2025-02-03">' in head
    assert "<dt>torch</dt><dd>2.13.0</dd>" in text


def test_unfinished_run_is_shown_and_marked(make_run, tmp_path):
    runs = [make_run("backprop"), make_run("cdni", finished=False)]
    text = write_report(runs, tmp_path / "out.html").read_text()
    results, listed = _Page(text).tables
    assert [row[1] for row in results[1:]] == ["backprop", "cdni unfinished"]
    assert listed[2][4] == "unfinished at step 1,400"
    assert "cdni (unfinished)" in text
    assert "A run that stopped early keeps its last value" in text


def test_run_without_a_single_metric_can_be_shown(make_run, tmp_path):
    folder = make_run("cdni", finished=False)
    (folder / "metrics.jsonl").write_text("")
    (results, _) = _Page(write_report([folder], tmp_path / "o.html").read_text()).tables
    assert results[1] == ["4", "cdni unfinished", "1", "0 of 3,500", "–"]


def test_folder_as_output_gets_a_file_and_a_run_named_twice_is_one(make_run, tmp_path):
    run = make_run()
    path = write_report([run, run / ".." / run.name], tmp_path)
    assert path == tmp_path / "report.html"
    assert len(_Page(path.read_text()).tables[1]) == 2


def test_broken_folder_is_named_and_no_page_is_written(folders, tmp_path):
    (folders[3] / "summary.json").write_text("{")
    with pytest.raises(ReportError, match=re.escape(str(folders[3] / "summary.json"))):
        write_report(folders, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
    with pytest.raises(ReportError, match="at least one run folder, got none"):
        write_report([], tmp_path / "out.html")


def test_page_that_cannot_be_written_is_named(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot write .*file/out\.html"):
        write_report([make_run()], tmp_path / "file" / "out.html")
