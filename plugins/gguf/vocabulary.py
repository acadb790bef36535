"""Metadata of a GGUF file out of a tokenizer.json and the files beside it: the inverse of `tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError
from maxserve.loading import read_object, read_optional_object
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.tokenizer import SPECIAL, tokenizer_of
from maxserve.plugins.gguf.words import pre_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"
_ENDS = ("eos", "eot", "eom")
_NO_SCORE = -1e6  # of tokens that no merge makes
# What both tokenizers are compared by, beside the added tokens.
_TEXTS = (
    "Hello, world! It's 2024; we've 123456 things & more...\n\n  Two  spaces\tand a tab.",
    "\u00dcn\u00efc\u00f6d\u00e9: na\u00efve caf\u00e9, \u4f60\u597d\uff0c\u4e16\u754c\u3002 ok",
    "\u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \U0001f44d\U0001f3fd",
    "def f(x):\n    return x**2  # squared\n\n\nprint(f(10))\r\n",
    " leading and trailing ",
    "I'LL SAY WE'RE HERE, DON'T; e\u0301 a\u0301 x\u00b2 3.14 $5.00 http://a.b/c?d=e_f",
)


@dataclass(slots=True)
class Vocabulary:
    """The metadata, and what they do not say of the tokenizer."""

    metadata: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def vocabulary_of(folder: Path, size: int, ends: Sequence[int]) -> Vocabulary:
    """What says the tokenizer of a model folder; ModelError where GGUF files have no such tokenizer.

    `size` is how many rows the model's table has, `ends` are the ids that end an answer.
    """
    content, roles = _files(folder)
    made = _Made(folder, content, size)
    made.model()
    made.special(roles, ends)
    made.post_processor()
    made.templates(roles)
    return made.compared()


class _Made:
    """What is said so far."""

    def __init__(self, folder: Path, content: Mapping[str, Any], size: int) -> None:
        from tokenizers import Tokenizer

        self._folder, self._content = folder, content
        self._tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(content))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._found = Vocabulary(metadata={})
        self._added = {entry["id"]: entry for entry in content.get("added_tokens") or ()}
        self._tokens = self._listed(size)

    def model(self) -> None:
        """The tokens, and how they are put together."""
        model = self._content["model"]
        kind = model.get("type", "BPE")
        if kind != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise self._unknown(f"a model of type {kind!r:.40}")
        merges = [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in model["merges"]]
        with_bytes = bool(model.get("byte_fallback"))
        self._put("model", "llama" if with_bytes else "gpt2")
        self._put("tokens", self._tokens)
        if with_bytes:
            self._with_spaces(model, merges)
        else:
            pre = pre_of(self._content, self._folder)
            self._put("pre", pre)
            self._put("merges", [" ".join(merge) for merge in merges])
        self._put("token_type", [self._type(id, token, with_bytes) for id, token in enumerate(self._tokens)])

    def _listed(self, size: int) -> list[str]:
        """Tokens by id, or what stands where there is none. ModelError where the table has no row of one, added ones
        apart: those are tokens of other models, such as of images, which this one cannot be given."""
        by_id = {id: token for token, id in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        if known := [id for id in by_id if id >= size and id not in self._added]:
            raise ModelError(
                f"{self._folder}: its tokenizer has token {max(known)}, and its table {size} rows only; use the "
                "tokenizer.json that belongs to the model"
            )
        for id in sorted(id for id in self._added if id >= size):
            self._found.notes.append(f"token {id}, {by_id.get(id, '')!r}, is left out: the table has no row of it")
        return [by_id.get(id, _filler(id)) for id in range(size)]

    def _type(self, id: int, token: str, with_bytes: bool) -> int:
        if token == _filler(id):
            return _UNUSED
        if id in self._added:
            if with_bytes and token == self._content["model"].get("unk_token"):
                return _UNKNOWN
            return _CONTROL if self._added[id].get("special") else _USER_DEFINED
        if with_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return _BYTE
        return _NORMAL

    def _with_spaces(self, model: Mapping[str, Any], merges: Sequence[Sequence[str]]) -> None:
        """SentencePiece's kind: of the merges only the order of what they make is kept, as scores."""
        scores: dict[str, float] = {}
        for first, second in merges:
            scores.setdefault(first + second, -float(len(scores)))
        self._put("pre", "default")
        self._put("scores", [scores.get(token, _NO_SCORE) for token in self._tokens])
        self._put("add_space_prefix", self._begins_with_space())
        unknown = model.get("unk_token")
        if unknown is not None:
            self._put("unknown_token_id", self._tokenizer.token_to_id(unknown))

    def _begins_with_space(self) -> bool:
        return "".join(self._tokenizer.encode("a", add_special_tokens=False).tokens).startswith(_SPACE)

    def special(self, roles: Mapping[str, Any], ends: Sequence[int]) -> None:
        """The tokens with a role, and those that end an answer."""
        ids = {}
        for role, key in SPECIAL.items():
            text = roles.get(role)
            text = text.get("content") if isinstance(text, Mapping) else text
            id = self._tokenizer.token_to_id(text) if isinstance(text, str) else None
            if id is not None:
                ids[key] = id
        first = [ids["eos"]] if "eos" in ids else []  # which templates may write
        ordered = [*first, *(id for id in ends if id not in first and 0 <= id < len(self._tokens))]
        ids |= dict(zip(_ENDS, ordered, strict=False))
        for id in ordered[len(_ENDS) :]:
            self._found.notes.append(f"token {id} ends no answer: GGUF files name {len(_ENDS)} that do")
        for key, id in ids.items():
            self._put(f"{key}_token_id", id)

    def post_processor(self) -> None:
        """What prompts begin and end with; ModelError for anything but the tokens for that."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a").ids
        metadata = self._found.metadata
        bos, eos = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos"))
        begins = len(whole) > len(plain) and whole[0] == bos
        ends = len(whole) > len(plain) + begins and whole[-1] == eos
        if [*([bos] if begins else []), *plain, *([eos] if ends else [])] != whole:
            raise self._unknown("prompts that begin or end with other tokens than bos and eos")
        self._put("add_bos_token", begins)
        self._put("add_eos_token", ends)

    def templates(self, roles: Mapping[str, Any]) -> None:
        """Chat templates, the main one and others by their names."""
        found = _templates(self._folder, roles)
        key = "tokenizer.chat_template"
        if "default" in found:
            self._found.metadata[key] = found.pop("default")
            if found:
                self._found.metadata["tokenizer.chat_templates"] = sorted(found)
            self._found.metadata |= {f"{key}.{name}": text for name, text in found.items()}
        elif found:
            self._found.notes.append("its chat templates are left out: none of them is the default")

    def compared(self) -> Vocabulary:
        """What was made, once it gives the same tokens; ModelError where it does not."""
        from tokenizers import Tokenizer

        container = Container(path=str(self._folder), metadata=self._found.metadata, tensors={})
        again = Tokenizer.from_str(json.dumps(tokenizer_of(container)))
        for text in _TEXTS:
            for with_special in (False, True):
                ids = [each.encode(text, add_special_tokens=with_special).ids for each in (self._tokenizer, again)]
                if ids[0] != ids[1]:
                    raise self._unknown(
                        f"one that makes {ids[0][:8]} of {text[:20]!r}, for which {ids[1][:8]} came out"
                    )
        odd = [
            entry["content"]
            for entry in self._added.values()
            if entry["id"] < len(self._tokens)
            if _around(self._tokenizer, entry["content"]) != _around(again, entry["content"])
        ]
        if odd:
            listed = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
            self._found.notes.append(f"spaces beside {listed} are read otherwise: GGUF files do not say that")
        return self._found

    def _put(self, key: str, value: Any) -> None:
        self._found.metadata[f"tokenizer.ggml.{key}"] = value

    def _unknown(self, what: str) -> ModelError:
        return ModelError(
            f"{self._folder}: GGUF files have no tokenizer like its own: {what}; use the checkpoint as it is"
        )


def _filler(id: int) -> str:
    """What llama.cpp's converter, too, calls a row of the table that is of no token."""
    return f"[PAD{id}]"


