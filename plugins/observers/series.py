"""The series that are served, under vLLM's names and MAX's, so that dashboards of both work."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from maxserve.interfaces.observer import BATCH_SIZE_EDGES, ITERATION_TOKENS_EDGES, Distribution, StepStats
from maxserve.plugins.observers.histogram import LABELS, Tally

# seconds; the edges answer "is a person kept waiting", down to one fast decode step
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
WHOLE = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
TOKENS = tuple(float(2**power) for power in range(18))
PHASE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
RESPONSE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREEMPTIONS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Makes series of one registry that all carry the model's name, and so are there from the start, at zero."""

    registry: CollectorRegistry
    prefix: str
    model: str

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(self.prefix + name, text, LABELS, registry=self.registry).labels(self.model)

    def counter(self, name: str, text: str) -> Counter:
        return Counter(self.prefix + name, text, LABELS, registry=self.registry).labels(self.model)

    def counters(self, name: str, text: str, *labels: str) -> Counter:
        """A counter for every combination of `labels`, after the model's name."""
        return Counter(self.prefix + name, text, (*LABELS, *labels), registry=self.registry)

    def tally(self, text: str, edges: Sequence[float], name: str, *others: str) -> Tally:
        """A histogram; `others` are full names under which it is shown too."""
        made = Tally((self.prefix + name, *others), text, edges, self.model)
        self.registry.register(made)
        return made


