"""The name of a model as people spell it: which library it is of, and what that library calls it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from concept_cam.errors import BackboneError, did_you_mean


def spelt(name: str, known: Collection[str]) -> str | None:
    """The known name that is meant: the name itself, or the only one that differs in case, hyphens, underscores or slashes.

    Example:
        >>> spelt("ViT-B/32", ["ViT-B-32", "ViT-B-16"]), spelt("vit_b_16", ["ViT-B-32", "ViT-B-16"])
        ('ViT-B-32', 'ViT-B-16')
    """
    if name in known:
        return name
    found = [other for other in known if _plain(other) == _plain(name)]
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    # OpenAI writes ViT-L/14@336px.
    return re.sub(r"[-_/@ ]+", "-", name.strip().lower()).removesuffix("px")


def of_open_clip(name: str, known: Sequence[str]) -> tuple[str, str | None] | None:
    """The architecture and the tag, or weights file, that a name joins by a slash or a colon; None if it names none."""
    whole = spelt(name, known)
    if whole is not None:
        return whole, None
    # The name may have a slash of its own, and so may the path of a file.
    for cut in re.finditer(r"[/:]", name):
        architecture = spelt(name[: cut.start()], known)
        if architecture is not None:
            return architecture, name[cut.end() :] or None
    return None


def of_timm(name: str, known: Sequence[str]) -> str | None:
    """The architecture with its tag, without timm's place on the hub; None if it names none."""
    place, own = re.fullmatch(r"(hf-hub:timm/|timm/)?(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    architecture, dot, tag = own.partition(".")
    found = spelt(architecture, known)
    return None if found is None or (place and found != architecture) else f"{found}{dot}{tag}"


def library_of(name: str, open_clip: Sequence[str], timm: Sequence[str], *, classifier: bool) -> tuple[str, str, str | None]:
    """(library, name, pretrained) of a name without a schema.

    Args:
        name: as it was given.
        open_clip: the names that it knows.
        timm: the names that it knows.
        classifier: whether it has classes, so that a name that both know is timm's.

    Raises:
        BackboneError: no library knows it.
    """
    theirs, own = of_open_clip(name, open_clip), of_timm(name, timm)
    exact = own is not None and name.partition(".")[0] in timm and not (theirs and theirs[0] in name)
    if own is not None and (theirs is None or exact or classifier):
        return "timm", own, None
    if theirs is not None:
        return "open_clip", *theirs
    if name.count("/") == 1:
        return "transformers", name, None
    hint = did_you_mean(name, [*open_clip, *timm])
    raise BackboneError(
        f"No model {name!r} in open_clip or timm, and no such folder.{hint} `concept-cam models` lists what can be loaded."
    )


def told_apart(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes in order; of those that come twice, each with the number of its row.

    Example:
        >>> told_apart(["crane", "robin", "crane"])
        ('crane (0)', 'robin', 'crane (2)')
    """
    counts = Counter(classes)
    return tuple(f"{name} ({row})" if counts[name] > 1 else name for row, name in enumerate(classes))
