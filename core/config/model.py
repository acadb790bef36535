"""Settings of the model, its form and its device."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from maxserve.core.config.enums import DeviceList, Encoding, RopeType, Task, gpu_numbers
from maxserve.core.config.section import Section
from maxserve.core.interfaces.config import Option, UnsupportedValues

DEMO = "maxserve/demo"


class CheckpointSettings(Section):
    """What can be said of any checkpoint, of the target's as of a draft's."""

    model_path: Annotated[
        str, Field(description="Hugging Face repository, or local folder with config.json and weights.")
    ] = ""
    served_model_name: Annotated[
        str | None,
        Option(server=True),
        Field(description="Name by which clients ask for the model; unset, it is the model path."),
    ] = None
    weight_path: Annotated[
        tuple[str, ...],
        Option(metavar="PATH"),
        Field(
            description="Weight file to read instead of those found beside the config: a local file, a file of the "
            "repository, or org/repo/file of another one."
        ),
    ] = ()
    quantization_encoding: Annotated[
        Encoding | None,
        UnsupportedValues(
            refused=lambda encoding: encoding not in (None, "float32", "bfloat16"),
            what="with a quantized encoding",
            instead="use float32 or bfloat16",
        ),
        Field(
            description="How the weights are stored, and so the type they are computed in; unset, it is found out, and "
            "a CPU computes 16-bit weights in float32."
        ),
    ] = None
    allow_safetensors_weights_fp32_bf6_bidirectional_cast: Annotated[
        bool,
        Field(
            description="Cast weights between float32 and bfloat16 when the checkpoint has only the other one. Needs "
            "--quantization-encoding."
        ),
    ] = False
    huggingface_model_revision: Annotated[
        str, Field(description="Branch, tag or commit of the config and the tokenizer.", min_length=1)
    ] = "main"
    huggingface_weight_revision: Annotated[
        str, Field(description="Branch, tag or commit of the weight files.", min_length=1)
    ] = "main"
    trust_remote_code: Annotated[
        bool,
        Field(
            description="Let Python code of the model's repository run, where its tokenizer or its model class is some."
        ),
    ] = False
    force_download: Annotated[
        bool, Field(description="Fetch the files from the hub again even when they are in the cache.")
    ] = False
    rope_type: Annotated[
        RopeType | None,
        Field(
            description="How the rows of queries and keys are ordered: neox, pairs half a head apart, as Hugging Face "
            "keeps them; normal, pairs side by side, as Meta's files and GGUF do. none, longrope and yarn are checked "
            "against the model. Unset, the architecture knows."
        ),
    ] = None
    use_subgraphs: Annotated[
        bool,
        Field(description="Compile the parts of a layer once and use them for all layers; off, plain PyTorch."),
    ] = True
    vision_config_overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Entries, as JSON, that replace those of the vision part of config.json or of the image processor, "
        "such as max_pixels or max_dynamic_patch.",
    )
    data_parallel_degree: Annotated[
        int,
        UnsupportedValues(refused=lambda degree: degree != 1, what="with several replicas", instead="use 1"),
        Field(description="Replicas of the whole model; 1, or as many as there are devices.", ge=1),
    ] = 1
    devices: Annotated[
        DeviceList,
        UnsupportedValues(
            refused=lambda devices: len(gpu_numbers(devices)) > 1,
            what="with several GPUs",
            instead="name one, such as gpu:0",
        ),
        Field(description="Where the model runs: gpu is GPU 0, default is GPU 0 if there is one and else the CPU."),
    ] = "default"


class ModelSettings(CheckpointSettings):
    """The model that is served."""

    title: ClassVar[str] = "Model"

    model_path: Annotated[
        str,
        Option(alias="model"),
        Field(
            description="What to serve: a Hugging Face repository, or a local folder with config.json and weights. The "
            "default is the small demo model that comes with maxserve.",
            min_length=1,
        ),
    ] = DEMO
    chat_template: Annotated[
        str | None,
        Option(metavar="FILE"),
        Field(
            description="Jinja file, or JSON file with the key chat_template, that replaces the model's own template."
        ),
    ] = None
    special_tokens_in_content: Annotated[
        bool,
        Field(
            description="Let special tokens that a user's or a tool's message of a chat spells out be tokens, as "
            "transformers does; off, they are text like any other."
        ),
    ] = False
    max_length: Annotated[
        int | None,
        Field(description="Most tokens of a prompt and its answer together; unset, the model's own limit.", ge=1),
    ] = None
    task: Annotated[
        Task,
        UnsupportedValues(
            refused=lambda task: task in ("audio_generation", "speech_token_generation"),
            what="with a task of audio or speech",
            instead="use text_generation, embeddings_generation or scoring",
        ),
        Field(
            description="What the model is for; unset, its architecture knows. Where that serves several tasks, the "
            "pipeline tag of the repository decides, or the files of sentence-transformers in the folder."
        ),
    ] = "text_generation"
    use_legacy_module: Annotated[
        bool,
        Field(
            description="Where an architecture comes in two implementations, prefer X_Legacy; off, prefer X_ModuleV3."
        ),
    ] = True
    pool_embeddings: Annotated[
        bool, Field(description="Give one vector per text in embedding models; off, one per token.")
    ] = True
    attention_backend: Annotated[
        str,
        Option(metavar="NAME"),
        Field(
            description="What attends over the cache: the name of a back end (`max list attention-backends`); auto "
            "takes the best that works here.",
            min_length=1,
        ),
    ] = "auto"
    linear_method: Annotated[
        str,
        Option(metavar="NAME"),
        Field(
            description="What keeps the weights of projections and multiplies by them: the name of a method; auto "
            "takes the best that works here, none leaves them to torch.",
            min_length=1,
        ),
    ] = "auto"
    layer_compiler: Annotated[
        str,
        Option(metavar="NAME"),
        Field(
            description="What makes one call of a whole layer: the name of a compiler; auto takes the best that works "
            "here, none runs layers as they are written.",
            min_length=1,
        ),
    ] = "auto"
    model_runner: Annotated[
        str,
        Option(metavar="NAME"),
        Field(
            description="What runs the model, a step at a time: the name of a runner (`max list model-runners`); auto "
            "takes the best that works here.",
            min_length=1,
        ),
    ] = "auto"
    defer_resolve: Annotated[
        bool,
        Option(env=("MODULAR_PIPELINE_DEFER_RESOLVE",)),
        Field(
            description="Look at model and devices only when the model is built: in a program when it is first used, "
            "in a server by the worker, while the port answers already."
        ),
    ] = False
    force: Annotated[
        bool, Field(description="Keep what was chosen where an architecture insists on another value.")
    ] = False
