"""Whether everything is ready for a tag; prints the notes of the release.

    python .ci/release.py v0.1.0

The version is that of pyproject.toml. CITATION.cff and CHANGELOG.md must say the same, with one
date. Needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_notes(tag: str, root: Path = ROOT) -> str:
    """What CHANGELOG.md says of a tag's version; exits with one line if that is not ready."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    version = settings["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version in pyproject.toml {version}")
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## {re.escape(version)}, ([^\n]*)\n"
    section = re.search(rf"{heading}(.*?)(?=^## |\Z)", changes, re.MULTILINE | re.DOTALL)
    if section is None:
        sys.exit(f"CHANGELOG.md has no section {version}")
    date, notes = section.groups()
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        sys.exit(f"CHANGELOG.md: {version} is {date}, not released on a day")
    cited = (root / "CITATION.cff").read_text(encoding="utf-8")
    for name, value in (("version", version), ("date-released", date)):
        if not re.search(rf"^{name}: ['\"]?{re.escape(value)}['\"]?$", cited, re.MULTILINE):
            sys.exit(f"CITATION.cff: {name} is not {value}")
    return notes.strip() + "\n"


if __name__ == "__main__":
    print(release_notes(sys.argv[1]), end="")
