"""Which series are there, and what are they called? vLLM's names and MAX's, so that dashboards of both work."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# seconds; the edges answer "is a person kept waiting", down to one fast decode step
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
WHOLE = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
TOKENS = tuple(float(2**power) for power in range(18))
LABELS = ("model_name",)
CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
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

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(self.prefix + name, text, LABELS, registry=self.registry, buckets=buckets).labels(self.model)


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
        self.usage = vllm.gauge("kv_cache_usage_perc", "Part of the cache's pages that requests hold, 0 to 1")
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
        }
        self.host_hits = ours.counter("cache_host_hits", "Pages read back from the host tier")
        self.misses = ours.counter("cache_misses", "Prompt tokens looked for in the prefix cache and not found")


class RequestSeries:
    """What finished requests were like."""

    def __init__(self, vllm: Family, ours: Family) -> None:
        self.success = vllm.counters("request_success", "Requests answered, by reason of the end", "finished_reason")
        for reason in ("stop", "length"):
            self.success.labels(vllm.model, reason)
        self.count = ours.counters("request_count", "Requests, by status and path", "code", "path")
        first, between, whole = "Time to the first token", "Time from one token to the next", "Time to the last token"
        self.first_token = [
            vllm.histogram("time_to_first_token_seconds", first, FIRST_TOKEN),
            ours.histogram("time_to_first_token_seconds", first, FIRST_TOKEN),
        ]
        self.between = [
            vllm.histogram("inter_token_latency_seconds", between, BETWEEN_TOKENS),
            ours.histogram("itl_seconds", between, BETWEEN_TOKENS),
        ]
        self.whole = [
            vllm.histogram("e2e_request_latency_seconds", whole, WHOLE),
            ours.histogram("request_time_seconds", whole, WHOLE),
        ]
        self.prompt = [
            vllm.histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS),
            ours.histogram("input_tokens_per_request", "Prompt tokens of a request", TOKENS),
        ]
        self.generated = [
            vllm.histogram("request_generation_tokens", "Tokens generated for a request", TOKENS),
            ours.histogram("output_tokens_per_request", "Tokens generated for a request", TOKENS),
        ]
        self.choices = vllm.histogram("request_params_n", "Answers asked for by a request", CHOICES)
        self.limit = vllm.histogram("request_params_max_tokens", "Tokens asked for at most", TOKENS)
