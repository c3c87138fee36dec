"""The tokenizer's benchmark: turns on a fake clock, who crashes and who is wrong, goals, and a quick run of it all."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from hornbook.benchmarks import child, goals, tasks, texts, tokenizer, turns
from hornbook.benchmarks.goals import GOALS, Goal
from hornbook.benchmarks.turns import Contestant, Lost
from hornbook.cli import main
from hornbook.corpora import fables
from hornbook.errors import ConfigError, DataError
from hornbook.tokenizer import Tokenizer

WORDS = "the quick brown fox jumps over the lazy dog, then it's home by 7 o'clock - naïve café, 東京 and Łódź\n"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few small documents."""
    folder = tmp_path_factory.mktemp("shelf") / "book"
    folder.mkdir()
    for n, story in enumerate(fables.generate(40_000)[:24]):
        (folder / f"{n:02}.txt").write_text(f"{WORDS}{story.text}\nchapter {n}\n", encoding="utf-8")
    return folder


def adapter(folder: Path, name: str, body: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(
        "import json, os, time\n"
        "class Mine(Peer):\n"
        "    lists = (('loop', 'any'),)\n"
        "    tie = 'huggingface'\n"
        "    def load(self, vocabulary):\n"
        "        import tiktoken, tiktoken.load\n"
        "        ranks = tiktoken.load.load_tiktoken_bpe(vocabulary.ranks)\n"
        "        regex = vocabulary.regex\n"
        "        self.tok = tiktoken.Encoding('x', pat_str=regex, mergeable_ranks=ranks, special_tokens={})\n"
        "    def list_loop(self, texts, threads):\n"
        "        return [self.tok.encode_ordinary(text) for text in texts]\n" + body,
        encoding="utf-8",
    )
    return str(path)


# Turns.


class Fake:
    """A process whose passes take what a table says."""

    log: list[str]

    def __init__(self, who: Contestant, seconds: list[float], log: list[str]) -> None:
        self.who, self.seconds, self.log = who, iter(seconds), log

    def ask(self, order: turns.Order, seconds: float) -> turns.Answer:
        self.log.append(f"{self.who.peer}:{order['do']}")
        if (taken := next(self.seconds)) < 0:
            raise Lost("a bad day")
        return {"seconds": taken, "cpu_seconds": 0.5}

    def close(self) -> None:
        self.log.append(f"{self.who.peer} ends")


def test_turns_and_ratios_on_a_fake_clock() -> None:
    """b takes twice a's time in a quiet round and in one in which all is five times as slow; the order turns round."""
    a, b = Contestant("a"), Contestant("b", every=2)
    table = {a: [[1.0, 0.5, 0.7], [5.0, 2.5, 3.5]], b: [[2.0, 1.0, 1.4], [20.0, 5.0, 7.0]]}
    log: list[str] = []
    starts = {a: iter(table[a]), b: iter(table[b])}
    passes = [("cold", {"do": "one"}), ("warm", {"do": "two"}), ("warm", {"do": "three"})]
    records = turns.play([a, b], 2, lambda c: Fake(c, next(starts[c]), log), lambda c: passes)
    one = "a:one b:one a:two b:two a:three b:three"
    two = "b:one a:one b:two a:two b:three a:three"
    assert " ".join(log) == f"{one} a ends b ends {two} b ends a ends"
    warm = {c: turns.per_round(records[c], "warm", "seconds") for c in (a, b)}
    assert warm == {a: pytest.approx({0: 0.6, 1: 3.0}), b: pytest.approx({0: 1.2, 1: 6.0})}
    assert turns.ratios(warm[a], warm[b]) == pytest.approx([2.0, 2.0])

    class Plain(tasks.Encode):
        """For its numbers only."""

    told = Plain("key", "title").numbers(records[b], 500_000, (records[a], 1_000_000))
    # b did half of the bytes: for the same number of them it would have taken twice its time.
    assert told["cold"]["ratio"] == pytest.approx({"median": 6.0, "least": 4.0, "most": 8.0})
    assert told["warm"]["ratio"] == pytest.approx({"median": 4.0, "least": 4.0, "most": 4.0})
    assert told["cold"]["cpu_ratio"] == pytest.approx(
        {"median": 2.0, "least": 2.0, "most": 2.0}
    )  # for half of the bytes
    assert told["cold"]["median"] == pytest.approx((0.25 + 0.025) / 2)  # MB/s
    own = Plain("key", "title").numbers(records[a], 1_000_000, (records[a], 1_000_000))
    assert own["cold"]["median"] == pytest.approx(0.6)
    assert "ratio" not in own["cold"]


def test_who_is_lost_and_who_goes_on() -> None:
    """b fails in the second round, c never gets ready; a does all rounds, and the ratio is that of the common one."""
    a, b, c = map(Contestant, "abc")
    table = {a: iter([[1.0], [1.0], [1.0]]), b: iter([[3.0], [-1.0], [3.0]])}
    log: list[str] = []

    def ready(who: Contestant) -> Fake:
        if who == c:
            raise Lost("no memory")
        return Fake(who, next(table[who]), log)

    records = turns.play([a, b, c], 3, ready, lambda _: [("pass", {"do": "it"})])
    assert [records[x].lost for x in (a, b, c)] == ["", "a bad day", "no memory"]
    assert [len(records[x].rounds) for x in (a, b, c)] == [3, 1, 0]
    found = [turns.per_round(records[x], "pass", "seconds") for x in (a, b, c)]
    assert turns.ratios(found[0], found[1]) == [3.0]
    assert turns.ratios(found[0], found[2]) == []
    assert turns.spread([]) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    def __init__(self): os.abort()\n", "crashed"),
        ("    def __init__(self): os._exit(7)\n", "crashed, status 7"),
        ("    def __init__(self): raise type('Panic', (BaseException,), {})('no more')\n", "Panic: no more"),
        ("    def __init__(self): time.sleep(60)\n", "no answer in 1 s"),
        ("    def __init__(self): print('noise'); raise ValueError('odd')\n", "ValueError: odd"),
    ],
)  # fmt: skip
def test_a_process_that_ends_badly(body: str, words: str, tmp_path: Path) -> None:
    process = turns.Process(adapter(tmp_path, "bad", body))
    with pytest.raises(Lost, match=words):
        process.ask({"do": "hello"}, 1.0 if "sleep" in body else 30.0)
    assert process.process.returncode is not None


