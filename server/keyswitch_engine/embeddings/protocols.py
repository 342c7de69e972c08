"""The embeddings protocols of OpenAI, Google, Cohere, Bedrock and Ollama."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from keyswitch_engine.dialects.aws import read_aws_error
from keyswitch_engine.dialects.base import Flags, Profile, UpstreamRequest
from keyswitch_engine.dialects.errors import read_error
from keyswitch_engine.dialects.reading import decode, first_count
from keyswitch_engine.dialects.writing import encode_body, unsupported
from keyswitch_engine.embeddings.base import EmbeddingInput, Embeddings, NoFlags
from keyswitch_engine.errors import ProtocolError, ProviderError
from keyswitch_engine.events import ReportedUsage, Usage
from keyswitch_engine.wire import MALFORMED_JSON

__all__ = [
    "BedrockEmbeddings",
    "CohereEmbeddings",
    "GeminiEmbeddings",
    "OllamaEmbeddings",
    "OpenAIEmbeddings",
    "VertexEmbeddings",
]


def _request(profile: Profile, model: str, body: dict[str, Any], options_json: str) -> UpstreamRequest:
    """Return a request with a JSON body."""
    return UpstreamRequest.json(profile.endpoint(model, stream=False), encode_body(body, options_json), stream=False)


def _usage(count: float | None) -> Usage | None:
    """Return the count of what went in, if there is one."""
    tokens = first_count(count)
    return None if tokens is None else Usage(tokens, reported=ReportedUsage(tokens))


class _Common:
    """What the protocols have in common."""

    flags: type[Flags] = NoFlags

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an error; see `EmbeddingDialect.error`."""
        return read_error(body, status, profile.error_rules, headers)


