"""What MkDocs does not do by itself: pages that lie outside docs/, links to other files, menus by pattern.

On a code host every page is read where it lies. In the site the pages of `OUTSIDE` get a place among the others, and a
link to any other file of the repository leads to a copy of it under `files/`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "sql/README.md": "sql-files.md"}
PLACES = {**OUTSIDE, "README.md": "index.md", "docs/README.md": "index.md"}  # README says what the first page says
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
REMARK = re.compile(r"\A(?:<!--.*?-->\s*)+", re.DOTALL)  # before the title, which would not be found behind it
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> None:
    """Put the pages that a pattern of the menu means in its place, README.md first."""
    docs = Path(config.docs_dir)
    for section in config.nav or []:
        for title, entries in section.items():
            section[title] = [page for entry in entries for page in _pages(docs, entry)]


def _pages(docs: Path, entry: Any) -> list[Any]:
    if "*" not in entry:
        return [entry]
    found = (path.relative_to(docs).as_posix() for path in docs.glob(entry))
    return sorted(found, key=lambda page: (not page.endswith("README.md"), page))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages outside docs/, and every file outside it that a page links to."""
    root = Path(config.config_file_path).parent
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(root / source).read_text()))
    texts = [(_source(file), file.content_string) for file in files.documentation_pages()]
    for name in sorted({target for source, text in texts for target in _targets(source, text)}):
        if not name.startswith("docs/") and name not in PLACES and (root / name).is_file():
            place = f"files/{name}"
            files.append(
                File.generated(config, place, abs_src_path=str(root / name), inclusion=InclusionLevel.NOT_IN_NAV)
            )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links of the site; a remark before the title goes."""
    source, place = _source(page.file), page.file.src_uri

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found[2].partition("#")
        if not path or "://" in path:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = PLACES.get(target) or (
            target.removeprefix("docs/") if target.startswith("docs/") else f"files/{target}"
        )
        return found[1] + posixpath.relpath(there, posixpath.dirname(place) or ".") + hash_ + anchor + found[3]

    parts = FENCED.split(REMARK.sub("", markdown))
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def _source(file: File) -> str:
    """Return where a page lies in the repository."""
    outside = {place: source for source, place in OUTSIDE.items()}
    return outside.get(file.src_uri, f"docs/{file.src_uri}")


def _targets(source: str, text: str) -> set[str]:
    links = (found.partition("#")[0] for _, found, _ in LINK.findall(text) if "://" not in found)
    return {posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links if link}
