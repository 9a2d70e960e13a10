"""The one-page report: self-contained, accessible, and showing the numbers of the result files."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import fixtures
import numpy as np
import pages
import pandas as pd
import pytest
import yaml
from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.report.embedded import FIGURE_BYTES, PHOTOGRAPH_BYTES, Picture
from instruct_ipt.report.fillings import PASSES_BYTES, fillings
from instruct_ipt.report.page import claims, sliders, summarise, write_page
from instruct_ipt.report.shown_tables import parse_markdown, shown_tables
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
    return pages.write_root(tmp_path_factory.mktemp("page") / "root")


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> _Reader:
    return _Reader(text)


@pytest.fixture(scope="module")
def flat(text: str) -> str:
    """The page's text without markup, spaces and line ends as one space."""
    return " ".join(re.sub(r"<.*?>", "", text).split())


def test_nothing_is_loaded_from_elsewhere(text: str, page: _Reader) -> None:
    assert not re.search(r"https?:", text)
    for tag in ("img", "link", "script", "source", "iframe"):
        for attributes in page.all(tag):
            address = attributes.get("src") or attributes.get("href")
            assert address is None or address.startswith("data:")
    assert "@import" not in text and "url(" not in text
    assert len(text.encode()) < 15_000_000


def test_the_same_files_give_the_same_bytes_wherever_they_lie(
    root: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moved").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    write_page(Path("moved"), tmp_path / "index.html", pages.plain_params())
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == text
    assert str(root) not in text and str(tmp_path) not in text


def test_every_picture_has_words(page: _Reader) -> None:
    pictures = [attributes for attributes in page.all("img") if "src" in attributes]
    assert len(pictures) == pages.PICTURES
    assert all(len(attributes["alt"] or "") > 15 and attributes["width"] for attributes in pictures)


def test_structure(page: _Reader, root: Path) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("h1", "main", "title")] == [1, 1, 1]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a[key] for _, a in page.elements for key in ("aria-labelledby", "aria-describedby") if key in a]
    assert set(named) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ranges = page.all("input")
    assert [str(r["aria-label"]).split(":")[0] for r in ranges] == [*TASKS, *fixtures.FILL_TASKS]


def test_links_lead_to_places_in_the_page_and_to_files_beside_it(page: _Reader, root: Path) -> None:
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    anchors = [str(attributes["href"]) for attributes in page.all("a")]
    assert {anchor[1:] for anchor in anchors if anchor.startswith("#")} <= ids
    files = {anchor for anchor in anchors if not anchor.startswith("#")}
    # Not written by these tests: the one depends on the machine, the other is not read by the page.
    for anchor in files - {"../logs/runtime.html", "../results/per_image.csv"}:
        assert (root / "report" / anchor).is_file(), anchor
    assert {"../logs/runtime.html", "../figures/fig_training.csv", "../tables/table04.tex"} <= files


def test_it_says_what_it_is_and_how_to_make_it_again(flat: str) -> None:
    assert "at profile quick, on photographs that ship inside installed packages" in flat
    assert "own values were not at hand and stay empty" in flat
    assert "vultilion" in flat and "CC BY 2.0" in flat
    for command in ("make repro PROFILE=quick", "snakemake -c2 task_gap", "dvc repro ablations claims"):
        assert command in flat


def test_every_block_has_a_command_to_copy(page: _Reader) -> None:
    buttons = [attributes for attributes in page.all("button") if attributes.get("class") == "copy"]
    # Claims, gains, sliders, fillings, parameters; figures; thirteen tables; data has two; the last list has twelve.
    assert len(buttons) == 5 + len(pages.FIGURES) + 13 + 2 + 12
    assert all("hidden" in attributes for attributes in buttons), "without a script there is nothing to press"


def test_gains(flat: str, root: Path) -> None:
    summary = summarise(root / "results" / "benchmark.csv")
    assert list(summary["gains"]) == ["shared", "film", "experts", "modulation"]
    assert summary["gains"]["modulation"] == pytest.approx(dict.fromkeys(TASKS, 4.0) | {"desnow": 4.5})
    assert summary["mean"]["modulation"] == pytest.approx(4.1)
    assert "+4.50 +4.10" in flat


def test_sliders_are_small_pictures_of_the_right_things(root: Path) -> None:
    found = sliders(root / "results")
    assert [slider["task"] for slider in found] == list(TASKS)
    for slider in found:
        for key in ("before", "after"):
            picture = slider[key]
            content = base64.b64decode(picture.source.removeprefix("data:image/jpeg;base64,"))
            assert len(content) <= PHOTOGRAPH_BYTES
            with Image.open(io.BytesIO(content)) as opened:
                assert opened.size == (picture.width, picture.height) == (140, 96)
        assert slider["psnr_after"] > slider["psnr_before"]