def test_an_adapter_without_a_class(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n", encoding="utf-8")
    process = turns.Process(str(tmp_path / "empty.py"))
    with pytest.raises(Lost, match="no class that extends Peer"):
        process.ask({"do": "hello"}, 30)


# The child.


def test_ids_in_every_form_are_the_same_bytes() -> None:
    numpy = pytest.importorskip("numpy")
    ids = [[1, 70_000], [], [5]]
    right = [array("I", one).tobytes() for one in ids]
    flat, ends = numpy.array([1, 70_000, 5], numpy.uint32), [0, 2, 2, 3]
    small = numpy.array([1, 2], numpy.uint16)
    assert list(child.rows(ids)) == right
    assert list(child.rows([numpy.array(one, numpy.uint32) for one in ids])) == right
    assert list(child.rows((flat, numpy.array(ends)))) == right
    assert list(child.rows((flat.tobytes(), array("Q", ends).tobytes()))) == right
    assert list(child.rows(right)) == right
    assert list(child.rows([small])) == [array("I", [1, 2]).tobytes()]


def test_memory_of_a_call_is_seen() -> None:
    """A hundred megabytes that are gone again when the call ends."""
    if child.resident() is None:
        pytest.skip("this system does not tell")
    worker = child.Child(lambda: None, str)  # type: ignore[arg-type,return-value]
    answer, _ = worker.measure(lambda: len(bytearray(b"x") * 100_000_000), trimmed=True)
    again, _ = worker.measure(lambda: 0, trimmed=True)
    assert 95e6 < answer["grown"] < 150e6
    assert again["grown"] < 20e6
    assert answer["seconds"] > 0


def test_the_counter_counts_threads_too() -> None:
    """With the kernel's clock of this process in place of the instructions, which few virtual machines count."""
    import threading
    import time

    software, task_clock = 1, 1
    counter = child.Instructions(software, task_clock)
    if counter.read() is None:
        pytest.skip("the kernel refuses")

    def work() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    first = counter.read()
    work()
    second = counter.read()
    assert first is not None
    assert second is not None
    assert 0.19e9 < first < 2e9
    assert second - first > 0.19e9
    assert child.Instructions(kind=99).read() is None


# Texts and vocabularies.


def test_texts_come_back(tmp_path: Path) -> None:
    text = texts.Text("x", "", ["ab\r\nc", "ü\0", "東京", "d"])
    where = text.write(tmp_path)
    assert child.read(where) == text.documents
    assert child.read(where, every=3) == ["ab\r\nc", "d"]
    assert text.size == 5 + 3 + 6 + 1
    assert text.beginning(6).documents == ["ab\r\nc", "ü"]


def test_texts_of_a_user(tmp_path: Path) -> None:
    plain = tmp_path / "a.b.jsonl"
    plain.write_text(
        '{"text": "one"}\n\n{"text": "a <|endoftext|>"}\n{"text": ""}\n{"text": "a <| b"}\n', encoding="utf-8"
    )
    text = texts.of_path(plain)
    assert (text.name, text.documents) == ("a", ["one", "a <| b"])
    plain.write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no text in it"):
        texts.of_path(plain)


def test_usual_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shared folder and without; the library is cut down to two files."""
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "multi.jsonl.zst").write_bytes(zstandard.compress('{"text": "één"}\n'.encode()))
    library = tmp_path / "lib"
    (library / "site-packages").mkdir(parents=True)
    for name, content in (("a.py", b"x = 1\n"), ("bad.py", b"\xff"), ("site-packages/b.py", b"y = 2\n")):
        (library / name).write_bytes(content)
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(texts, "bible", lambda: ["In the beginning"])
    monkeypatch.setattr(texts, "FABLES", 3000)
    monkeypatch.setenv("HORNBOOK_DATA", str(tmp_path))
    found = texts.usual()
    assert list(found) == ["stories", "multi", "code"]
    assert (found["multi"].documents, found["code"].documents) == (["één"], ["x = 1\n"])
    assert found["stories"].documents[0] == "In the beginning"
    assert 1000 < found["stories"].size < 3100
    monkeypatch.delenv("HORNBOOK_DATA")
    assert list(texts.usual()) == ["stories", "code"]


def test_made_texts() -> None:
    worst = texts.worst(50, 2).documents
    assert [set(t) for t in worst[:4]] == [{"a"}, {" "}, {"\n"}, {"!"}] == [set(t) for t in worst[5:9]]
    assert [len(t) for t in worst] == [50] * 5 + [49] * 4 + [50]
    assert len(set(worst)) == len(worst) == 2 * len(tasks.WORST)
    text = texts.Text("x", "", [WORDS * 3, WORDS[::-1]])
    calls = texts.calls(text, (20, 5), 6).documents
    assert [len(t) for t in calls] == [20] * 6 + [5] * 6
    assert len(set(calls)) == 12
    assert texts.one_text([text], 10_000) is None
    one = texts.one_text([text], 150)
    assert one is not None
    assert len(one.documents) == 1
    assert 150 <= one.size < 250


def test_one_merge_a_token() -> None:
    """What training did is found again from the ids alone."""
    tok = Tokenizer.train([WORDS * 20, "banana bandana " * 30], vocab_size=340)
    chars = tasks.spelled and child.module(str(Path(child.__file__).with_name("peers.py"))).characters()

    def word(token: bytes) -> str:
        return "".join(chars[byte] for byte in token)

    vocab = {word(token): id for id, token in tok.vocab.items() if id not in tok.special_tokens.values()}
    vocab |= tok.special_tokens
    right = [(word(left), word(right)) for left, right in tok.merges]
    assert texts.plain_merges(vocab, tok.special_tokens) == right


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_files_of_a_vocabulary(name: str, tmp_path: Path) -> None:
    """`tokenizers` reads both spellings to tiktoken's ids."""
    tiktoken, tokenizers = pytest.importorskip("tiktoken"), pytest.importorskip("tokenizers")
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception:
        pytest.skip("tiktoken has no files here: it needs a network or its cache")
    made = texts.vocabulary(name, tmp_path, texts.Text("x", "", []))
    for file in ("exact.json", "classic.json"):
        reader = tokenizers.Tokenizer.from_file(str(Path(made.folder) / file))
        assert reader.encode(WORDS, add_special_tokens=False).ids == encoding.encode_ordinary(WORDS)
    assert json.loads((Path(made.folder) / "vocabulary.json").read_text("utf-8"))["regex"] == encoding._pat_str


# Goals.


def row(peer: str, median: float, ratio: float | None, task: str = "t", way: str = "", **more: Any) -> goals.Row:
    measure: dict[str, Any] = {"unit": "MB/s", "median": median, "least": median, "most": median, "answers": []}
    if ratio is not None:
        measure["ratio"] = {"median": ratio, "least": ratio - 0.5, "most": ratio + 0.5}
    return {
        "task": task, "title": task, "peer": peer, "way": way, "version": "1", "share": 1, "size": 1, "threads": 1,
        "measures": {"cold": measure}, "check": {}, "lost": "", "limit": "", **more,
    }  # fmt: skip


def test_goals_take_the_best_that_is_right() -> None:
    rows = [
        row("hornbook", 100.0, None),
        row("slow", 10.0, 10.0),
        row("quick", 50.0, 2.0, way="loop"),
        row("quick", 40.0, 2.5, way="batch"),
        row("wrong", 80.0, 1.25, check={"documents": 9, "differ": 1}),
        row("quick", 90.0, 1.1, way="buffer"),
        row("other", 99.0, 1.01, task="u"),
    ]
    wanted = [
        Goal("1", "t", "cold", least=1.9),
        Goal("2", "t", "cold", least=2.1),
        Goal("3", "t", "cold", least=10.0, against="slow"),
        Goal("4", "t", "cold", least=1.0, against="absent"),
        Goal("5", "t", "cold", most=100.0),
        Goal("6", "t", "cold", most=99.0),
        Goal("7", "nowhere", "cold", most=1.0),
        Goal("8", "t", "cold", least=1.0, against="wrong"),
        Goal("9", "u", "cold", most=1.0),
    ]
    judged = {one["goal"]: one for one in goals.judge(wanted, rows)}
    assert {name: one["met"] for name, one in judged.items()} == {
        "1": True, "2": False, "3": True, "4": None, "5": True, "6": False, "8": True, "9": None,
    }  # fmt: skip
    assert judged["1"]["against"] == "quick (loop)"
    assert judged["1"]["value"] == {"median": 2.0, "least": 1.5, "most": 2.5}
    assert judged["2"]["target"] == ">= 2.1 x best"
    assert judged["5"]["target"] == "<= 100"


def test_goals_are_about_tasks_that_there_are() -> None:
    found = {name: texts.Text(name, "", ["x"]) for name in ("en", "multi", "code")}
    there = {task.key: set(task.measures()) for task in tokenizer.tasks(tokenizer.KINDS, found, 2, tokenizer.Size())}
    for goal in GOALS:
        assert goal.measure in there[goal.task], goal
        assert bool(goal.most) != bool(goal.least)
        assert goal.against in ("best", *tokenizer.PEERS)
    alone = tokenizer.tasks(tokenizer.KINDS, found, 1, tokenizer.Size())
    assert {task.threads for task in alone} == {1}
    assert [task.key for task in tokenizer.tasks(["load"], found, 2, tokenizer.Size())] == ["load"]
    mine = tokenizer.tasks(["encode"], {"mine": found["en"]}, 4, tokenizer.Size())
    assert [t.key for t in mine if isinstance(t, tasks.Encode)] == [
        "encode-mine-list-1", "encode-mine-array-1", "encode-mine-array-4",
    ]  # fmt: skip


def test_what_is_said_of_ids() -> None:
    assert goals.verdict(row("a", 1.0, 1.0)) == ""
    assert "WRONG: 3 of 9" in goals.verdict(row("a", 1.0, 1.0, check={"documents": 9, "differ": 3}))
    assert "1 of 4 documents" in goals.verdict(row("a", 1.0, 1.0, share=4))
    told = goals.verdict(row("a", 1.0, 1.0, check=tasks.same(["a", "b", "c"], ["a", "c", "b"])))
    assert "up to number 1 of 3, and 100.00%" in told
    assert tasks.same(["a", "b"], ["a", "b"]) == {"same": 2, "of": 2, "shared": 1.0}
    assert tasks.same(["a", "b"], ["a"]) == {"same": 1, "of": 2, "shared": 0.5}


# The command.


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--only", "trian"], "did you mean 'train'"),
        (["--peers", "tiktokken"], "did you mean 'tiktoken'"),
        (["--peers", "nobody.py"], "nobody.py is no file"),
        (["--python", "tokie=nowhere"], "nowhere is no file"),
        (["--python", "toky=x"], "did you mean 'tokie'"),
        (["--rounds", "0"], "at least 1"),
        (["--text", "no-such-folder"], "no-such-folder"),
        (["--quick", "--only", "load", "--peers", "tiktoken", "--vocabulary", "cl1000"], "cl1000"),
    ],
)
def test_options_that_make_no_sense(argv: list[str], words: str, tmp_path: Path, book: Path) -> None:
    pytest.importorskip("tiktoken")
    if "--text" not in argv:
        argv = [*argv, "--text", str(book)]
    with pytest.raises(SystemExit) as end:
        main(["bench", "tokenizer", *argv, "--out", str(tmp_path)])
    assert words in str(end.value)


