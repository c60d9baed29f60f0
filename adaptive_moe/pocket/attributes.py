"""What can be asked of anything: attributes with their names and many wordings, but no fact."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptive_moe.errors import DataError
from adaptive_moe.pocket.draws import seeded
from adaptive_moe.pocket.facts import Relation, read_yaml
from adaptive_moe.pocket.paths import ATTRIBUTES_FILE
from adaptive_moe.pocket.surface import question_forms

_HELD_OUT = 2  # wordings of each attribute that only measure


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something to ask for: names for "the {noun} of X", the usual one first, and wordings.

    `forms` and `held_out` hold {subject}; no form of `held_out` occurs in training.
    """

    nouns: tuple[str, ...]
    forms: tuple[str, ...]
    held_out: tuple[str, ...] = ()


def load_attributes() -> tuple[Attribute, ...]:
    """The attributes of attributes.yaml, in file order; raises DataError with name and reason."""
    attributes = []
    for name, entry in read_yaml(ATTRIBUTES_FILE).items():
        try:
            nouns, forms = tuple(entry["nouns"]), tuple(entry["forms"])
        except (KeyError, TypeError) as error:
            raise DataError(f"attribute {name!r} lacks nouns or forms") from error
        held_out = seeded(f"held-out wordings of {name}").sample(forms, _HELD_OUT)
        kept = tuple(form for form in forms if form not in held_out)
        attributes.append(Attribute(nouns, kept, tuple(held_out)))
    return tuple(attributes)


def relation_attributes(relations: Iterable[Relation]) -> tuple[Attribute, ...]:
    """The known relations as attributes, each under its first name alone, with its wordings."""
    return tuple(Attribute(relation.nouns[:1], _asking(relation)) for relation in relations)


def attribute_problems(attributes: Sequence[Attribute]) -> list[str]:
    """A sentence for every name or wording that stands for two attributes, or lacks its subject."""
    owners: dict[str, str] = {}
    problems = []
    for attribute in attributes:
        name = attribute.nouns[0]
        for text in (*attribute.nouns, *attribute.forms, *attribute.held_out):
            other = owners.setdefault(text.casefold(), name)
            if other != name:
                problems.append(f"{text!r} stands for {other!r} and for {name!r}")
        forms = (*attribute.forms, *attribute.held_out)
        problems += [
            f"{form!r} lacks {{subject}}" for form in forms if form.count("{subject}") != 1
        ]
    return problems


def _asking(relation: Relation) -> tuple[str, ...]:
    forms = question_forms(relation)
    return tuple(dict.fromkeys((*forms.trained, *forms.further)))
