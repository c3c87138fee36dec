"""The commands as a user types them."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import time
from pathlib import Path

import hornbook as hb
import pytest
from hornbook import ops
from hornbook.cli import main
from hornbook.commands import COMMANDS
from hornbook.commands.common import meter, parse_size
from hornbook.errors import ConfigError


def run(*argv: object) -> int:
    """The exit status of ``hornbook argv``."""
    try:
        main([str(a) for a in argv])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A corpus, a tokenizer, shards and a short run, each made by its command."""
    folder = tmp_path_factory.mktemp("made")
    assert run("corpus", "write", "fables", "--size", "60KB", "--out", folder / "fables.txt") == 0
    assert run("tokenizer", "train", folder / "fables.txt", "--vocab-size", 400, "--out", folder / "tok") == 0
    assert run("prepare", folder / "fables.txt", "--tokenizer", folder / "tok", "--out", folder / "shards") == 0
    shape = ["--model.n-layer", 1, "--model.d-model", 16, "--model.n-head", 2, "--model.context-length", 64]
    options = ["--steps", 4, "--batch-size", 2, "--eval-every", 0, *shape]
    assert run("train", "--data", folder / "shards", "--out", folder / "run", *options) == 0
    (folder / "folder.json").mkdir()
    return folder


def test_the_main_job(made: Path, capsys) -> None:
    assert (made / "fables.txt").stat().st_size <= 60_000
    assert run("sample", made / "run", "--prompt", "Once", "--max-new-tokens", 12, "--seed", 1) == 0
    first = capsys.readouterr()
    assert run("sample", made / "run", "--prompt", "Once", "--max-new-tokens", 12, "--seed", 1) == 0
    assert first.out == capsys.readouterr().out
    assert first.out.endswith("\n")
    model, tok = hb.load(made / "run")
    assert tok is not None
    assert first.out == hb.generate(model, tok, "Once", max_new_tokens=12, seed=1) + "\n"
    assert run("sample", made / "run", "--num-beams", 3, "--max-new-tokens", 5) == 0


def test_the_corpus_round_trip(made: Path) -> None:
    from hornbook.corpora import documents, fables

    texts = list(documents(made / "fables.txt"))
    assert 60 < len(texts) < 80
    assert texts == [s.text for s in fables.generate(60_000)][: len(texts)]


def test_corpus(capsys) -> None:
    assert run("corpus", "list") == 0
    assert "fables" in capsys.readouterr().out
    assert run("corpus", "show", "fables", "--count", 2) == 0
    from hornbook.corpora import fables

    assert capsys.readouterr().out == "\n\n".join(s.text for s in fables.generate(5_000)[:2]) + "\n"


def test_tokenizer(made: Path, capsys, monkeypatch) -> None:
    text = "The little fox's home 🦊"
    assert run("tokenizer", "encode", text, "--tokenizer", made / "tok") == 0
    ids = capsys.readouterr().out
    assert [int(i) for i in ids.split()] == hb.Tokenizer.load(made / "tok").encode(text)
    assert run("tokenizer", "decode", *ids.split(), "--tokenizer", made / "tok") == 0
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(ids))
    assert run("tokenizer", "decode", "-", "--tokenizer", made / "tok") == 0
    assert capsys.readouterr().out == text + "\n"
    assert run("tokenizer", "show", text, "--tokenizer", made / "tok") == 0
    assert "home" in capsys.readouterr().out.replace("|", "")


