"""The one-page report: self-contained, accessible, and showing the numbers of the result files."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import fixtures
import pytest
from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.report.curves import figure_training
from instruct_ipt.report.page import PICTURE_LIMIT, sliders, summarise, write_page
from instruct_ipt.report.tables import write_tables
from instruct_ipt.tasks import TASKS


class _Reader(HTMLParser):
    """Collects the elements of a page and checks that they close in order."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "root"
    fixtures.write_all(folder)
    figure_training(fixtures.histories(), folder / "figures")
    results = folder / "results"
    write_tables(folder, folder / "tables")
    write_page(folder, folder / "report" / "index.html", summarise(results / "benchmark.csv"))
    return folder


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> _Reader:
    return _Reader(text)


def test_nothing_is_loaded_from_elsewhere(text: str, page: _Reader) -> None:
    assert not re.search(r"https?:", text)
    for tag in ("img", "link", "script", "source", "iframe"):
        for attributes in page.all(tag):
            address = attributes.get("src") or attributes.get("href")
            assert address is None or address.startswith("data:")
    assert "@import" not in text and "url(" not in text
    assert len(text.encode()) < 15_000_000


def test_every_picture_has_words(page: _Reader) -> None:
    pictures = page.all("img")
    assert len(pictures) == 2 * len(TASKS) + 1
    assert all(len(attributes["alt"] or "") > 15 and attributes["width"] for attributes in pictures)


def test_structure(page: _Reader) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("h1", "main", "title")] == [1, 1, 1]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [attributes["href"] for attributes in page.all("a")]
    assert all(anchor and anchor[1:] in ids for anchor in anchors)
    ranges = page.all("input")
    assert [str(r["aria-label"]).split(":")[0] for r in ranges] == list(TASKS)


def test_it_says_what_it_is(text: str) -> None:
    flat = " ".join(re.sub(r"<.*?>", "", text).split())
    assert "Small-scale replication (profile quick) on bundled photographs" in flat
    assert "own values are not public and stay empty" in flat
    for command in ("dvc repro figures", "dvc repro tables", "snakemake -c2 rank", "snakemake -c2 strategy"):
        assert command in flat


def test_gains(text: str, root: Path) -> None:
    summary = summarise(root / "results" / "benchmark.csv")
    assert list(summary["gains"]) == ["shared", "film", "experts", "modulation"]
    assert summary["gains"]["modulation"] == pytest.approx(dict.fromkeys(TASKS, 4.0) | {"desnow": 4.5})
    assert summary["mean"]["modulation"] == pytest.approx(4.1)
    assert "+4.50" in text and "+4.10" in text


def test_sliders_are_small_pictures_of_the_right_things(root: Path) -> None:
    found = sliders(root / "results")
    assert [slider["task"] for slider in found] == list(TASKS)
    for slider in found:
        for key in ("before", "after"):
            content = base64.b64decode(slider[key].removeprefix("data:image/jpeg;base64,"))
            assert len(content) <= PICTURE_LIMIT
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.size == (slider["width"], slider["height"]) == (140, 96)
        assert slider["psnr_after"] > slider["psnr_before"]


def test_tables_are_shown_with_their_marks(text: str, page: _Reader) -> None:
    # The gains, the claims, and ten files of tables/.
    assert len(page.all("table")) == 12
    assert "<strong>26.20</strong>" in text and "<u>26.00</u>" in text
    assert 'data-sort="2506170"' in text


def test_text_from_files_cannot_become_markup(root: Path, tmp_path: Path) -> None:
    summary = summarise(root / "results" / "benchmark.csv") | {"profile": "<script>alert(1)</script>"}
    write_page(root, tmp_path / "index.html", summary)
    assert "<script>alert" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_page_without_tables_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no table; `dvc repro tables`"):
        write_page(tmp_path, tmp_path / "index.html", summarise(root / "results" / "benchmark.csv"))


def test_claims_are_shown_with_interval_verdict_and_what_is_missing(text: str) -> None:
    assert "It beats &lt;the&gt; rest" in text and "+0.50 [-0.25, +1.25] dB" in text
    assert "40 images, 1 seed; images only" in text and "3.20 %" in text
    assert "study adaptation has none" in text and text.count("<b>inconclusive</b>") == 2
