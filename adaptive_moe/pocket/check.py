"""Guards what the project claims to know: sources, contradictions, leaks, and the packs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from adaptive_moe.pocket.attributes import (
    Attribute,
    attribute_problems,
    load_attributes,
)
from adaptive_moe.pocket.corpus import FIXED_AT_64
from adaptive_moe.pocket.facts import Relation, load_relations
from adaptive_moe.pocket.packs import (
    PackQuestion,
    load_pack_facts,
    load_questions,
    pack_names,
    pack_path,
)
from adaptive_moe.pocket.surface import normalised, question_forms

MINIMUM_FACTS = 1_500
MINIMUM_DOMAINS = 12
MINIMUM_PACK_FACTS = 100
MINIMUM_PACKS = 4
MINIMUM_TRAINED = 5
MINIMUM_HELD_OUT = 2


def find_problems() -> list[str]:
    """Every problem with the facts and the packs, one sentence each; empty means sound."""
    relations = load_relations()
    problems = list(_check_amount(relations))
    for relation in relations:
        problems.extend(_check_relation(relation))
    problems.extend(check_contradictions(relations))
    attributes = load_attributes()
    problems.extend(attribute_problems(attributes))
    for name in pack_names():
        problems.extend(_check_pack(name))
        problems.extend(check_withheld(name, relations))
        problems.extend(check_reserved(name, attributes))
    return problems


def check_contradictions(relations: Sequence[Relation]) -> Iterator[str]:
    """No relation twice, and no question, however asked, with two answers."""
    names = Counter(relation.name for relation in relations)
    yield from (f"relation {name!r} stands in two files" for name in names if names[name] > 1)
    answers: dict[str, tuple[str, str]] = {}
    for relation in relations:
        where = f"{relation.domain}/{relation.name}"
        for question, object_ in _all_questions(relation):
            known = answers.setdefault(question, (object_, where))
            if known != (object_, where):
                yield f"{question!r} is {object_!r} in {where}, {known[0]!r} in {known[1]}"


def check_withheld(pack: str, relations: Sequence[Relation]) -> Iterator[str]:
    """No fact, relation or question of a pack may stand among the known facts."""
    pack_relations = {str(fact["relation"]) for fact in load_pack_facts(pack)}
    withheld = {(normalised(f["subject"]), normalised(f["object"])) for f in load_pack_facts(pack)}
    asked = {normalised(question.question) for question in _all_pack_questions(pack)}
    for relation in relations:
        if relation.name in pack_relations:
            yield f"relation {relation.name!r} of pack {pack} is among the known ones"
        for subject, object_ in relation.facts.items():
            if (normalised(subject), normalised(object_)) in withheld:
                yield f"{subject!r} -> {object_!r} in {relation.name!r} is withheld in pack {pack}"
        leaked = asked.intersection(question for question, _ in _all_questions(relation))
        yield from (f"{question!r} of pack {pack} is a known question" for question in leaked)


def check_reserved(pack: str, attributes: Sequence[Attribute]) -> Iterator[str]:
    """No wording for an attribute may be, with a subject of the pack, one of its questions."""
    asked = {normalised(question.question) for question in _all_pack_questions(pack)}
    subjects = {normalised(str(fact["subject"])) for fact in load_pack_facts(pack)}
    for attribute in attributes:
        for form in (*attribute.forms, *attribute.held_out):
            wording = normalised(form)
            if any(wording.replace("{subject}", subject) in asked for subject in subjects):
                yield f"{form!r} of attribute {attribute.nouns[0]!r} asks a question of pack {pack}"


def _all_questions(relation: Relation) -> Iterator[tuple[str, str]]:
    """Every question of the relation, in normalised words, with its object."""
    forms = {normalised(form) for form in (*question_forms(relation).all(), *relation.held_out)}
    for subject, object_ in relation.facts.items():
        words = normalised(subject)
        yield from ((form.replace("{subject}", words), object_) for form in forms)


def _check_amount(relations: Sequence[Relation]) -> Iterator[str]:
    count = sum(len(relation.facts) for relation in relations)
    if count < MINIMUM_FACTS:
        yield f"there are {count} known facts; {MINIMUM_FACTS} are promised"
    domains = {relation.domain for relation in relations}
    if len(domains) < MINIMUM_DOMAINS:
        yield f"there are {len(domains)} known domains; {MINIMUM_DOMAINS} are promised"
    if len(pack_names()) < MINIMUM_PACKS:
        yield f"there are {len(pack_names())} packs; {MINIMUM_PACKS} are promised"
    known = {(relation.name, subject) for relation in relations for subject in relation.facts}
    for example in FIXED_AT_64:
        if example not in known:
            yield f"the example {example} stands in no fact file"
    overlap = domains & set(pack_names())
    yield from (f"{name!r} is a known domain and a pack" for name in sorted(overlap))


def _check_relation(relation: Relation) -> Iterator[str]:
    where = f"{relation.domain}/{relation.name}"
    if not any(source.strip() for source in relation.sources):
        yield f"{where}: no source is named"
    for subject, object_ in relation.facts.items():
        if not subject.strip() or not object_.strip():
            yield f"{where}: an empty subject or object near {subject or object_!r}"
    yield from (f"{where}: {problem}" for problem in _check_phrasings(relation))


def _check_phrasings(relation: Relation) -> Iterator[str]:
    if len(relation.trained) < MINIMUM_TRAINED:
        yield f"at least {MINIMUM_TRAINED} trained phrasings are needed"
    if len(relation.held_out) < MINIMUM_HELD_OUT:
        yield f"at least {MINIMUM_HELD_OUT} held-out phrasings are needed"
    for phrasing in (*relation.trained, *relation.held_out):
        if phrasing.count("{subject}") != 1:
            yield f"{phrasing!r} needs {{subject}} exactly once"
    if any(relation.statement.count(place) != 1 for place in ("{subject}", "{object}")):
        yield "the statement needs {subject} and {object} exactly once"
    trained = {normalised(phrasing) for phrasing in relation.trained}
    both = [phrasing for phrasing in relation.held_out if normalised(phrasing) in trained]
    yield from (f"{phrasing!r} is trained and held out" for phrasing in both)


def _check_pack(name: str) -> Iterator[str]:
    facts = load_pack_facts(name)
    objects = {str(fact["fact"]): str(fact["object"]) for fact in facts}
    if len(objects) < MINIMUM_PACK_FACTS:
        yield f"pack {name}: {len(objects)} facts; {MINIMUM_PACK_FACTS} are promised"
    if len(objects) < len(facts):
        yield f"pack {name}: a fact id occurs twice"
    documents = _documents(name)
    for fact in facts:
        text = documents.get(str(fact["document"]), "")
        if any(normalised(fact[key]) not in text for key in ("subject", "object")):
            yield f"pack {name}: {fact['document']} does not state {fact['fact']!r}"
    yield from _check_pack_questions(name, objects, documents)


def _check_pack_questions(
    name: str, objects: dict[str, str], documents: dict[str, str]
) -> Iterator[str]:
    answers: dict[str, set[str]] = defaultdict(set)
    asked = set()
    for question in _all_pack_questions(name):
        text = normalised(question.question)
        answers[text].add(question.answer)
        asked.add(question.fact)
        if objects.get(question.fact) != question.answer:
            yield f"pack {name}: the answer to {question.question!r} is not its fact's object"
        if any(text in document for document in documents.values()):
            yield f"pack {name}: {question.question!r} stands in a document"
    for text, given in answers.items():
        if len(given) > 1:
            yield f"pack {name}: {text!r} has the answers {sorted(given)}"
    yield from (f"pack {name}: nothing asks for {fact!r}" for fact in sorted(set(objects) - asked))


def _all_pack_questions(name: str) -> tuple[PackQuestion, ...]:
    return load_questions(name) + load_questions(name, development=True)


def _documents(name: str) -> dict[str, str]:
    """The pack's documents in normalised words, keyed as facts name them."""
    folder = pack_path(name)
    return {
        str(path.relative_to(folder).as_posix()): normalised(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("documents/*.md"))
    }
