"""What the controls of the page do; each answer says which parts of the page are new."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import final

from PIL import Image

from concept_cam.demo.explainer import Explainer, Wanted
from concept_cam.demo.figure import bare_figure, base_figure, contrastive_figure, place_table, sentences, small_copy
from concept_cam.demo.limits import Limits
from concept_cam.demo.place import Place
from concept_cam.demo.upload import Upload
from concept_cam.demo.verdict import Verdict
from concept_cam.demo.view import View, Views
from concept_cam.errors import ConceptCamError, OptionError
from concept_cam.localizer import Localizer
from concept_cam.result import Localization

SUGGESTED = 1000
"""Names that a list suggests at most; others are typed."""


@final
@dataclass(frozen=True)
class Controls:
    """How the controls of a page stand, as its browser sends it.

    Attributes:
        key: of the visitor's view; None before the first image.
        target: a text.
        references: a list of texts.
        strength: a number.
        method: its name.
    """

    key: str | None
    target: object
    references: object
    strength: object
    method: object

    def wanted(self) -> Wanted:
        """The comparison.

        Raises:
            OptionError, ComparisonError: it is none.
        """
        return Wanted.of(self.target, self.references, self.strength)


@final
@dataclass(frozen=True)
class Answer:
    """What is new on the page; None leaves a part as it is.

    Attributes:
        key: of the visitor's view.
        figure: the contrastive map.
        base: the base map.
        words: the verdict.
        place: what is said of a place.
        note: a remark; an empty one removes that which is there.
        target: its name.
        references: their names.
        suggested: names to choose references from.
    """

    key: str | None = None
    figure: str | None = None
    base: str | None = None
    words: str | None = None
    place: str | None = None
    note: str | None = ""
    target: str | None = None
    references: list[str] | None = None
    suggested: list[str] | None = None


@final
class Desk:
    """Serves all visitors of a page; what belongs to one of them is found by the key of the view alone.

    Args:
        localizer: answers.
        limits: of uploads, and of what is kept.
    """

    def __init__(self, localizer: Localizer, limits: Limits) -> None:
        self.explainer, self.limits = Explainer(localizer), limits
        self.views = Views(limits.images)
        self._plates = count()

    def open_upload(self, path: str | None, controls: Controls) -> Answer:
        """Show an uploaded image.

        Args:
            path: of the file; None if it was removed.
            controls: how they stand.

        Raises:
            ImageError: it is too large, or cannot be read.
        """
        if path is None:
            return Answer()
        upload = Upload.of(path, self.limits)
        if controls.target == self.views.suggested(controls.key):
            controls = replace(controls, target="")
        return self._open(upload, upload.image(), controls)

    def open_plate(self, controls: Controls) -> Answer:
        """Show a drawn bird of the embedded world, with its twin as the reference."""
        from concept_cam import world
        from concept_cam.world.birds import twins

        number = next(self._plates)
        target, twin, _ = twins()[number % len(twins())]
        image = world.draw_species(target, number).image
        upload = Upload(f"{target.replace(' ', '-')}-{number}.png", image)
        return self._open(upload, image, replace(controls, target=target, references=[twin]), target)

    def _open(self, upload: Upload, image: Image.Image, controls: Controls, suggested: str = "") -> Answer:
        """Show an image; without a target, that of the predicted name against the runner-up."""
        field, method = self.explainer.look(image, str(controls.method))
        if not controls.target and self.explainer.vocabulary:
            suggested, *second = self.explainer.first_two(field)
            controls = replace(controls, target=suggested, references=second)
        key = self.views.put(View(upload, small_copy(image), field, method, suggested), controls.key)
        controls = replace(controls, key=key)
        bare = Answer(key, bare_figure(self.views.get(key)), "", "", "")
        if not controls.target:
            return bare
        try:
            wanted = controls.wanted()
            known = Answer(
                target=wanted.target,
                references=list(wanted.references),
                suggested=self.explainer.suggested(wanted.target, SUGGESTED),
            )
            return _joined(bare, _joined(self.show(controls), known))
        except ConceptCamError as error:
            return replace(bare, note=str(error))  # The image is there, whatever is wrong with the question.

    def show(self, controls: Controls) -> Answer:
        """Compare, with a forward pass where the method is not linear or a new one.

        Raises:
            ImageError: there is no image.
            ConceptCamError: see ``Explainer``.
        """
        wanted, view, key = controls.wanted(), self.views.get(controls.key), None
        method, bank = str(controls.method), self.explainer.bank(wanted)
        if method in self.explainer.live:
            if view.method != method:
                field, method = self.explainer.look(view.upload.image(), method)
                view = replace(view, field=field, method=method)
                key = self.views.put(view, controls.key)
            result = self.explainer.from_field(view.field, bank, wanted)
        else:
            result = self.explainer.from_image(view.upload.image(), method, wanted)
        words = sentences(Verdict.of(result, view.field, bank, self.explainer.vocabulary))
        return Answer(key, contrastive_figure(view, result), base_figure(view, result), words, "")

    def follow(self, controls: Controls) -> Answer:
        """Compare without a forward pass, if the method allows it."""
        if controls.key is None:
            return Answer()
        method = str(controls.method)
        if method in self.explainer.live:
            return self.show(controls)
        self.explainer.localizer(method)
        return Answer(note=f"{method} is not linear in the direction, so its map takes a forward pass: press Show the map.")

    def slide(self, controls: Controls) -> Answer:
        """As ``follow``; the base map does not depend on the strength."""
        found = self.follow(controls)
        return replace(found, base=None)

    def retarget(self, controls: Controls) -> Answer:
        """Compare with another target, and suggest the names that are similar to it."""
        wanted = controls.wanted()
        names = [name for name in wanted.references if name != wanted.target]
        suggested = self.explainer.suggested(wanted.target, SUGGESTED)
        new = replace(controls, target=wanted.target, references=names)
        return _joined(self.follow(new), Answer(references=names, suggested=suggested))

    def choose(self, how: str, controls: Controls) -> Answer:
        """Take the three nearest or the three rivals as references, and compare.

        Args:
            how: ``nearest`` or ``rivals``.
            controls: how they stand.

        Raises:
            OptionError: there is no vocabulary to choose from.
        """
        wanted = replace(controls, references=[]).wanted()
        if not self.explainer.vocabulary:
            raise OptionError("There is no vocabulary to choose references from; type them, or start with --vocabulary.")
        if how == "nearest":
            names = self.explainer.suggested(wanted.target, 3)
        else:
            names = self.explainer.rivals(self.views.get(controls.key).field, wanted.target, 3)
        new = replace(controls, target=wanted.target, references=names)
        return _joined(self.follow(new), Answer(references=names))

    def look_at(self, x: object, y: object, controls: Controls) -> Answer:
        """Say which concepts have most evidence at a place.

        Args:
            x: from 0 (left) to 1.
            y: from 0 (top) to 1.
            controls: how they stand.

        Raises:
            OptionError: it is no place, the model did not see it, or the method is not linear.
        """
        if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in (x, y)):
            raise OptionError("This is no place on the image; choose one inside it.")
        wanted, view, method = controls.wanted(), self.views.get(controls.key), str(controls.method)
        if method != view.method:
            raise OptionError(f"{method} is not linear in the direction, so a place has no list of concepts; choose another.")
        bank = self.explainer.bank(wanted)
        result = self.explainer.from_field(view.field, bank, wanted)
        at = Place.of(view.field, bank, result, (float(x), float(y)))  # type: ignore[arg-type]
        figure = contrastive_figure(view, result, at)
        return Answer(figure=figure, place=place_table(at, wanted.target))

    def result(self, controls: Controls) -> tuple[Localization, Upload, Image.Image]:
        """The result as it is shown, with its image, for downloads."""
        wanted, view, method = controls.wanted(), self.views.get(controls.key), str(controls.method)
        image = view.upload.image() if isinstance(view.upload.content, bytes) else view.upload.content
        if method == view.method:
            return self.explainer.from_field(view.field, self.explainer.bank(wanted), wanted), view.upload, image
        return self.explainer.from_image(image, method, wanted), view.upload, image

    def localize(self, path: str | None, controls: Controls) -> tuple[Localization, Upload, Image.Image]:
        """The result for a file, from one call, for scripts: nothing is kept of it.

        Args:
            path: of the file.
            controls: the comparison; without a target, that of the predicted name and the runner-up.

        Raises:
            OptionError: there is no file.
            ImageError: it cannot be read.
        """
        if path is None:
            raise OptionError("There is no image; give one.")
        upload = Upload.of(path, self.limits)
        image = upload.image()
        if not controls.target and self.explainer.vocabulary:
            first, *second = self.explainer.first_two(self.explainer.look(image, str(controls.method))[0])
            controls = replace(controls, target=first, references=controls.references or second)
        return self.explainer.from_image(image, str(controls.method), controls.wanted()), upload, image


def _joined(first: Answer, second: Answer) -> Answer:
    """The first, with what the second has."""
    new = {name: value for name, value in vars(second).items() if value is not None and name != "note"}
    return replace(first, **new, note=second.note or first.note)
