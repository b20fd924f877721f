"""Text-side algebra: banks, references, weights, directions, and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
import zoo

from concept_cam import against, by_score, by_similarity, compare, embed, nearest, rivals, uniform, wrap
from concept_cam.comparison import Comparison
from concept_cam.concepts import ConceptBank
from concept_cam.errors import ComparisonError, PromptError, UnknownConcept

NAMES = ("finch", "sparrow", "robin", "truck", "lorry", "van")


@pytest.fixture
def bank():
    """Two families at right angles; within a family the second is nearer to the first than the third."""
    angles = torch.deg2rad(torch.tensor([0.0, 10, 25, 90, 92, 110], dtype=torch.float64))
    return ConceptBank(NAMES, torch.stack([angles.cos(), angles.sin()], 1))


SCORES = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.0, 0.28], dtype=torch.float64)


def test_the_direction_by_hand(bank):
    comparison = compare(bank, "finch", against("sparrow", "robin"), SCORES, strength=0.5)
    by_hand = [1 - 0.25 * (bank.vectors[1, 0] + bank.vectors[2, 0]), -0.25 * (bank.vectors[1, 1] + bank.vectors[2, 1])]
    torch.testing.assert_close(comparison.direction(bank), torch.stack(by_hand), rtol=1e-12, atol=1e-15)
    assert comparison.weights == (0.5, 0.5)
    assert comparison.similarities == pytest.approx((bank.vectors[1, 0].item(), bank.vectors[2, 0].item()))


def test_selectors(bank):
    assert nearest(2)(bank, "finch", SCORES) == ("sparrow", "robin")
    assert nearest(99)(bank, "finch", SCORES) == ("sparrow", "robin", "truck", "lorry", "van")
    assert rivals(2)(bank, "finch", SCORES) == ("van", "truck")
    assert rivals(2)(bank, "van", SCORES) == ("finch", "truck")
    assert against("van", "van", "robin")(bank, "finch", SCORES) == ("van", "robin")


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (uniform, [0.5, 0.5]),
        (by_score(10.0), torch.tensor([0.2, 0.1]).mul(10).softmax(0).tolist()),
        (by_similarity(10.0), torch.tensor([0.9063078, 0.9848078]).mul(10).softmax(0).tolist()),
    ],
)
def test_weights(bank, weighting, expected):
    comparison = compare(bank, "finch", against("robin", "sparrow"), SCORES, weighting=weighting)
    assert comparison.weights == pytest.approx(expected, rel=1e-5)
    assert sum(comparison.weights) == pytest.approx(1)


def test_references_and_weights_are_chosen_without_a_graph(bank):
    asked = []

    def choose(_, __, scores):
        asked.append(scores)
        return "robin", "sparrow"

    def weigh(scores, similarities):
        asked.extend((scores, similarities))
        return uniform(scores, similarities)

    compare(bank, "finch", choose, SCORES.clone().requires_grad_(), weighting=weigh)
    assert [len(tensor) for tensor in asked] == [6, 2, 2]
    assert not any(tensor.requires_grad for tensor in asked)


def test_the_order_of_references_does_not_matter(bank):
    one = compare(bank, "finch", against("robin", "sparrow"), SCORES, weighting=by_score())
    two = compare(bank, "finch", against("sparrow", "robin"), SCORES, weighting=by_score())
    torch.testing.assert_close(one.direction(bank), two.direction(bank), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.1])
def test_strength_is_finite_and_not_negative(bank, strength):
    with pytest.raises(ComparisonError, match=r"strength is .*; expected a finite number, 0"):
        compare(bank, "finch", nearest(1), SCORES, strength)


def test_strength_zero_needs_no_references_and_is_the_target(bank):
    assert torch.equal(compare(bank, "finch", None, SCORES, 0.0).direction(bank), bank.vectors[0])
    assert torch.equal(compare(bank, "finch", nearest(3), SCORES, 0.0).direction(bank), bank.vectors[0])


def test_no_references_left(bank):
    with pytest.raises(ComparisonError, match="No references to compare 'finch' with"):
        compare(bank, "finch", None, SCORES)
    with pytest.raises(ComparisonError, match="No references"):
        compare(bank.select(["finch"]), "finch", nearest(3), SCORES[:1])


def test_the_target_is_never_its_own_reference(bank):
    with pytest.raises(ComparisonError, match="'finch' is among its own references"):
        compare(bank, "finch", against("robin", "finch"), SCORES)
    for selector in (nearest(9), rivals(9)):
        assert "finch" not in compare(bank, "finch", selector, SCORES).references


def test_two_names_with_one_embedding_are_refused(bank):
    twice = ConceptBank((*NAMES, "Finch"), torch.cat([bank.vectors, bank.vectors[:1]]))
    with pytest.raises(ComparisonError, match="cannot tell 'finch' from 'Finch'"):
        compare(twice, "finch", against("Finch"), torch.zeros(7, dtype=torch.float64))
    with pytest.raises(ComparisonError, match="cannot tell 'finch' from 'Finch'"):
        compare(twice, "robin", against("finch", "Finch"), torch.zeros(7, dtype=torch.float64))


def test_weights_that_do_not_sum_to_one_are_refused(bank):
    with pytest.raises(ComparisonError, match=r"sum to 2\.000; expected 1"):
        compare(bank, "finch", against("robin", "sparrow"), SCORES, weighting=lambda scores, _: torch.ones_like(scores))


@pytest.mark.parametrize("choose", [nearest, rivals])
def test_at_least_one_reference_is_asked_for(choose):
    with pytest.raises(ComparisonError, match="0 references asked for"):
        choose(0)


def test_unlike_references_get_a_note(bank):
    said = (
        r"truck: no more like 'finch' \(cosine 0.00\) than any two .* \(0\.\d\d\).* or set strength to 0 for the target alone"
    )
    with pytest.warns(UserWarning, match=said):
        compare(bank, "finch", against("truck"), SCORES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(bank, "finch", against("robin"), SCORES)
        compare(bank, "finch", against("truck"), SCORES, strength=0.0)
        # With nothing else in the bank there is no spread to compare with.
        compare(bank.select(["finch", "truck"]), "finch", against("truck"), SCORES[:2])


def test_spread_is_the_mean_over_pairs(bank):
    cosines = [bank.vectors[i] @ bank.vectors[j] for i in range(6) for j in range(6) if i != j]
    assert bank.spread == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-12)


def test_unknown_names_get_a_suggestion(bank):
    with pytest.raises(UnknownConcept, match=r"No concept 'sparow' among the 6 of this bank\. Did you mean 'sparrow'\?"):
        compare(bank, "sparow", nearest(1), SCORES)
    with pytest.raises(UnknownConcept, match="does not hold 'eagle'"):
        compare(bank, "finch", against("eagle"), SCORES)


def test_a_comparison_needs_a_bank_that_holds_it(bank):
    with pytest.raises(UnknownConcept, match="'eagle'"):
        Comparison("finch", ("eagle",), (1.0,), (0.5,), 1.0).direction(bank)


# ---- banks ------------------------------------------------------------------------------------------------------------


def test_templates_are_averaged_as_open_clip_does_it():
    backbone, templates = zoo.backbone("class token"), ("a {}", "the {}", "a picture of a {}")
    bank = embed(backbone, zoo.WORDS, templates)
    for name, vector in zip(zoo.WORDS, bank.vectors, strict=True):
        sentences = zoo.TOKENIZER([template.format(name) for template in templates])
        units = F.normalize(backbone.module.encode_text(sentences), dim=-1)
        torch.testing.assert_close(vector, F.normalize(units.mean(0), dim=0), rtol=1e-10, atol=1e-12)
    # Averaging first and normalising after is the likely wrong version; it must differ here.
    raw = backbone.module.encode_text(zoo.TOKENIZER([t.format(zoo.WORDS[0]) for t in templates]))
    assert not torch.allclose(bank.vectors[0], F.normalize(raw.mean(0), dim=0), atol=1e-6)


def test_what_is_known_is_not_embedded_again(monkeypatch):
    backbone = zoo.backbone("class token")
    first = embed(backbone, zoo.WORDS[:3], ["a {}"])
    asked = []
    own = type(backbone).embed_texts
    monkeypatch.setattr(type(backbone), "embed_texts", lambda self, s: asked.extend(s) or own(self, s))
    second = embed(backbone, (zoo.WORDS[4], *zoo.WORDS[:2]), ["a {}"], first)
    assert asked == ["a bird"]
    assert second.names == (zoo.WORDS[4], *zoo.WORDS[:2])
    assert torch.equal(second.vectors[1:], first.vectors[:2])
    embed(backbone, zoo.WORDS[:2], ["a {}"], second)
    assert asked == ["a bird"]


def test_a_large_bank_equals_its_parts(monkeypatch):
    backbone = zoo.backbone("class token")
    whole = embed(backbone, zoo.WORDS, ["a {}", "the {}"])
    monkeypatch.setattr("concept_cam.concepts._BATCH", 3)
    torch.testing.assert_close(embed(backbone, zoo.WORDS, ["a {}", "the {}"]).vectors, whole.vectors, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("names", "templates"), [((), ["{}"]), (("a", " "), ["{}"]), (("a",), []), (("a",), ["no place"])])
def test_empty_names_and_templates_are_refused(names, templates):
    with pytest.raises(PromptError):
        embed(zoo.backbone("class token"), names, templates)


def test_a_word_the_encoder_never_saw_is_refused():
    with pytest.raises(UnknownConcept, match=r"has never seen the word 'dog'\..* It knows: a, amber,"):
        embed(zoo.backbone("class token"), ["dog"], ["a {}"])
    with pytest.raises(UnknownConcept, match=r"the word 'crwn'\. Did you mean 'crown'\?"):
        embed(zoo.backbone("class token"), ["red crwn"], ["a {}."])


def test_neighbours_come_nearest_first_and_never_include_the_concept(bank):
    assert bank.neighbours("truck", 3) == ("lorry", "van", "robin")


def test_half_precision_text_vectors_are_compared_in_single():
    model = zoo.tiny_clip().bfloat16()
    backbone = wrap(model, zoo.TOKENIZER)
    bank = embed(backbone, zoo.WORDS, ["a {}"])
    raw = backbone.embed_texts([f"a {word}" for word in zoo.WORDS]).detach()
    torch.testing.assert_close(bank.vectors, F.normalize(raw.float(), dim=-1), rtol=1e-6, atol=1e-7)
    assert bank.vectors.dtype == torch.float32
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(len(zoo.WORDS)), rtol=1e-6, atol=0)


def test_the_highest_are_those_of_a_whole_sort():
    """Equal values in the bank's order; not a number counts as the largest."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"{i}" for i in range(40))
    bank = ConceptBank(names, torch.eye(40))
    for values in (
        torch.randn(40, generator=generator),
        torch.randint(0, 3, (40,), generator=generator).float(),
        torch.zeros(40),
        torch.randn(40, generator=generator).masked_fill(torch.arange(40) % 7 == 3, float("nan")),
    ):
        order = [names[i] for i in values.argsort(descending=True, stable=True).tolist()]
        for without, count in (("0", 1), (order[0], 3), (order[-1], 5), ("7", 39), ("7", 50)):
            assert bank.ranked(values, without, count) == tuple(name for name in order if name != without)[:count]
