"""Who may call what, read once from the `(dmp.common.v1.access)` option of each method. No decision here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from dmp.common.v1 import access_pb2
from dmp.common.v1.context_pb2 import ActingContext


@dataclass(frozen=True, slots=True)
class MethodAccess:
    """The rule of one RPC, and the message types that it speaks."""

    path: str
    callers: frozenset[int]
    transaction: str
    scopes: frozenset[str]
    audit_action: str
    dossier_field: str
    traffic: int
    mutation: bool
    states_actor: bool
    server_streaming: bool
    request: type[Message]
    response: type[Message]
    dossier_optional: bool = False
    client_streaming: bool = False
    """Whether the request is a stream. Its first message routes the call."""
    sandbox: bool = False
    """Whether software on trial may call it: it is about one dossier, or its service keeps it to fictitious people."""


class MissingAccess(Exception):
    """A method without the access option: the service refuses to start."""


def methods_of(services: Iterable[ServiceDescriptor]) -> Mapping[str, MethodAccess]:
    """Every method of the services by its path ``/package.Service/Method``."""
    return MappingProxyType({m.path: m for service in services for m in map(_read, service.methods)})


def _read(method: MethodDescriptor) -> MethodAccess:
    path = f"/{method.containing_service.full_name}/{method.name}"
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise MissingAccess(f"{path} has no (dmp.common.v1.access) option")
    access = options.Extensions[access_pb2.access]
    return MethodAccess(
        path=path,
        callers=frozenset(access.callers),
        transaction=access.transaction,
        scopes=frozenset(access.scopes),
        audit_action=access.audit_action,
        dossier_field=access.dossier_field,
        traffic=access.traffic or access_pb2.TRAFFIC_CLASS_CARE,
        mutation=access.mutation,
        sandbox=access.sandbox or bool(access.dossier_field),
        states_actor=_states_actor(method.input_type, set()),
        server_streaming=method.server_streaming,
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        dossier_optional=access.dossier_optional,
        client_streaming=method.client_streaming,
    )


def _states_actor(message: Descriptor, seen: set[str]) -> bool:
    """Whether a request can state who acts: only the platform's own services may send such a one."""
    if message.full_name == ActingContext.DESCRIPTOR.full_name:
        return True
    seen.add(message.full_name)
    return any(
        field.message_type is not None
        and field.message_type.full_name not in seen
        and _states_actor(field.message_type, seen)
        for field in message.fields
    )
