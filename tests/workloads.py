"""Rendered manifests as tests ask about them: who selects whom, who may reach whom, what a process is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.settings import GatewaySettings
from ops.local.state import ServiceName
from ops.manifests import K8S, Manifest, render
from services.audit.settings import AuditSettings
from services.consent.settings import ConsentSettings
from services.document.settings import DocumentSettings
from services.identity.settings import IdentitySettings
from services.runtime.settings import ServiceSettings

SETTINGS: Final[Mapping[ServiceName, type[ServiceSettings]]] = {
    "identity": IdentitySettings,
    "consent": ConsentSettings,
    "document": DocumentSettings,
    "audit": AuditSettings,
    "gateway": GatewaySettings,
}
CALLS: Final[Mapping[ServiceName, frozenset[str]]] = {
    "identity": frozenset({"consent", "audit"}),
    "consent": frozenset({"audit", "document"}),
    "document": frozenset({"identity", "consent", "audit"}),
    "audit": frozenset({"identity", "consent"}),
    "gateway": frozenset({"identity", "consent", "document", "audit"}),
}
"""Who calls whom (design §2)."""
NAME: Final = "app.kubernetes.io/name"

# What a Secret that an operator makes holds, where a volume does not list it (docs/how-to/deploy.md).
SECRET_FILES: Final = {
    "log-keys": ("0.skey",),
    "tls": ("tls.crt", "tls.key", "ca.crt"),
    "keyring": ("1.key", "current", "digest"),
    "database": ("dsn",),
    "token-keys": ("jwks.json",),
    "token-signing-key": ("key.jwk",),
    "registrations": ("registrations.json",),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One allowed direction of a network policy: to pods of this namespace or of others, or (neither) to anything."""

    pods: Manifest | None
    namespaces: Manifest | None
    ports: frozenset[int]


@dataclass(frozen=True)
class Rendering:
    """What applying one kustomization makes."""

    manifests: tuple[Manifest, ...]

    @classmethod
    @cache
    def of(cls, directory: str) -> Rendering:
        """The rendering of a directory below k8s/."""
        return cls(tuple(render(K8S / directory)))

    def all(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def names(self, kind: str) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in self.all(kind)}

    def one(self, kind: str, name: str) -> Manifest:
        (manifest,) = (manifest for manifest in self.all(kind) if manifest["metadata"]["name"] == name)
        return manifest

    def pods(self) -> list[Manifest]:
        """The pod templates of all workloads and jobs."""
        return [manifest["spec"]["template"] for kind in ("Deployment", "Job") for manifest in self.all(kind)]

    def pod(self, workload: str) -> Manifest:
        """The pod template of a workload."""
        template: Manifest = self.one("Deployment", workload)["spec"]["template"]
        return template

    def environment(self, container: Manifest) -> dict[str, str]:
        """The variables of a container, from its ConfigMaps and its own list."""
        told: dict[str, str] = {}
        for source in container.get("envFrom", []):
            told |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        return told | {variable["name"]: variable["value"] for variable in container.get("env", [])}

    def allowed(self, pod: Manifest, direction: str) -> Iterator[Peer]:
        """What the network policies that select this pod allow: `ingress` from whom, `egress` to whom."""
        side = "from" if direction == "ingress" else "to"
        for policy in self.all("NetworkPolicy"):
            if not selects(policy["spec"]["podSelector"], labels(pod)):
                continue
            for rule in policy["spec"].get(direction, []):
                ports = frozenset(port["port"] for port in rule["ports"])
                for peer in rule.get(side, [{}]):
                    assert set(peer) <= {"podSelector", "namespaceSelector"}
                    yield Peer(peer.get("podSelector"), peer.get("namespaceSelector"), ports)

    def reaches(self, pod: Manifest, direction: str, port: int) -> set[str]:
        """The workloads of this namespace that policies let a pod talk to, or be talked to by, on a port."""
        inside = [peer for peer in self.allowed(pod, direction) if peer.pods is not None and peer.namespaces is None]
        return {
            name
            for name in SETTINGS
            for peer in inside
            if peer.pods is not None and port in peer.ports and selects(peer.pods, labels(self.pod(name)))
        }


def labels(pod: Manifest) -> dict[str, str]:
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


def selects(selector: Manifest, labelled: Mapping[str, str]) -> bool:
    """Whether a label selector selects; only the parts of selectors that these manifests use are known."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return all(labelled.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labelled.get(expression["key"]) in expression["values"] for expression in expressions
    )


def containers(pod: Manifest) -> list[Manifest]:
    """The containers of a pod, its sidecars first."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(pod: Manifest, name: str = "service") -> Manifest:
    """A container of a pod, by name."""
    (found,) = (each for each in containers(pod) if each["name"] == name)
    return found


def mounted(pod: Manifest, of: Manifest, root: Path) -> Path:
    """Make the files that a container finds mounted, below `root`, which is returned."""
    volumes: dict[str, Any] = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for mount in of["volumeMounts"]:
        directory = root / mount["mountPath"].lstrip("/")
        directory.mkdir(parents=True)
        if "secret" in volumes[mount["name"]]:
            for file in SECRET_FILES[mount["name"]]:
                (directory / file).write_text("made up")
    return root


def port_of(address: str) -> int:
    """The port of host:port."""
    return int(address.rpartition(":")[2])
