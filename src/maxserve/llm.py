"""The engine in the caller's own process: `maxserve.LLM(model).generate(...)`, without HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import finalize

from maxserve._own_ranks import own_ranks
from maxserve.core.assembly.assemble import build_engine
from maxserve.core.assembly.params import request_params
from maxserve.core.config import Settings, check_sections, resolve, resolve_plugins
from maxserve.core.config.checks import validate_supported
from maxserve.core.config.components import asked_task, check_for_task, validate_used, with_required
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.engine import TEXT
from maxserve.core.interfaces.errors import EngineError, RequestError, SettingsError
from maxserve.core.interfaces.request import Constraint, FinishReason, Output, Request, SamplingParams, TokenLogprob
from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerContext
from maxserve.core.loading.companions import with_companions
from maxserve.core.loading.images import image_reader
from maxserve.core.loading.model_loader import engine_context
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.answer_text import AnswerText
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.client_text import ClientText
from maxserve.plugins.api.common.literal_encoding import PromptEncoder
from maxserve.plugins.api.common.options import ConversationOptions
from maxserve.plugins.api.common.rendering import Message, Rendered, render
from maxserve.plugins.api.common.sampler_fields import SamplerFields
from maxserve.plugins.commands.options import engine_options, serve_options
from maxserve.plugins.embeddings.assemble import build as build_encoder
from maxserve.plugins.embeddings.encoding import Encoding
from maxserve.plugins.embeddings.engine import EncoderEngine
from maxserve.plugins.vision.limits import ImageLimits
from maxserve.plugins.vision.options import ImageOptions

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelFiles, ModelInfo
    from maxserve.core.interfaces.images import ReadsImages
    from maxserve.core.interfaces.progress import Progress
    from maxserve.plugins.embeddings.vectors import Vector

Text = str | Sequence[int]
Prompt = Text | Rendered
P = TypeVar("P", Text, Prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One finished text.

    `logprobs` are those of `tokens`, but of no end token; `prompt_logprobs` begin with the second token.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    prompt_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class LLM:
    """A model in this process. Options are those of `max serve`, by their Python names.

    `environ` holds variables that may set options as well, such as os.environ, those about plugins and of plugins'
    own settings included; by default there are none. `lora` is the folder of an adapter that all requests are computed
    with unless they say otherwise, or folders by the names that they may give. Errors:
    UsageError for what cannot be started, RequestError for prompts and fields that cannot be served.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        settings: Settings | None = None,
        host: Host | None = None,
        progress: Progress | None = None,
        environ: Mapping[str, str] | None = None,
        lora: str | Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if model is not None:
            options["model_path"] = model
        self._adapter = lora if isinstance(lora, str) else ""
        adapters = [lora] if isinstance(lora, str) else [f"{name}={path}" for name, path in (lora or {}).items()]
        if adapters:
            options |= {"enable_lora": True, "lora_paths": (*options.get("lora_paths", ()), *adapters)}
            options.setdefault("max_num_loras", len(options["lora_paths"]))
        _validate_engine_options(options)
        variables = environ or {}
        chosen = resolve_plugins(options, environ=variables) if settings is None else settings.plugins
        plugins = PluginOptions.from_choice(chosen).with_environment(variables)
        self.host = host or PluginHost.discover(plugins, strict=True)
        sections, complete = self.host.plugin_sections(), partial(with_companions, host=self.host)
        if settings is None:
            self.settings = resolve(options, environ=variables, sections=sections, complete=complete)
        else:
            self.settings = complete(settings)
            check_sections(self.settings, sections)
        validate_supported(self.settings, sections)
        validate_used(self.settings, self.host.schedulers, self.host.speculators, sections)
        self._progress = progress or NullProgress()
        self._ids = map(str, itertools.count())
        if not self.settings.model.defer_resolve:
            self.build()

    def build(self) -> None:
        """Finds and loads the model, if that is not done yet: with `defer_resolve` the first use does it otherwise."""
        _ = self.tokenizer, self.template, self._built

    @cached_property
    def _files(self) -> ModelFiles:
        model = self.settings.model
        files = resolve_model(
            model,
            self.host,
            progress=self._progress,
            prefer_legacy=model.use_legacy_module,
            task=asked_task(self.settings),
        )
        sections = self.host.plugin_sections()
        check_for_task(self.settings, files.task, sections)
        architecture = self.host.architectures.get(files.architecture).component
        self.settings = with_required(self.settings, architecture, sections)
        return files

    @cached_property
    def tokenizer(self) -> Tokenizer:
        path, trusted = self._files.path, self.settings.model.trust_remote_code
        context = TokenizerContext(sections=self._sections, path=path, trust_remote_code=trusted)
        return self.host.tokenizer(context).load()

    @cached_property
    def template(self) -> ChatTemplate | None:
        return self.host.chat_template(ChatTemplateContext(sections=self._sections, path=self._files.path))

    @cached_property
    def _sections(self) -> Mapping[type[Any], Any]:
        return self.host.section_values(self.settings)

    @cached_property
    def _built(self) -> Engine | EncoderEngine:
        files = self._files  # first: it settles the settings
        if files.task == TEXT:
            return self._generating(files)
        return build_encoder(engine_context(self.settings, self.host, files, self._progress))

    def _generating(self, files: ModelFiles) -> Engine:
        """An engine of this process, or of several that share the model until this object is gone."""
        ranks = own_ranks(self.settings, self.host, files)
        if ranks is None:
            return build_engine(self.settings, self.host, files, progress=self._progress)
        finalize(self, ranks.close)
        try:
            return build_engine(self.settings, self.host, files, progress=self._progress, group=ranks.group)
        except BaseException:
            ranks.close()
            raise

    @property
    def _engine(self) -> Engine:
        built = self._built
        if not isinstance(built, Engine):
            raise RequestError(f"{built.info.name!r} encodes texts and generates none; use encode or score")
        return built

    @cached_property
    def _encoder(self) -> Encoding:
        built = self._built
        if not isinstance(built, EncoderEngine):
            raise RequestError(f"{built.info.name!r} generates text and encodes none; use generate or chat")
        return Encoding(built, self.tokenizer)

    @property
    def info(self) -> ModelInfo:
        return self._built.info

    @cached_property
    def _fields(self) -> SamplerFields:
        params = request_params(self.host, self.settings)
        return SamplerFields(params, vocab_size=self.info.vocab_size, tokenizer=self.tokenizer)

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        return self._fields.usable(self.info.defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        stop: Sequence[str] = (),
        lora: str | Sequence[str] | None = None,
        **fields: Any,
    ) -> list[Completion]:
        """Continues every prompt, all in one batch. `fields`: max_tokens, temperature, seed …

        A prompt is text, token ids or what `render` gave. `lora` is the name of an adapter, "" for none, or one each.
        """
        _ = self._engine  # what it cannot do is refused before a prompt is looked at
        return self._run([self._rendered(p) for p in _as_list(prompts)], self.params(**fields), stop, lora)

    def chat(
        self, messages: Sequence[Message], *, stop: Sequence[str] = (), lora: str | None = None, **fields: Any
    ) -> Completion:
        """The assistant's answer to a conversation, in which image_url parts may show images."""
        _ = self._engine
        return self._run([self.render(messages)], self.params(**fields), stop, lora)[0]

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The prompt that a conversation becomes."""
        limits = ImageLimits.of(Context(sections=self._sections).config(ImageOptions))
        return render(messages, self._renderer, self._prompts, self._images, limits, client=self._client_text)

    @cached_property
    def _renderer(self) -> ChatRenderer:
        return ChatRenderer(self.template, self.tokenizer.special_tokens)

    @cached_property
    def _client_text(self) -> ClientText | None:
        options = Context(sections=self._sections).config(ConversationOptions)
        return None if options.special_tokens_in_content else ClientText(self._prompts)

    @cached_property
    def _prompts(self) -> PromptEncoder:
        return PromptEncoder(self.tokenizer)

    def stream(
        self,
        *,
        prompt: Prompt | None = None,
        messages: Sequence[Message] | None = None,
        params: SamplingParams | None = None,
        stop: Sequence[str] = (),
        lora: str | None = None,
    ) -> Iterator[TextDelta]:
        """The text of one prompt or conversation, delta by delta; leaving the loop early aborts it."""
        if (prompt is None) == (messages is None):
            raise RequestError("give either a prompt or messages")
        engine = self._engine
        given = self.render(messages) if messages is not None else self._rendered("" if prompt is None else prompt)
        request = self._request(given, params or self.params(), lora)
        engine.add(request)
        text = self._growing(request, stop)
        try:
            while text.finish is None:
                for output in engine.next_outputs():
                    yield text.add(output)
        finally:
            engine.abort([request.id])

    def encode(
        self,
        texts: Text | Sequence[Text],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncate_prompt_tokens: int | None = None,
        lora: str | None = None,
    ) -> list[Vector]:
        """The vector of each text (or list of token ids), float32; with --no-pool-embeddings a row for each token.

        The options are the fields of /v1/embeddings. `lora` is the name of an adapter, "" for none.
        """
        return self._encoder.encode(
            _as_list(texts),
            prompt_name=prompt_name,
            dimensions=dimensions,
            cut=truncate_prompt_tokens,
            adapter=self._adapter if lora is None else lora,
        )

    def score(
        self,
        first: str,
        seconds: Sequence[str],
        *,
        truncate_prompt_tokens: int | None = None,
        lora: str | None = None,
    ) -> list[float]:
        """How well each of `seconds` goes with `first`, as a model of pairs says; `lora` as for `encode`."""
        adapter = self._adapter if lora is None else lora
        return self._encoder.score(first, seconds, cut=truncate_prompt_tokens, adapter=adapter)

    def params(
        self,
        *,
        max_tokens: int | None = None,
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        seed: int | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        **fields: Any,
    ) -> SamplingParams:
        """Sampling parameters; `fields` are those of the samplers, over the model's own generation_config."""
        resolved = self._fields.resolve(fields, self._defaults)
        return SamplingParams(
            max_tokens=max_tokens,
            stop_token_ids=tuple(stop_token_ids),
            ignore_eos=ignore_eos,
            seed=seed,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            fields=resolved.fields,
            constraint=constraint,
            min_stop_tokens=resolved.min_stop_tokens,
        )

    def _run(
        self,
        prompts: list[Rendered],
        params: SamplingParams,
        stop: Sequence[str],
        lora: str | Sequence[str] | None = None,
    ) -> list[Completion]:
        adapters = [lora] * len(prompts) if lora is None or isinstance(lora, str) else lora
        if len(adapters) != len(prompts):
            raise RequestError(f"{len(adapters)} adapters for {len(prompts)} prompts; give one for each", param="lora")
        requests = [self._request(prompt, params, own) for prompt, own in zip(prompts, adapters, strict=True)]
        texts = {r.id: self._growing(r, stop) for r in requests}
        try:
            for request in requests:
                self._engine.add(request)
            while self._engine.busy:
                for output in self._engine.next_outputs():
                    texts[output.id].add(output)
                    if texts[output.id].finish is not None:
                        self._engine.abort([output.id])
        finally:
            self._engine.abort(texts)
        return [text.completion() for text in texts.values()]

    def _growing(self, request: Request, stop: Sequence[str]) -> _Growing:
        return _Growing(request, AnswerText(self.tokenizer, request, self.info.eos_token_ids, stop))

    def _request(self, prompt: Rendered, params: SamplingParams, lora: str | None = None) -> Request:
        adapter = self._adapter if lora is None else lora
        return Request(id=next(self._ids), prompt=prompt.tokens, images=prompt.images, params=params, adapter=adapter)

    def _rendered(self, prompt: Prompt) -> Rendered:
        if isinstance(prompt, Rendered):
            return prompt
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, add_special_tokens=True)
        return Rendered(tokens=tuple(prompt))

    @cached_property
    def _images(self) -> ReadsImages | None:
        files = self._files
        return image_reader(self.settings, self.host, files.path, files.architecture, self.tokenizer)


