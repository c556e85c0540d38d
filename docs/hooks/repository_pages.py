"""mkdocs hook: pages of the root, names of files above their text, and an entry for each method.

In the repository a page of docs/ links to ``../SECURITY.md``; in the site both lie in one folder.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
UP = re.compile(rf"\]\(\.\./((?:\.\./)*(?:{'|'.join(map(re.escape, ROOT_PAGES))})[)#])")

FILE = re.compile(r"<!-- file: (\S+) -->\n```(\w+)")
EVERY_METHOD = "<!-- every method -->"
METHOD = re.compile(r"^from fedkd\.methods\.(\w+) import \1 as", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/, and the root's pages beside them."""
    root = Path(config.docs_dir).parent
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links as they are in the site, and with the entries that it asks for."""
    if page.file.src_uri in ROOT_PAGES:
        return markdown.replace("](docs/", "](")
    if EVERY_METHOD in markdown:
        listed = (Path(config.docs_dir).parent / "fedkd/methods/__init__.py").read_text()
        entries = "\n".join(f"::: fedkd.methods.{name}" for name in METHOD.findall(listed))
        markdown = markdown.replace(EVERY_METHOD, entries)
    markdown = FILE.sub(r'``` { .\2 title="\1" }', markdown)
    return UP.sub(r"](\1", markdown)
