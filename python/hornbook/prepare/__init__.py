"""Text → token shards: cleaned, without duplicates, a part held out, encoded.

    documents → NFC → boilerplate → min_chars, max_chars → duplicates → train or held out → ids → shards

`text` has the steps that look at one document alone, `duplicates` what tells whether one was there before, `stream`
puts them in a row and encodes, and `folder` writes shards and a manifest, and goes on after any end.
"""

from .folder import SHARD_TOKENS, run
from .stream import Encoded, Source, encoded, eot_of, say_if_nothing_is_held_out
from .text import Steps

__all__ = ["SHARD_TOKENS", "Encoded", "Source", "Steps", "encoded", "eot_of", "run", "say_if_nothing_is_held_out"]
