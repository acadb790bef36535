from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.tokenizers.folder import load_tokenizer


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_encodes_as_transformers_does(
    tokenizer: Tokenizer, reference: Any, texts: list[str], add_special_tokens: bool
) -> None:
    for text in texts:
        expected = reference.encode(text, add_special_tokens=add_special_tokens)
        assert tokenizer.encode(text, add_special_tokens=add_special_tokens) == expected


@pytest.mark.parametrize("skip", [True, False])
def test_decodes_as_transformers_does(tokenizer: Tokenizer, reference: Any, texts: list[str], skip: bool) -> None:
    for text in texts:
        ids = reference.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_knows_the_special_tokens(tokenizer: Tokenizer, reference: Any) -> None:
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.eos_token_id == reference.eos_token_id
    assert tokenizer.bos_token_id == reference.bos_token_id
    assert tokenizer.vocab_size == len(reference)
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id} <= tokenizer.special_ids


def test_a_template_decides_whether_bos_is_added(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_level"]))
    assert tokenizer.encode("a", add_special_tokens=True)[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer.encode("a", add_special_tokens=False)


def test_ids_outside_the_vocabulary_are_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Hello", add_special_tokens=False)
    assert tokenizer.decode([*ids, 10**6, -1, 2**40]) == tokenizer.decode(ids)
    assert tokenizer.token(10**6) == ""
    assert tokenizer.token(-1) == ""


def test_bytes_of_tokens_make_up_the_text(tokenizer_folders: dict[str, Path], texts: list[str]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_level"]))
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        joined = b"".join(tokenizer.token_bytes(i) or b"" for i in ids)
        assert joined.decode("utf-8", "replace") == tokenizer.decode(ids, skip_special_tokens=False)


def test_bytes_with_fallback_keep_the_leading_space(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["byte_fallback"]))
    ids = tokenizer.encode("fish 😀", add_special_tokens=False)
    assert b"".join(tokenizer.token_bytes(i) or b"" for i in ids) == " fish 😀".encode()
    assert [tokenizer.is_byte(i) for i in ids][-4:] == [True] * 4


def test_bytes_of_word_pieces_are_not_known(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folders["word_piece"]))
    assert tokenizer.token_bytes(tokenizer.encode("fish", add_special_tokens=False)[0]) is None


def test_lone_surrogates_are_the_clients_fault(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"not valid Unicode.*at character 1") as caught:
        tokenizer.encode("a\ud800b", add_special_tokens=False)
    assert caught.value.status == 400


def write_folder(path: Path, config: dict[str, Any] | None, extra: dict[str, Any] | None = None) -> Path:
    """A word-level tokenizer with one added token, <keep>, that its file does not call special."""
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="a"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_tokens([tokenizers.AddedToken("<keep>", rstrip=True)])
    inner.save(str(path / "tokenizer.json"))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    if extra is not None:
        (path / "special_tokens_map.json").write_text(json.dumps(extra))
    return path


def test_roles_make_tokens_special(tmp_path: Path) -> None:
    config = {
        "eos_token": "<end>",
        "additional_special_tokens": ["<keep>"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    tokenizer = load_tokenizer(str(write_folder(tmp_path, config)))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.special_ids == {2}  # <keep> is not special by its file, and so it is shown
    for text in ["a <end> b", "a <keep>  b", "<end><keep>"]:
        assert tokenizer.encode(text, add_special_tokens=False) == reference.encode(text)
    assert tokenizer.decode([0, 2, 3, 1]) == reference.decode([0, 2, 3, 1], skip_special_tokens=True) == "a <keep> b"


def test_tokens_only_the_config_lists_get_their_declared_ids(tmp_path: Path) -> None:
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    declared = {"4": token | {"content": "<four>"}, "9": token | {"content": "<nine>"}}
    config = {"added_tokens_decoder": declared, "eos_token": "<four>", "pad_token": "<nowhere>"}
    tokenizer = load_tokenizer(str(write_folder(tmp_path, config)))
    assert tokenizer.encode("a<four>b", add_special_tokens=False) == [0, 4, 1]
    assert tokenizer.eos_token_id == 4
    # An id that does not continue the vocabulary, or none at all, would point outside the model's embedding.
    assert tokenizer.vocab_size == 5
    assert tokenizer.token_id("<nine>") is None
    assert tokenizer.token_id("<nowhere>") is None


@pytest.mark.parametrize("declares", [False, True])
def test_special_tokens_map_counts_where_the_config_declares_no_tokens(tmp_path: Path, declares: bool) -> None:
    config = {"eos_token": "<end>", "add_bos_token": True, "tokenizer_class": "PreTrainedTokenizerFast"}
    extra = {"bos_token": "a", "eos_token": {"content": "b"}, "image_token": "<keep>"}
    declared = {"added_tokens_decoder": {"3": {"content": "<keep>", "rstrip": True}}} if declares else {}
    tokenizer = load_tokenizer(str(write_folder(tmp_path, config | declared, extra)))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.special_tokens.get("eos_token") == reference.eos_token == ("<end>" if declares else "b")
    assert tokenizer.special_tokens.get("bos_token") == reference.bos_token == (None if declares else "a")
    for text in ["a <end> b", "a <keep>  b", "b"]:
        assert tokenizer.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)


def test_odd_files_give_the_ids_and_texts_of_transformers(tmp_path: Path) -> None:
    """Random files beside a tokenizer.json, which agree with it or not."""
    for seed in range(60):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_odd_folder(folder, rng)
        tokenizer, reference = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
        assert tokenizer.special_tokens.get("eos_token") == reference.eos_token, seed
        for text in ["a <end> b", "a <k1>  b", "<k1><k2><k3>", " <new> x<voc>y", "a<k3>b <voc> <end>"]:
            ids = reference.encode(text, add_special_tokens=False)
            assert tokenizer.encode(text, add_special_tokens=False) == ids, (seed, text)
            assert tokenizer.encode(text, add_special_tokens=True) == reference.encode(text), (seed, text)
            for skip in (True, False):
                shown = reference.decode(ids, skip_special_tokens=skip)
                assert tokenizer.decode(ids, skip_special_tokens=skip) == shown, (seed, text)


NAMES = ("<k1>", "<k2>", "<k3>", "<end>", "<voc>", "<new>")


def write_odd_folder(folder: Path, rng: random.Random) -> None:
    def flags() -> dict[str, bool]:
        return {flag: rng.random() < 0.3 for flag in ("lstrip", "rstrip", "normalized", "single_word", "special")}

    def some(names: Iterable[str]) -> list[str]:
        return [name for name in names if rng.random() < 0.5]

    words = ["a", "b", "<end>", "x", "<voc>"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_tokens([tokenizers.AddedToken(name, **flags()) for name in some(NAMES[:3])])
    inner.save(str(folder / "tokenizer.json"))
    ids = {name: id for name in NAMES if (id := inner.token_to_id(name)) is not None}
    inside, ids["<new>"] = list(ids), inner.get_vocab_size()
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if rng.random() < 0.5:
        config["added_tokens_decoder"] = {str(ids[name]): {"content": name, **flags()} for name in some(ids)}
    else:
        (folder / "added_tokens.json").write_text(json.dumps({name: ids[name] for name in some(ids)}))
        roles = some(("bos_token", "eos_token", "pad_token"))
        (folder / "special_tokens_map.json").write_text(json.dumps({role: rng.choice(inside) for role in roles}))
    config |= {role: rng.choice(inside) for role in some(("eos_token", "pad_token", "image_token"))}
    config |= {key: [rng.choice(inside)] for key in some(("additional_special_tokens", "extra_special_tokens"))}
    if rng.random() < 0.3:
        config["extra_special_tokens"] = {"image_token": rng.choice(inside)}
    config |= {key: rng.random() < 0.5 for key in some(FLAGS)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


FLAGS = (
    "split_special_tokens",
    "add_bos_token",
    "add_eos_token",
    "clean_up_tokenization_spaces",
    "legacy",
    "add_prefix_space",
    "use_default_system_prompt",
)


def test_a_role_gets_an_id_where_the_model_has_room(tmp_path: Path) -> None:
    write_folder(tmp_path, {"pad_token": "<pad>", "eos_token": "<eos>"})
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 5}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.token_id("<pad>"), tokenizer.token_id("<eos>")) == (4, None)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<x>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"2048": 1}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "<x>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "<x>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4": {"content": 7}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4": {"content": "<x>", "special": "yes"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("added_tokens.json", {"<x>": "four"}),
        ("added_tokens.json", {"<x>": True}),
        ("added_tokens.json", {"<x>": [4]}),
    ],
)
def test_declared_tokens_that_are_none_are_one_clear_line(tmp_path: Path, file: str, content: Any) -> None:
    write_folder(tmp_path, {})
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"{file}: .*; the file may be damaged, fetch it again$"):
        load_tokenizer(str(tmp_path))


