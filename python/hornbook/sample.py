"""Writing: one token at a time, each drawn from what the model thinks comes next.

What happens to the logits, in this order (`probabilities`):

    1. repetition penalty   tokens that occurred already become less likely
    2. temperature          below 1 sharpens, above 1 flattens, 0 means always the likeliest (the softmax's ``scale``)
    3. top-k                only the k likeliest stay, and those as likely as the last of them
    4. top-p                only the smallest set of likeliest tokens whose probabilities sum to p stays, and those as
                            likely as the last of them
    5. min-p                only tokens at least min_p times as likely as the likeliest stay

and then one token is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import checks, ops
from .errors import ConfigError
from .model import GPT
from .reference.sample_logits import probabilities as filtered

if TYPE_CHECKING:
    from .tokenizer import TokenizerLike


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token; the defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """0 for the likeliest token each time"""
    top_k: int = 0
    """0 for all"""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """the logits of tokens in the text so far are divided by it if positive, multiplied if negative"""

    def __post_init__(self) -> None:
        checks.filters(**self.filters)
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty must be above 0 (1 means none), not {self.repetition_penalty}")

    @property
    def filters(self) -> dict[str, Any]:
        """What `ops.sample_logits` is told."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}


def penalize(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur in ``ids`` (B, T) less likely in ``scores`` (B, V), as CTRL does
    (Keskar et al., 2019, https://arxiv.org/abs/1909.05858)."""
    if penalty == 1:
        return scores
    seen = scores.gather(-1, ids)
    return scores.scatter(-1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def probabilities(logits: Tensor, ids: Tensor, how: Sampling) -> Tensor:
    """What to draw the next token from.

    Args:
        logits: (B, V).
        ids: (B, T), the text so far.

    Returns:
        (B, V) fp32, each row summing to 1; with temperature 0 all of it is on the likeliest token.
    """
    logits = penalize(logits.float(), ids, how.repetition_penalty)
    return filtered(logits, **how.filters)


@contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    """Without dropout, inside; afterwards the model is in the mode it was in."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


@torch.no_grad()
def sample_ids(
    model: GPT, ids: Tensor, how: Sampling, *, max_new_tokens: int, seed: int | None = None
) -> Iterator[Tensor]:
    """Draw tokens for B texts at once, until the caller stops or ``max_new_tokens`` are drawn.

    When the context is full, the older half of it is forgotten and the newer half read again.

    Args:
        ids: (B, T), T ≥ 1, the texts so far.
        seed: of the draws; None takes PyTorch's own generator.

    Yields:
        (B,) the next token of each text.
    """
    device, context = model.embed.weight.device, model.config.context_length
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    ids = ids.to(device)
    window = ids[:, -context:]
    cache = model.new_cache(len(ids), min(context, window.shape[1] + max_new_tokens))
    new = window
    for _ in range(max_new_tokens):
        if cache.length + new.shape[1] > context:
            cache.truncate(0)
            new = ids[:, -max(1, context // 2) :]
        with _evaluating(model):  # a token at a time: whoever reads the stream may train in between, or never come back
            logits = model(new, cache=cache)[:, -1]  # (B, V)
        uniform = torch.zeros(len(ids), device=device)
        if how.temperature > 0:
            uniform.uniform_(generator=generator)  # from 0, below 1
        if how.repetition_penalty != 1:
            logits = penalize(logits.float(), ids, how.repetition_penalty)
        token = ops.sample_logits(logits, uniform, **how.filters)[:, None]
        ids, new = torch.cat((ids, token), dim=1), token
        yield token[:, 0]


@torch.no_grad()
def beam_search(
    model: GPT,
    ids: Sequence[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    eot_id: int | None,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
) -> list[int]:
    """The continuation with the highest mean log-probability that ``num_beams`` parallel guesses find.

    Each step extends every beam by every token, keeps the best ``num_beams`` that go on, and sets those aside that
    ended (with the end-of-text token) among the best ``num_beams``. It stops when no running beam is better than
    the worst of ``num_beams`` finished ones. Scores are sums of log-probabilities over length ** length_penalty:
    the rules of transformers' ``generate`` with ``early_stopping=False``.

    Returns:
        The new ids, the end-of-text token included if it was reached.
    """
    device = model.embed.weight.device
    if len(ids) + max_new_tokens > model.config.context_length:
        raise ConfigError(
            f"{len(ids)} + {max_new_tokens} tokens do not fit into the context of {model.config.context_length}, "
            "and beams do not slide: ask for fewer new tokens"
        )
    cache = model.new_cache(1, len(ids) + max_new_tokens)
    beams = torch.tensor([list(ids)], device=device)  # (beams, T)
    scores = torch.zeros(1, device=device)
    new = beams
    finished: list[tuple[float, list[int]]] = []
    with _evaluating(model):
        for length in range(1, max_new_tokens + 1):
            log_p = torch.log_softmax(model(new, cache=cache)[:, -1].float(), dim=-1)
            log_p = penalize(log_p, beams, repetition_penalty)
            total = (scores[:, None] + log_p).flatten()  # (beams · V,)
            best = total.topk(min(2 * num_beams, len(total)))
            parents, tokens = best.indices // log_p.shape[-1], best.indices % log_p.shape[-1]
            ends = tokens == (-1 if eot_id is None else eot_id)
            if length == max_new_tokens:
                ends = torch.ones_like(ends)
            for i in range(min(num_beams, len(tokens))):
                if ends[i]:
                    sequence = [*beams[parents[i], len(ids) :].tolist(), int(tokens[i])]
                    finished.append((float(best.values[i]) / length**length_penalty, sequence))
            finished = sorted(finished, key=lambda f: -f[0])[:num_beams]
            alive = torch.nonzero(~ends)[:num_beams, 0]
            if not len(alive):
                break
            scores, new = best.values[alive], tokens[alive, None]
            if len(finished) == num_beams and float(scores[0]) / length**length_penalty <= finished[-1][0]:
                break
            beams = torch.cat((beams[parents[alive]], new), dim=1)
            cache.select(parents[alive])
    return finished[0][1]


def stream(
    model: GPT,
    tokenizer: TokenizerLike,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> Iterator[str]:
    """Continue a text, piece by piece as it grows: whole characters only, and nothing of a stop string.

    Args:
        prompt: what to continue; "" begins a new document.
        max_new_tokens: the most tokens to write; the end-of-text token ends the text earlier.
        temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`.
        num_beams: above 1, search for the likeliest continuation instead of drawing one, and give it in one piece;
            temperature and the filters then have no part.
        stop: texts that end the writing; they are not part of the result.
        seed: the same seed writes the same text.

    Yields:
        The new text only.
    """
    how = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    _at_least("num_beams", num_beams, 1)
    _at_least("max_new_tokens", max_new_tokens, 0)
    ids, stop = encode_prompt(model, tokenizer, prompt), _stop_strings(stop)
    if num_beams > 1:
        return _beams(model, tokenizer, ids, how, num_beams, max_new_tokens, stop)
    return _stream(model, tokenizer, torch.tensor([ids]), how, max_new_tokens, stop, seed)


def generate(
    model: GPT,
    tokenizer: TokenizerLike,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> str:
    """What `stream` gives for the same arguments, as one text."""
    return "".join(
        stream(
            model, tokenizer, prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
            min_p=min_p, repetition_penalty=repetition_penalty, num_beams=num_beams, stop=stop, seed=seed,
        )
    )  # fmt: skip


def _stream(
    model: GPT,
    tokenizer: TokenizerLike,
    ids: Tensor,
    how: Sampling,
    max_new_tokens: int,
    stop: tuple[str, ...],
    seed: int | None,
) -> Iterator[str]:
    decoder, held = tokenizer.stream_decoder(), ""
    for token in sample_ids(model, ids, how, max_new_tokens=max_new_tokens, seed=seed):
        if int(token) == tokenizer.eot_id:
            break
        held += decoder.push(_known(int(token), tokenizer))
        if (end := _first_stop(held, stop)) is not None:
            if end:
                yield held[:end]
            return
        safe = len(held) - _possible_stop(held, stop)
        if safe:
            yield held[:safe]
            held = held[safe:]
    held += decoder.finish()
    end = _first_stop(held, stop)
    if held[:end]:
        yield held[:end]


def _beams(
    model: GPT,
    tokenizer: TokenizerLike,
    ids: list[int],
    how: Sampling,
    num_beams: int,
    max_new_tokens: int,
    stop: tuple[str, ...],
) -> Iterator[str]:
    if max_new_tokens == 0:
        return
    found = beam_search(
        model, ids, num_beams=num_beams, max_new_tokens=max_new_tokens, eot_id=tokenizer.eot_id,
        repetition_penalty=how.repetition_penalty,
    )  # fmt: skip
    text = tokenizer.decode([_known(i, tokenizer) for i in found if i != tokenizer.eot_id])
    yield text[: _first_stop(text, stop)]


def generate_many(
    model: GPT, tokenizer: TokenizerLike, prompt: str, count: int, how: Sampling, *,
    max_new_tokens: int = 200, seed: int | None = None,
) -> list[str]:  # fmt: skip
    """``count`` continuations of one prompt, drawn together: much faster than one after the other."""
    _at_least("count", count, 1)
    _at_least("max_new_tokens", max_new_tokens, 0)
    ids = torch.tensor([encode_prompt(model, tokenizer, prompt)]).repeat(count, 1)
    rows: list[Tensor] = []
    running = torch.ones(count, dtype=torch.bool)
    for tokens in sample_ids(model, ids, how, max_new_tokens=max_new_tokens, seed=seed):
        rows.append(tokens.cpu())
        running &= rows[-1] != (-1 if tokenizer.eot_id is None else tokenizer.eot_id)
        if not running.any():
            break
    texts = []
    for row in torch.stack(rows, dim=1).tolist() if rows else [[]] * count:
        end = row.index(tokenizer.eot_id) if tokenizer.eot_id in row else len(row)
        texts.append(tokenizer.decode([_known(i, tokenizer) for i in row[:end]]))
    return texts


def encode_prompt(model: GPT, tokenizer: TokenizerLike, prompt: str) -> list[int]:
    """The ids a text starts from: the end-of-text token, which begins every document, then the prompt."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}: they do not "
            "belong together"
        )
    ids = ([] if tokenizer.eot_id is None else [tokenizer.eot_id]) + tokenizer.encode_ordinary(prompt)
    if not ids:
        raise ConfigError("an empty prompt needs a tokenizer with an end-of-text token to start from")
    return ids


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, not {value}")


def _known(token: int, tokenizer: TokenizerLike) -> int:
    """A model may have more rows than its tokenizer has tokens (padding); it can only write the tokenizer's."""
    if token >= tokenizer.vocab_size:
        raise ConfigError(
            f"the model wrote token {token}, beyond the tokenizer's {tokenizer.vocab_size}: wrong tokenizer?"
        )
    return token


def _stop_strings(stop: Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in strings:
        raise ConfigError("a stop string must not be empty")
    return strings


def _first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the earliest stop string begins, or None."""
    return min((at for s in stop if (at := text.find(s)) >= 0), default=None)


def _possible_stop(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` may turn out to be the beginning of a stop string."""
    most = max(map(len, stop), default=1) - 1
    for n in range(min(most, len(text)), 0, -1):
        if any(s.startswith(text[-n:]) for s in stop):
            return n
    return 0