def test_a_filling_is_shown_pass_by_pass_with_every_pixel_as_it_is(root: Path) -> None:
    found = fillings(root / "results")
    assert [(fill["task"], fill["image"]) for fill in found] == [(task, "coffee-0") for task in fixtures.FILL_TASKS]
    for fill in found:
        folder = root / "results/diffusion" / fill["task"] / "coffee-0"
        assert [(one["number"], fill["of"]) for one in fill["passes"]] == [(n, fixtures.PASSES) for n in range(1, 5)]
        assert [one["psnr"] for one in fill["passes"]] == pytest.approx([10.25, 10.5, 10.75, 11.0])
        shown = {f"steps-{one['number']:02d}": one["picture"] for one in fill["passes"]}
        for name, picture in (shown | {"input": fill["given"], "truth": fill["truth"]}).items():
            assert (_pixels(picture) == np.asarray(Image.open(folder / f"{name}.png"))).all()


def test_many_or_large_passes_are_thinned_evenly(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    Image.fromarray(noise[:8, :8]).save(tmp_path / "small.png")
    Image.fromarray(noise).save(tmp_path / "large.png")
    names = ["truth", "input", *(f"steps-{n:02d}" for n in range(120, 0, -1))]
    for file, most in (("small.png", 24), ("large.png", 13)):
        rows = [["inpaint", "x", name, file, 20.0] for name in names]
        table = pd.DataFrame(rows, columns=["task", "image", "method", "file", "psnr"])
        table.to_csv(tmp_path / "diffusion_samples.csv", index=False)
        (fill,) = fillings(tmp_path)
        numbers = [one["number"] for one in fill["passes"]]
        assert len(numbers) == most and (numbers[0], numbers[-1], fill["of"]) == (1, 120, 120)
        gaps = {after - before for before, after in zip(numbers, numbers[1:], strict=False)}
        assert max(gaps) - min(gaps) <= 1
        assert sum(len(one["picture"].source) for one in fill["passes"]) * 3 / 4 < PASSES_BYTES


def test_a_filling_that_cannot_be_shown_is_named(tmp_path: Path) -> None:
    samples = fixtures.write_fillings(tmp_path)
    for lost in ("truth", "steps-"):
        samples[~samples.method.str.startswith(lost)].to_csv(tmp_path / "diffusion_samples.csv", index=False)
        with pytest.raises(
            InputError, match="lacks input, truth or the passes of inpaint/coffee-0; run `dvc repro diff"
        ):
            fillings(tmp_path)
    samples.to_csv(tmp_path / "diffusion_samples.csv", index=False)
    (tmp_path / "diffusion/upscale/coffee-0/steps-02.png").unlink()
    with pytest.raises(InputError, match="steps-02.png does not exist though diffusion_samples.csv names it"):
        fillings(tmp_path)


def test_without_a_script_the_last_pass_is_shown(text: str, page: _Reader) -> None:
    passes = [attributes for attributes in page.all("img") if "data-pass" in attributes]
    shown = [attributes["data-pass"] for attributes in passes if "hidden" not in attributes]
    assert shown == ["pass 4 of 4"] * len(fixtures.FILL_TASKS) and len(passes) == 4 * len(shown)
    assert text.count('<p class="pass">pass 4 of 4</p>') == len(shown)
    assert all("hidden" in r for r in page.all("input") if "passes" in str(r["aria-label"]))


def _pixels(picture: Picture) -> np.ndarray:
    content = base64.b64decode(picture.source.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (picture.width, picture.height)
        return np.asarray(opened)


def test_a_figure_is_embedded_in_its_smallest_form(page: _Reader, root: Path) -> None:
    drawing, bitmap = [str(a["src"]) for a in page.all("img") if "src" in a][-2:]
    content = base64.b64decode(drawing.removeprefix("data:image/svg+xml;base64,"))
    assert content == (root / "figures/fig_training.svg").read_bytes()
    content = base64.b64decode(bitmap.removeprefix("data:image/jpeg;base64,"))
    assert len(content) <= FIGURE_BYTES < (root / "figures/data_degradations.png").stat().st_size


def test_tables_are_shown_with_their_marks(text: str, page: _Reader) -> None:
    # The gains, the data, and thirteen files of tables/.
    assert len(page.all("table")) == 15
    assert "<strong>26.20</strong>" in text and "<u>26.00</u>" in text
    assert 'data-sort="2506170"' in text


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1,234.5", "1234.5"),
        ("**27.60 ± 0.14**", "27.60"),
        ("<u>−0.25</u>", "-0.25"),
        ("+0.50 [−0.25, +1.25]", "+0.50"),
        ("r = 4", "4"),
        ("4.99 %", "4.99"),
        ("two-stage", ""),
        ("–", ""),
    ],
)
def test_the_number_behind_a_cell(tmp_path: Path, cell: str, number: str) -> None:
    text = f"**Table 1.** Words, more words.\n\n| a | b |\n| --- | ---: |\n| x | {cell} |\n"
    (tmp_path / "table01.md").write_text(text, encoding="utf-8")
    (table,) = shown_tables(tmp_path)
    assert table["title"] == "Table 1. Words" and table["numeric"] == [False, True]
    assert table["rows"][0][1]["sort"] == number