class StepGauges:
    """The state of the worker after its latest step."""

    def __init__(self, vllm: Family, ours: Family) -> None:
        self.running = [
            vllm.gauge("num_requests_running", "Requests in the running batch"),
            ours.gauge("num_requests_running", "Requests in the running batch"),
        ]
        self.waiting = [
            vllm.gauge("num_requests_waiting", "Requests that wait for their first step"),
            ours.gauge("num_requests_queued", "Requests that wait for their first step"),
        ]
        reasons = Gauge(
            vllm.prefix + "num_requests_waiting_by_reason",
            "Requests that wait for their first step: for room in a batch, or (deferred) for their grammar",
            (*LABELS, "reason"),
            registry=vllm.registry,
        )
        self.waiting_for_room = reasons.labels(vllm.model, "capacity")
        self.deferred = reasons.labels(vllm.model, "deferred")
        usage = "Part of the cache's pages that requests hold, 0 to 1"
        # The second name is the one that vLLM had before, which dashboards still ask for.
        self.usage = [vllm.gauge(name, usage) for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc")]
        self.used = ours.gauge("cache_num_used_blocks", "Pages of the cache that requests hold")
        self.total = ours.gauge("cache_num_total_blocks", "Pages of the cache")
        self.host_used = ours.gauge("cache_host_num_used_blocks", "Pages of the host tier that hold prefixes")
        self.host_total = ours.gauge("cache_host_num_total_blocks", "Pages of the host tier")


class StepCounters:
    """What the workers have done since this server started, by the name of the number in StepStats."""

    def __init__(self, vllm: Family, ours: Family) -> None:
        hits = "Prompt tokens found in the prefix cache"
        preempted = "Times a running request had to give its pages up"
        self.by_field: dict[str, list[Counter]] = {
            "prefix_queries": [vllm.counter("prefix_cache_queries", "Prompt tokens looked for in the prefix cache")],
            "prefix_hits": [vllm.counter("prefix_cache_hits", hits), ours.counter("cache_hits", hits)],
            "preemptions": [
                vllm.counter("num_preemptions", preempted),
                ours.counter("cache_preemption_count", preempted),
            ],
            "prompt_tokens": [
                vllm.counter("prompt_tokens", "Prompt tokens processed"),
                ours.counter("num_input_tokens", "Prompt tokens processed"),
            ],
            "generated_tokens": [
                vllm.counter("generation_tokens", "Tokens generated"),
                ours.counter("num_output_tokens", "Tokens generated"),
            ],
            "drafts": [vllm.counter("spec_decode_num_drafts", "Times that drafts of a sequence were verified")],
            "draft_tokens": [vllm.counter("spec_decode_num_draft_tokens", "Draft tokens that the model verified")],
            "accepted_tokens": [vllm.counter("spec_decode_num_accepted_tokens", "Draft tokens that it accepted")],
        }
        for name in ("mm_cache_queries", "mm_cache_hits"):
            vllm.counter(
                name, "Of a cache of processed images, which is not there: the prefix cache finds images again"
            )
        self._model = vllm.model
        self._accepted_by_depth = vllm.counters(
            "spec_decode_num_accepted_tokens_per_pos", "Draft tokens that it accepted, by their position", "position"
        )
        self.host_hits = ours.counter("cache_host_hits", "Pages read back from the host tier")
        self.misses = ours.counter("cache_misses", "Prompt tokens looked for in the prefix cache and not found")
        self._ours = ours
        self._of_plugins: dict[str, Counter] = {}

    def of_plugin(self, name: str) -> Counter:
        """A total of a plugin in the worker."""
        if name not in self._of_plugins:
            self._of_plugins[name] = self._ours.counter(name, f"Counted by a plugin: {name.replace('_', ' ')}")
        return self._of_plugins[name]

    def accepted(self, depth: int) -> Counter:
        """Of drafts that stood, those with so many before them."""
        return self._accepted_by_depth.labels(self._model, str(depth))


class RequestSeries:
    """What finished requests were like."""

    def __init__(self, vllm: Family, ours: Family) -> None:
        self.success = vllm.counters("request_success", "Requests answered, by reason of the end", "finished_reason")
        for reason in ("stop", "length"):
            self.success.labels(vllm.model, reason)
        self.count = ours.counters("request_count", "Requests, by status and path", "code", "path")
        first, between, whole = "Time to the first token", "Time from one token to the next", "Time to the last token"
        self.first_token = self._both(vllm, ours, first, FIRST_TOKEN, "time_to_first_token_seconds")
        self.between = vllm.tally(
            between,
            BETWEEN_TOKENS,
            "inter_token_latency_seconds",
            vllm.prefix + "time_per_output_token_seconds",  # as vLLM called it before
            ours.prefix + "itl_seconds",
        )
        self.whole = self._both(vllm, ours, whole, WHOLE, "e2e_request_latency_seconds", "request_time_seconds")
        prompt, generated = "Prompt tokens of a request", "Tokens generated for a request"
        self.prompt = self._both(vllm, ours, prompt, TOKENS, "request_prompt_tokens", "input_tokens_per_request")
        self.generated = self._both(
            vllm, ours, generated, TOKENS, "request_generation_tokens", "output_tokens_per_request"
        )
        self.choices = vllm.tally("Answers asked for by a request", CHOICES, "request_params_n")
        self.limit = vllm.tally("Tokens asked for at most", TOKENS, "request_params_max_tokens")
        self.queue = vllm.tally("Time in the queue of the worker", PHASE, "request_queue_time_seconds")
        self.prefill = vllm.tally("Time from the queue to the first token", PHASE, "request_prefill_time_seconds")
        self.decode = vllm.tally("Time from the first token to the last", PHASE, "request_decode_time_seconds")
        self.inference = vllm.tally("Time from the queue to the last token", PHASE, "request_inference_time_seconds")
        self.per_token = self._both(
            vllm,
            ours,
            "Mean time per token after the first",
            BETWEEN_TOKENS,
            "request_time_per_output_token_seconds",
            "time_per_output_token_seconds",
        )
        self.preemptions = vllm.tally("Times a request lost its pages", PREEMPTIONS, "request_num_preemptions")

    @staticmethod
    def _both(
        vllm: Family, ours: Family, text: str, edges: tuple[float, ...], name: str, our_name: str | None = None
    ) -> Tally:
        return vllm.tally(text, edges, name, ours.prefix + (our_name or name))


class ResponseSeries:
    """Answers of all routes, by the template of their path, under the names that vLLM's have."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "status", "handler")
        self.count = Counter("http_requests", "HTTP requests, by method, status and route", labels, registry=registry)
        self.time = Histogram(
            "http_request_duration_seconds",
            "Time to the end of an answer, by method and route",
            ("method", "handler"),
            buckets=RESPONSE,
            registry=registry,
        )


class StepTallies:
    """Distributions over the steps of all workers."""

    def __init__(self, vllm: Family, ours: Family) -> None:
        tokens, sizes = "Tokens computed of prompts and generated, by step", "Sequences in a step"
        self._tallies = {
            "iteration_tokens": vllm.tally(tokens, ITERATION_TOKENS_EDGES, "iteration_tokens_total"),
            "batch_sizes": ours.tally(sizes, BATCH_SIZE_EDGES, "batch_size"),
        }
        self._seen: dict[str, Distribution] = {}

    def advance(self, stats: StepStats, *, restarted: bool) -> None:
        """Adds what happened since the last call; a worker that is new counts from its start."""
        for name, tally in self._tallies.items():
            now: Distribution = getattr(stats, name)
            before = Distribution() if restarted else self._seen.get(name, Distribution())
            self._seen[name] = now
            if now.counts:
                earlier = before.counts or (0,) * len(now.counts)
                tally.advance(
                    [new - old for new, old in zip(now.counts, earlier, strict=True)], now.total - before.total
                )


class CacheInfo:
    """vLLM's `cache_config_info`: the sizes of the cache as labels, once a worker has sent them."""

    LABELS = ("block_size", "num_gpu_blocks", "num_cpu_blocks", "kv_cache_size_tokens", "kv_cache_max_concurrency")

    def __init__(self, vllm: Family, max_length: int | None) -> None:
        self._gauge = Gauge(
            vllm.prefix + "cache_config_info", "Sizes of the cache", (*LABELS, *self.LABELS), registry=vllm.registry
        )
        self._model = vllm.model
        self._max_length = max_length
        self._shown: tuple[int, ...] = ()

    def show(self, stats: StepStats) -> None:
        """Tells the sizes; those of an earlier worker are gone."""
        sizes = (stats.page_size, stats.cache.total, stats.cache.host_total)
        if sizes == self._shown or not stats.cache.total:
            return
        self._shown = sizes
        tokens = stats.page_size * stats.cache.total
        concurrency = f"{tokens / self._max_length:.2f}" if self._max_length else "None"
        self._gauge.clear()
        self._gauge.labels(self._model, *sizes, tokens, concurrency).set(1)


class AdapterInfo:
    """How many adapters are in memory, and vLLM's `lora_requests_info`: those in use as labels, and since when."""

    LABELS = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")

    def __init__(self, vllm: Family, ours: Family) -> None:
        self._gauge = Gauge(vllm.prefix + "lora_requests_info", "Adapters in use", self.LABELS, registry=vllm.registry)
        self._loaded = ours.gauge("num_loaded_adapters", "Adapters in the memory of the host")
        self._shown: tuple[str, ...] = ()

    def show(self, stats: StepStats) -> None:
        """Tells who runs and who waits, by the name of the adapter."""
        if not stats.adapter_slots:
            return
        self._loaded.set(stats.adapters_loaded)
        running = ",".join(name for name, running, _ in stats.adapters if running)
        waiting = ",".join(name for name, _, waiting in stats.adapters if waiting)
        labels = (str(stats.adapter_slots), running, waiting)
        if labels != self._shown:
            self._shown = labels
            self._gauge.clear()
            self._gauge.labels(*labels).set(stats.time)
