"""Plain checkpoints written as GGUF files, as llama.cpp, transformers and the reader of this folder load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import PlainCheckpoint
from maxserve.loading import read_optional_object
from maxserve.plugins.gguf.config import SAMPLING, config_of
from maxserve.plugins.gguf.container import read_container
from maxserve.plugins.gguf.families import family_of, keys_of, written_family
from maxserve.plugins.gguf.metadata import explicit, full_config, model_metadata, rope_factors
from maxserve.plugins.gguf.targets import TABLE, Planner, Target
from maxserve.plugins.gguf.types import BY_NAME
from maxserve.plugins.gguf.vocabulary import vocabulary_of
from maxserve.plugins.gguf.writer import NewFile, NewTensor


def write_file(checkpoint: PlainCheckpoint, path: Path, encoding: str) -> Sequence[str]:
    """Writes the file, one tensor after another, reads it again, and says what is otherwise than one might expect."""
    architecture, family = written_family(checkpoint.config, str(checkpoint.folder))
    given = full_config(checkpoint.config, str(checkpoint.folder))
    planner = Planner(checkpoint, family, given, encoding)
    targets = planner.targets()
    rows = next(target.tensor.shape[0] for target in targets if target.tensor.name == TABLE)
    vocabulary = vocabulary_of(checkpoint.folder, rows, _ends(checkpoint))
    metadata = {
        **model_metadata(architecture, family, given, encoding),
        "general.name": checkpoint.name,
        **_sampling(checkpoint),
        **vocabulary.metadata,
    }
    factors = rope_factors(given)
    extra = [NewTensor(name=name, type=BY_NAME["F32"], shape=(len(each),)) for name, each in factors.items()]
    with NewFile(path, metadata, [*extra, *(target.tensor for target in targets)]) as file:
        _write_factors(file, factors)
        _check_model(checkpoint, path, explicit(given))
        for target in targets:
            file.write(target.tensor.name, target.stored())
        file.check()
    _check_metadata(path, metadata)
    left_out = ["layers that predict further tokens are left out"] if planner.left_out else []
    return [*vocabulary.notes, *left_out, *_notes(targets)]


def _ends(checkpoint: PlainCheckpoint) -> list[int]:
    """The ids that end an answer: those of generation_config.json and of config.json, once each."""
    found: dict[int, None] = {}
    for config in (read_optional_object(checkpoint.folder / "generation_config.json"), checkpoint.config):
        ids = config.get("eos_token_id")
        found |= dict.fromkeys(id for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int))
    return list(found)


def _sampling(checkpoint: PlainCheckpoint) -> dict[str, float | int]:
    """The defaults of sampling, of a model that does not sample those of greedy texts."""
    generation = read_optional_object(checkpoint.folder / "generation_config.json")
    if generation.get("do_sample") is False:
        generation = {**generation, "temperature": 0.0}
    said = {theirs: generation.get(ours) for ours, theirs in SAMPLING.items()}
    return {f"general.sampling.{key}": value for key, value in said.items() if isinstance(value, int | float)}


def _write_factors(file: NewFile, factors: Mapping[str, list[float]]) -> None:
    import torch

    for name, each in factors.items():
        file.write(name, [torch.tensor(each, dtype=torch.float32)])
    file.flush()


def _check_model(checkpoint: PlainCheckpoint, path: Path, given: Mapping[str, Any]) -> None:
    """ModelError where what the file says is another model than the checkpoint's."""
    container = read_container(str(path))
    keys = keys_of(str(path), container.metadata)
    said = {**config_of(container, keys, family_of(keys)), "tie_word_embeddings": False}
    differences = checkpoint.differences(said, given)
    if differences:
        raise ModelError(
            f"{checkpoint.folder}: a GGUF file cannot say all of its config.json; read again, "
            f"{'; '.join(differences)}; use the checkpoint as it is"
        )


def _check_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    read = read_container(str(path)).metadata
    for key, value in metadata.items():
        if read.get(key) != value and not _near(read.get(key), value):
            raise ModelError(f"{path}: {key} is not what was written; is the disk in order?")


def _near(read: Any, written: Any) -> bool:
    """Whether numbers are equal as far as 32 bits have them."""
    if isinstance(written, list):
        return isinstance(read, list) and len(read) == len(written) and all(map(_near, read, written))
    if isinstance(written, float) and isinstance(read, float):
        return abs(read - written) <= 1e-6 * abs(written)
    return bool(read == written)


def _notes(targets: Sequence[Target]) -> list[str]:
    """What tensors are in another type than most, by type and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        if target.note:
            found.setdefault((target.tensor.type.name.lower(), target.note), []).append(target.tensor.name)
    return [
        f"{len(names)} tensors in {type}: {note} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for (type, note), names in found.items()
    ]
