"""The manifests: built by kustomize, valid against Kubernetes' own schemas, and true to the service that they start."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from arn_purify.service.core.decoder import memory
from arn_purify.service.settings import Settings, from_flags

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "docker" / "kubernetes"
OTHERS = ("ScaledObject", "ServiceMonitor", "PrometheusRule")  # their schemas are not in Kubernetes' own
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to build the manifests with")


def built(name):
    done = subprocess.run(["kubectl", "kustomize", MANIFESTS / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("name", ["base", "classifier", "clients", "queue-scaling", "monitoring"])
def test_every_manifest_fits_its_schema(name):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in built(name):
        if manifest["kind"] not in OTHERS:
            validator.validate(manifest, "1.31", strict=True)


def test_one_way_to_scale_at_a_time():
    kinds = {name: {m["kind"] for m in built(name)} for name in ("base", "queue-scaling")}
    assert "HorizontalPodAutoscaler" in kinds["base"]
    assert "HorizontalPodAutoscaler" not in kinds["queue-scaling"]
    for name in kinds:  # an apply would set back what the autoscaler has set
        assert not [m for m in built(name) if m["kind"] == "Deployment" and "replicas" in m["spec"]]
    assert {"ScaledObject", "ServiceMonitor"} <= kinds["queue-scaling"]  # which brings it its metric


def test_the_deployment_starts_the_service_as_it_is():
    by_kind = {manifest["kind"]: manifest for manifest in built("base")}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = {f"ARN_{name.upper()}" for name in Settings.model_fields}
    assert set(by_kind["ConfigMap"]["data"]) <= settings
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": Settings.model_fields["port"].default, "grpc": Settings.model_fields["grpc_port"].default}
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} == set(ports)
    assert {entry["name"] for entry in container["env"]} <= settings
    assert {"limits.cpu"} == {entry["valueFrom"]["resourceFieldRef"]["resource"] for entry in container["env"]}
    assert "cpu" in container["resources"]["limits"]
    (key,) = (source["secretRef"] for source in container["envFrom"] if "secretRef" in source)
    assert f"create secret generic {key['name']}" in (ROOT / "docs" / "scaling.md").read_text()
    assert pod["terminationGracePeriodSeconds"] > int(by_kind["ConfigMap"]["data"]["ARN_DRAIN_SECONDS"]) + 5
    chosen = by_kind["Deployment"]["spec"]["selector"]["matchLabels"]
    assert by_kind["Service"]["spec"]["selector"] == chosen
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == chosen


def test_only_the_purifier_reaches_the_classifier():
    purifier = {manifest["kind"]: manifest for manifest in built("base")}
    behind = {manifest["kind"]: manifest for manifest in built("classifier")}
    policy, pod = behind["NetworkPolicy"]["spec"], behind["Deployment"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    template = purifier["Deployment"]["spec"]["template"]["metadata"]
    assert peer["podSelector"]["matchLabels"].items() <= template["labels"].items()
    namespace = purifier["Namespace"]["metadata"]["name"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    service = behind["Service"]
    address = f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert purifier["ConfigMap"]["data"]["ARN_DOWNSTREAM_URL"] == f"{address}:{service['spec']['ports'][0]['port']}"
    assert pod["spec"]["containers"][0]["ports"][0]["name"] == rule["ports"][0]["port"]


def test_prometheus_and_labelled_namespaces_reach_the_purifier():
    (policy,) = built("clients")
    pod = next(manifest for manifest in built("base") if manifest["kind"] == "Deployment")["spec"]["template"]
    namespace = next(manifest for manifest in built("base") if manifest["kind"] == "Namespace")
    assert policy["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    clients, prometheus = policy["spec"]["ingress"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in clients["ports"]} == ports
    ((label, value),) = clients["from"][0]["namespaceSelector"]["matchLabels"].items()
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert f"kubectl label namespace NAME {label}={value}" in page
    (scraped,) = (m["spec"]["endpoints"][0]["port"] for m in built("monitoring") if m["kind"] == "ServiceMonitor")
    assert [port["port"] for port in prometheus["ports"]] == [scraped]
    scaled = next(manifest for manifest in built("queue-scaling") if manifest["kind"] == "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["serverAddress"] in page


def test_what_the_operator_selects_is_labelled_and_the_rules_are_prometheus_own():
    by_kind = {manifest["kind"]: manifest for manifest in built("monitoring")}
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert by_kind[kind]["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yml").read_text())
    assert by_kind["PrometheusRule"]["spec"] == rules, "run scripts/rules"
    selected = by_kind["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert selected.items() <= by_kind["Service"]["metadata"]["labels"].items()


def kserve():
    return yaml.safe_load((MANIFESTS / "kserve" / "inference-service.yaml").read_text())


def container_of(name):
    """The container and the environment that it is given."""
    if name == "kserve":
        (container,) = kserve()["spec"]["transformer"]["containers"]
        return container, {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    by_kind = {manifest["kind"]: manifest for manifest in built(name)}
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container, by_kind["ConfigMap"]["data"]


@pytest.mark.parametrize("name", ["base", "queue-scaling", "kserve"])
def test_the_memory_that_a_container_may_have_holds_what_it_takes(name):
    container, environment = container_of(name)
    settings = Settings(**{key.removeprefix("ARN_").lower(): value for key, value in environment.items()})
    half = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30 // 2
    assert 2 * memory(settings.max_pixels, settings.max_body_bytes) <= half  # the decoders', of which one may be slow
    service = 500e6 + 3 * settings.bodies_bytes  # docs/scaling.md, docs/security.md
    assert service <= half
    assert service <= int(container["resources"]["requests"]["memory"].removesuffix("Gi")) * 2**30


def test_kserve_starts_the_transformer_with_flags_that_it_takes():
    from arn_purify.service.cli import parser

    (container,) = kserve()["spec"]["transformer"]["containers"]
    given = [*container["args"], "--predictor_host", "digits-predictor.default", "--http_port", "8080"]
    settings = from_flags(parser().parse_args(["serve", *given]))
    assert settings.downstream_url == "http://digits-predictor.default"
    assert (settings.downstream_model, settings.port, settings.host) == ("digits", 8080, "0.0.0.0")
    assert container["readinessProbe"]["httpGet"]["port"] == settings.port
