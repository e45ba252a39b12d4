"""Contents on a running platform: what is stored is verified, swept and wrapped anew by `dmp content`; and a content
that comes in one stream, through the relay and directly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.local.registrations import INTERNAL
from ops.session import Statement
from services.runtime.identifiers import dossier_name
from tests.documents import new_oid, submission
from tests.platform_calls import bearer, refusal_of
from tests.platform_fixture import METHODS, Platform
from tests.platform_process import dmp

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_operators_verify_sweep_and_wrap_keys_by_the_command(platform: Platform) -> None:
    await platform.patient()
    for arguments, said in (
        (("verify",), "0 faults"),
        (("verify", "--sample", "50"), "0 faults"),
        (("sweep",), "removed"),
        (("rewrap",), "wrapped 0 keys"),
    ):
        code, out, err = await dmp(platform, "content", *arguments)
        assert (code, said in out) == (0, True), (arguments, out, err)
    code, _, err = await dmp(platform, "content", "move", "objects")
    assert code == 1
    assert "no object store is configured" in err


@pytest.mark.parametrize("way", ["relay", "direct"])
async def test_a_content_comes_in_one_stream_and_is_submitted(platform: Platform, way: str) -> None:
    patient, without_dossier = await platform.patient(), await platform.registered()
    method = METHODS["/dmp.document.v1.DocumentService/UploadContent"]
    statement = patient.caregiver.statement()
    if way == "direct":
        statement = Statement(INTERNAL, statement.fields)
    stream: Any = platform.channel(way, method).stream_unary(method.path)
    metadata = tuple(bearer(await platform.token(way, statement)))
    content = patient.cda() + b"\n" * (3 << 20)

    async def sent(health_id: int) -> AsyncIterator[bytes]:
        begin = document_pb2.UploadContentRequest(
            parent=dossier_name(health_id), size=len(content), request_id=f"stream-{way}-{health_id}"
        )
        yield begin.SerializeToString()
        for start in range(0, len(content), 1 << 20):
            yield document_pb2.UploadContentRequest(chunk=content[start : start + (1 << 20)]).SerializeToString()

    answer = document_pb2.UploadContentResponse.FromString(
        await stream(sent(patient.health_id), metadata=metadata, timeout=60)
    )
    assert answer.upload.written == len(content)
    request = submission(patient.health_id, (document_pb2.Document(mime_type="text/xml"), b""))
    request.submission_set.unique_id = new_oid()
    request.documents[0].upload = answer.upload.name
    submitted = await platform.session.call(
        "document", "SubmitDocuments", request, document_pb2.SubmitDocumentsResponse, statement
    )
    assert submitted.documents[0].size == len(content)
    assert "document.upload" in {event.action for event in await platform.trail(patient.health_id, "document.upload")}
    call = stream(metadata=metadata, timeout=60)  # a client that goes on sending may miss why it was refused
    await call.write(await anext(sent(without_dossier.health_id)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refusal_of(refused.value).reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