class _OpenAIRow(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _OpenAIUsage(msgspec.Struct):
    prompt_tokens: float | None = None


class _OpenAIAnswer(msgspec.Struct):
    data: list[_OpenAIRow]
    model: str | None = None
    usage: _OpenAIUsage | None = None


_OPENAI = msgspec.json.Decoder(_OpenAIAnswer)


class OpenAIEmbeddings(_Common):
    """platform.openai.com/docs/api-reference/embeddings, and its many re-implementers."""

    name = "openai"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write one request; see `EmbeddingDialect.requests`."""
        if given.purpose:
            raise unsupported("purpose")
        body: dict[str, Any] = {"model": model, "input": given.texts}
        if given.dimensions is not None:
            body["dimensions"] = given.dimensions
        if given.end_user_id:
            body["user"] = given.end_user_id
        return (_request(profile, model, body, options_json),)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer, whose rows may be in any order and whose vectors may be little-endian floats in base64."""
        answer = decode(_OPENAI, body)
        rows = sorted(enumerate(answer.data), key=lambda item: item[0] if item[1].index is None else item[1].index)
        usage = _usage(answer.usage.prompt_tokens) if answer.usage is not None else None
        return Embeddings(tuple(_vector(row.embedding) for _, row in rows), usage, answer.model or "")


def _vector(value: list[float] | str) -> tuple[float, ...]:
    """Return a vector's components."""
    if isinstance(value, list):
        return tuple(value)
    try:
        data = base64.b64decode(value, validate=True)
        return struct.unpack(f"<{len(data) // 4}f", data)
    except (binascii.Error, ValueError, struct.error) as error:
        raise ProtocolError("the provider sent a vector that is none") from error


class _Values(msgspec.Struct):
    values: list[float]


class _GeminiAnswer(msgspec.Struct):
    embeddings: list[_Values]


_GEMINI = msgspec.json.Decoder(_GeminiAnswer)


class GeminiEmbeddings(_Common):
    """ai.google.dev/api/embeddings, method batchEmbedContents."""

    name = "gemini"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write one request; see `EmbeddingDialect.requests`."""
        if given.end_user_id:
            raise unsupported("end_user_id")
        model = model.removeprefix("models/")
        extra: dict[str, Any] = {}
        if given.purpose:
            extra["taskType"] = given.purpose
        if given.dimensions is not None:
            extra["outputDimensionality"] = given.dimensions
        rows = [{"model": f"models/{model}", "content": {"parts": [{"text": text}]}} | extra for text in given.texts]
        return (_request(profile, model, {"requests": rows}, options_json),)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer; it counts nothing."""
        return Embeddings(tuple(tuple(row.values) for row in decode(_GEMINI, body).embeddings))


class _Statistics(msgspec.Struct):
    token_count: float | None = None


class _VertexVector(msgspec.Struct):
    values: list[float]
    statistics: _Statistics | None = None


class _VertexRow(msgspec.Struct):
    embeddings: _VertexVector


class _VertexAnswer(msgspec.Struct):
    predictions: list[_VertexRow]


_VERTEX = msgspec.json.Decoder(_VertexAnswer)


class VertexEmbeddings(_Common):
    """cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api."""

    name = "vertex"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write one request; see `EmbeddingDialect.requests`."""
        if given.end_user_id:
            raise unsupported("end_user_id")
        extra = {"task_type": given.purpose} if given.purpose else {}
        body: dict[str, Any] = {"instances": [{"content": text} | extra for text in given.texts]}
        if given.dimensions is not None:
            body["parameters"] = {"outputDimensionality": given.dimensions}
        return (_request(profile, model, body, options_json),)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer, which counts each text by itself."""
        rows = [row.embeddings for row in decode(_VERTEX, body).predictions]
        counts = [row.statistics.token_count for row in rows if row.statistics is not None]
        known = [count for count in counts if count is not None]
        usage = _usage(sum(known)) if rows and len(known) == len(rows) else None
        return Embeddings(tuple(tuple(row.values) for row in rows), usage)


class _CohereVectors(msgspec.Struct, rename={"floats": "float"}):
    floats: list[list[float]]


class _CohereUnits(msgspec.Struct):
    input_tokens: float | None = None


class _CohereMeta(msgspec.Struct):
    billed_units: _CohereUnits | None = None


class _CohereAnswer(msgspec.Struct):
    embeddings: _CohereVectors | list[list[float]]
    meta: _CohereMeta | None = None


_COHERE = msgspec.json.Decoder(_CohereAnswer)


def _read_cohere(body: bytes) -> Embeddings:
    """Read an answer of Cohere's."""
    answer = decode(_COHERE, body)
    rows = answer.embeddings if isinstance(answer.embeddings, list) else answer.embeddings.floats
    units = answer.meta.billed_units if answer.meta is not None else None
    usage = _usage(units.input_tokens) if units is not None else None
    return Embeddings(tuple(tuple(row) for row in rows), usage)


class CohereEmbeddings(_Common):
    """docs.cohere.com/reference/embed. Its models want to know what vectors are for: for documents, unless said."""

    name = "cohere-v2"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write one request; see `EmbeddingDialect.requests`."""
        if given.end_user_id:
            raise unsupported("end_user_id")
        body: dict[str, Any] = {
            "model": model,
            "input_type": given.purpose or "search_document",
            "texts": given.texts,
            "embedding_types": ["float"],
        }
        if given.dimensions is not None:
            body["output_dimension"] = given.dimensions
        return (_request(profile, model, body, options_json),)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer; see `EmbeddingDialect.read`."""
        return _read_cohere(body)


class _TitanAnswer(msgspec.Struct, rename={"count": "inputTextTokenCount"}):
    embedding: list[float]
    count: float | None = None


_TITAN = msgspec.json.Decoder(_TitanAnswer)


class BedrockEmbeddings(_Common):
    """InvokeModel with Cohere's or Amazon Titan's embedding models, which take one text a request.

    docs.aws.amazon.com/bedrock/latest/userguide, "Amazon Titan Text Embeddings" and "Cohere Embed".
    """

    name = "bedrock"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write the requests; see `EmbeddingDialect.requests`."""
        if given.end_user_id:
            raise unsupported("end_user_id")
        if "cohere." in model:
            body: dict[str, Any] = {"texts": given.texts, "input_type": given.purpose or "search_document"}
            if given.dimensions is not None:
                body["output_dimension"] = given.dimensions
            return (_request(profile, model, body | {"embedding_types": ["float"]}, options_json),)
        if given.purpose:
            raise unsupported("purpose")
        extra = {"dimensions": given.dimensions} if given.dimensions is not None else {}
        return tuple(_request(profile, model, {"inputText": text} | extra, options_json) for text in given.texts)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer of either family, told apart by what it holds."""
        try:
            answer = _TITAN.decode(body)
        except MALFORMED_JSON:
            return _read_cohere(body)
        return Embeddings((tuple(answer.embedding),), _usage(answer.count))

    def error(self, profile: Profile, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Read an error; see `EmbeddingDialect.error`."""
        return read_aws_error(body, status, profile.error_rules, headers)


class _OllamaAnswer(msgspec.Struct):
    embeddings: list[list[float]]
    model: str | None = None
    prompt_eval_count: float | None = None


_OLLAMA = msgspec.json.Decoder(_OllamaAnswer)


class OllamaEmbeddings(_Common):
    """github.com/ollama/ollama/blob/main/docs/api.md, "Generate Embeddings"."""

    name = "ollama"

    def requests(
        self, given: EmbeddingInput, model: str, profile: Profile, options_json: str
    ) -> tuple[UpstreamRequest, ...]:
        """Write one request; see `EmbeddingDialect.requests`."""
        for field in ("purpose", "end_user_id"):
            if getattr(given, field):
                raise unsupported(field)
        body: dict[str, Any] = {"model": model, "input": given.texts}
        if given.dimensions is not None:
            body["dimensions"] = given.dimensions
        return (_request(profile, model, body, options_json),)

    def read(self, body: bytes) -> Embeddings:
        """Read an answer; see `EmbeddingDialect.read`."""
        answer = decode(_OLLAMA, body)
        return Embeddings(
            tuple(tuple(row) for row in answer.embeddings), _usage(answer.prompt_eval_count), answer.model or ""
        )
