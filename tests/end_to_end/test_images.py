"""Images from the body of a request to the answer of a tiny vision-language model, over HTTP."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from maxserve import LLM
from maxserve.core.interfaces.errors import RequestError
from maxserve.testing.architecture import randomised
from maxserve.testing.live import LiveServer
from maxserve.testing.vision import tiny_tokenizer

IMAGE, END = "<image>", "</s>"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\\n' }}{% endfor %}assistant:"
)
TOKENS_OF_IMAGE = 16
MODEL = "tiny-llava"


def image(seed: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    image(seed).save(file, "PNG")
    return file.getvalue()


def data_url(seed: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(seed)).decode()


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("llava")
    vocabulary = tiny_tokenizer(folder, (IMAGE, END))
    tower = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )
    model = randomised(
        LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=text, image_token_index=0))
    )
    model.save_pretrained(folder)  # type: ignore[operator]
    CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    config = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_bytes(png(1))
    (folder / "secret.png").write_bytes(png(1))
    (folder / "pictures" / "link.png").symlink_to(folder / "secret.png")
    return folder


class Dripping(BaseHTTPRequestHandler):
    """Sends a byte of the status line now and then."""

    def do_GET(self) -> None:
        with suppress(OSError):
            for _ in range(60):
                self.wfile.write(b"H")
                time.sleep(0.2)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def dripping() -> Iterator[str]:
    """A host of images that takes longer than any may."""
    host = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    host.daemon_threads, host.block_on_close = True, False
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{host.server_address[1]}"
    host.shutdown()
    thread.join()
    host.server_close()


@pytest.fixture(scope="module")
def server(folder: Path, dripping: str) -> Iterator[LiveServer]:
    options = ("--model", str(folder), "--served-model-name", MODEL, "--max-batch-size", "4", "--max-images", "3")
    options += ("--kv-cache-page-size", "16", "--allowed-image-roots", str(folder / "pictures"))
    options += ("--allowed-image-domains", dripping, "--allow-private-image-addresses", "--image-timeout", "3")
    server = LiveServer(*options, env={"OMP_NUM_THREADS": "1"})
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(*urls: str, text: str = "what is it") -> list[Any]:
    return [{"role": "user", "content": [*map(part, urls), {"type": "text", "text": text}]}]


def expected(folder: Path, seeds: list[int], count: int) -> list[int]:
    """transformers' greedy tokens for the conversation of `asked`."""
    from transformers import AutoImageProcessor

    from maxserve.plugins.tokenizers.folder import load_tokenizer

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = load_tokenizer(str(folder))
    text = "user:" + IMAGE * TOKENS_OF_IMAGE * len(seeds) + "what is it\nassistant:"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    pixels = processor(images=[image(seed) for seed in seeds], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        for _ in range(count):
            logits = model(ids, pixel_values=pixels).logits[0, -1]
            ids = torch.cat((ids, logits.argmax().view(1, 1)), dim=1)
    return [int(id) for id in ids[0, -count:]]


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_the_text_is_that_of_transformers(client: openai.OpenAI, folder: Path, seeds: list[int]) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=asked(*map(data_url, seeds)),
        max_tokens=12,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    told: Any = answer.choices[0]
    assert told.token_ids == expected(folder, seeds, 12)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == TOKENS_OF_IMAGE * len(seeds) + len("user:what is it\nassistant:")


def test_the_prefix_cache_knows_images_by_what_they_show(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[str | None, int]:
        answer = client.chat.completions.create(
            model=MODEL, messages=asked(data_url(seed)), max_tokens=8, temperature=0, logprobs=True
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.choices[0].message.content, answer.usage.prompt_tokens_details.cached_tokens or 0

    first, again, other = ask(11), ask(11), ask(12)
    assert first[1] < TOKENS_OF_IMAGE
    assert again[1] >= 32
    assert again[0] == first[0]
    assert other[1] < TOKENS_OF_IMAGE
    assert other[0] != first[0]


def test_several_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=asked(data_url(3)), max_tokens=4, n=3, seed=1)
    assert len(answer.choices) == 3


def test_files_within_the_allowed_folder(client: openai.OpenAI, folder: Path) -> None:
    def ask(url: str) -> str | None:
        answer = client.chat.completions.create(model=MODEL, messages=asked(url), max_tokens=8, temperature=0)
        return answer.choices[0].message.content

    assert ask((folder / "pictures" / "one.png").as_uri()) == ask(data_url(1))
    for path in ("secret.png", "pictures/link.png", "pictures/../secret.png", "pictures/none.png"):
        with pytest.raises(openai.BadRequestError, match="no such file"):
            ask(f"file://{folder}/{path}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64,AAAA", "no image"),
        ("data:image/png;base64,!", "not base64"),
        ("https://example.org/a.png", "--allowed-image-domains"),
        ("ftp://example.org/a.png", "a URL with"),
    ],
)
def test_broken_images_are_named(client: openai.OpenAI, url: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(model=MODEL, messages=asked(data_url(1), url), max_tokens=4)
    assert caught.value.param == "messages[0].content[1].image_url"


def test_more_images_than_allowed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="--max-images"):
        client.chat.completions.create(model=MODEL, messages=asked(*[data_url(1)] * 4), max_tokens=4)


