"""Whoever writes training examples from documents: the base, another local model, or a service."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, final, runtime_checkable

from transformers import GenerationConfig

from adaptive_moe.config.settings import TeacherSettings
from adaptive_moe.errors import PromptTooLongError
from adaptive_moe.models.chat_format import Messages
from adaptive_moe.models.decoding import decode, prefill
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.models.memory import release_cached_memory, retry_on_out_of_memory
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.replies import Keep, keep_nothing
from adaptive_moe.training.service import ServiceTeacher

LOCAL = "model:"
_SHORTEST_REPLY = 64  # tokens; a conversation that leaves less room for one does not fit
_ROWS = 16  # conversations in one batch


@runtime_checkable
class Teacher(Protocol):
    """Answers conversations; `name` goes into the manifest of what it taught.

    `identity` names everything that its replies depend on beside the conversation: replies of
    equal identities can stand for each other.
    """

    @property
    def name(self) -> str:
        """Which model it is, without a path, a host or a key."""

    @property
    def identity(self) -> str:
        """Never written down as it is, only hashed."""

    def answer(
        self, conversations: Sequence[Messages], *, keep: Keep = keep_nothing
    ) -> list[str | None]:
        """One reply each, in order; None for a conversation that does not fit into its context.

        `keep` gets every reply with its place as soon as it is there. Raises TeacherError when it
        cannot be asked.
        """


@final
class LocalTeacher:
    """A language model in this process, greedy or drawn by `seed`.

    `alone` holds the model for a batch of that many rows, so that no expert acts in it.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        name: str,
        settings: TeacherSettings,
        *,
        seed: int,
        alone: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self._language_model = language_model
        self._alone = alone
        self._make_room = make_room
        self._seed = seed
        self._generation = _generation(settings)
        self.name = name
        self.identity = f"{language_model.base_id} {_sampling(settings, seed)}"

    def answer(
        self, conversations: Sequence[Messages], *, keep: Keep = keep_nothing
    ) -> list[str | None]:
        """One reply each; None where it does not fit. Raises InsufficientMemoryError."""
        encoded = [self._encode(each) for each in conversations]
        fitting = [(place, each) for place, each in enumerate(encoded) if each is not None]
        replies: list[str | None] = [None] * len(encoded)
        for start in range(0, len(fitting), _ROWS):
            rows = fitting[start : start + _ROWS]
            written = retry_on_out_of_memory(
                self._write, [each for _, each in rows], make_room=self._make_room
            )
            for (place, _), reply in zip(rows, written, strict=True):
                replies[place] = reply
                keep(place, reply)
        return replies

    def close(self) -> None:
        """Let go of the model; nothing can be asked any more."""
        del self._language_model

    def _encode(self, conversation: Messages) -> EncodedPrompt | None:
        room = min(self._generation.max_new_tokens, _SHORTEST_REPLY)
        try:
            return self._language_model.encode(conversation, max_new_tokens=room)
        except PromptTooLongError:
            return None

    def _write(self, prompts: Sequence[EncodedPrompt]) -> list[str]:
        """The model is held for one pass at a time, so that people are answered in between."""
        with self._alone(len(prompts)):
            filled = prefill(self._language_model, prompts)
        steps = decode(
            self._language_model,
            filled.header_cache,
            filled.first_logits,
            attention_mask=filled.attention_mask,
            prompts=prompts,
            generation=self._generation,
            seed=self._seed,
        )
        completions = None
        while completions is None:
            stop_if_cancelled()
            with self._alone(len(prompts)):
                completions = next(steps).completions
        return [completion.text for completion in completions]


@contextmanager
def open_teacher(
    settings: TeacherSettings,
    *,
    base: Callable[[], Teacher],
    device: str,
    seed: int,
) -> Iterator[Teacher | None]:
    """The teacher that the settings name, for a while; None where rules alone are wanted.

    `base` makes the one that is the frozen base itself. A local model is loaded to `device` and
    freed afterwards. Raises ConfigurationError, and ModelError where it cannot be loaded.
    """
    chosen = settings.teacher
    if chosen is None:
        yield None
    elif chosen == "base":
        yield base()
    elif chosen.startswith(LOCAL):
        yield from _loaded(chosen.removeprefix(LOCAL), settings, device=device, seed=seed)
    else:
        yield ServiceTeacher(chosen, settings, seed=seed)


def _loaded(
    model: str, settings: TeacherSettings, *, device: str, seed: int
) -> Iterator[LocalTeacher]:
    language_model = load_language_model(model, device=device)
    teacher = LocalTeacher(language_model, f"model {language_model.name}", settings, seed=seed)
    del language_model
    try:
        yield teacher
    finally:
        teacher.close()
        release_cached_memory()


def _generation(settings: TeacherSettings) -> GenerationConfig:
    if settings.teacher_temperature == 0.0:
        return GenerationConfig(max_new_tokens=settings.teacher_max_tokens)
    return GenerationConfig(
        max_new_tokens=settings.teacher_max_tokens,
        do_sample=True,
        temperature=settings.teacher_temperature,
        top_k=0,
    )


def _sampling(settings: TeacherSettings, seed: int) -> str:
    """Greedy replies do not depend on the seed."""
    drawn = f"{settings.teacher_temperature} {seed}" if settings.teacher_temperature else "greedy"
    return f"{settings.teacher_max_tokens} {drawn}"