def _around(tokenizer: Tokenizer, token: str) -> list[int]:
    """The ids of a text with a token in it."""
    ids: list[int] = tokenizer.encode(f"a {token} b{token}c", add_special_tokens=False).ids
    return ids


def _files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of tokenizer.json and of tokenizer_config.json, made by transformers where there is no former."""
    if (folder / "tokenizer.json").is_file():
        content, roles = read_object(folder / "tokenizer.json"), read_optional_object(folder / "tokenizer_config.json")
    else:
        content, roles = _made_by_transformers(folder)
    declared = roles.get("added_tokens_decoder") or {}
    added = {entry["id"]: dict(entry) for entry in content.get("added_tokens") or ()}
    for id, entry in declared.items():
        added.setdefault(int(id), {"id": int(id), **_FLAGS, **entry})["special"] = bool(entry.get("special"))
    content["added_tokens"] = [added[id] for id in sorted(added)]
    return content, {**read_optional_object(folder / "special_tokens_map.json"), **roles}


_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def _made_by_transformers(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import tempfile

    from transformers import AutoTokenizer

    try:
        with tempfile.TemporaryDirectory() as made:
            AutoTokenizer.from_pretrained(folder).save_pretrained(made)
            return read_object(Path(made) / "tokenizer.json"), read_object(Path(made) / "tokenizer_config.json")
    except Exception as error:  # of any kind: transformers reads files of many kinds
        raise ModelError(
            f"{folder} has no tokenizer.json, and transformers makes none of what is there: {error}"
        ) from error


def _templates(folder: Path, roles: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, of tokenizer_config.json and of the files that later releases have for them."""
    given = roles.get("chat_template")
    found = {"default": given} if isinstance(given, str) else {}
    if isinstance(given, list):
        found = {each["name"]: each["template"] for each in given}
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    others = folder / "additional_chat_templates"
    if others.is_dir():
        found |= {file.stem: file.read_text(encoding="utf-8") for file in sorted(others.glob("*.jinja"))}
    return found