def test_a_file_that_is_no_table_is_refused() -> None:
    for text in ("", "# Table\n", "**Table 1.** Caption\n"):
        with pytest.raises(InputError, match="not as `dvc repro tables` writes it"):
            parse_markdown(text)


def test_text_from_files_cannot_become_markup(root: Path, tmp_path: Path) -> None:
    for name in ("results", "figures", "tables", "data"):
        (tmp_path / name).symlink_to(root / name)
    table = pd.read_csv(root / "results/claims.csv")
    (tmp_path / "results").unlink()
    (tmp_path / "results").mkdir()
    for file in ("benchmark.csv", "samples.csv", "samples", "diffusion_samples.csv", "diffusion"):
        (tmp_path / "results" / file).symlink_to(root / "results" / file)
    table.assign(note="<script>alert(1)</script>").to_csv(tmp_path / "results/claims.csv", index=False)
    write_page(tmp_path, tmp_path / "index.html", pages.plain_params())
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_missing_files_are_named_with_the_command_that_makes_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(root / "results")
    for name, words in (
        ("figures", "holds no table; `dvc repro tables`"),
        ("tables", "data/prepared/manifest.json does not exist; `dvc repro prepare`"),
    ):
        (tmp_path / name).symlink_to(root / name)
        with pytest.raises(InputError, match=words):
            write_page(tmp_path, tmp_path / "index.html", pages.plain_params())


def test_claims_are_shown_with_interval_verdict_and_what_is_missing(text: str, flat: str) -> None:
    assert "It beats &lt;the&gt; rest" in text and "+0.50 [−0.25, +1.25] dB" in text
    assert "40 images, 1 seed; images only" in text and "3.20 %" in text
    assert "study adaptation has none" in text and "no effect could be estimated" in text
    assert "1 supported 0 contradicted 2 inconclusive" in flat


def test_claims_are_drawn_on_one_scale(root: Path) -> None:
    table = pd.read_csv(root / "results/claims.csv")
    first = table.iloc[[0]].assign(effect=-2.0, ci_low=-2.5, ci_high=-1.5, verdict="contradicted")
    found = claims(pd.concat([table, first]))
    assert [claim["verdict"] for claim in found] == ["supported", "contradicted", "inconclusive", "inconclusive"]
    assert found[0]["plot"] is None, "an exact count has no interval"
    for claim, effect, low, high in ((found[1], -2.0, -2.5, -1.5), (found[2], 0.5, -0.25, 1.25)):
        # 46 of the 50 per cent on each side of zero stand for the largest value that is drawn, here 2.5 dB.
        drawn = {key: (float(value) - 50) * 2.5 / 46 for key, value in claim["plot"].items()}
        expected = {"at": effect, "low": low, "high": high, "margin_low": -0.1, "margin_high": 0.1}
        assert drawn == pytest.approx(expected, abs=1e-3)


def test_an_unknown_verdict_is_refused(root: Path) -> None:
    table = pd.read_csv(root / "results/claims.csv").assign(verdict="perhaps")
    with pytest.raises(InputError, match="the verdict `perhaps`; known are: supported"):
        claims(table)


def test_all_parameters_are_shown(page: _Reader, text: str) -> None:
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", text, re.DOTALL)
    shown = {key: value for block in blocks for key, value in yaml.safe_load(html.unescape(block)).items()}
    assert shown == pages.plain_params()


def test_data_are_counted_and_their_digest_is_shown(flat: str, root: Path) -> None:
    manifest = (root / "data/prepared/manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() in flat and "all 2 prepared files" in flat
    rows = ("train bundled clean images, degraded on the fly 3", "validation bundled denoise, derain 1")
    for row in (*rows, "train leaves clean images, degraded on the fly 2", "test bundled denoise, derain 2"):
        assert row.replace(" ", "") in flat.replace(" ", "")
