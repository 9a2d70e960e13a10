"""`ipt arm`, `ipt scores`, `ipt side-by-side` and `ipt gallery`. Thin, like the rest of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WEIGHTS = typer.Option(help="Folder of a release; default: `weights`, or what is installed.")


def arm(
    name: Annotated[
        str, typer.Argument(help="shared, experts, film, frozen, synchronous, synthetic, release, finish.")
    ],
) -> None:
    """Train one network of a release."""
    from instruct_ipt.release.arms import train

    print(train(name))


def scores(
    weights: Annotated[Path | None, _WEIGHTS] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the scores beside the weights.")] = False,
    images: Annotated[Path | None, typer.Option(help="CSV for the scores of every image.")] = None,
) -> None:
    """Score the released weights on the benchmark images.

    `ipt data fetch --level benchmark` brings them. Exit code 1 where a score is not the recorded one within 0.02 dB.
    """
    from instruct_ipt.disk import write_whole
    from instruct_ipt.release import scores as module
    from instruct_ipt.restoration.weights import CARD, find_weights

    folder = weights or find_weights()
    recorded = None if record else module.read_recorded(folder)
    in_card = record and module.MARKS.in_page(folder / CARD)
    found = module.compute(folder)
    table = module.means(found)
    print(module.as_markdown(table), end="")
    if images is not None:
        write_whole(images, found.round({"psnr": 4, "ssim": 5}).to_csv(index=False, lineterminator="\n").encode())
    if recorded is None:
        module.record(folder, table)
        card = folder / CARD
        print(f"recorded in {folder / module.SCORES}{f' and {card}' if in_card else f'; {card} has no place for them'}")
        return
    wrong = module.differences(table, recorded)
    for line in wrong:
        print(f"differs: {line}")
    allowed = module.TOLERANCE
    print(
        f"{len(recorded)} recorded rows, {len(wrong)} differences beyond {allowed['psnr']} dB or {allowed['ssim']} SSIM"
    )
    raise typer.Exit(1 if wrong else 0)


def side_by_side(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="CSV to write.")] = Path(
        "docs/release/side_by_side.csv"
    ),
    page: Annotated[Path, typer.Option(help="Markdown with a place for the table.")] = Path("docs/release.md"),
    method: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this set; may be given again.")] = None,
) -> None:
    """Compare arms and classical methods.

    With `--method` or `--dataset` only their rows are computed; the others of the CSV stay as they are.
    """
    from instruct_ipt.disk import write_whole
    from instruct_ipt.release import side_by_side as module

    before = module.read(output) if (method or dataset) and output.is_file() else None
    in_page = module.MARKS.in_page(page)
    table = module.compute(method or (), dataset or ())
    table = table if before is None else module.merged(before, table)
    write_whole(output, table.to_csv(index=False, lineterminator="\n").encode())
    if in_page:
        module.MARKS.fill(page, module.as_markdown(table))
    print(module.as_markdown(table), end="")
    print(f"{output}{f' and {page}' if in_page else f'; {page} has no place for the table'}")


def gallery(
    weights: Annotated[Path | None, _WEIGHTS] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write.")] = Path(
        "gallery"
    ),
    choose: Annotated[bool, typer.Option("--choose", help="Write the list of images instead, by its rule.")] = False,
    images: Annotated[Path | None, typer.Option(help="With --choose: CSV of `ipt scores --images`.")] = None,
) -> None:
    """Show listed benchmark photographs restored."""
    from instruct_ipt.errors import InputError
    from instruct_ipt.release import gallery as module
    from instruct_ipt.release.scores import read_images
    from instruct_ipt.release.sets import degradation_of, indexed_images
    from instruct_ipt.restoration.weights import find_weights

    if images is not None and not choose:
        raise InputError("--images says what to add to the list; it needs --choose")
    folder = weights or find_weights()
    if choose:
        scored, degradation = None if images is None else read_images(images), degradation_of(folder)
        listed = module.write_list(indexed_images(degradation), degradation, scored)
        print(f"{module.LIST}: {len(listed)} images")
        return
    print(module.render(folder, output))
