"""GGUF files as weights, and as whole models: their config and tokenizer are in the metadata."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.weight_format import ReadsTensor, WeightQuery
from maxserve.plugins.gguf.config import config_of, end_tokens, sampling_of, sentence_files
from maxserve.plugins.gguf.container import Container, TensorPlace, read_container
from maxserve.plugins.gguf.families import family_of, keys_of
from maxserve.plugins.gguf.model import Source, sources_of
from maxserve.plugins.gguf.tokenizer import tokenizer_config_of, tokenizer_of
from maxserve.plugins.gguf.types import LAYOUTS, PLAIN

if TYPE_CHECKING:
    import torch

    from maxserve.interfaces.component import Context

_PART = re.compile(r"(?P<set>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Files that lie beside a model: projectors of images, statistics, drafters.
_BESIDE = re.compile(r"(mmproj|imatrix|^mtp-|^eagle3-|^dflash-)", re.IGNORECASE)


class Gguf:
    """A BuiltWeightFormat whose files hold the model's config, too."""

    def __init__(self, context: Context | None = None) -> None:
        pass

    def choose(self, query: WeightQuery) -> list[str]:
        files = [name for name in query.names if name.endswith(".gguf") and not _BESIDE.search(Path(name).name)]
        models = sorted({_first(name) for name in files})
        if len(models) > 1:
            models = _with_encoding(models, query.encoding) or models
        if len(models) > 1:
            listed = ", ".join(models)
            raise ModelError(
                f"{query.ref} has several models in GGUF files: {listed}; choose one with --weight-path, with "
                "--quantization-encoding, or of a repository with its name and a part of the file's, as org/repo:Q4_K_M"
            )
        return self._whole(models[0], query) if models else []

    def _whole(self, first: str, query: WeightQuery) -> list[str]:
        """All files of a set; ModelError where one is missing."""
        files = self.files_of(first)
        missing = [name for name in files if name not in query.names]
        if missing:
            listed = ", ".join(missing[:5])
            raise ModelError(f"{query.ref} lacks {listed} of the {len(files)} files of a model; fetch it again")
        return files

    def files_of(self, name: str) -> list[str]:
        part = _PART.fullmatch(name)
        if part is None:
            return [name]
        return [f"{part['set']}-{i:05}-of-{part['count']}.gguf" for i in range(1, int(part["count"]) + 1)]

    def open(self, path: str, config: Mapping[str, Any]) -> GgufFile:
        return GgufFile(path)

    def model_files(self, path: str) -> Mapping[str, bytes]:
        container = read_container(_first(path))
        keys = keys_of(container.path, container.metadata)
        config = config_of(container, keys, family_of(keys))
        ids = {"bos_token_id": config.get("bos_token_id"), "eos_token_id": end_tokens(container)}
        generation = {**ids, **sampling_of(container)}
        contents = {
            "config.json": config,
            "generation_config.json": generation,
            "tokenizer.json": tokenizer_of(container),
            "tokenizer_config.json": tokenizer_config_of(container),
            **sentence_files(container, keys),
        }
        return {name: json.dumps(content, ensure_ascii=False).encode() for name, content in contents.items()}


def _first(name: str) -> str:
    """The first file of the set that a file belongs to, itself if it is no part of one."""
    part = _PART.fullmatch(name)
    return f"{part['set']}-00001-of-{part['count']}.gguf" if part else name


def _with_encoding(models: list[str], encoding: str | None) -> list[str]:
    """Those whose names say the encoding; of its variants the middle one, M, where there is one."""
    if encoding is None:
        return []
    words = {model: re.split(r"[.\-/]", model.lower()) for model in models}
    for wanted in (encoding.lower(), f"{encoding.lower()}_m"):
        named = [model for model in models if wanted in words[model]]
        if named:
            return named
    return [model for model in models if encoding.lower() in model.lower()]


class GgufFile:
    """A WeightFile."""

    def __init__(self, path: str) -> None:
        self.path = path
        container = read_container(path)
        self._sources = _sources(container)
        self.tensors = {name: source.info for name, source in self._sources.items()}

    def is_mapped(self, name: str) -> bool:
        source = self._sources[name]
        return len(source.places) == 1 and source.arrange is None and source.places[0].type.name in PLAIN

    @contextmanager
    def open(self) -> Iterator[ReadsTensor]:
        import torch

        with Path(self.path).open("rb") as file:
            data = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)

        def read(name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
            tensor = _read(self._sources[name], data)
            return tensor if rows is None else tensor[slice(*rows)]

        yield read


def _sources(container: Container) -> dict[str, Source]:
    """The tensors of a file, one of a set perhaps, whose first file says what model it is."""
    first = container if "general.architecture" in container.metadata else read_container(_first(container.path))
    keys = keys_of(container.path, first.metadata)
    for name, place in container.tensors.items():
        if place.type.name not in PLAIN and place.type.name not in LAYOUTS:
            raise ModelError(
                f"{container.path}: tensor {name} is of type {place.type.name}, which is not read; read are "
                f"{', '.join(sorted({*PLAIN, *LAYOUTS}))}"
            )
    return sources_of(container, keys, family_of(keys))


def _read(source: Source, data: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor, or the bytes of its rows where they are packed."""
    import torch

    if source.join is not None:
        first, second = (_values(place, data) for place in source.places)
        return source.join.tensor(first, second)
    parts = [_part(place, source.entry, data) for place in source.places]
    tensor = parts[0] if len(parts) == 1 else torch.stack(parts, source.axis + 1).flatten(source.axis, source.axis + 1)
    return tensor if source.arrange is None else source.arrange(tensor)


def _part(place: TensorPlace, entry: int | None, data: torch.Tensor) -> torch.Tensor:
    import torch

    raw = data[place.offset : place.offset + place.size]
    if place.type.name in PLAIN:
        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        tensor = raw.view(dtypes[place.type.name]).view(place.shape)
    else:
        tensor = raw.view(*place.shape[:-1], place.row_bytes)
    return tensor if entry is None else tensor[entry]


def _values(place: TensorPlace, data: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor in float32, whatever it is packed in."""
    from maxserve.plugins.gguf.blocks import READERS

    part = _part(place, None, data)
    if place.type.name in PLAIN:
        return part.float()
    return READERS[place.type.name](part.flatten(0, -2)).values().view(place.shape)