def test_tokenizer_compare(made: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    small = hb.Tokenizer.train(["the fox and the hen"], 270)
    small.save(tmp_path / "small.json")
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = {"eng": "The fox’s home is red. " * 300, "rus": "Дом лисы красный. " * 300, "zho": "狐狸的家是红色的。"}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "lines.jsonl").write_text('{"text": "The fox"}\n{"text": "the hen"}\n')
    both = [made / "tok", tmp_path / "small.json"]
    assert run("tokenizer", "compare", *both, "--text", folder, made / "fables.txt", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "compare.json" in said.err
    assert "never: bytes: no UTF-8 text has its bytes" in said.out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.out.splitlines() if "│" in line]
    tok = hb.Tokenizer.load(made / "tok")
    rate = len(texts["rus"].encode()) / len(tok.encode(texts["rus"]))
    assert ["rus", f"{len(texts['rus'].encode()):,}", f"{rate:.3f}"] in [row[:3] for row in rows]
    assert {"eng", "rus", "zho", "lines", "fables", "all"} < {row[0] for row in rows}
    for name in ("bytes_per_token.svg", "token_lengths.svg"):
        assert "</svg>" in (tmp_path / "out" / name).read_text()
    written = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert [report["name"] for report in written["tokenizers"]] == ["tok", "small.json"]
    assert run("tokenizer", "compare", *both, "--text", folder, made / "fables.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out) == written
    assert written["tokenizers"][1]["measures"]["zho"]["ratio"]["low"] is None
    # Without --text: what is there without a network.
    monkeypatch.setenv("HORNBOOK_DATA", str(tmp_path))
    folder.rename(tmp_path / "udhr")
    assert run("tokenizer", "compare", made / "tok", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["texts"]) == ["fables", "python", "eng", "rus", "zho", "all"]


def test_a_tokenizer_is_trained_on_the_documents_that_prepare_encodes(made: Path, tmp_path: Path) -> None:
    from hornbook.corpora import documents

    plain = tmp_path / "plain.txt"
    plain.write_text("a whole file\n\nis one text\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.md").write_text("another")
    assert run("tokenizer", "train", plain, tmp_path / "more", "--vocab-size", 270, "--out", tmp_path / "tok") == 0
    assert hb.Tokenizer.load(tmp_path / "tok") == hb.Tokenizer.train([plain.read_text(), "another"], vocab_size=270)
    assert hb.Tokenizer.load(made / "tok") == hb.Tokenizer.train(documents(made / "fables.txt"), vocab_size=400)


MARKED = "one\n\none\n\n<|endoftext|>\n\ntwo <|endoftext|>\n<|endoftext|>\n\n\none\ntwo\n<|endoftext|>\n\n\nthree\n"


@pytest.mark.parametrize("special", [None, ["<|x|>"], ["<|x|>", "<|endoftext|>"], []])
def test_the_command_and_python_train_on_the_same_documents(special, tmp_path: Path) -> None:
    """The line breaks around a mark are no text, if the mark is one of the special tokens."""
    (tmp_path / "f.txt").write_text(MARKED * 30)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "g.txt.gz").write_bytes(gzip.compress(MARKED.encode() * 9))
    for source in (tmp_path / "f.txt", [tmp_path / "f.txt", tmp_path / "more"]):
        given = source if isinstance(source, list) else [source]
        options: list[object] = [] if special is None else ["--special-tokens", *special]
        options += ["--pattern", "gpt2"]
        size = ["--vocab-size", 280]
        assert run("tokenizer", "train", *given, *options, *size, "--out", tmp_path / "command") == 0
        assert run("tokenizer", "count", *given, *options, "--out", tmp_path / "c") == 0
        assert run("tokenizer", "train", "--counts", tmp_path / "c", *size, "--out", tmp_path / "counted") == 0
        there = {} if special is None else {"special_tokens": special}
        hb.Tokenizer.train(source, vocab_size=280, pattern="gpt2", **there).save(tmp_path / "python")
        counts = hb.tokenizer.Counts.of(source, "gpt2", **there)
        assert counts == hb.tokenizer.Counts.load(tmp_path / "c")
        made = {(tmp_path / name / "tokenizer.json").read_bytes() for name in ("command", "counted", "python")}
        assert len(made) == 1
        merges = hb.Tokenizer.load(tmp_path / "python").merges
        assert ((b"\n", b"\n") in merges[:25]) == (special is not None and "<|endoftext|>" not in special)
        if special is None or "<|endoftext|>" in special:
            texts = list(hb.corpora.documents(source))
            assert counts == hb.tokenizer.Counts.of(texts, "gpt2", **there)


