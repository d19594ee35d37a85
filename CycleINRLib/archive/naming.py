"""What the results of each scan are called in the folder of the batch (floor 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..io.discover import Found

RESERVED = ("batch", "batch_key")  # files that the batch itself writes
ALIAS = "scan_{:06d}"


def named(
    found: Iterable[Found], known: Mapping[str, str], dicom: bool, anonymous: bool
) -> Iterator[tuple[Found, str]]:
    """Each scan with the name of its results, relative to the folder, "/" between, no extension.

    Parameters
    ----------
    known : {path: name} of scans that have theirs already
    dicom : results are folders, which must not lie in each other
    anonymous : numbers instead of names
    """
    scans = list({str(one.path.absolute()): one for one in found}.items())
    taken = {name.lower() for name in (*RESERVED, *known.values())}
    above = {parent for _, one in scans for parent in _parents(one.name.lower())} if dicom else set()
    number = len(known)
    for path, one in scans:
        if path in known:
            yield one, known[path]
            continue
        number += 1
        name = ALIAS.format(number) if anonymous else _free(one.name, taken, above)
        taken.add(name.lower())
        yield one, name


def _free(name: str, taken: set[str], above: set[str]) -> str:
    """The name, numbered where another scan has it."""
    free, count = name, 1
    while free.lower() in taken or free.lower() in above:
        count += 1
        free = f"{name}_{count}"
    return free


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    yield from ("/".join(parts[:n]) for n in range(1, len(parts)))
