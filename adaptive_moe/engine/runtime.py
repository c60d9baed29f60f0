"""`AdaptiveMoE`: one frozen base with its experts, router and gaps, to ask and to teach."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Unpack, final, overload

import platformdirs

from adaptive_moe.config.loading import amend
from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.border import Given, as_batch, checked_prompt, request_of
from adaptive_moe.engine.events import Answer, Answered, Event, Finished, GapFound
from adaptive_moe.engine.expert_evaluation import MOST_OTHERS, ExpertEvaluation, ExpertEvaluator
from adaptive_moe.engine.gap_desk import open_gap_desk
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.judging import Judge
from adaptive_moe.engine.merging import MergeChoices, merge_experts, merge_order
from adaptive_moe.engine.noticing import GapWatch
from adaptive_moe.engine.orders import Paths, TrainingOrder, as_paths
from adaptive_moe.engine.question_files import read_questions
from adaptive_moe.engine.request import Forced
from adaptive_moe.engine.risk_watch import RiskWatch
from adaptive_moe.engine.router_desk import RouterDesk, starting_router
from adaptive_moe.engine.routing_misses import RoutingMisses
from adaptive_moe.engine.shelf import Expert, ExpertShelf
from adaptive_moe.engine.states import state_reader
from adaptive_moe.engine.teaching import Teachable
from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.adapter_files import export_adapter
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import CacheStatistics, ExpertCache
from adaptive_moe.experts.place import default_store_path
from adaptive_moe.experts.provenance import Base, check_base
from adaptive_moe.experts.store import ExpertRecord, Store, check_name
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.compiled import compiled_steps
from adaptive_moe.models.language_model import LanguageModel, Prompt
from adaptive_moe.models.loading import load_base
from adaptive_moe.models.memory import device_memory, peak_rss_bytes, resident_bytes
from adaptive_moe.router.router import Confidence

LEDGER_FILE = "gaps.sqlite"


@final
class AdaptiveMoE(Teachable):
    """The whole runtime over one base. Close it, or use it with `with`; then it raises ClosedError.

    Calls from several threads wait for each other at the model.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        store: Store,
        settings: Settings,
        *,
        background: bool = True,
    ) -> None:
        self.language_model = language_model
        self.store = store
        self.settings = settings
        self.session = secrets.token_hex(8)
        self._bank = LoraBank(
            language_model.model,
            language_model.layers,
            capacity_bytes=settings.cache.device_bytes,
            dtype=language_model.dtype,
        )
        states = state_reader(language_model, self._bank)
        cache_folder = Path(platformdirs.user_cache_dir("adaptive_moe"))
        router = starting_router(language_model, self._bank, settings.router, folder=cache_folder)
        self._shelf = ExpertShelf(
            store, base_id=language_model.base_id, whitening=router.whitening, states=states
        )
        self._cache = ExpertCache(
            self._bank,
            self._shelf.weights,
            device_experts=settings.cache.device_experts,
            host_bytes=settings.cache.host_bytes,
        )
        self._shelf.when_gone(self._cache.drop)
        self._answerer = Answerer(
            language_model,
            self._bank,
            self._cache,
            self._shelf,
            router,
            settings=settings.router,
            memory_bytes=settings.cache.prompt_bytes,
            compiled=compiled_steps(language_model, wanted=settings.base.compile),
        )
        ledger = settings.gaps.ledger or store.root / LEDGER_FILE
        self._ledger = GapLedger(ledger, before_creating=store.create)
        detector = GapDetector(
            self._ledger,
            settings.gaps,
            base_id=language_model.base_id,
            radius=self._topic_radius,
        )
        self._risk = RiskWatch(self._ledger, self._answerer)
        self._watch = GapWatch(
            language_model,
            self._bank,
            detector,
            settings.gaps,
            shelf=self._shelf,
            misses=RoutingMisses(self._answerer),
            risk=self._risk,
            session=self.session,
        )
        judge = Judge(self._answerer, settings.router, folder=cache_folder)
        learn = partial(
            _learn, self._ledger, self._shelf, self._risk, base_id=language_model.base_id
        )
        self._grower = Grower(self._answerer, store, states, judge)
        self.gaps = open_gap_desk(
            detector,
            self._grower,
            settings,
            ledger=ledger,
            language_model=language_model,
            store=store,
            shelf=self._shelf,
            judged=learn,
            background=background,
        )
        self.router = RouterDesk(self._answerer, settings.router)
        learn()
        self.gaps.resume()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        *,
        store: Path | str | None = None,
        settings: Settings | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
        device: str | None = None,
    ) -> "AdaptiveMoE":
        """A runtime on "pocket", a local folder or a hub id; what is given overrides `settings`.

        `dtype` is auto, float32, bfloat16 or float16 (fp32, bf16, fp16), `quantization` nf4 or
        int8. Raises ModelError when the base cannot be loaded, StoreError for an unusable store,
        and ConfigurationError for a word that is none of these.
        """
        settings = settings or Settings()
        asked = {
            "id": str(base) if isinstance(base, Path) else base,
            "dtype": dtype,
            "quantization": quantization,
            "device": device,
        }
        chosen = {"base": amend(settings.base, asked, name="base"), "store": store}
        return cls.from_settings(amend(settings, chosen, name="settings"))

    @classmethod
    def from_settings(cls, settings: Settings, *, background: bool = True) -> "AdaptiveMoE":
        """A runtime as the settings describe it; without `background` it only queues trainings."""
        language_model = load_base(settings.base)
        store = Store(settings.store or default_store_path())
        try:
            return cls(language_model, store, settings, background=background)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Stop a background training, and release the bank, the ledger and the store."""
        if self._is_closed:
            return
        self.gaps.close()
        self._answerer.close()
        self._bank.close()
        self._ledger.close()
        self.store.close()
        self._is_closed = True

    @overload
    def generate(
        self,
        prompt: str,
        *,
        experts: Forced = "auto",
        attribution: bool = True,
        seed: int | None = None,
        **generation: object,
    ) -> Answer: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt] | Sequence[Mapping[str, str]],
        *,
        experts: Forced = "auto",
        attribution: bool = True,
        seed: int | None = None,
        **generation: object,
    ) -> "Answer | list[Answer]": ...

    def generate(
        self,
        prompt: str | Sequence[Prompt] | Sequence[Mapping[str, str]],
        *,
        experts: Forced = "auto",
        attribution: bool = True,
        seed: int | None = None,
        **generation: object,
    ) -> Answer | list[Answer]:
        """Answer one prompt (text or messages), or a list of prompts as one batch.

        `experts` is "auto", None for the base alone, or expert names. `generation` takes the
        fields of transformers' GenerationConfig; with num_return_sequences there is a list of
        answers, those to one prompt together. Rows of a batch are routed independently; an empty
        list gives an empty list.
        Raises PromptError, ConfigurationError or ExpertError before anything is decoded.
        """
        prompts, is_single = as_batch(prompt)
        given = Given(experts, attribution, seed)
        request = request_of(generation, self.settings.generation, given)
        prompts = [each for each in prompts for _ in range(request.samples)]
        answered = self._answerer.finished(prompts, request)
        answers = [answer for answer, _ in self._watched(answered, prompts)]
        return answers[0] if is_single and request.samples == 1 else answers

    def stream(
        self,
        prompt: Prompt,
        *,
        experts: Forced = "auto",
        attribution: bool = True,
        seed: int | None = None,
        stop: Callable[[], bool] | None = None,
        **generation: object,
    ) -> Iterator[Event]:
        """The events of one answer as they happen; the last is `Finished`.

        Among them are those of a training in the background, as far as nobody took them yet.
        When `stop` begins to return true, decoding ends and the partial answer is finished.
        """
        given = Given(experts, attribution, seed, stop)
        request = request_of(generation, self.settings.generation, given)
        if request.samples > 1:
            raise ConfigurationError("a stream tells one answer; leave num_return_sequences out")
        for _, event in self._answerer.answer([checked_prompt(prompt)], request):
            yield from self.gaps.events()
            if isinstance(event, Answered):
                ((answer, found),) = self._watched([event], [prompt])
                if found is not None:
                    yield found
                yield Finished(answer)
            else:
                yield event

    def score(self, prompt: Prompt, answer: str, *, experts: Forced = "auto") -> Confidence:
        """How far a given answer to a prompt can be trusted, as if it had been generated.

        The answer is read in one pass, followed by the end token, by whoever would answer, or by
        the named experts. An empty answer is as uncertain as can be. Nothing is noted of it.
        Raises PromptError, also when both exceed the context, DataError for an answer that holds
        the end token or the header, and UnknownExpertError.
        """
        request = request_of({}, self.settings.generation, Given(experts, False, None))
        return self._answerer.score(checked_prompt(prompt), answer, request)

    def start_expert(self, name: str, data: Paths) -> None:
        """Train an expert behind the answers, and return at once; `gaps.events` tell how it goes.

        It waits for a training that goes on, and queued gaps wait for it. `gaps.cancel` stops it,
        and the same order goes on from its checkpoint. What `train_expert` raises is told as a
        `TrainingFailed`. Raises TrainingError for one that is in training, and in a runtime
        without a worker.
        """
        check_name(name)
        self.gaps.train(TrainingOrder(name, as_paths(data)))

    @property
    def experts(self) -> Mapping[str, Expert]:
        """The active experts by name."""
        return self._shelf

    def import_expert(self, name: str, path: Path | str, *, force: bool = False) -> ExpertRecord:
        """Take in a PEFT adapter folder; it stays in quarantine until `store.activate`.

        Raises BaseMismatchError for one that another base's fingerprint lies beside, without
        `force` also for one that does not prove that it is for this base, and AdapterFormatError
        for one that this model cannot use.
        """
        base = self.language_model
        source = str(getattr(base.model, "name_or_path", ""))
        check_base(Path(path), Base(base.base_id, base.name, source), force=force)
        return self._grower.import_adapter(name, Path(path))

    def merge_experts(
        self, name: str, experts: Sequence[str], **how: Unpack[MergeChoices]
    ) -> ExpertRecord:
        """Make a new expert of active ones; it stays in quarantine until `store.activate`.

        See `merge_order` for `how`. Raises ConfigurationError for what cannot be merged so.
        """
        order = merge_order(name, experts, how)
        return merge_experts(order, self.store, self._shelf, self.language_model)

    def export_expert(
        self,
        name: str,
        folder: Path | str,
        *,
        format: Literal["peft", "vllm"] = "peft",  # noqa: A002
    ) -> None:
        """Write an active expert as a plain PEFT adapter; "vllm" pads all modules to one rank."""
        self._shelf.require([name])
        export_adapter(self.store.get(name), Path(folder), format=format)

    def evaluate_expert(
        self,
        name: str,
        data: Paths,
        *,
        version: int | None = None,
        against: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> ExpertEvaluation:
        """An expert beside the base and the experts `against`, up to eight if not named.

        It is the active version or the one named, which need not serve. `data` are prompts and
        answers as `read_questions` has them, of which `limit` are asked. Raises DataError naming
        file and line, and UnknownExpertError.
        """
        stored = None if version is None else self.store.get(name, version=version)
        questions = read_questions(as_paths(data))
        questions = questions if limit is None else tuple(evenly(questions, limit))
        if against is None:
            others = [each for each in self._shelf if each != name][:MOST_OTHERS]
            against = [name, *others] if name in self._shelf else others
        evaluator = ExpertEvaluator(self._answerer, self.settings.training)
        return evaluator.evaluate(name, questions, against=against, stored=stored)

    def pin_expert(self, name: str, *, pinned: bool = True) -> None:
        """Keep an active expert on the device until it is pinned no more."""
        expert_id = self._shelf[name].expert_id
        (self._cache.pin if pinned else self._cache.unpin)(expert_id)

    def cache_statistics(self) -> CacheStatistics:
        """Hits, misses, evictions and bytes of the expert cache."""
        return self._cache.statistics()

    def memory(self) -> dict[str, int]:
        """Bytes: of the base, the bank, kept conversations, and of this process at its peak."""
        device = device_memory(self.language_model.device)
        figures = {
            "base_bytes": resident_bytes(self.language_model.model),
            "bank_allocated_bytes": self._bank.allocated_bytes,
            "bank_used_bytes": self._bank.used_bytes,
            "conversation_bytes": self._answerer.conversation_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        return figures if device is None else figures | {"device_peak_bytes": device.peak_bytes}

    def _topic_radius(self) -> float | None:
        """How wide topics are, as far as the router in service knows."""
        found = self._answerer.router.model.topics
        return None if found is None else found.radius

    def _watched(
        self, answered: Sequence[Answered], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[Answer, GapFound | None]]:
        """The answers with the gaps they are evidence for, and an event for each that changed."""
        for noticed in self._watch.watch(answered, prompts):
            gap = noticed.gap
            if gap is not None:
                self.gaps.react(gap)
            yield noticed.answer, GapFound(gap) if gap is not None and noticed.changed else None


def _learn(ledger: GapLedger, shelf: ExpertShelf, risk: RiskWatch, *, base_id: str) -> None:
    """Take in what people said of answers: in this session, earlier ones and other processes."""
    with ledger.reading():
        judged = ledger.judgements.of_experts(base_id)
    shelf.verdicts.learn(judged)
    risk.judged()