class _Growing:
    """A completion while it grows."""

    def __init__(self, request: Request, text: AnswerText) -> None:
        self.finish: FinishReason | None = None
        self._request = request
        self._text = text
        self._deltas: list[TextDelta] = []

    def add(self, output: Output) -> TextDelta:
        delta = self._text.add(output)
        self._deltas.append(delta)
        self.finish = delta.finish
        return delta

    def completion(self) -> Completion:
        if self.finish is None:
            raise EngineError("the engine stopped before the text was finished")
        return Completion(
            text="".join(delta.text for delta in self._deltas),
            tokens=tuple(token for delta in self._deltas for token in delta.tokens),
            finish=self.finish,
            prompt_tokens=len(self._request.prompt),
            logprobs=tuple(entry for delta in self._deltas for entry in delta.logprobs),
            prompt_logprobs=tuple(entry for delta in self._deltas for entry in delta.prompt_logprobs),
        )


def _validate_engine_options(options: Mapping[str, Any]) -> None:
    """Nothing listens here, so an option about listening would mean nothing."""
    known = {option.name for option in engine_options()}
    meaningless = sorted({option.name for option in serve_options()} & options.keys() - known)
    if meaningless:
        raise SettingsError(
            f"{', '.join(map(str, meaningless))}: for `max serve` only; a model in a program has no server"
        )


def _as_list(prompts: P | Sequence[P]) -> list[P]:
    if isinstance(prompts, str | Rendered) or (prompts and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