def test_parts_counted_apart_make_the_same_tokenizer(tmp_path: Path, capsys) -> None:
    lines = [json.dumps({"body": f"{word} and the {word}s of <|x|> the {word}"}) for word in ("fox", "cat", "wolf")]
    for name, line in zip("abc", lines, strict=True):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(line.encode()))
        argv = [tmp_path / f"{name}.jsonl.gz", "--out", tmp_path / "counts" / name, "--field", "body"]
        assert run("tokenizer", "count", *argv, "--pattern", "gpt2", "--special-tokens", "<|x|>") == 0
        assert "different pre-tokens in 1 texts" in capsys.readouterr().err
    counts = [tmp_path / "counts" / name for name in "cab"]
    small = ["--vocab-size", 275, "--out"]
    assert run("tokenizer", "train", "--counts", *counts, *small, tmp_path / "sum") == 0
    options = ["--field", "body", "--pattern", "gpt2", "--special-tokens", "<|x|>"]
    assert run("tokenizer", "train", tmp_path, *options, *small, tmp_path / "one") == 0
    assert (tmp_path / "sum" / "tokenizer.json").read_bytes() == (tmp_path / "one" / "tokenizer.json").read_bytes()
    assert hb.Tokenizer.load(tmp_path / "sum").special_tokens == {"<|x|>": 274}
    capsys.readouterr()
    assert run("tokenizer", "train", "--counts", *counts, "--pattern", "o200k", *small, tmp_path / "no") == 1
    assert "made with pattern='gpt2', which pattern='o200k'" in capsys.readouterr().err
    (tmp_path / "counts" / "a").write_bytes((tmp_path / "counts" / "a").read_bytes()[:-1])
    assert run("tokenizer", "train", "--counts", *counts, *small, tmp_path / "no") == 1
    assert "damaged or cut short" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_prepare_takes_files_of_every_kind(made: Path, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"body": f"fable {i}"}) + "\n" for i in range(30))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.txt").write_text("one\n<|endoftext|>\ntwo\n")
    argv = ["prepare", tmp_path / "a.jsonl.gz", tmp_path / "b.txt", "--field", "body", "--tokenizer", made / "tok"]
    assert run(*argv, "--out", tmp_path / "s", "--heldout", 0) == 0
    data = hb.TokenData(tmp_path / "s")
    assert data.train.documents == 32
    eot = data.tokenizer.decode([data.eot_id])
    decoded = data.tokenizer.decode(data.train.read(0, len(data.train))).split(eot)[1:]
    assert decoded == [*(f"fable {i}" for i in range(30)), "one", "two"]
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["source"] == f"{tmp_path / 'a.jsonl.gz'}, {tmp_path / 'b.txt'}"


def test_the_meter_shows_how_long_on_a_terminal_only(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def said(kind: type[io.StringIO], *calls: tuple[str, int, int | None]) -> str:
        monkeypatch.setattr(sys, "stderr", kind())
        with meter() as progress:
            for call in calls:
                progress(*call)
                time.sleep(0.05)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())

    counting = [("count", done, 10**10) for done in (0, 5 * 10**6, 10**7)]
    assert re.search(r"count .* 10\.0 MB of 10\.0 GB \d+:\d\d:\d\d", said(Terminal, *counting))
    merging = said(Terminal, *counting, ("merge", 0, 5000), ("merge", 5000, 5000))
    assert re.search(r"merge .* 5,000 of 5,000 0:00:00\s*$", merging)
    assert re.search(r"encode .* 12\.3 KB\s*$", said(Terminal, *counting, ("encode", 12_300, None)))
    assert re.search(r"gpt2 .* 1,200 of 1,300", said(Terminal, ("gpt2", 1200, 1300)))
    assert said(io.StringIO, *counting) == ""