def test_a_placeholder_that_is_written_is_text(client: openai.OpenAI) -> None:
    """It stands for no image: the one that was given is where the template put it."""
    answers = [
        client.chat.completions.create(model=MODEL, messages=asked(data_url(1), text=text), max_tokens=4, temperature=0)
        for text in ("a <image> b", "a b")
    ]
    shown, plain = (answer.usage.prompt_tokens for answer in answers if answer.usage is not None)
    assert plain < shown < plain + 12, "the letters of the placeholder, and not the features of an image"


def test_other_dialects(client: openai.OpenAI, server: LiveServer) -> None:
    """The same image and text through Anthropic's messages and through responses give the same tokens."""
    reference = client.chat.completions.create(model=MODEL, messages=asked(data_url(4)), max_tokens=8, temperature=0)
    text = reference.choices[0].message.content
    response: Any = client.responses.create(
        model=MODEL,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": data_url(4), "detail": "auto"},
                    {"type": "input_text", "text": "what is it"},
                ],
            }
        ],
        max_output_tokens=8,
        temperature=0,
    )
    assert response.output_text == text
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as other:
        source: Any = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(4)).decode()}
        said: list[Any] = [{"type": "image", "source": source}, {"type": "text", "text": "what is it"}]
        message: Any = other.messages.create(
            model=MODEL, max_tokens=8, messages=[{"role": "user", "content": said}], extra_body={"temperature": 0}
        )
        assert message.content[0].text == text
        counted = other.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": said}])
        assert counted.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        bad: Any = {"type": "image", "source": {**source, "data": "AAAA"}}
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]\.source"):
            other.messages.create(model=MODEL, max_tokens=8, messages=[{"role": "user", "content": [bad]}])


def test_routers_are_told_where_images_are(client: openai.OpenAI, server: LiveServer) -> None:
    body = {"model": MODEL, "messages": asked(data_url(4), data_url(5)), "max_tokens": 1}
    rendered = httpx.post(f"{server.url}/v1/chat/completions/render", json=body).json()
    answer = client.chat.completions.create(**body, extra_body={"return_token_ids": True})
    assert rendered["token_ids"] == answer.model_extra["prompt_token_ids"]
    one, other = rendered["features"]["mm_hashes"]["image"]
    assert one != other
    for place in rendered["features"]["mm_placeholders"]["image"]:
        span = rendered["token_ids"][place["offset"] : place["offset"] + place["length"]]
        assert span == span[:1] * TOKENS_OF_IMAGE


def test_in_a_program(folder: Path) -> None:
    llm = LLM(str(folder), max_batch_size=2, kv_cache_page_size=16)
    file = (folder / "pictures" / "one.png").as_uri()
    for urls, seeds in (([data_url(1)], [1]), ([file, data_url(2)], [1, 2])):
        answer = llm.chat(asked(*urls), max_tokens=12, temperature=0.0, ignore_eos=True)
        assert list(answer.tokens) == expected(folder, seeds, 12)
    prompt = llm.render(asked(data_url(2)))
    pieces = llm.stream(prompt=prompt, params=llm.params(max_tokens=12, temperature=0.0, ignore_eos=True))
    assert [token for piece in pieces for token in piece.tokens] == expected(folder, [2], 12)
    with pytest.raises(RequestError, match=r"the image file:///nowhere\.png cannot be used: "):
        llm.chat(asked("file:///nowhere.png"))


def test_max_generate(folder: Path) -> None:
    command = [sys.executable, "-m", "maxserve", "generate", "--model", str(folder), "--prompt", "what is it"]
    for seed in (1, 2):
        command += ["--image_url", data_url(seed)]
    command += ["--max-new-tokens", "12", "--temperature", "0", "--ignore-eos", "--no-detokenize"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [int(id) for id in done.stdout.split("Prompt size")[0].split()] == expected(folder, [1, 2], 12)


def test_slow_images_hold_up_no_other_request(client: openai.OpenAI, dripping: str) -> None:
    """32 threads of images wait for a host; chats without images, and images that are there, go on."""
    slow = asked(*[f"http://{dripping}/{i}.png" for i in range(3)])

    def ask(messages: list[Any]) -> float:
        begun = time.monotonic()
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
        return time.monotonic() - begun

    def ask_slowly() -> float:
        begun = time.monotonic()
        with pytest.raises(openai.BadRequestError, match="--image-timeout"):
            client.chat.completions.create(model=MODEL, messages=slow, max_tokens=2)
        return time.monotonic() - begun

    with ThreadPoolExecutor(12) as threads:
        waiting = [threads.submit(ask_slowly) for _ in range(12)]
        time.sleep(0.5)
        plain = ask([{"role": "user", "content": "hi"}])
        pictured = ask(asked(data_url(5)))
        assert not any(each.done() for each in waiting)
        assert max(plain, pictured) < 2.5  # the slow ones take three seconds
        assert max(each.result() for each in waiting) < 10