def test_truncation_and_padding_of_the_file_are_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path, {})
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    inner.enable_truncation(2)
    inner.enable_padding(length=16)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).encode("a b a b", add_special_tokens=False) == [0, 1, 0, 1]


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read by tokenizers"):
        load_tokenizer(str(tmp_path))
    write_folder(tmp_path, None)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json holds list"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json and transformers finds no tokenizer") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def write_byt5(path: Path) -> Path:
    config = {"tokenizer_class": "ByT5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    return path


def test_folders_without_tokenizer_json_are_left_to_transformers(tmp_path: Path, texts: list[str]) -> None:
    tokenizer = load_tokenizer(str(write_byt5(tmp_path)))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert not reference.is_fast
    for text in texts:
        ids = reference.encode(text, add_special_tokens=True)
        assert tokenizer.encode(text, add_special_tokens=True) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.eos_token_id == reference.eos_token_id
    assert tokenizer.special_ids == set(reference.all_special_ids)
    assert tokenizer.token_id("h") == reference.convert_tokens_to_ids("h")
    assert tokenizer.token_id("not a token") is None
    assert tokenizer.token_bytes(70) is None
    assert tokenizer.token(10**6) == ""
    assert tokenizer.decode([*tokenizer.encode("x", add_special_tokens=False), 10**6]) == "x"


def test_threads_share_a_tokenizer(tokenizer: Tokenizer, texts: list[str]) -> None:
    expected = [tokenizer.encode(text, add_special_tokens=True) for text in texts]
    results: list[bool] = []

    def encode_all() -> None:
        for _ in range(20):
            results.append([tokenizer.encode(text, add_special_tokens=True) for text in texts] == expected)

    threads = [threading.Thread(target=encode_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_loading_a_json_tokenizer_imports_neither_transformers_nor_torch(folder: Path) -> None:
    import subprocess

    program = (
        "import sys; from maxserve.plugins.tokenizers.folder import load_tokenizer; load_tokenizer(sys.argv[1]);"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == 0


def test_the_fewest_tokens_of_a_text_are_told_from_its_length(tokenizer: Tokenizer, texts: list[str]) -> None:
    for text in (*texts, "", "a b " * 1000):
        assert tokenizer.fewest_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False))
    assert tokenizer.fewest_tokens("a b " * 100_000) > 1000
