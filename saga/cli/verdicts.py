"""What `saga doctor` found, as continuous integration reads it: JUnit's XML, and annotations of GitHub Actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from ..doctor import Finding


def junit(found: Sequence[Finding], *, strict: bool) -> list[str]:
    """Write findings as one test suite: a test case each; with `strict` a warning is a failure, too."""
    failing = ("failure", "warning") if strict else ("failure",)
    failures = sum(each.verdict in failing for each in found)
    skipped = sum(each.verdict == "unknown" for each in found)
    counts = {"tests": str(len(found)), "failures": str(failures), "skipped": str(skipped)}
    suite = ElementTree.Element("testsuite", {"name": "saga doctor", **counts})
    for each in found:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"doctor.{each.area}", "name": each.sentence})
        if each.verdict in failing:
            ElementTree.SubElement(case, "failure", {"message": each.sentence}).text = _fix(each)
        elif each.verdict == "unknown":
            ElementTree.SubElement(case, "skipped", {"message": each.sentence})
        elif each.verdict == "warning":
            ElementTree.SubElement(case, "system-out").text = f"warning: {each.sentence} {_fix(each)}".rstrip()
    ElementTree.indent(suite)
    return ['<?xml version="1.0" encoding="UTF-8"?>', *ElementTree.tostring(suite, encoding="unicode").splitlines()]


def github(found: Sequence[Finding]) -> list[str]:
    """Write findings that are not well as workflow commands: `::error title=...::what it is`."""
    words = {"failure": "error", "warning": "warning", "unknown": "notice"}
    return [
        f"::{words[each.verdict]} title=saga doctor, {each.area}::{_escaped(f'{each.sentence} {_fix(each)}'.rstrip())}"
        for each in found
        if each.verdict in words
    ]


def _fix(each: Finding) -> str:
    return f"fix: {each.fix}" if each.fix else ""


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
