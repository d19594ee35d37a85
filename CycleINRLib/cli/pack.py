"""`cycleinr pack`: one file of many scans, which travels and which training maps instead of reading (floor 5)."""

from __future__ import annotations

import gzip
import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import RequestError
from ..events import Stopwatch
from ..imaging.volume import Volume
from ..io.discover import StoredScan, find_scans, read_volume
from ..io.packs import ENDING, read_pack, write_pack
from ..wholefile import check_file, write_whole
from .console import Console
from .options import Parser, add_json


def run(options: Namespace, console: Console) -> None:
    """`cycleinr pack`: one file from folders of scans, read back and compared; with `--compress` a .gz beside it.

    Raises
    ------
    RequestError : no scans, two scans of one name, or an output that exists
    VolumeError : a scan cannot be read, or the file does not hold what was written
    """
    output = Path(options.output)
    compressed = output.with_name(output.name + ".gz")
    check_file(output, [ENDING], overwrite=options.overwrite, inputs=map(Path, options.data))
    if options.compress:
        check_file(compressed, [".gz"], overwrite=options.overwrite)
    files = list(find_scans([Path(one) for one in options.data], options.scans))
    told = [facts for _, facts in files]
    if not files:
        raise RequestError("There is nothing to pack", ", ".join(options.data), "name a folder of thin-slice scans")
    if twice := [name for name, count in Counter(facts["scan"] for facts in told).items() if count > 1]:
        raise RequestError("Two scans have the same name", ", ".join(twice), "rename one of them")
    volumes = _read_each(files, console)
    write_whole(output, lambda partial: write_pack(volumes, told, partial))
    _tell(output, console)
    written = [output]
    if options.compress:
        write_whole(compressed, lambda partial: _compress(output, partial))
        console.say(f"written       {compressed}, {_mib(compressed)}; unpack it by python -m gzip -d")
        written.append(compressed)
    sizes = {path.name: path.stat().st_size for path in written}
    console.finish({"scans": told, "bytes": sizes}, tuple(map(str, written)))


def _read_each(files: list[tuple[StoredScan, dict]], console: Console) -> Iterator[tuple[Volume, dict]]:
    """One volume in memory at a time."""
    watch = Stopwatch("pack", len(files), console.hear)
    for stored, facts in files:
        yield read_volume(stored, facts["modality"]), facts
        watch.step()


def _tell(output: Path, console: Console) -> None:
    scans = read_pack(output)
    for scan in scans:
        size = " x ".join(str(n) for n in scan.shape[::-1])
        held = ", held out" if scan.facts["held_out"] else ""
        console.say(f"{scan.facts['scan']:<13} {scan.modality}, {size} voxels as {scan.kind[1:]}{held}")
        if int(scan.kind[2:]) > 2:
            console.warn(f"{scan.facts['scan']} does not fit into two bytes a voxel and takes {scan.kind[2:]}")
    console.say(f"written       {output}, {len(scans)} scans, {_mib(output)}")


def _compress(source: Path, target: Path) -> None:
    with open(source, "rb") as plain, gzip.open(target, "wb", compresslevel=9) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)


def _mib(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def add_options(parser: Parser) -> None:
    """The options of this command."""
    parser.add_argument("data", metavar="FOLDER", nargs="+", help="folders of thin-slice scans, see collection.py")
    parser.add_argument("output", metavar="OUTPUT.pack")
    parser.add_argument("--scans", metavar="FILE.json", help="take these scans alone, with these facts about them")
    parser.add_argument("--compress", action="store_true", help="write OUTPUT.pack.gz beside it, for travel")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_json(parser)
