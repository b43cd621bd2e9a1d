"""What the site has besides the files of docs/: the README as its start, files that pages link to, all messages of the package.

mkdocs calls these functions by their names (`hooks` in mkdocs.yml).
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import messages

ROOT = Path(__file__).parents[2]
AT_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages that are files of the root."""
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
MARK = "<!-- messages -->"


def on_files(files: Files, config: Any) -> Files:
    """Add what is not a file of docs/."""
    for page, name in AT_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    linked = {target for path in ROOT.glob("docs/*.md") for target in _outside("docs", path.read_text())}
    linked |= {target for name in AT_ROOT.values() for target in _outside("", (ROOT / name).read_text())}
    for target in sorted(linked - set(AT_ROOT.values())):
        text, kind = (ROOT / target).read_text(), Path(target).suffix[1:]
        shown = text if kind == "md" else f"# {target}\n\n````{kind}\n{text}````\n"
        files.append(File.generated(config, _page(target), content=shown))
    return files


def on_page_markdown(markdown: str, page: Any, **_given: Any) -> str:
    """Turn links between files of the repository into links between pages, and put the messages where they belong."""
    source = page.file.src_uri
    here = posixpath.dirname(AT_ROOT.get(source, "")) if source in AT_ROOT else _folder(source)

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        wanted = posixpath.relpath(_page(target), posixpath.dirname(source) or ".")
        return f"]({wanted}{link[2] or ''})"

    return LINK.sub(turned, markdown.replace(MARK, messages.page())) if MARK in markdown else LINK.sub(turned, markdown)


def _folder(source: str) -> str:
    """Where a page's file lies in the repository."""
    return (
        posixpath.dirname(source.removeprefix("files/"))
        if source.startswith("files/")
        else posixpath.join("docs", posixpath.dirname(source))
    )


def _outside(folder: str, text: str) -> set[str]:
    """Files of the repository that a text links to and docs/ has not."""
    targets = (posixpath.normpath(posixpath.join(folder, link[1])) for link in LINK.finditer(text))
    return {target for target in targets if not target.startswith("docs/") and (ROOT / target).is_file()}


def _page(target: str) -> str:
    """The page of the site that shows a file of the repository."""
    for page, name in AT_ROOT.items():
        if target == name:
            return page
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"files/{target}" if target.endswith(".md") else f"files/{target}.md"
