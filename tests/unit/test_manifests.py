"""What every workload must have in Kubernetes, read from the rendered manifests. No cluster is asked."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops.local.state import SERVICES, ServiceName
from ops.manifests import K8S, Manifest, RenderError, kustomizations, render, violations
from services.runtime.settings import load
from services.witness.settings import WitnessSettings
from tests.workloads import CALLS, NAME, SETTINGS, Rendering, container, containers, labels, mounted, port_of, selects

ROOT = K8S.parent
RENDERINGS = ("base", "overlays/dev", "overlays/native")
WITNESS = "witness"
MIGRATIONS = {"migrations": "base", "overlays/dev/migrations": "overlays/dev"}
"""Each with the workloads whose databases it is for."""
CLOSING_SECONDS = 5
"""What closing takes beyond draining: exporters flush, pools close."""

rendered = pytest.mark.parametrize("directory", RENDERINGS)
each_workload = pytest.mark.parametrize("name", SERVICES)
everywhere = pytest.mark.parametrize("directory", [*RENDERINGS, *MIGRATIONS, WITNESS])


def test_everything_that_can_be_applied_is_tested_here() -> None:
    """That it is valid is what `make manifests-check` asks."""
    assert {path.relative_to(K8S).as_posix() for path in kustomizations()} == {*RENDERINGS, *MIGRATIONS, WITNESS}


def test_a_misspelt_field_or_kind_is_a_violation() -> None:
    service = Rendering.of("base").one("Service", "consent")
    misspelt = service | {"spec": service["spec"] | {"clusterIp": "None"}}
    assert all("clusterIp" in problem for problem in violations(misspelt))
    assert len(violations(misspelt)) == len(violations(service | {"kind": "Serivce"})) == 2


def test_what_cannot_be_rendered_says_why(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    with pytest.raises(RenderError, match=r"absent\.yaml"):
        render(tmp_path)


@rendered
def test_there_are_five_workloads_each_with_its_account_service_and_budget(directory: str) -> None:
    rendering = Rendering.of(directory)
    for kind in ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"):
        assert rendering.names(kind) == set(SERVICES)
    for name in SERVICES:
        mine = labels(rendering.pod(name))
        assert rendering.one("Deployment", name)["spec"]["selector"]["matchLabels"] == {NAME: name}
        assert rendering.one("Service", name)["spec"]["selector"] == {NAME: name}
        assert selects(rendering.one("PodDisruptionBudget", name)["spec"]["selector"], mine)
        assert rendering.pod(name)["spec"]["serviceAccountName"] == name
        assert container(rendering.pod(name))["args"] == ["serve", name]


@everywhere
def test_every_pod_runs_as_a_user_without_rights_on_a_read_only_root(directory: str) -> None:
    for pod in Rendering.of(directory).pods():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        for each in containers(pod):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@everywhere
def test_no_pod_is_given_variables_or_credentials_that_it_did_not_ask_for(directory: str) -> None:
    rendering = Rendering.of(directory)
    for pod in rendering.pods():
        assert pod["spec"]["enableServiceLinks"] is False
        assert pod["spec"]["automountServiceAccountToken"] is False
    assert all(account["automountServiceAccountToken"] is False for account in rendering.all("ServiceAccount"))


@everywhere
def test_every_container_states_what_it_needs_and_may_use(directory: str) -> None:
    for pod in Rendering.of(directory).pods():
        for each in containers(pod):
            assert set(each["resources"]["requests"]) == set(each["resources"]["limits"]) == {"cpu", "memory"}


@everywhere
def test_secrets_are_files_that_only_their_workload_is_given_to_read(directory: str) -> None:
    rendering = Rendering.of(directory)
    assert rendering.all("Secret") == []
    for pod in rendering.pods():
        owner = pod["spec"]["serviceAccountName"]
        secrets = {volume["name"]: volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume}
        for name, secret in secrets.items():
            assert secret["secretName"] == (name if name == "token-keys" else f"{owner}-{name}")
            assert secret["defaultMode"] == 0o440
        for each in containers(pod):
            mounts = [mount for mount in each["volumeMounts"] if mount["name"] in secrets]
            assert all(mount["readOnly"] and "subPath" not in mount for mount in mounts)
            assert all(set(variable) == {"name", "value"} for variable in each.get("env", []))
            assert all(set(source) == {"configMapRef"} for source in each.get("envFrom", []))


@rendered
def test_only_the_gateway_holds_the_key_that_signs_tokens(directory: str) -> None:
    rendering = Rendering.of(directory)
    holders = {name for name in SERVICES if "token-signing-key" in str(rendering.pod(name)["spec"]["volumes"])}
    assert holders == {"gateway"}


@rendered
@each_workload
def test_a_workload_accepts_what_it_is_told(directory: str, name: ServiceName, tmp_path: Path) -> None:
    """Its own settings class reads its variables, with the mounted files where they say."""
    pod = Rendering.of(directory).pod(name)
    root = mounted(pod, container(pod), tmp_path)
    environment = Rendering.of(directory).environment(container(pod))
    told = load(SETTINGS[name], moved(environment, root))
    assert told.database_dsn() == "made up"
    assert [file.name for file in told.tls_files()] == ["tls.crt", "tls.key", "ca.crt"]
    assert told.jwks_file is not None
    assert told.keyring_dir is not None
    assert told.environment == ("demo" if "dev" in directory else "production")
    assert told.redis() is None, "Redis is an overlay's to add, with its network policy"


def moved(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """The variables with mounted paths below `root`."""
    return {
        name: f"{root}{value}" if value.startswith("/etc/dmp/") else value
        for name, value in environment.items()
        if name.startswith("DMP_")
    }


def called_at(rendering: Rendering, name: str) -> int:
    """The port at which the other services call one: that for peers, where it has one."""
    ports = {port["name"]: port["port"] for port in rendering.one("Service", name)["spec"]["ports"]}
    number: int = ports.get("peers", ports["grpc"])
    return number


@rendered
@each_workload
def test_ports_are_the_same_wherever_they_are_named(directory: str, name: ServiceName) -> None:
    rendering = Rendering.of(directory)
    mine = container(rendering.pod(name))
    told = rendering.environment(mine)
    ports = {port["name"]: port["containerPort"] for port in mine["ports"]}
    listens = {"health": port_of(told["DMP_HEALTH_LISTEN"])}
    if told.get("DMP_TRANSPORT") != "native":  # else Envoy has the port: test_manifests_native.py
        listens["grpc"] = port_of(told["DMP_LISTEN"])
    if "DMP_PEER_LISTEN" in told:
        listens["peers"] = port_of(told["DMP_PEER_LISTEN"])
    if name == "gateway":
        listens["https"] = port_of(told["DMP_HTTP_LISTEN"])
        listens["mutual-tls"] = port_of(told["DMP_MUTUAL_TLS_LISTEN"])
        listens["operators"] = port_of(told["DMP_OPERATOR_LISTEN"])
    assert ports == listens
    served = {port["name"]: port["targetPort"] for port in rendering.one("Service", name)["spec"]["ports"]}
    everyone = {
        port["name"]: port["containerPort"] for each in containers(rendering.pod(name)) for port in each["ports"]
    }
    assert served | {"health": ports["health"]} == everyone
    assert "health" not in served, "health is for the kubelet alone"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert mine[probe]["grpc"]["port"] == ports["health"]


@rendered
@each_workload
def test_a_workload_is_told_where_those_are_whom_it_calls(directory: str, name: ServiceName) -> None:
    """And nobody else. Balancing over replicas needs their own addresses: a headless service."""
    rendering = Rendering.of(directory)
    told = rendering.environment(container(rendering.pod(name)))
    for peer in SERVICES:
        address = told.get(f"DMP_{peer.upper()}_ADDRESS")
        assert (address is not None) == (peer in CALLS[name])
        if address is not None:
            service = rendering.one("Service", peer)["spec"]
            assert address == f"dns:///{peer}:{called_at(rendering, peer)}"
            assert service["ports"][0]["name"] == "grpc"
            assert service["clusterIP"] == "None"


@rendered
@each_workload
def test_the_network_lets_through_the_calls_of_the_design_and_no_other(directory: str, name: ServiceName) -> None:
    rendering = Rendering.of(directory)
    pod = rendering.pod(name)
    for peer in SERVICES:
        assert (peer in rendering.reaches(pod, "egress", called_at(rendering, peer))) == (peer in CALLS[name])
    callers = {caller for caller in SERVICES if name in CALLS[caller]}
    inward = list(rendering.allowed(pod, "ingress"))
    if name == "gateway":
        anyone, operators = inward
        assert (anyone.pods, anyone.namespaces) == (None, None), "partners call from anywhere"
        assert anyone.ports == {8443, 8444, 8445}
        assert operators.namespaces, "operators only from namespaces that are theirs"
        assert operators.ports == {8446}
    else:
        assert rendering.reaches(pod, "ingress", called_at(rendering, name)) == callers
        served = frozenset(port["port"] for port in rendering.one("Service", name)["spec"]["ports"])
        assert {(peer.namespaces is None, peer.ports) for peer in inward} == {(True, served)}
    outward = {port for peer in rendering.allowed(pod, "egress") if peer.namespaces for port in peer.ports}
    further = {
        "gateway": {6379, 443},  # Redis, the professionals' issuer
        "document": {443, 3310},  # objects, a scanner
        "audit": {8470, 443, 587},  # witnesses, tiles, mail
    }
    assert outward == {53, 5432, 4317} | further.get(name, set())
    assert all(peer.pods is not None or peer.namespaces for peer in rendering.allowed(pod, "egress"))


@rendered
def test_a_pod_that_nothing_is_said_about_reaches_names_and_nothing_else(directory: str) -> None:
    rendering = Rendering.of(directory)
    deny = rendering.one("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    stranger: Manifest = {"metadata": {"labels": {}}}
    assert list(rendering.allowed(stranger, "ingress")) == []
    assert [peer.ports for peer in rendering.allowed(stranger, "egress")] == [{53}]


@rendered
@each_workload
def test_an_update_takes_nothing_away_before_its_replacement_serves(directory: str, name: ServiceName) -> None:
    rendering = Rendering.of(directory)
    deployment = rendering.one("Deployment", name)["spec"]
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert deployment["replicas"] >= (1 if "dev" in directory else 2)
    pod, mine = rendering.pod(name)["spec"], container(rendering.pod(name))
    drain = float(rendering.environment(mine)["DMP_DRAIN_SECONDS"])
    before = waits_before_stopping(mine)
    assert pod["terminationGracePeriodSeconds"] >= before + drain + CLOSING_SECONDS
    assert (before > 0) == (name == "gateway" or "native" in directory), "who is not reached directly, lags"


def waits_before_stopping(service: Manifest) -> float:
    """Seconds from the end of a pod being decided to its service being told."""
    hook = service.get("lifecycle", {}).get("preStop", {})
    return float(hook["exec"]["command"][-1] if "exec" in hook else hook.get("sleep", {}).get("seconds", 0))


@rendered
@each_workload
def test_replicas_are_spread_over_zones_and_nodes_where_possible(directory: str, name: ServiceName) -> None:
    pod = Rendering.of(directory).pod(name)
    spread = pod["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    (avoid,) = pod["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    for each in [*spread, avoid["podAffinityTerm"]]:
        assert selects(each["labelSelector"], labels(pod))
        assert NAME in each["matchLabelKeys"], "only replicas of the same workload count"


@pytest.mark.parametrize(("directory", "beside"), [*MIGRATIONS.items()])
def test_each_database_has_its_migration_which_reaches_nothing_else(directory: str, beside: str) -> None:
    jobs, platform = Rendering.of(directory), Rendering.of(beside)
    assert jobs.names("Job") == {f"migrate-{name}" for name in SERVICES}
    for name in SERVICES:
        job = jobs.one("Job", f"migrate-{name}")
        pod = job["spec"]["template"]
        mine = container(pod, "migrate")
        assert job["metadata"]["namespace"] == platform.one("Deployment", name)["metadata"]["namespace"]
        assert mine["args"] == ["migrate", name]
        assert mine["image"] == container(platform.pod(name))["image"]
        assert jobs.environment(mine) == {"DMP_DSN_FILE": "/etc/dmp/database/dsn"}
        assert not any(
            selects(platform.one("PodDisruptionBudget", n)["spec"]["selector"], labels(pod)) for n in SERVICES
        )
        assert {port for peer in platform.allowed(pod, "egress") for port in peer.ports} == {53, 5432}
        assert list(platform.allowed(pod, "ingress")) == []


@pytest.mark.parametrize("directory", ["base", "migrations"])
def test_an_overlay_decides_where_the_image_comes_from(directory: str, tmp_path: Path) -> None:
    base = os.path.relpath(K8S / directory, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: ['{base}']\nimages: [{{name: dmp, newName: registry.example/health/dmp, newTag: '7'}}]\n"
    )
    images = {each["image"] for pod in Rendering(tuple(render(tmp_path))).pods() for each in pod["spec"]["containers"]}
    assert images == {"registry.example/health/dmp:7"}


@everywhere
def test_without_an_overlay_the_image_is_the_one_of_this_version(directory: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    images = {each["image"] for pod in Rendering.of(directory).pods() for each in pod["spec"]["containers"]}
    assert images == {f"dmp:{version}"}


def test_a_witness_has_nothing_in_common_with_the_platform(tmp_path: Path) -> None:
    """An account, a key, storage and a namespace of its own; it calls nobody, and only the audit service calls it."""
    rendering, platform = Rendering.of(WITNESS), Rendering.of("base")
    deployment = rendering.one("Deployment", "witness")
    assert {each["metadata"].get("namespace") for each in rendering.manifests} == {"dmp-witness", None}
    assert platform.one("Deployment", "audit")["metadata"]["namespace"] != "dmp-witness"
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    pod = rendering.pod("witness")
    [claim] = [each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each]
    assert rendering.one("PersistentVolumeClaim", "witness")["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert {each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each} == {"witness-key"}
    assert list(rendering.allowed(pod, "egress")) == []
    [caller] = rendering.allowed(pod, "ingress")
    assert (caller.ports, caller.namespaces) == (
        frozenset({8470}), {"matchLabels": {"kubernetes.io/metadata.name": "dmp"}}
    )  # fmt: skip
    assert caller.pods is not None
    assert selects(caller.pods, labels(platform.pod("audit")))
    labelled = rendering.one("Namespace", "dmp-witness")["metadata"]["labels"]
    assert any(
        peer.namespaces and selects(peer.namespaces, labelled) and 8470 in peer.ports
        for peer in platform.allowed(platform.pod("audit"), "egress")
    )
    mine = container(pod, "witness")
    told = rendering.environment(mine)
    mounts = {each["mountPath"] for each in mine["volumeMounts"] if each["name"] in ("key", claim["name"])}
    for name in ("KEY_FILE", "LOGS_FILE", "STORE"):
        assert str(Path(told[f"DMP_WITNESS_{name}"]).parent) in mounts
    for name in ("KEY_FILE", "LOGS_FILE"):
        file = tmp_path / name
        file.touch()
        told[f"DMP_WITNESS_{name}"] = str(file)
    settings = WitnessSettings(**{n.removeprefix("DMP_WITNESS_").lower(): v for n, v in told.items()})  # type: ignore[arg-type]
    assert port_of(settings.listen) == mine["ports"][0]["containerPort"] == 8470
