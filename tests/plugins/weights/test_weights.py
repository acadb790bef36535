from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.storage import LinearStorage
from maxserve.plugins.safetensors.files import SafetensorsFile
from maxserve.plugins.weights.weights import load_weights, place_weights

FUSED = WeightMap(fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")})


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(4, 8, bias=bias)
        self.norm = nn.Parameter(torch.empty(4))


class Model(nn.Module):
    """Tied or untied head, fused projections, a buffer that no checkpoint needs."""

    def __init__(self, tied: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([Block(bias), Block(bias)])
        self.lm_head = nn.Linear(4, 6, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight
        self.register_buffer("table", torch.empty(3))


class Recorder:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.fractions: list[float] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def advance(self, fraction: float) -> None:
        self.fractions.append(fraction)


def built(tied: bool = False, bias: bool = True) -> Model:
    with torch.device("meta"):
        return Model(tied, bias)


def checkpoint(bias: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tensors = {"embed.weight": random(6, 4), "lm_head.weight": random(6, 4)}
    for i in range(2):
        tensors[f"layers.{i}.norm"] = random(4)
        for part, rows in (("q", 4), ("k", 2), ("v", 2)):
            tensors[f"layers.{i}.{part}_proj.weight"] = random(rows, 4)
            if bias:
                tensors[f"layers.{i}.{part}_proj.bias"] = random(rows)
    return tensors


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., list[SafetensorsFile]]:
    """Saves each dict of tensors to a file of its own."""

    def save_all(*files: dict[str, torch.Tensor]) -> list[SafetensorsFile]:
        paths = [str(tmp_path / f"{i}.safetensors") for i in range(len(files))]
        for path, tensors in zip(paths, files, strict=True):
            save_file(tensors, path)
        return [SafetensorsFile(path) for path in paths]

    return save_all


def load(
    model: Model, files: list[SafetensorsFile], weight_map: WeightMap = FUSED, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    load_weights(model, files, weight_map, dtype=dtype, device="cpu", progress=NullProgress())
    return dict(model.named_parameters(remove_duplicate=False))


def fused(tensors: dict[str, torch.Tensor], layer: int, kind: str) -> torch.Tensor:
    return torch.cat([tensors[f"layers.{layer}.{part}_proj.{kind}"] for part in "qkv"])


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_its_tensor(
    save: Callable[..., list[SafetensorsFile]], stored: torch.dtype, dtype: torch.dtype
) -> None:
    tensors = checkpoint(dtype=stored)
    loaded = load(built(), save(tensors), dtype=dtype)
    assert len(loaded) == 2 + 2 * 3
    for name, parameter in loaded.items():
        if "qkv_proj" in name:
            _, layer, _, kind = name.split(".")
            expected = fused(tensors, int(layer), kind)
        else:
            expected = tensors[name]
        assert parameter.device.type == "cpu"
        assert parameter.dtype == dtype
        assert not parameter.requires_grad
        assert torch.equal(parameter, expected.to(dtype))


def test_shards_may_split_a_fused_parameter(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint()
    names = sorted(tensors)
    files = save(*[{name: tensors[name] for name in names[i::3]} for i in range(3)])
    assert torch.equal(load(built(), files)["layers.1.qkv_proj.weight"], fused(tensors, 1, "weight"))


def test_unchanged_tensors_are_the_mapped_file(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint()
    files = save(tensors)
    loaded = load(built(), files)
    with open(files[0].path, "r+b") as stream:
        content = stream.read()
        position = content.index(tensors["embed.weight"].numpy().tobytes())
        stream.seek(position)
        stream.write(torch.full((6, 4), 7.0).numpy().tobytes())
    assert torch.equal(loaded["embed.weight"], torch.full((6, 4), 7.0))
    assert torch.equal(loaded["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize("with_head", [True, False])
def test_tied_heads_stay_tied(save: Callable[..., list[SafetensorsFile]], with_head: bool) -> None:
    tensors = checkpoint()
    del tensors["lm_head.weight"]
    model = built(tied=True)
    load(model, save(tensors | {"lm_head.weight": tensors["embed.weight"].clone()} if with_head else tensors))
    assert model.lm_head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, tensors["embed.weight"])


def test_a_tied_head_may_be_stored_under_the_heads_name(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint()
    del tensors["embed.weight"]
    model = built(tied=True)
    load(model, save(tensors))
    assert torch.equal(model.embed.weight, tensors["lm_head.weight"])


@pytest.mark.parametrize("files", [1, 2])
def test_a_head_that_differs_is_not_tied_whatever_the_config_says(
    save: Callable[..., list[SafetensorsFile]], files: int, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = checkpoint()
    head = {"lm_head.weight": tensors.pop("lm_head.weight")}
    model = built(tied=True)
    load(model, save(head, tensors) if files == 2 else save(head | tensors))
    assert torch.equal(model.embed.weight, tensors["embed.weight"])
    assert torch.equal(model.lm_head.weight, head["lm_head.weight"])
    assert "lm_head.weight" in caplog.text


def test_a_file_the_reader_refuses_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(checkpoint(), file)
    file.write_bytes(file.read_bytes() + b"more than the header tells of")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load(built(), [SafetensorsFile(str(file))])


def test_buffers_are_left_alone_and_old_ones_ignored(save: Callable[..., list[SafetensorsFile]]) -> None:
    extra = {"table": torch.ones(3), "layers.0.rotary_emb.inv_freq": torch.ones(2)}
    model = built()
    load(model, save(checkpoint() | extra))
    assert model.get_buffer("table").is_meta


def test_names_are_renamed_and_ignored(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = {f"model.{name.replace('embed', 'tok')}": tensor for name, tensor in checkpoint().items()}
    weight_map = WeightMap(
        fused=FUSED.fused, renames=((r"^model\.", ""), (r"^tok\.", "embed.")), ignored=(r"^vision\.",)
    )
    files = save(tensors | {"vision.w": torch.ones(1)})
    assert torch.equal(load(built(), files, weight_map)["embed.weight"], checkpoint()["embed.weight"])


def test_a_checkpoint_may_be_fused_already(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint(bias=False)
    whole = fused(tensors, 0, "weight")
    for part in "qkv":
        del tensors[f"layers.0.{part}_proj.weight"]
    loaded = load(built(bias=False), save(tensors | {"layers.0.qkv_proj.weight": whole}))
    assert torch.equal(loaded["layers.0.qkv_proj.weight"], whole)


def test_missing_and_unexpected_names_are_listed(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint()
    del tensors["layers.1.norm"], tensors["layers.0.k_proj.bias"], tensors["lm_head.weight"]
    extra = {f"extra.{i}": torch.ones(1) for i in range(7)}
    with pytest.raises(ModelError) as caught:
        load(built(), save(tensors | extra))
    assert str(caught.value) == (
        "the weights do not fit the architecture: 3 missing from the checkpoint: "
        "layers.0.qkv_proj.bias (k_proj), layers.1.norm, lm_head.weight; "
        "7 in the checkpoint but not in the model: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more"
    )


def test_shapes_must_fit(save: Callable[..., list[SafetensorsFile]]) -> None:
    with pytest.raises(ModelError, match=r"embed\.weight has the shape \[5, 4\] in .* and \[6, 4\] in the model"):
        load(built(), save(checkpoint() | {"embed.weight": torch.ones(5, 4)}))
    with pytest.raises(
        ModelError, match=r"k_proj\.weight \[3, 4\].*do not make up layers\.0\.qkv_proj\.weight.*\[8, 4\]"
    ):
        load(built(), save(checkpoint() | {"layers.0.k_proj.weight": torch.ones(3, 4)}))


def test_a_tensor_in_two_files_is_refused(save: Callable[..., list[SafetensorsFile]]) -> None:
    for name in ("embed.weight", "layers.0.q_proj.weight"):
        files = save(checkpoint(), {name: checkpoint()[name]})
        with pytest.raises(ModelError, match="are the same parameter; name the files"):
            load(built(), files)


def test_progress_goes_from_nothing_to_all(save: Callable[..., list[SafetensorsFile]]) -> None:
    recorder = Recorder()
    files = save(checkpoint())
    load_weights(built(), files, FUSED, dtype=torch.float32, device="cpu", progress=recorder)
    assert recorder.phases == ["Loading weights"]
    assert recorder.fractions == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1.0
    assert len(recorder.fractions) == len(checkpoint())


def test_mappings_of_copied_tensors_end_early(
    save: Callable[..., list[SafetensorsFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import maxserve.plugins.weights.weights as weights

    opened = []
    monkeypatch.setattr(weights, "_MAPPED_AT_ONCE", 100)
    reopen = SafetensorsFile.open
    monkeypatch.setattr(SafetensorsFile, "open", lambda file: opened.append(file) or reopen(file))
    tensors = checkpoint()
    loaded = load(built(), save(tensors), dtype=torch.bfloat16)
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size // 200 < len(opened) <= size // 100 + 1
    assert torch.equal(loaded["layers.1.qkv_proj.bias"], fused(tensors, 1, "bias").bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loads_onto_a_gpu(save: Callable[..., list[SafetensorsFile]]) -> None:
    tensors = checkpoint()
    model = built()
    load_weights(model, save(tensors), FUSED, dtype=torch.bfloat16, device="cuda", progress=NullProgress())
    assert torch.equal(model.embed.weight.cpu(), tensors["embed.weight"].bfloat16())
    assert torch.equal(model.get_parameter("layers.0.qkv_proj.weight").cpu(), fused(tensors, 0, "weight").bfloat16())


class Plain:
    """A PackedLinear that is a plain tensor."""

    def __init__(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        self.weight = torch.full((outputs, inputs), torch.nan, dtype=dtype)

    def load_rows(self, rows: torch.Tensor, first: int) -> None:
        assert rows.dtype == self.weight.dtype
        self.weight[first : first + len(rows)] = rows

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.float(), bias)


class Readable(Plain):
    """Can also be read."""

    def embedding(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids]


class Method:
    def __init__(self, kind: type[Plain] = Plain) -> None:
        self._kind = kind

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return checkpoint if checkpoint == torch.bfloat16 else torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> Plain:
        return self._kind(outputs, inputs, dtype)


@pytest.mark.parametrize("kind", [Plain, Readable])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("stored", "encoding", "held"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_projections_go_to_the_linear_method(
    save: Callable[..., list[SafetensorsFile]],
    tied: bool,
    stored: torch.dtype,
    encoding: torch.dtype | None,
    held: torch.dtype,
    kind: type[Plain],
) -> None:
    """The model computes in float32 whatever they are stored in.

    A table that is shared stays beside the copy of it, unless that can be read.
    """
    from transformers import LlamaConfig

    from maxserve.architectures.layers import Linear
    from maxserve.architectures.layers.config import from_transformers
    from maxserve.architectures.llama import Model as Llama
    from maxserve.testing.architecture import TinyCache, run_step

    raw = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        tie_word_embeddings=tied,
    ).to_dict()
    config = from_transformers(raw)
    generator = torch.Generator().manual_seed(0)
    plain = Llama(config)
    wanted = {n: torch.randn(p.shape, generator=generator).to(stored) for n, p in plain.named_parameters()}
    files = save(wanted)
    models = []
    for storage in (None, LinearStorage(method=Method(kind), encoding=encoding)):
        with torch.device("meta"):
            model = Llama(config)
        load_weights(
            model,
            files,
            WeightMap(),
            dtype=torch.float32,
            device="cpu",
            progress=NullProgress(),
            storage=storage,
        )
        model.prepare()
        models.append(model)
    linears = [module for module in models[1].modules() if isinstance(module, Linear)]
    assert {module.packed.weight.dtype for module in linears} == {held}  # type: ignore[union-attr]
    assert all(module.weight is None for module in linears)
    table = models[1].model.embed_tokens
    if tied and kind is Readable:
        assert (table.weight, table.packed) == (None, models[1].lm_head.packed)
    else:
        assert table.weight is not None
        assert table.weight.dtype == held
    assert models[1].model.norm.weight.dtype == torch.float32
    expected, found = (run_step(m, TinyCache(config.cache_layers), [(0, [1, 2, 3])]) for m in models)
    tolerance = 0.3 if stored == torch.float32 and held == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", [Plain, Readable])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_that_a_model_has_are_placed_as_if_they_were_read(
    save: Callable[..., list[SafetensorsFile]], tied: bool, stored: torch.dtype, kind: type[Plain]
) -> None:
    from maxserve.architectures.layers import Embedding, Linear

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.up, self.lm_head = Embedding(6, 4), Linear(4, 4, bias=True), Linear(4, 6)
            self.norm = nn.Parameter(torch.empty(4))
            if tied:
                self.lm_head.weight = self.embed.weight

    has, reads = Shared().to(stored), Shared()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in has.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    files = save({name: parameter.detach().clone() for name, parameter in has.named_parameters()})
    recorder, storage = Recorder(), LinearStorage(method=Method(kind))
    load_weights(reads, files, WeightMap(), dtype=torch.float32, device="cpu", progress=NullProgress(), storage=storage)
    place_weights(has, dtype=torch.float32, device="cpu", progress=recorder, storage=storage)
    for module, wanted in ((has.up, reads.up), (has.lm_head, reads.lm_head)):
        assert isinstance(module.packed, kind)
        assert torch.equal(module.packed.weight, wanted.packed.weight)
        assert module.weight is None
    assert (has.embed.weight is None) == (reads.embed.weight is None) == (tied and kind is Readable)
    ids = torch.tensor([[5, 0], [2, 2]])
    assert torch.equal(has.embed(ids), reads.embed(ids))
    assert has.embed(ids).shape == (2, 2, 4)
    assert torch.equal(has.norm, reads.norm)
    assert has.up.bias is not None
    assert torch.equal(has.up.bias, reads.up.bias)
    assert recorder.fractions[-1] == 1
