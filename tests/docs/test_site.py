"""The documentation site: built strictly, every page reachable, nothing loaded from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from fedkd.client.config.owner_config import OwnerConfig
from fedkd.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself, by element and attribute."""
ADDRESS = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


class Page(HTMLParser):
    """Addresses that a page loads, links that it has, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if (address := values.get(LOADED.get(tag, ""))) is not None:
            self.loaded.append(address)
        if tag == "a" and (address := values.get("href")) is not None:
            self.links.append(address)
        if (name := values.get("id")) is not None:
            self.anchors.add(name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        # Whoever fetched something would need one of these, and would not get it.
        env={**os.environ, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_a_browser_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 25
    loaded = [address for page in pages.values() for address in page.loaded]
    for sheet in site.rglob("*.css"):
        loaded += [address for found in ADDRESS.findall(sheet.read_text()) for address in found]
    assert loaded
    elsewhere = {address for address in loaded if urlsplit(address).scheme not in ("", "data")}
    assert elsewhere | {address for address in loaded if address.startswith("//")} == set()


def test_every_page_of_docs_is_reached_from_the_first(site: Path, pages: dict[Path, Page]) -> None:
    reached, new = set[Path](), {site / "index.html"}
    while new:
        reached |= new
        links = {(path, link) for path in new for link in pages[path].links}
        targets = {(path.parent / unquote(urlsplit(link).path)).resolve() for path, link in links}
        new = set(targets & pages.keys()) - reached
    written = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert {site / path.with_suffix(".html") for path in written} <= reached
    assert {site / f"{name}.html" for name in ("SECURITY", "CHANGELOG", "CONTRIBUTING")} <= reached


def test_every_link_of_the_site_leads_to_a_place(site: Path, pages: dict[Path, Page]) -> None:
    lost = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            anchors = pages[target].anchors if target in pages else {""}
            if not target.exists() or (address.fragment and address.fragment not in anchors):
                lost.append(f"{path.relative_to(site)}: {link}")
    assert lost == []


def test_public_names_have_their_place_in_the_reference(pages: dict[Path, Page]) -> None:
    import fedkd
    from fedkd.methods import PAPERS

    anchors = set[str]().union(*(page.anchors for page in pages.values()))
    public = {f"fedkd.{name}" for name in fedkd.__all__} - {"fedkd.__version__", "fedkd.flower"}
    public |= {f"fedkd.flower.{name}" for name in fedkd.flower.__all__}
    public |= {f"fedkd.methods.{factory.__name__}" for factory in PAPERS}
    assert public - anchors == set()


def test_every_setting_has_its_place_in_the_reference(pages: dict[Path, Page]) -> None:
    anchors = set[str]().union(*(page.anchors for page in pages.values()))
    for model in (Experiment, OwnerConfig):
        for field in model.model_fields.values():
            for table in getattr(field.annotation, "__args__", (field.annotation,)):
                keys = getattr(table, "model_fields", ())
                named = {f"{table.__module__}.{table.__qualname__}.{key}" for key in keys}
                assert named - anchors == set()
