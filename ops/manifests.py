"""Renders the Kubernetes manifests and validates them strictly: `python -m ops.manifests`. Nothing reaches a cluster.

What every workload must have beyond a valid schema is in tests/unit/test_manifests.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]  # has types, but not the marker
import yaml

K8S: Final = Path(__file__).resolve().parents[1] / "k8s"
KUBERNETES: Final = ("1.31", "1.37")
"""The oldest and the newest version that the manifests are for."""
_KUBECTL: Final = Path(sys.executable).with_name("kubectl")

Manifest = dict[str, Any]
"""One Kubernetes object, as its API describes it."""


class RenderError(Exception):
    """A kustomization cannot be rendered; the message is kustomize's."""


def kustomizations() -> list[Path]:
    """Every directory that can be applied."""
    return sorted(file.parent for file in K8S.rglob("kustomization.yaml"))


def render(directory: Path) -> list[Manifest]:
    """The objects that applying `directory` would make. Raises RenderError."""
    done = subprocess.run([_KUBECTL, "kustomize", directory], capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr:
        raise RenderError(done.stderr.strip())
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def violations(manifest: Manifest) -> list[str]:
    """What is wrong with an object in one of the versions; a kind that they do not know is wrong too."""
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name} ({version}): {'.'.join(str(part) for part in error.path)}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{name} ({version}): {error.message}")
    return found


def main() -> int:
    """Validate every kustomization; 1 when something is wrong."""
    status = 0
    for directory in kustomizations():
        shown = directory.relative_to(K8S.parent)
        try:
            manifests = render(directory)
        except RenderError as error:
            print(f"{shown}: {error}")
            status = 1
            continue
        problems = [problem for manifest in manifests for problem in violations(manifest)]
        print(f"{shown}: {len(manifests)} objects, {len(problems)} violations", *problems, sep="\n  ")
        status |= bool(problems)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