def test_options() -> None:
    kinds, names, pythons = tokenizer.options("", "", f"tokie={sys.executable}")
    assert (kinds, names) == (list(tokenizer.KINDS), ["hornbook", *tokenizer.PEERS])
    assert pythons == {"tokie": sys.executable, "hornbook": sys.executable}
    assert tokenizer.options("load", "rustbpe", sys.executable)[1:] == (
        ["hornbook", "rustbpe"],
        {"": sys.executable, "hornbook": sys.executable},
    )
    with pytest.raises(ConfigError):
        tokenizer.options("", "rust-bpe", "")


def bench(capsys: Any, out: Path, book: Path, *argv: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A quick run: the last line, the file, and all that was said."""
    quick = ["--quick", "--vocabulary", "trained", "--threads", "1", "--text", str(book), "--out", str(out)]
    main(["bench", "tokenizer", *quick, *argv])
    said = capsys.readouterr().out
    (path,) = out.glob("tokenizer-*.json")
    return json.loads(said.splitlines()[-1]), json.loads(path.read_text("utf-8")), said


@pytest.mark.parametrize(
    ("only", "keys"),
    [
        ("encode,decode", "encode-book-list-1 encode-book-array-1 growth-encode-text growth-encode-word decode"),
        ("latency,worst,load", "calls worst load"),
    ],
)
def test_quick_run(only: str, keys: str, tmp_path: Path, book: Path, capsys: Any) -> None:
    pytest.importorskip("tiktoken")
    pytest.importorskip("tokenizers")
    digest, result, said = bench(capsys, tmp_path, book, "--only", only, "--peers", "tiktoken,tokenizers")
    assert said.splitlines()[0].startswith("One core reads ")
    assert digest["rows"] == len(result["rows"])
    assert (digest["wrong"], digest["lost"], digest["missing"]) == ([], [], [])
    assert (digest["goals"], result["goals"]) == (0, [])  # a quick run proves nothing
    assert list(dict.fromkeys(row["task"] for row in result["rows"])) == [
        key for kind in tokenizer.KINDS for key in keys.split() if kind in key or (kind, key) == ("latency", "calls")
    ]
    for one in result["rows"]:
        assert one["measures"], one
        assert one["check"].get("differ", 0) == 0
        ours = next(other for other in result["rows"] if (other["peer"], other["task"]) == ("hornbook", one["task"]))
        for name, measure in one["measures"].items():
            assert measure["least"] == measure["median"] == measure["most"]
            if one["peer"] != "hornbook" and measure["unit"] != "MB":
                times_ours = ours["measures"][name]["median"] / measure["median"]
                times_ours = times_ours if measure["unit"].endswith("/s") else 1 / times_ours
                assert measure["ratio"]["median"] == pytest.approx(times_ours)
    (table,) = tmp_path.glob("tokenizer-*.md")
    assert "| tiktoken (loop)" in table.read_text("utf-8")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".svg", ".png"}


def test_bad_company(tmp_path: Path, book: Path, capsys: Any) -> None:
    """One gives wrong ids for a document and trains otherwise, one crashes at that document, one is not there."""
    pytest.importorskip("tiktoken")
    pytest.importorskip("tokenizers")
    wrong = adapter(
        tmp_path,
        "wrong",
        "    def list_loop(self, texts, threads):\n"
        "        found = [self.tok.encode_ordinary(text) for text in texts]\n"
        "        return [ids[:-1] if 'chapter 11' in text else ids for text, ids in zip(texts, found)]\n"
        "    def train(self, texts, vocab_size, pattern, regex, threads): return [b'no', b'he']\n"
        "    def merged(self, trained): return trained\n",
    )
    crash = adapter(
        tmp_path,
        "crash",
        "    def list_loop(self, texts, threads):\n"
        "        if any('chapter 11' in text for text in texts): os.abort()\n"
        "        return [[1] for text in texts]\n"
        "    tie = None\n",
    )
    absent = adapter(tmp_path, "absent", "    module = 'no_such_module_anywhere'\n")
    out = tmp_path / "out"
    peers = f"{wrong},{crash},{absent},tokenizers"
    digest, result, said = bench(capsys, out, book, "--only", "train,encode", "--peers", peers)
    assert (digest["wrong"], digest["lost"], digest["missing"]) == ([wrong], [crash], [absent])
    found = {(Path(one["peer"]).stem, one["task"]): one for one in result["rows"]}
    (key,) = {task for _, task in found if task.endswith("list-1")}
    count = len(list(book.iterdir()))
    assert found["wrong", key]["check"] == {"documents": count, "differ": 1, "first": 11}
    assert "warm" in found["wrong", key]["measures"]
    assert "crashed" in found["crash", key]["lost"]
    assert not found["crash", key]["measures"]
    assert found["hornbook", key]["check"] == {"documents": count, "differ": 0, "first": None}
    assert f"WRONG: 1 of {count} documents" in said
    trained = found["wrong", "train-book-1"]["check"]
    assert (trained["same"], trained["rule"]) == (0, "huggingface")
    assert 0 < trained["shared"] < 0.01
    assert "its tokens are ours up to number 0" in said
    assert ("crash", "train-book-1") not in found
    for key in ("train-book-1", "train-word"):
        trained = found["tokenizers", key]["check"]
        assert trained["same"] == trained["of"] > 100
        assert trained["rule"] == "huggingface"


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import hornbook.benchmarks.tokenizer; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr
