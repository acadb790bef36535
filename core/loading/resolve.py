"""The files of a model reference.

A plugin may know the reference, or it is a folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.engine import ModelFiles
from maxserve.core.interfaces.errors import ModelError, PluginError
from maxserve.core.interfaces.model_source import ModelLocation, ModelQuery, ModelSource
from maxserve.core.interfaces.progress import Progress
from maxserve.core.interfaces.quantization import NamesEncoding
from maxserve.core.interfaces.weight_format import WeightQuery
from maxserve.core.loading.architecture import find_fallback
from maxserve.core.loading.encoding import check_supported, settle_encoding, stored_encoding
from maxserve.core.loading.images import with_overrides
from maxserve.core.loading.json_files import check_limits, read_object, read_optional_object
from maxserve.core.loading.location import Folder, LoneFile, ModelFolder, is_repository, unpacked
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.quantization import quantization_files, quantization_of, roundable
from maxserve.core.loading.tasks import check_task, engine_files, settle_task
from maxserve.core.loading.weight_files import (
    choose_weights,
    files_of,
    holds_config,
    model_files,
    open_weights,
    weight_format,
    weight_suffixes,
)
from maxserve.core.registry.entries import find_architecture, plain, tasks_of

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.model")

_QUANTIZATION = "quantization_config"


def resolve_model(
    model: Checkpoint, host: Host, *, progress: Progress, prefer_legacy: bool = True, task: str | None = None
) -> ModelFiles:
    """The files of the model that `model` names, downloaded if need be; ModelError in one line if that fails.

    Config and architecture are checked before weights are fetched. `prefer_legacy` (--use-legacy-module) chooses
    between X_Legacy and X_ModuleV3 where an architecture comes in two implementations. `task` is what the user wants
    the model for, None to find out.
    """
    finder = _Finder(model, host, progress)
    location = finder.location()
    folder = finder.folder(location)
    config = _read_config(folder, location.ref, host)
    found = ModelFolder(path=str(folder), config=config, trusted=model.trust_remote_code)
    names = _classes(config, location.ref)
    wanted, task = task, settle_task(tasks_of(host.architectures, names), task, location, folder, host)
    architecture = _architecture(found, names, host, location.ref, prefer_legacy, task)
    check_task(wanted, architecture.task, ref=location.ref)
    _validate_overrides(model.vision_config_overrides, architecture)
    files = _weight_files(finder, location, folder, config)
    check_supported(files.encoding, architecture.encodings, architecture.name)
    return replace(files, architecture=architecture.name, task=architecture.task)


def resolve_checkpoint(model: Checkpoint, host: Host, *, progress: Progress) -> ModelFiles:
    """What `resolve_model` gives, for what need not be a model that could be served; `architecture` is ""."""
    finder = _Finder(model, host, progress)
    location = finder.location()
    folder = finder.folder(location)
    return _weight_files(finder, location, folder, _read_config(folder, location.ref, host))


def _weight_files(finder: _Finder, location: ModelLocation, folder: Path, config: dict[str, Any]) -> ModelFiles:
    """The files with their weights, fetched, but for the architecture."""
    model, host = finder.model, finder.host
    said_in = _said_in(folder, host)
    quantization_of(host, config, location.ref, said_in)  # what cannot be read is not fetched
    weights = finder.weights(location)
    own = _with_quantization(config, finder.own_folder(weights), host)
    config, said_in = own, said_in if own is config else "config.json"
    quantization = quantization_of(host, config, location.ref, said_in)
    format = None if quantization is None else quantization.format
    wanted, roundings = model.quantization_encoding, roundable(host)
    rounding = wanted if quantization is None and wanted in roundings else ""
    if model.cache_quantized and not rounding:
        raise ModelError(f"--cache-quantized: weights of {location.ref} are not rounded to {wanted}; leave it out")
    encoding = settle_encoding(
        stored_encoding(open_weights(host, weights, config), format),
        model.quantization_encoding,
        cast=model.allow_safetensors_weights_fp32_bf6_bidirectional_cast,
        ref=", ".join(model.weight_path) or location.ref,
        packed=format.encoding if isinstance(format, NamesEncoding) else None,
        roundable=roundings,
    )
    return ModelFiles(
        ref=location.ref,
        path=str(folder),
        config=with_overrides(config, model.vision_config_overrides),
        generation_config=read_optional_object(folder / "generation_config.json"),
        weights=tuple(weights),
        encoding=encoding,
        explicit_encoding=wanted is not None and not rounding and not isinstance(format, NamesEncoding),
        architecture="",
        companions=finder.companions,
        rounding=rounding,
        rounding_cache=model.cache_quantized,
    )


def companions(model: Checkpoint, host: Host) -> Mapping[str, Mapping[str, Any]]:
    """What the source of a model says of options that go with it, by speculative method; nothing is fetched."""
    if not model.model_path:
        return {}
    source = _Finder(model, host, NullProgress()).source(model.model_path)
    return {} if source is None else source.companions


class _Finder:
    """Finds the files that references lead to."""

    def __init__(self, model: Checkpoint, host: Host, progress: Progress) -> None:
        self.model = model
        self.host = host
        self.companions: Mapping[str, Mapping[str, Any]] = {}  # once the location is found
        self._own: dict[tuple[str, ...], Path | None] = {}  # folders, by weight files
        self._query = ModelQuery(
            progress=progress,
            revision=model.huggingface_model_revision,
            weight_revision=model.huggingface_weight_revision,
            force_download=model.force_download,
            trust_remote_code=model.trust_remote_code,
            files=(*engine_files(host), *quantization_files(host)),
        )

    def location(self) -> ModelLocation:
        """Where config and tokenizer are."""
        ref = self.model.model_path or self._model_of_weights()
        source = self.source(ref)
        if source is not None:
            self.companions = source.companions
            return _location_of(source, ref)
        path = Path(ref).expanduser()
        if path.is_dir():
            self._say_idle(ref)
            return Folder(path, ref)
        if path.is_file() and ref.endswith(weight_suffixes(self.host)) and (own := self.own_folder([str(path)])):
            self._say_idle(ref)
            return LoneFile(path, ref, own, files_of(self.host, path.name))
        if path.exists():
            raise ModelError(
                f"{ref} is a file without the config of its model; give the folder it is in with --model, and the file "
                "itself with --weight-path"
            )
        raise self._unknown(ref)

    def source(self, ref: str) -> ModelSource | None:
        """What a plugin says of it."""
        if ref.endswith(weight_suffixes(self.host)) and not Path(ref).expanduser().exists():
            raise ModelError(f"there is no file {ref}; a model is a folder or a repository on the hub (org/name)")
        return self.host.model_source(ref, self._query)

    def _unknown(self, ref: str) -> ModelError:
        if is_repository(ref):
            return ModelError(f"there is no folder {ref}, and no plugin knows a model of that name")
        return ModelError(f"there is no folder {ref}, and it is no name of a Hugging Face repository (org/name)")

    def _say_idle(self, ref: str) -> None:
        """Warns of options that are about repositories: what is in a local folder is what it is."""
        model = self.model
        elsewhere = any(is_repository("/".join(entry.split("/")[:2])) for entry in model.weight_path if "/" in entry)
        idle = ["--huggingface-model-revision"] if model.huggingface_model_revision != "main" else []
        if not elsewhere:  # --weight-path may name a file of a repository
            idle += ["--huggingface-weight-revision"] if model.huggingface_weight_revision != "main" else []
            idle += ["--force-download"] if model.force_download else []
        if idle:
            log.warning("%s: %s is a local folder, for which this has no meaning; leave it out", ", ".join(idle), ref)

    def weights(self, location: ModelLocation) -> list[str]:
        """The weight files: those of --weight-path, or those beside the config."""
        paths = self.model.weight_path
        for path in paths:
            weight_format(self.host, path)
        if paths:
            names = dict.fromkeys(name for path in paths for name in files_of(self.host, path))
            return [self._weight_file(name, location) for name in names]
        query = WeightQuery(
            ref=location.ref,
            names=location.names(),
            fetch=lambda name: location.fetch([name])[0],
            encoding=self.model.quantization_encoding,
        )
        return location.fetch(choose_weights(self.host, query))

    def folder(self, location: ModelLocation) -> Path:
        """The folder with the model's config: that of its weights, where they hold one and there is no other."""
        folder = location.folder()
        if (folder / "config.json").is_file():
            return folder
        if not holds_config(self.host, self.model.weight_path or location.names()):
            return folder
        return self.own_folder(self.weights(location)) or folder

    def own_folder(self, weights: Sequence[str]) -> Path | None:
        """A folder with config and tokenizer that the weight files hold, if they do."""
        key = tuple(weights)
        if key not in self._own:  # a vocabulary takes seconds to read
            files = model_files(self.host, weights)
            self._own[key] = unpacked(files) if "config.json" in files else None
        return self._own[key]

    def _weight_file(self, entry: str, location: ModelLocation) -> str:
        """One --weight-path: a local file, org/repo/file, or a file beside the model's config."""
        path = Path(entry).expanduser()
        if path.is_file():
            self._insist_on_encoding(entry, path)
            return str(path)
        parts = entry.split("/")
        if len(parts) < 3 or not is_repository("/".join(parts[:2])):
            return location.fetch([entry])[0]
        repository, name = "/".join(parts[:2]), "/".join(parts[2:])
        source = location if repository == location.ref else self._repository(repository)
        return source.fetch([name])[0]

    def _insist_on_encoding(self, entry: str, path: Path) -> None:
        """Files that hold the model's config say it themselves."""
        if self.model.quantization_encoding is None and not holds_config(self.host, [path.name]):
            stored = stored_encoding(open_weights(self.host, [str(path)], {}))
            raise ModelError(
                f"--weight-path {entry} is a local file, so say how it is stored: --quantization-encoding {stored}"
            )

    def _model_of_weights(self) -> str:
        """The model that --weight-path alone names: a file that holds the config, too, or a repository."""
        for entry in self.model.weight_path:
            if holds_config(self.host, [entry]) and Path(entry).expanduser().is_file():
                return entry
            parts = entry.split("/")
            if len(parts) >= 3 and not Path(entry).expanduser().exists():
                return "/".join(parts[:2])
        raise ModelError("no model is named: give --model-path, a Hugging Face repository or a local folder")

    def _repository(self, ref: str) -> ModelLocation:
        source = self.source(ref)
        if source is None:
            raise self._unknown(ref)
        return _location_of(source, ref)


def _location_of(source: ModelSource, ref: str) -> ModelLocation:
    return source.location or Folder(Path(source.path), ref)


def _read_config(folder: Path, ref: str, host: Host) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{ref} has no config.json, only a LoRA adapter's config; name its base model as the model, and this "
                "with --enable-lora --lora-paths"
            )
        raise ModelError(f"{ref} has no config.json; a model in Hugging Face format is expected")
    config = read_object(folder / "config.json")
    check_limits(config)
    return config | (_quantization_in(config, host) or _quantization_beside(folder, host))


def _quantization_in(config: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The quantization of the model that its config.json describes, in whatever words."""
    if found := config.get(_QUANTIZATION):
        return {_QUANTIZATION: found}
    for entry in host.quantization_formats:
        settings = config.get(entry.component.config_key or "")
        if isinstance(settings, Mapping):
            return {_QUANTIZATION: {**settings, "quant_method": entry.name}}
    return {}


def _quantization_beside(folder: Path, host: Host) -> dict[str, Any]:
    """The quantization of the model that a file beside config.json describes."""
    for entry in host.quantization_formats:
        name = entry.component.config_file
        if name is not None and (folder / name).is_file():
            return {_QUANTIZATION: {**read_object(folder / name), "quant_method": entry.name}}
    return {}


def _said_in(folder: Path, host: Host) -> str:
    """The file that says how a checkpoint is quantized."""
    beside = (name for name in quantization_files(host) if (folder / name).is_file())
    return "config.json" if _quantization_in(read_object(folder / "config.json"), host) else next(beside, "config.json")


def _with_quantization(config: dict[str, Any], own: Path | None, host: Host) -> dict[str, Any]:
    """The config with the quantization that the config in the folder `own`, of the weights themselves, says."""
    quantization = {} if own is None else _quantization_in(read_object(own / "config.json"), host)
    return config | quantization if quantization else config


def _validate_overrides(overrides: dict[str, Any], architecture: Architecture) -> None:
    """Who reads images refuses what means nothing to it; a model of text only has no reader that would."""
    if overrides and architecture.images is None:
        raise ModelError(
            f"--vision-config-overrides: architecture {architecture.name} takes text only; leave the option out"
        )


def _classes(config: dict[str, Any], ref: str) -> list[str]:
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes:
        raise ModelError(f'{ref}: config.json names no "architectures", so it is not known how to run the model')
    return [str(name) for name in classes]


def _architecture(
    folder: ModelFolder, names: list[str], host: Host, ref: str, prefer_legacy: bool, task: str | None
) -> Architecture:
    suffix = "_Legacy" if prefer_legacy else "_ModuleV3"
    preferred = [name + suffix for name in names if name + suffix in host.architectures]
    try:
        found = find_architecture(host.architectures, [*preferred, *names], task).component
    except PluginError as error:
        return find_fallback(host, folder, f"{ref}: {error}").component
    twins = [entry.name for entry in host.architectures if plain(entry.name) == plain(found.name)]
    if len(twins) > 1:
        switch = "--no-use-legacy-module" if prefer_legacy else "--use-legacy-module"
        log.info("%s is served by %s; %s prefers its other implementation", names[0], found.name, switch)
    return found
