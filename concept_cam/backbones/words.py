"""Words that a tokenizer knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concept_cam.errors import UnknownWord, did_you_mean


def check_words(tokenizer: Any, sentences: Sequence[str], name: str) -> None:
    """Refuse a word for which the tokenizer has no token: the text would mean something else.

    Args:
        tokenizer: of transformers, or open_clip's around one; any other is left alone.
        sentences: what shall be embedded.
        name: of the model, for the message.

    Raises:
        UnknownWord: the message suggests the nearest spelling.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    unknown = getattr(inner, "unk_token", None)
    # Byte-level vocabularies have a token for everything; their "unknown" is the end or the padding.
    if unknown is None or unknown in (inner.pad_token, inner.bos_token, inner.eos_token):
        return
    for word in dict.fromkeys(word for sentence in sentences for word in sentence.split()):
        pieces = inner.tokenize(word)
        if pieces and unknown not in pieces:
            continue
        known = sorted(word for word in inner.get_vocab() if word not in inner.all_special_tokens)
        listed = f" It knows: {', '.join(known)}." if len(known) < 500 else ""
        bare = word.strip(".,;:!?").lower()
        raise UnknownWord(f"{name} has never seen the word {bare or word!r}.{did_you_mean(bare, known)}{listed}")
