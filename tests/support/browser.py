"""A real headless browser for the tests: Debian's Chromium, driven by Playwright, with axe-core to judge its pages."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from xml.sax.saxutils import escape

from .cache import cached
from .debian import libraries, unpacked
from .npm import packed

AXE = "axe-core@4.14.1"
_PROGRAM = "usr/lib/chromium/chromium"


def chromium_home() -> Path:
    """Give the folder of the unpacked browser, downloaded if it is not cached (about 120 MB).

    Raises:
        Missing: this is no Debian, or apt cannot give the packages.
    """
    return unpacked("chromium", "chromium", _PROGRAM)


def chromium_program(home: Path) -> Path:
    """Give the browser within what `chromium_home` gave."""
    return home / _PROGRAM


def chromium_environment(home: Path, scratch: Path) -> dict[str, str]:
    """Give the variables that it runs with: its own libraries and fonts, and nothing of whoever runs the tests.

    Args:
        home: what `chromium_home` gave.
        scratch: a folder of the test, for what a browser writes beside its profile.
    """
    fonts = scratch / "fonts.conf"
    folders = [home / "usr/share/fonts", Path("/usr/share/fonts")]
    dirs = "".join(f"<dir>{escape(str(folder))}</dir>" for folder in folders if folder.is_dir())
    fonts.write_text(
        f'<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>{dirs}'
        "<alias binding='same'><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>"
        f"<cachedir>{escape(str(scratch / 'fonts'))}</cachedir></fontconfig>"
    )
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(scratch),
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": libraries(home),
        "FONTCONFIG_FILE": str(fonts),
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    }


def axe_script() -> Path:
    """Give the file of axe-core, fetched with npm if it is not cached.

    Raises:
        Missing: npm is missing, or its registry does not answer.
    """
    return cached(AXE.replace("@", "-"), _fetch_axe) / "axe.min.js"


def _fetch_axe(folder: Path) -> None:
    archive_file = packed(AXE, folder)
    with tarfile.open(archive_file) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        (folder / "axe.min.js").write_bytes(member.read())
    archive_file.unlink()
