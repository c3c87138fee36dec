"""A folder of shards, written beside and renamed when it is whole; what was interrupted goes on.

While it is being written the folder is called NAME.partial. Now and then, and when a shard is full, all is brought to
the disk and progress.json says how far it is; the same command goes on from there, and what was written after is cut
off. The shards are those of a run that nothing disturbed, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .. import __version__, files
from ..corpora import CORPORA, opened
from ..documents import Files, exists
from ..errors import CheckpointError, ConfigError, DataError, HornbookError
from ..shards import MOST_TOKENS, ShardWriter, damaged, digest_of, read_manifest
from ..tokenizer import load as load_tokenizer
from .duplicates import Seen
from .stream import SPLITS, ChangedError, Encoded, Source, Taken, encoded, eot_of, say_if_nothing_is_held_out
from .text import Name, Steps

if TYPE_CHECKING:
    from ..tokenizer import TokenizerLike

SHARD_TOKENS = 100_000_000
SAVE_SECONDS = 10.0  # from one time that progress is kept to the next
PROGRESS, HASHES, LOCK, MANIFEST, SETTINGS = "progress.json", "hashes", ".lock", "manifest.json", "config.toml"
OURS = re.compile(  # what may lie in a folder of shards, finished or not
    r"(train|heldout)-\d+\.(bin|docs\.npy)|manifest\.json|tokenizer(_config)?\.json|config\.toml|progress\.json|hashes|"
    r"\.lock|\..*\.\d+\.tmp"
)

log = logging.getLogger("hornbook")


def run(
    source: Source,
    tokenizer: TokenizerLike,
    out: str | Path,
    *,
    steps: Steps | None = None,
    heldout: float | Iterable[str] = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    num_threads: int | None = None,
    about: str | None = None,
    fresh: bool = False,
    settings: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Encode a corpus into a folder of shards; see `hornbook.data.prepare`, which gives them back as `TokenData`.

    Args:
        settings: what config.toml is to hold, the command that would do the same again; no such file if None.

    Returns:
        the manifest.
    """
    steps, out = Steps() if steps is None else steps, Path(out)
    if not 1 <= shard_tokens <= MOST_TOKENS:
        raise ConfigError(f"shard_tokens is from 1 to {MOST_TOKENS}, not {shard_tokens}")
    if isinstance(source, list):
        paths = [path for path in source if isinstance(path, Path)]
        source = opened(paths) if paths and len(paths) == len(source) else source
    elif isinstance(source, str | Path):
        corpus = CORPORA.get(str(source)) if isinstance(source, str) and not exists(source) else None
        if corpus is not None and corpus.file is None and about is None and isinstance(heldout, int | float):
            source, heldout, about = corpus.parted(heldout)
        else:
            source = opened(source)
    share = heldout if isinstance(heldout, int | float) else None
    options = steps.described() | {"heldout": share if share is not None else "given", "shard_tokens": shard_tokens}
    parts = _identity(source, about), options["heldout"] if share is not None else _identity(heldout, about)
    command = None if None in parts else digest_of([parts, options, tokenizer.hash, __version__])
    name = str(source) if about is None and isinstance(source, Files) else about
    manifest = {
        "format": 1,
        "hornbook": __version__,
        "source": name,
        "options": options,
        "vocab_size": tokenizer.vocab_size,
        "eot_id": eot_of(tokenizer),
        "command": command,
    }

    if out.name in ("", ".."):  # it is renamed as a whole
        raise DataError(f"{out} has no name that could be given to a new folder; choose one, such as shards")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose the name of a folder")
    check_ours(out)
    if not fresh and (already := _whole(out, command)) is not None:
        log.info("%s: made before by this command from the same text, and whole: nothing to do", out)
        return already
    work = Work(out.with_name(f"{out.name}.partial"), command)
    try:
        if (done := work.begin(tokenizer, shard_tokens, steps, fresh)) is None:
            for splits, taken in encoded(
                source, tokenizer, heldout, steps, seen=work.seen, taken=work.taken, num_threads=num_threads
            ):
                work.add(splits, taken)
                if progress is not None:
                    progress(taken.documents, taken.bytes)
            done = work.finish(tokenizer, manifest, settings)
        work.close()
        work.put(out)
    except BaseException as error:
        work.close()
        kept = work.left_behind(error)
        if isinstance(error, OSError):
            raise DataError(f"{error.filename or work.place}: {error.strerror or error}; {kept}") from None
        if isinstance(error, HornbookError) and work.started:  # not removed
            error.args = (f"{error}; {kept}",)
        elif isinstance(error, KeyboardInterrupt):
            log.warning("stopped; %s", kept)
        raise
    held = done["splits"]["heldout"]["documents"]
    say_if_nothing_is_held_out(heldout, done["splits"]["train"]["documents"], held)
    return done


