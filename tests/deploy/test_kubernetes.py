"""Manifests of deploy/kubernetes: their shape, and whether the server knows the options and answers the probes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from maxserve.core.config import Settings, resolve
from maxserve.plugins.commands.options import GroupedCommand, serve_options
from maxserve.plugins.events.options import KVEventSettings
from maxserve.plugins.transfers.options import TransferSettings
from maxserve.testing.sections import built_in_sections

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
KINDS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodMonitor": "monitoring.coreos.com/v1",
    "InferencePool": "inference.networking.k8s.io/v1",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
    "Component": "kustomize.config.k8s.io/v1alpha1",
}
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl puts kustomizations together")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rendered(folder: str) -> dict[str, Any]:
    """The manifests of a kustomization by kind, as a cluster would get them."""
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / folder)], capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(done.stdout))
    assert len({manifest["kind"] for manifest in manifests}) == len(manifests)
    return {manifest["kind"]: manifest for manifest in manifests}


def container(deployment: Any) -> Any:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return found


def settings(deployment: Any) -> Settings:
    """What the server makes of the container's arguments; it refuses what it does not know."""
    own = container(deployment)
    values = {each["name"]: each.get("value", "10.0.0.7") for each in own["env"]}
    command, *arguments = (re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], each) for each in own["args"])
    assert (own["command"], command) == (["max"], "serve")
    typed: dict[str, Any] = {}
    sections = tuple(built_in_sections())
    serve = GroupedCommand("serve", params=list(serve_options(sections)), callback=lambda **given: typed.update(given))
    result = CliRunner().invoke(serve, arguments)
    assert result.exit_code == 0, result.output
    return resolve(typed, environ={}, sections=sections)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_file_is_a_manifest(path: Path) -> None:
    manifest = load(path)
    assert KINDS[manifest["kind"]] == manifest["apiVersion"]
    for each in (*manifest.get("resources", ()), *manifest.get("components", ())):
        assert (path.parent / each).exists()


def test_all_manifests_have_one_name() -> None:
    names = {load(path)["metadata"]["name"] for path in FILES if path.name != "kustomization.yaml"}
    assert names == {"maxserve", "maxserve-cache"}


def test_the_base_starts_a_server_that_others_reach() -> None:
    deployment = load(FOLDER / "base" / "deployment.yaml")
    read = settings(deployment)
    assert (read.server.host, read.server.port) == ("0.0.0.0", 8000)
    assert {"name": "http", "containerPort": read.server.port} in container(deployment)["ports"]
    mounts = {each["name"] for each in container(deployment)["volumeMounts"]}
    assert mounts == {each["name"] for each in deployment["spec"]["template"]["spec"]["volumes"]}


def test_probes_are_paths_of_the_server(server: Any) -> None:
    own = container(load(FOLDER / "base" / "deployment.yaml"))
    paths = {name: own[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health", "readiness": "/health", "liveness": "/health/live"}
    for path in paths.values():
        assert httpx.get(server.url + path).status_code == 200
    assert own["startupProbe"]["periodSeconds"] * own["startupProbe"]["failureThreshold"] == 30 * 60


def test_metrics_are_those_of_the_server(server: Any) -> None:
    (endpoint,) = load(FOLDER / "monitoring" / "pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    (scaled_by,) = load(FOLDER / "autoscaling" / "autoscaler.yaml")["spec"]["metrics"]
    metrics = httpx.get(server.url + endpoint["path"]).text
    assert f"\n{scaled_by['pods']['metric']['name']}{{" in metrics


@needs_kubectl
def test_a_gpu_is_asked_for_and_used() -> None:
    deployment = rendered("gpu")["Deployment"]
    assert settings(deployment).model.devices == "gpu:0"
    assert container(deployment)["resources"]["limits"]["nvidia.com/gpu"] == "1"


@needs_kubectl
def test_the_example_is_put_together() -> None:
    manifests = rendered("example")
    assert manifests.keys() == KINDS.keys() - {"Kustomization", "Component"}
    deployment = manifests["Deployment"]
    read, labels = settings(deployment), deployment["spec"]["template"]["metadata"]["labels"]
    assert read.model.model_path == "Qwen/Qwen3-8B"
    assert (labels["llm-d.ai/inference-serving"], labels["llm-d.ai/engine-type"]) == ("true", "vllm")
    for manifest in (manifests["InferencePool"], manifests["PodMonitor"], manifests["Deployment"]):
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifests["Service"]["spec"]["selector"].items() <= labels.items()
    assert manifests["InferencePool"]["spec"]["targetPorts"] == [{"number": read.server.port}]


@needs_kubectl
def test_events_are_published_where_the_pod_says() -> None:
    deployment = rendered("example")["Deployment"]
    given = settings(deployment).plugins.sections["kv-events"]
    events = KVEventSettings(**given)
    assert events.enable_kv_cache_events
    assert events.topic == "kv@10.0.0.7:8000@Qwen/Qwen3-8B"
    ports = {each["name"]: each["containerPort"] for each in container(deployment)["ports"]}
    assert events.endpoint == f"tcp://*:{ports['kv-events']}"
    assert events.replay_endpoint == f"tcp://*:{ports['kv-replay']}"


def patched(role: str) -> Any:
    """The base's deployment with the arguments and labels that a role adds, without kubectl."""
    deployment = load(FOLDER / "base" / "deployment.yaml")
    kustomization = load(FOLDER / "disaggregated" / role / "kustomization.yaml")
    merged, added = (yaml.safe_load(each["patch"]) for each in kustomization["patches"])
    container(deployment)["args"] += [each["value"] for each in added]
    for own in merged["spec"]["template"]["spec"]["containers"] if "spec" in merged["spec"]["template"] else ():
        container(deployment)["env"] += own["env"]
    labels = {**kustomization["labels"][0]["pairs"], **merged["spec"]["template"]["metadata"]["labels"]}
    return deployment, labels


@pytest.mark.parametrize(("role", "failure"), [("prefill", "fail"), ("decode", "recompute")])
def test_a_pair_has_roles(role: str, failure: str) -> None:
    deployment, labels = patched(role)
    read = settings(deployment).plugins.sections
    assert labels == {"app.kubernetes.io/component": role, "llm-d.ai/role": role}
    assert read["role"] == {"pipeline_role": f"{role}_only"}
    transfers = TransferSettings(**read["transfers"])
    assert transfers.on_failure == failure
    assert transfers.bind == ("tcp://10.0.0.7:5600" if role == "prefill" else None)