def test_prepare_takes_a_corpus_by_name(made: Path, tmp_path: Path) -> None:
    assert run("prepare", "fables", "--size", "50KB", "--tokenizer", made / "tok", "--out", tmp_path / "s") == 0
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["documents"] > 40
    assert manifest["splits"]["heldout"]["documents"] >= 3


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["tran"], 2, "did you mean 'train'"),
        (["ppo"], 2, "planned"),
        (["corpus", "lits"], 2, "did you mean 'list'"),
        (["corpus", "write", "fabels", "--out", "x.txt"], 1, "did you mean 'fables'"),
        (["corpus", "write", "fables", "--out", "x.txt", "--size", "big"], 1, "5MB"),
        (["tokenizer", "train", "missing.txt", "--out", "t"], 1, "missing.txt: no such file"),
        (["tokenizer", "encode", "x", "--tokenizer", "nowhere"], 1, "nowhere: no such tokenizer"),
        (["tokenizer", "decode", "1", "99999", "--tokenizer", "{made}/tok"], 1, "99999"),
        (["tokenizer", "train", "--out", "t"], 1, "which text?"),
        (["tokenizer", "train", "{latin}", "--out", "t"], 1, "not UTF-8"),
        (["tokenizer", "train", "{latin}", "--out", "t", "--threads", "-1"], 1, "num_threads"),
        (["tokenizer", "count", "{latin}", "--out", "c"], 1, "latin.txt: not UTF-8: byte 0xe9 at offset 3"),
        (["tokenizer", "count", "{latin}", "--out", "{made}"], 1, "is a folder"),
        (["tokenizer", "count", "{latin}", "--out", "{latin}/c"], 1, "is a file, not a folder"),
        (
            ["tokenizer", "train", "missing.txt", "--out", "{empty}"],
            1,
            "empty.txt is a file; give the name of a folder",
        ),
        (["tokenizer", "train", "missing.txt", "--out", "{empty}/t"], 1, "is a file, not a folder"),
        (
            ["tokenizer", "train", "missing.txt", "--out", "{made}/folder.json"],
            1,
            "is a folder; give the name of a file",
        ),
        (["tokenizer", "compare", "nowhere", "--out", "{empty}"], 1, "is a file; give the name of a folder"),
        (["corpus", "write", "fabels", "--out", "{made}"], 1, "is a folder; give the name of a file"),
        (["corpus", "write", "fabels", "--out", "{empty}/f.txt"], 1, "is a file, not a folder"),
        (["prepare", "missing.txt", "--tokenizer", "x", "--out", "{empty}"], 1, "is a file; give the name of a folder"),
        (["prepare", "missing.txt", "--tokenizer", "x", "--out", "{empty}/s"], 1, "is a file, not a folder"),
        (["tokenizer", "count", "--out", "c"], 1, "which text?"),
        (["tokenizer", "train", "{latin}", "--counts", "c", "--out", "t"], 1, "not both"),
        (["tokenizer", "train", "--counts", "c", "--out", "t"], 1, "c: No such file"),
        (["tokenizer", "train", "--counts", "{latin}", "--out", "t"], 1, "not a count file"),
        (["tokenizer", "decode", "--tokenizer", "{made}/tok"], 1, "which ids?"),
        (["tokenizer", "compare"], 1, "which tokenizers?"),
        (["tokenizer", "compare", "nowhere"], 1, "nowhere: no such tokenizer"),
        (["tokenizer", "compare", "{made}/tok", "{made}/tok"], 1, "is given twice"),
        (["tokenizer", "compare", "{made}/tok", "--text", "missing.txt"], 1, "missing.txt: no such file"),
        (["tokenizer", "compare", "{made}/tok", "--text", "{empty}"], 1, "'empty' is empty"),
        (["tokenizer", "compare", "{made}/tok", "--text", "{latin}"], 1, "not UTF-8"),
        (["prepare", "--tokenizer", "{made}/tok", "--out", "s"], 1, "which text?"),
        (["tokenizer", "decode", "one", "--tokenizer", "{made}/tok"], 1, "whole numbers"),
        (["prepare", "missing.txt", "--tokenizer", "{made}/tok", "--out", "s"], 1, "missing.txt: no such file"),
        (["prepare", "{empty}", "--tokenizer", "{made}/tok", "--out", "s"], 1, "empty"),
        (["prepare", "{latin}", "--tokenizer", "{made}/tok", "--out", "s"], 1, "at offset 3"),
        (["train", "--data", "{made}/tok", "--out", "r"], 1, "hornbook prepare"),
        (["train", "--data", "{made}/shards", "--out", "{made}/run"], 1, "--resume"),
        (["train", "--data", "{made}/shards", "--out", "r", "--steps", "0"], 2, "at least 1"),
        (["train", "--data", "{made}/shards", "--out", "r", "--model.n-head", "3"], 2, "multiple of n_head"),
        (["train", "--data", "{made}/shards", "--out", "r", "--stesp", "5"], 2, "--steps"),
        (["train", "--data", "{made}/shards", "--out", "r", "--model.vocab-size", "9"], 1, "the data's tokenizer, 400"),
        (["train", "--data", "{made}/shards", "--out", "r", "--kernels", "fast"], 1, "no implementation 'fast'"),
        (["sample", "nowhere"], 1, "nowhere: no such folder"),
        (["sample", "{made}/tok"], 1, "no config.json"),
        (["sample", "{made}/run", "--top-p", "0"], 1, "top_p"),
        (["demo", "--minutes", "0"], 1, "minutes"),
    ],
)
def test_faults_get_one_line(argv: list[str], code: int, words: str, made: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"abc\xe9t")
    places = {"made": made, "empty": tmp_path / "empty.txt", "latin": tmp_path / "latin.txt"}
    before = sorted(tmp_path.rglob("*"))
    assert run(*(a.format(**places) for a in argv)) == code
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.err.strip().count("\n") == 0, said.err
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before, "nothing was left behind"


def test_help(capsys) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert run("corpus") == 0
    assert "write" in capsys.readouterr().out
    assert run("sample", "--help") == 0
    assert "--top-p" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out == f"hornbook {hb.__version__}\n"


def test_kernels(made: Path, capsys) -> None:
    with hb.use_kernels():
        assert run("sample", made / "run", "--kernels", "reference,gelu=torch", "--max-new-tokens", 1) == 0
        assert ops.kernels_in_use()["attention"] == "reference"
        assert ops.kernels_in_use()["gelu"] == "torch"
    assert ops.kernels_in_use()["attention"] == "torch"


def test_sizes() -> None:
    assert [parse_size(s) for s in ("500", "2KB", "1.5 MB", "1G")] == [500, 2_000, 1_500_000, 10**9]
    with pytest.raises(ConfigError, match="5MB"):
        parse_size("5 apples")