def check_ours(folder: Path, *, unfinished: bool = False) -> None:
    """Raise DataError if a folder is not one that prepare made, or holds more: it would be lost with the old shards.

    Names alone do not tell: a tokenizer's folder, another program's shards and its manifest.json have the same ones.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if not names:
        return
    strangers = {name for name in names if not OURS.fullmatch(name)}
    manifest: dict[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # one that is damaged is made anew
        manifest = files.read_json(folder / MANIFEST)
    if manifest.get("digest") == digest_of({key: value for key, value in manifest.items() if key != "digest"}):
        strangers |= {name for name in names if name.startswith(SPLITS)} - set(manifest.get("files", names))
    if strangers:
        raise DataError(
            f"{folder}: holds {min(strangers)!r}, which is not of token shards and would be lost; move it, or choose "
            "another folder"
        )
    if {"format", "tokenizer", "splits"} <= manifest.keys() or (unfinished and names & {LOCK, PROGRESS}):
        return
    if MANIFEST in names and any(name.endswith(".docs.npy") for name in names):  # no one else writes these
        return
    what = f"its {MANIFEST} is not one" if MANIFEST in names else f"there is no {MANIFEST}"
    raise DataError(
        f"{folder}: not a folder of shards that prepare made ({what}), and {min(names)!r} would be lost; choose "
        "another folder"
    )


class Work:
    """A folder that is being filled.

    Attributes:
        place: where it lies until it is whole.
        taken: how far reading has come.
        seen: the documents there were, if duplicates are dropped.
    """

    def __init__(self, place: Path, command: str | None) -> None:
        self.place, self.command = place, command
        self.taken = Taken()
        self.seen: Seen | None = None
        self._writers: dict[Name, ShardWriter] = {}
        self._lock: IO[str] | None = None
        self._saved: Taken | None = None
        self._shards, self._clock = 0, time.monotonic()

    def begin(self, tokenizer: TokenizerLike, shard_tokens: int, steps: Steps, fresh: bool) -> dict[str, Any] | None:
        """Take up what the same command left, or begin; the manifest, if all is done but the folder's name."""
        place = self.place
        check_ours(place, unfinished=True)
        place.mkdir(parents=True, exist_ok=True)
        self._lock = files.lock(place / LOCK, f"another process is preparing {place}")
        if not fresh and (manifest := _whole(place, self.command)) is not None:
            return manifest
        if not fresh and self._take_up(tokenizer, shard_tokens, steps):
            log.info("%s: going on after %s documents", place, f"{self.taken.documents:,}")
            return None
        self._remove_all_but({LOCK})
        self.taken = Taken()
        self._writers = {n: ShardWriter(place, n, tokenizer.vocab_size, shard_tokens) for n in SPLITS}
        self.seen = Seen(place / HASHES) if steps.dedup else None
        return None

    def add(self, splits: list[Encoded], taken: Taken) -> None:
        for split in splits:
            self._writers[split.name].add(split.ids, split.bounds, split.bytes)
        self.taken = taken
        shards = sum(len(writer.entry["shards"]) for writer in self._writers.values())
        if shards > self._shards or time.monotonic() - self._clock > SAVE_SECONDS:
            self._save()
            self._shards, self._clock = shards, time.monotonic()

    def finish(self, tokenizer: TokenizerLike, manifest: dict[str, Any], settings: str | None) -> dict[str, Any]:
        """The rest of the shards, the tokenizer, the settings and the manifest."""
        entries = {name: writer.finish() for name, writer in self._writers.items()}
        self._save()
        known = {name: about for writer in self._writers.values() for name, about in writer.files.items()}
        tokenizer.save(self.place)
        if settings is not None:
            files.write(self.place / SETTINGS, settings)
        for path in sorted(self.place.iterdir()):
            if path.name not in (PROGRESS, HASHES, LOCK, *known):
                known[path.name] = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
        manifest = manifest | {
            "tokenizer": load_tokenizer(self.place).hash,  # of what lies here: ranks are written as merges
            "steps": self.taken.steps,
            "splits": entries,
            "files": known,
        }
        manifest["digest"] = digest_of(manifest)
        files.write_json(self.place / MANIFEST, manifest)
        return manifest

    def close(self) -> None:
        for closable in (*self._writers.values(), self.seen, self._lock):
            if closable is not None:
                closable.close()

    def put(self, out: Path) -> None:
        for name in (PROGRESS, HASHES, LOCK):
            (self.place / name).unlink(missing_ok=True)
        files.put_directory(self.place, out)

    @property
    def started(self) -> bool:
        """Whether there is something that the same command can go on from."""
        there = any((self.place / name).exists() for name in (PROGRESS, MANIFEST))
        return self._lock is not None and self.command is not None and there

    def left_behind(self, error: BaseException) -> str:
        """What is still there after an end that was not planned, and what to do. What nothing can go on from goes."""
        if self._lock is None:  # it was never ours
            return "nothing was written"
        if self.started and not isinstance(error, ChangedError):
            done = f"the first {self._saved.documents:,} documents are" if self._saved else "what was done before is"
            return f"{done} in {self.place}: the same command goes on there"
        with contextlib.suppress(OSError):
            self._remove_all_but({LOCK})  # it goes last: after a kill here what is left is still known to be ours
        shutil.rmtree(self.place, ignore_errors=True)
        return "nothing of it was kept"

    def _save(self) -> None:
        if self.command is None:  # nobody can say that a source is the same
            return
        if self.seen is not None:
            self.seen.sync()
        states = {name: writer.state() for name, writer in self._writers.items()}
        state = {"command": self.command, "taken": asdict(self.taken), "writers": states}
        files.write_json(self.place / PROGRESS, state | {"digest": digest_of(state)})
        self._saved = self.taken

    def _take_up(self, tokenizer: TokenizerLike, shard_tokens: int, steps: Steps) -> bool:
        """Whether there is something to go on from; then all is as it was when that was written."""
        if not (self.place / PROGRESS).exists():
            return False
        try:
            state = files.read_json(self.place / PROGRESS)
            if self.command is None or state.get("command") != self.command:
                log.info("%s: left by another command; beginning anew", self.place)
                return False
            if state.pop("digest", None) != digest_of(state):
                raise DataError(f"{PROGRESS} was changed")
            self.taken = Taken(**state["taken"])
            for name in SPLITS:
                writer = ShardWriter(self.place, name, tokenizer.vocab_size, shard_tokens, state["writers"][name])
                self._writers[name] = writer
            keep = {PROGRESS, LOCK, HASHES}
            for writer in self._writers.values():
                keep |= {*writer.files, *(path.name for path in writer.paths())}
                for name, known in writer.files.items():
                    if (self.place / name).stat().st_size != known["bytes"]:
                        raise DataError(f"{name} was changed")
            if steps.dedup:
                self.seen = Seen(self.place / HASHES, self.taken.hashes)
        except (HornbookError, OSError) as error:
            log.warning("%s: cannot be gone on from (%s); beginning anew", self.place, error)
            for writer in self._writers.values():
                writer.close()
            return False
        self._remove_all_but(keep)
        self._shards = sum(len(writer.entry["shards"]) for writer in self._writers.values())
        self._saved = self.taken
        return True

    def _remove_all_but(self, names: set[str]) -> None:
        for path in self.place.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _whole(folder: Path, command: str | None) -> dict[str, Any] | None:
    """The manifest of a folder that this command made, if nothing in it is damaged."""
    if command is None or not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        log.warning("%s: now", error)
        return None
    if manifest.get("command") != command:
        return None
    if wrong := damaged(folder, manifest):
        log.warning("%s: now", wrong)
        return None
    return manifest


def _identity(source: Any, about: str | None) -> Any:
    """What tells a source from others, without reading files; None for what cannot be known to be the same again."""
    if about is not None:
        return about
    if isinstance(source, Files):
        stats = [file.stat() for file in source.files if file.is_file()]
        if len(stats) < len(source.files):  # a pipe
            return None
        found = [(str(f.absolute()), s.st_size, s.st_mtime_ns) for f, s in zip(source.files, stats, strict=True)]
        told = vars(source).items()  # field, document_end and what else decides how they are read
        rest = {n: repr(v) for n, v in told if n not in ("bytes_read", "paths", "files") and not n.startswith("_")}
        return [found, rest]
    if isinstance(source, list | tuple) and all(isinstance(text, str) for text in source):
        digest = hashlib.sha256()
        for text in source:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()
    return None
