"""LOAD: a model by one string, or a model in memory; either is checked before it is returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_cam.errors import BackboneError, ConceptCamError, one_line
from concept_cam.prompts import read_vocabulary

if TYPE_CHECKING:
    import torch
    from torch import nn

    from concept_cam.backbones import Backbone


def load(
    name: str,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    *,
    classes: Iterable[Any] | None = None,
) -> Backbone:
    """Load a model by name, in evaluation mode and with frozen parameters.

    Args:
        name: a dual encoder or a classifier. Dual encoders: an open_clip architecture and tag (``ViT-B-16/laion400m_e32``);
            ``hf-hub:org/model`` or ``local-dir:folder`` in open_clip's layout; the name
            (``google/siglip2-base-patch16-224``) or folder of a model of transformers. Classifiers: the name of a model of
            timm (``resnet50.a1_in1k``), or of an image classifier of transformers. Case, hyphens and slashes may vary
            (``ViT-B/16``). A prefix ``open_clip:``, ``transformers:`` or ``timm:`` selects the library.
        pretrained: a tag of open_clip or timm, downloaded on first use, or a weight file. A model of timm has the number of
            classes of its weight file.
        device: where the model runs.
        classes: names of the classes of a classifier in the order of its rows: a sequence, a file (``.txt`` or ``.yaml``), or
            a mapping from row to name. timm knows the names of ImageNet, transformers those of its checkpoints.

    Returns:
        The backbone, for ``Localizer``.

    Raises:
        BackboneError: the model cannot be found, downloaded or read, or belongs to no known family.

    Warns:
        UserWarning: the closed form differs from the model, or the default site has no gradient; see ``concept_cam.checks``.

    Example:
        >>> from concept_cam import load
        >>> from concept_cam.world import FOLDER
        >>> load(f"local-dir:{FOLDER}").preprocess.size
        (96, 96)
    """
    from concept_cam.backbones.weights import load_failure
    from concept_cam.checks import check_at_load

    try:
        backbone = _loaded(name, pretrained, device, classes)
    except ConceptCamError:
        raise
    except Exception as error:
        raise BackboneError(load_failure(one_line(name, 300), error)) from error
    return check_at_load(backbone)


def _loaded(name: str, pretrained: str | None, device: str | torch.device, classes: Iterable[Any] | None) -> Backbone:
    library, name, pretrained = _resolve(name, pretrained, classifier=classes is not None)
    if library == "open_clip":
        from concept_cam.backbones import openclip

        if classes is not None:
            raise BackboneError(f"{name} is a dual encoder: its concepts are texts; leave out classes.")
        return openclip.load(name, pretrained, device)
    names = None if classes is None else _names(classes)
    if library == "transformers":
        from concept_cam.backbones import huggingface

        if pretrained is not None:
            raise BackboneError(
                f"{name} is of transformers, whose weights lie with its configuration: leave out pretrained={pretrained!r}, "
                "and name the folder or repository that holds both."
            )
        return huggingface.load(name, device, names)
    from concept_cam.backbones import classifiers

    return classifiers.load(name, pretrained, device, names)


def wrap(
    model: nn.Module,
    tokenizer: Any = None,
    preprocess: Any = None,
    *,
    classes: Iterable[Any] | None = None,
    name: str | None = None,
    head: str | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Backbone:
    """Wrap a model that you have in memory. It is used as it is, and no call changes it.

    Wrappers are looked through: ``DataParallel``, ``torch.compile``, ``AveragedModel``, adapters of peft, or your own module
    with the model as ``.model``. Layers keep the names that they have in the model that you pass.

    Args:
        model: a dual encoder of open_clip or transformers, or a module with their methods; an image classifier of
            transformers; or, with ``classes``, any classifier with a linear last layer.
        tokenizer: of a dual encoder; a processor of transformers works too.
        preprocess: how images are prepared: a ``Preprocess``, the transform that came with the model, an image processor of
            transformers, or a function from an RGB image of PIL to a tensor (3, height, width). A transform whose steps are
            unknown runs on each image; docs/models.md says which are refused. By default the model's own.
        classes: names of the classes of a classifier in the order of its rows: a sequence, a file, or a mapping from row to
            name. Models of transformers know theirs.
        name: of the model in results; by default that of its class.
        head: name of the linear layer of a classifier whose rows are the classes, if there are several or if its output is
            not the output of the model.
        call: a function ``(model, pixels) -> scores`` for a classifier that is not called with pixels alone.

    Returns:
        The backbone, for ``Localizer``.

    Raises:
        BackboneError: the model belongs to no known family or cannot run, or an option does not apply to it.

    Warns:
        UserWarning: the preprocessing is unknown and ImageNet's is assumed; the closed form differs from the model, or the
            default site has no gradient, see ``concept_cam.checks``.

    Example:
        >>> import open_clip
        >>> from concept_cam import wrap
        >>> model, tokenizer = open_clip.create_model("ViT-B-32", pretrained=None), open_clip.get_tokenizer("ViT-B-32")
        >>> wrap(model, tokenizer).sites[0].name
        'visual.transformer.resblocks.11.ln_1'
    """
    from concept_cam.checks import check_at_load

    _check_instance(model, name or type(model).__name__)
    from concept_cam.backbones import huggingface, openclip
    from concept_cam.backbones.wrappers import called, check_layers, only_one

    name = name or type(called(model)[1]).__name__
    check_layers(model, name)
    names = _names(classes) if classes is not None else huggingface.labels(model)
    if classes is not None or names:
        from concept_cam.backbones.classifier import Classifier

        inner = called(model)[1]
        if tokenizer is None and (huggingface.is_dual_encoder(inner) or openclip.is_dual_encoder(inner)):
            raise BackboneError(f"{name} is a dual encoder: its concepts are texts; leave out classes, give its tokenizer.")
        if tokenizer is not None:
            raise BackboneError(f"{name} is given as a classifier, which reads no texts; leave out the tokenizer, or classes.")
        return check_at_load(Classifier(model, names, preprocess, name, head, call))
    if only_one(model, huggingface.is_dual_encoder, name) is not None:
        _check_dual(name, tokenizer, head, call)
        return check_at_load(huggingface.HuggingFace(model, tokenizer, preprocess, name))
    found = only_one(model, openclip.is_dual_encoder, name)
    if found is None:
        raise BackboneError(
            f"{name} is no dual encoder that is known (it has neither encode_image nor get_image_features); "
            "if it is a classifier, name its classes; else write an adapter: docs/adapters.md."
        )
    _check_dual(name, tokenizer, head, call)
    encode: Any = found[1].encode_image
    if "normalize" not in signature(encode).parameters:
        raise BackboneError(
            f"{name} is not of open_clip: encode_image takes no normalize; write an adapter: docs/adapters.md."
        )
    return check_at_load(openclip.OpenClip(model, tokenizer, name, preprocess))


def _check_instance(model: nn.Module, name: str) -> None:
    parameters = getattr(model, "parameters", None)
    if not callable(parameters):
        raise BackboneError(f"Expected a torch module, given a {name}; load(name) takes a model by its name.")
    if any(parameter.is_meta for parameter in parameters()):
        raise BackboneError(f"{name} has no weights yet (parameters on the device 'meta'); load them first.")
    if any(parameter.is_inference() for parameter in parameters()):
        raise BackboneError(f"{name} was built inside torch.inference_mode(), so it has no gradients; build it outside.")


def _check_dual(name: str, tokenizer: Any, head: str | None, call: Any) -> None:
    given = "head" if head is not None else "call" if call is not None else None
    if given:
        raise BackboneError(f"{name} is a dual encoder: {given}= is for classifiers; leave it out, or name its classes.")
    if tokenizer is None:
        raise BackboneError(f"{name} is a dual encoder, which reads texts: wrap(model, tokenizer).")


def _names(classes: Iterable[Any]) -> tuple[str, ...]:
    """Names in the order of the rows, from a sequence, a file, or a mapping between rows and names in either direction."""
    if isinstance(classes, str):
        return read_vocabulary(classes).names
    if not isinstance(classes, Mapping):
        names = tuple(classes)
        if not all(isinstance(name, str) for name in names):
            raise BackboneError(
                f"classes holds {next(n for n in names if not isinstance(n, str))!r}; expected names, as texts."
            )
        return names
    by_row = {_row(key): value for key, value in classes.items()}
    if None in by_row:
        by_row = {_row(value): key for key, value in classes.items()}
    if sorted(row for row in by_row if row is not None) != list(range(len(classes))):
        raise BackboneError(
            f"classes is a dictionary of {len(classes)}; expected the rows 0 to {len(classes) - 1}, each with its name."
        )
    return tuple(str(by_row[row]) for row in range(len(classes)))


def _row(key: Any) -> int | None:
    """The number of a row; JSON turns keys into strings."""
    if isinstance(key, bool) or not (isinstance(key, int) or (isinstance(key, str) and key.isdecimal())):
        return None
    return int(key)


def _resolve(name: str, pretrained: str | None, *, classifier: bool) -> tuple[str, str, str | None]:
    """(library, name, pretrained)."""
    from concept_cam.backbones import openclip
    from concept_cam.backbones.names import library_of, of_open_clip, of_timm
    from concept_cam.backbones.towers import timm

    schema, _, rest = name.partition(":")
    if schema in ("open_clip", "transformers", "timm") and rest:
        name = rest
        if schema == "open_clip" and pretrained is None:
            name, pretrained = of_open_clip(name, openclip.names()) or (name, None)
        return schema, of_timm(name, timm.names()) or name if schema == "timm" else name, pretrained
    if schema == "local-dir" or (schema == "hf-hub" and of_timm(name, timm.names()) is None):
        return "open_clip", name, pretrained
    if Path(name).is_dir():
        library = _library_of_folder(Path(name))
        return library, f"local-dir:{name}" if library == "open_clip" else name, pretrained
    library, name, tag = library_of(name, openclip.names(), timm.names(), classifier=classifier)
    if tag is not None and pretrained is not None:
        raise BackboneError(f"{name} is given two weights: {tag!r} in its name and pretrained={pretrained!r}; leave one out.")
    return library, name, tag if pretrained is None else pretrained


def _library_of_folder(folder: Path) -> str:
    from concept_cam.backbones.settings import OPEN_CLIP, TIMM, check_settings

    if (folder / OPEN_CLIP).is_file():
        return "open_clip"
    if (folder / TIMM).is_file():
        return "timm" if "architecture" in check_settings(folder / TIMM) else "transformers"
    raise BackboneError(
        f"{folder}: neither open_clip_config.json nor a config.json that can be read is in that folder; "
        "expected a checkpoint of open_clip, transformers or timm."
    )
