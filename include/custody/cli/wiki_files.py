"""``custody wiki verify|find-page|last-id|...``: the tools for dump files, with the answers mwbzutils gave.

Byte offsets of blocks are one less than where a block begins, as those tools count them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from custody.faults import Fault
from custody.wiki_dump.bz2 import bits, pages, tools
from custody.wiki_dump.bz2.verify import Tools
from custody.wiki_dump.bz2.verify import verify as verify_file
from custody.wiki_dump.making import reading_tools
from custody.wiki_dump.recompress import check_index, multistream
from custody.wiki_dump.settings import Settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NO = 255


def _tools() -> Tools:
    return reading_tools(Settings())


@click.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--quick", is_flag=True, help="Structure of bz2 files only, without decompressing.")
def verify(files: tuple[Path, ...], quick: bool) -> None:
    """Read FILES to their end, and say whether they are whole."""
    bad = 0
    for path in files:
        try:
            if quick:
                found = bits.check_structure(path)
                click.echo(f"{path}: whole, {found.streams} streams, {found.blocks} blocks")
                continue
            read = verify_file(path, tools=_tools())
            counts = f"{read.content.pages} pages, {read.content.revisions} revisions" if read.content.pages else "text"
            click.echo(f"{path}: whole, {counts}, sha256 {read.fixity.digests['sha256']}")
        except Fault as fault:
            bad += 1
            click.echo(f"custody: {fault}", err=True)
    if bad:
        sys.exit(1)


@click.command("check-index")
@click.argument("multistream_file", type=_FILE)
@click.argument("index", type=_FILE)
def check_index_(multistream_file: Path, index: Path) -> None:
    """Look whether every stream that INDEX names is in MULTISTREAM_FILE."""
    click.echo(f"{check_index(multistream_file, index)} streams are where the index says")


@click.command("check-footer")
@click.argument("file", type=_FILE)
def check_footer(file: Path) -> None:
    """Exit with 0 where FILE ends with the end of a bzip2 stream, else with 255."""
    if not pages.has_footer(file):
        sys.exit(NO)


@click.command("last-block")
@click.argument("file", type=_FILE)
def last_block(file: Path) -> None:
    """Write the text of the last block of FILE that can be decompressed."""
    found = pages.last_block(file)
    if found is None:
        sys.exit(NO)
    sys.stdout.buffer.write(found)


@click.command("from-offset")
@click.argument("file", type=_FILE)
@click.argument("offset", type=click.IntRange(min=0))
@click.option("--raw", is_flag=True, help="From the block on, without the head.")
def from_offset(file: Path, offset: int, raw: bool) -> None:
    """Write the head of FILE and everything from the first page after OFFSET on."""
    for chunk in pages.from_offset(file, offset, raw=raw):
        sys.stdout.buffer.write(chunk)


@click.command("find-page")
@click.argument("file", type=_FILE)
@click.argument("page_id", type=int)
def find_page(file: Path, page_id: int) -> None:
    """Say in which block of FILE the page PAGE_ID lies: ``position:N page_id:M``."""
    found = pages.find_page(file, page_id)
    if found is None:
        sys.exit(NO)
    click.echo(f"position:{found.offset - 1} page_id:{found.page_id}")


@click.command("last-id")
@click.argument("file", type=_FILE)
@click.option("-t", "--type", "kind", type=click.Choice(["page", "rev"]), default="page", show_default=True)
def last_id(file: Path, kind: str) -> None:
    """Say the number of the last page or revision of FILE."""
    found = pages.last_id(file, kind)
    if found is None:
        sys.exit(1)
    click.echo(f"{kind}_id:{found}")


@click.command("up-to-page")
@click.argument("file", type=_FILE)
@click.argument("first", type=int)
@click.argument("end", type=int)
def up_to_page(file: Path, first: int, end: int) -> None:
    """Write the pages from FIRST on and before END, as a dump of their own."""
    for chunk in tools.up_to_page(file, first, end):
        sys.stdout.buffer.write(chunk)


@click.command("revs-per-page")
@click.argument("file", type=_FILE)
@click.option("-b", "--bytes", "with_bytes", is_flag=True, help="The size of the text too.")
def revs_per_page(file: Path, with_bytes: bool) -> None:
    """Count the revisions of every page of FILE."""
    for page in tools.pages(file):
        size = f" bytes:{page.text_bytes}" if with_bytes else ""
        click.echo(f"page:{page.page_id} revs:{page.revisions}{size}")


@click.command("show-crcs")
@click.argument("file", type=_FILE)
def show_crcs(file: Path) -> None:
    """List the checksums of every block of FILE, and those folded from them."""
    for byte, shift, crc, is_end in tools.checksums(file):
        name = "combined " if is_end else ""
        click.echo(f"{name}offset:{byte - 1} bits:{shift} crc:0x{crc:08x}")


@click.command()
@click.argument("file", type=_FILE)
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("index", type=click.Path(dir_okay=False, path_type=Path))
def recompress(file: Path, output: Path, index: Path) -> None:
    """Make FILE a multistream file with an INDEX of offset:page:title."""
    import bz2

    def document() -> Iterator[bytes]:
        for each in tools.split(tools.plain(file), str(file)):
            yield each.xml if isinstance(each, tools.Page) else each
        yield b"</mediawiki>\n"

    offset = count = 0
    with output.open("xb") as out, bz2.open(index, "xb") as lines:
        for stream, titles in multistream(document()):
            out.write(stream)
            lines.write(b"".join(b"%d:%b\n" % (offset, title) for title in titles))
            offset += len(stream)
            count += len(titles)
    click.echo(f"{output}: {count} pages")


COMMANDS = (
    *(verify, check_index_, check_footer, last_block, from_offset, find_page, last_id, up_to_page),
    *(revs_per_page, show_crcs, recompress),
)
