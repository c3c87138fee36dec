"""The site's pages are run and held against what they are about; the slow part builds the site."""

from __future__ import annotations

import html.parser
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import hornbook
import pytest

from .pages import ROOT, blocks, run_python, shell

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# Languages of blocks. `bash` is run, `sh` is for what needs a network, a GPU, minutes or another system: its hornbook
# commands are only held against the parser.
LANGUAGES = {"python", "bash", "sh", "text", "toml"}
ELSEWHERE = {"adding-a-kernel"}  # tests/kernels/test_docs.py does what this page says
NEEDS = {"kernels": "triton", "tokenizer": "transformers"}


def pages(language: str) -> list[str]:
    return [page.stem for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("name", sorted(set(pages("python")) - ELSEWHERE))
def test_python(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    run_python(DOCS / f"{name}.md")


@pytest.mark.slow
@pytest.mark.parametrize("name", pages("bash"))
def test_shell_lines(name: str, tmp_path: Path) -> None:
    for lines in blocks(DOCS / f"{name}.md", "bash"):
        shell(f"set -e; {lines}", tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text("utf-8")
    fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
    assert len(fences) % 2 == 0
    for kind in fences[::2]:
        assert kind in LANGUAGES or kind.startswith("{"), f"a block of {page.name} begins with ```{kind}"
    for code in blocks(page, "toml"):
        tomllib.loads(code)


def shown() -> Iterator[str]:
    """The hornbook commands of the pages' shell blocks, options and all."""
    for page in PAGES:
        for code in [*blocks(page, "bash"), *blocks(page, "sh")]:
            for line in code.replace("\\\n", " ").splitlines():
                if found := re.search(r"(?<!\S)hornbook (?!-)([^|&;<>]+)", line):
                    yield found[1].strip()


def test_commands_are_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from hornbook.cli import main

    lines = sorted({line for line in shown() if "--config" not in line})  # the file is made where the page is run
    assert len(lines) > 15
    for line in lines:
        main([*shlex.split(line, comments=True), "--print-config"])  # ends the process if it does not parse
    assert capsys.readouterr().out


def test_every_public_name_is_described() -> None:
    described = set(re.findall(r"^\.\. auto\w+:: hornbook\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE))
    described |= {"HornbookError"} if "automodule:: hornbook.errors" in (DOCS / "api.md").read_text("utf-8") else set()
    assert set(hornbook.__all__) <= described


def test_every_environment_variable_is_described() -> None:
    page = set(re.findall(r"^\| `(HORNBOOK_\w+)`", (DOCS / "environment.md").read_text("utf-8"), re.MULTILINE))
    sources = [p for d in ("python", "kernels", "benchmarks", "rust/src") for p in (ROOT / d).rglob("*.[pr][ys]")]
    named = {path: set(re.findall(r"\bHORNBOOK_[A-Z_]+", path.read_text("utf-8"))) for path in sources}
    read = set().union(*(names for path, names in named.items() if "doctor" not in path.parts))  # it lists them
    assert len(sources) > 100
    assert {"HORNBOOK_DATA", "HORNBOOK_KERNELS"} <= read <= page <= set().union(*named.values())


def test_every_extra_is_described() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (DOCS / "install.md").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(extras)


def test_the_map_of_the_house_is_right() -> None:
    page = (DOCS / "house.md").read_text("utf-8")
    paths = re.findall(r"`([\w/]+(?:/|\.(?:pyi?|rs|md)))`", page)
    assert len(paths) > 25
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "python" / "hornbook" / path).exists(), path
    (loss,) = re.findall(r"^\| the loss \| `(\w+\.py)`", page, re.MULTILINE)
    assert "ops.linear_cross_entropy(" in (ROOT / "python" / "hornbook" / loss).read_text("utf-8")


def test_nothing_is_unpickled() -> None:
    for path in (ROOT / "python" / "hornbook").rglob("*.py"):
        found = re.findall(
            r"\b(?:import pickle|pickle\.loads?\(|torch\.load\(|allow_pickle=True)", path.read_text("utf-8")
        )
        assert not found, f"{path}: {found}"


def test_the_page_on_tokenizers_names_every_option() -> None:
    from hornbook.tokenizer.bpe import TIES

    page = (DOCS / "tokenizer.md").read_text("utf-8")
    for word in (*(f'`"{tie}"`' for tie in TIES), "min_frequency", "max_token_length", "max_tokens", "dropout", "seed"):
        assert word in page
    for name in ("count_tokens", "encode_batch_to_numpy", "encode_stream_to_numpy"):
        assert f"tok.{name}(" in page


# A site is built without a network: whoever wants to connect to another machine while it is built fails.
BUILD = """
import socket, sys

connect = socket.socket.connect


def only_here(self, address):
    if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the site wants to connect to {address}")
    return connect(self, address)


socket.socket.connect = only_here
from sphinx.cmd.build import main

sys.exit(main(sys.argv[1:]))
"""


class Loads(html.parser.HTMLParser):
    """What a page makes a browser fetch, and whether it has mathematics."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "index", "search", "next", "prev", "author"):
            return
        if tag in ("script", "link", "img", "iframe", "source", "video", "audio", "object", "embed"):
            self.loaded += [value for key in ("src", "href", "data", "srcset") if (value := values.get(key))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    for needed in ("sphinx", "myst_nb", "furo"):
        if not importlib.util.find_spec(needed):
            pytest.skip(f"building the site needs the extra docs ({needed} is missing)")
    out = tmp_path_factory.mktemp("site")
    options = ("-W", "--keep-going", "-q", "-E", "-d", out / "doctrees", DOCS, out / "html")
    command = [sys.executable, "-c", BUILD, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in PAGES}
    tags = set()
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        tags |= loads.tags
        foreign = [where for where in loads.loaded if re.match(r"(?:https?:)?//", where)]
        assert not foreign, f"{page.name} loads {foreign}"
        assert all((page.parent / re.split("[?#]", where)[0]).exists() for where in loads.loaded), page.name
    assert {"math", "mfrac"} <= tags, "formulas are MathML"
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", text), style
    for script in site.rglob("*.js"):
        text = script.read_text("utf-8")
        assert not re.findall(r"(?:fetch|import|importScripts)\(\s*[\"'](?:https?:)?//", text), script


@pytest.mark.slow
def test_the_site_describes_every_name_and_command(site: Path) -> None:
    from hornbook.commands import COMMANDS

    api, commands = ((site / f"{name}.html").read_text("utf-8") for name in ("api", "commands"))
    for name in hornbook.__all__:
        assert f'id="hornbook.{name}"' in api or f'id="hornbook.errors.{name}"' in api, name
    for name, subs in COMMANDS.items():
        for words in [f"{name}-{sub}" for sub in subs] if isinstance(subs, dict) else [name]:
            assert f'id="hornbook-{words}"' in commands, words
    assert commands.count("<dt>") > 100  # an option each
