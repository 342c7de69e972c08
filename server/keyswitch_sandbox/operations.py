"""What the sandbox answers beside generations: embeddings, token counts and lists of models, in each provider's form.

A text's vector begins with its number of words and its number of characters, so that texts can be told apart; tokens
are words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from keyswitch_sandbox.scenarios import SCENARIOS

__all__ = ["answer"]

_Body: TypeAlias = dict[str, Any]
_MODELS = [f"sandbox/{name}" for name in SCENARIOS]


def _vector(text: str, size: int | None = None) -> list[float]:
    values = [float(len(text.split())), float(len(text)), 0.5, -0.5]
    return (values * ((size or 4) // 4 + 1))[: size or 4]


def _words(value: Any) -> int:
    """Count the words of every text in a request."""
    match value:
        case dict():
            return sum(_words(inner) for name, inner in value.items() if name not in ("role", "type", "model", "name"))
        case list():
            return sum(_words(inner) for inner in value)
        case str():
            return len(value.split())
        case _:
            return 0


def _openai_embeddings(body: _Body) -> Any:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    rows = [{"index": n, "embedding": _vector(text, body.get("dimensions"))} for n, text in enumerate(texts)]
    tokens = _words(texts)
    return {"data": rows[::-1], "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _gemini_embeddings(body: _Body) -> Any:
    rows = [(row["content"]["parts"][0]["text"], row.get("outputDimensionality")) for row in body["requests"]]
    return {"embeddings": [{"values": _vector(text, size)} for text, size in rows]}


def _vertex_embeddings(body: _Body) -> Any:
    size = body.get("parameters", {}).get("outputDimensionality")
    texts = [row["content"] for row in body["instances"]]
    return {
        "predictions": [
            {"embeddings": {"values": _vector(text, size), "statistics": {"token_count": _words(text)}}}
            for text in texts
        ]
    }


def _cohere_embeddings(body: _Body) -> Any:
    vectors = [_vector(text, body.get("output_dimension")) for text in body["texts"]]
    return {"embeddings": {"float": vectors}, "meta": {"billed_units": {"input_tokens": _words(body["texts"])}}}


def _bedrock_embeddings(body: _Body) -> Any:
    if "texts" in body:
        return {"embeddings": {"float": [_vector(text) for text in body["texts"]]}}
    text = body["inputText"]
    return {"embedding": _vector(text, body.get("dimensions")), "inputTextTokenCount": _words(text)}


def _ollama_embeddings(body: _Body) -> Any:
    vectors = [_vector(text, body.get("dimensions")) for text in body["input"]]
    return {"model": body["model"], "embeddings": vectors, "prompt_eval_count": _words(body["input"])}


_POSTS: Mapping[str, Callable[[_Body], Any]] = {
    r"/embeddings$": _openai_embeddings,
    r"/models/[^/]+:batchEmbedContents$": _gemini_embeddings,
    r"/models/[^/]+:predict$": _vertex_embeddings,
    r"/v2/embed$": _cohere_embeddings,
    r"/model/[^/]*embed[^/]*/invoke$": _bedrock_embeddings,
    r"/api/embed$": _ollama_embeddings,
    r"/messages/count_tokens$": lambda body: {"input_tokens": _words(body)},
    r"/responses/input_tokens$": lambda body: {"object": "response.input_tokens", "input_tokens": _words(body)},
    r"/tokenizers/estimate-token-count$": lambda body: {"data": {"total_tokens": _words(body)}},
    r"/models/[^/]+:countTokens$": lambda body: {"totalTokens": _words(body)},
    r"/model/[^/]+/count-tokens$": lambda body: {"inputTokens": _words(body)},
}

_PAGE = 5


def _anthropic_models(query: Mapping[str, str]) -> Any:
    begin = _MODELS.index(query["after_id"]) + 1 if "after_id" in query else 0
    page = _MODELS[begin : begin + _PAGE]
    data = [{"type": "model", "id": model, "display_name": model.title(), "max_input_tokens": 1000} for model in page]
    return {"data": data, "has_more": begin + _PAGE < len(_MODELS), "last_id": page[-1]}


def _gemini_models(query: Mapping[str, str]) -> Any:
    begin = int(query.get("pageToken") or 0)
    page = [{"name": f"models/{model}", "inputTokenLimit": 1000} for model in _MODELS[begin : begin + _PAGE]]
    more = begin + _PAGE < len(_MODELS)
    return {"models": page} | ({"nextPageToken": str(begin + _PAGE)} if more else {})


_GETS: dict[str, Callable[[Mapping[str, str]], Any]] = {
    r"/models$": lambda _: {"object": "list", "data": [{"id": model, "object": "model"} for model in _MODELS]},
    r"/catalog/models$": lambda _: [{"id": model, "name": model} for model in _MODELS],
    r"/anthropic/v1/models$": _anthropic_models,
    r"/v1beta/models$": _gemini_models,
    r"/cohere/v1/models$": lambda _: {"models": [{"name": model, "context_length": 1000} for model in _MODELS]},
    r"/api/tags$": lambda _: {"models": [{"name": model, "model": model} for model in _MODELS]},
    r"/foundation-models$": lambda _: {"modelSummaries": [{"modelId": model, "modelName": model} for model in _MODELS]},
    r"/models/search$": lambda _: {"result": [{"name": model} for model in _MODELS], "success": True},
}


def answer(method: str, path: str, query: Mapping[str, str], body: bytes) -> bytes | None:
    """Return the answer to a request, None if it is none of these.

    Raises:
        msgspec.DecodeError: the body is not JSON.
        KeyError: a field is missing.
    """
    if method == "GET":
        listing = next((_GETS[key] for key in reversed(_GETS) if re.search(key, path)), None)
        return None if listing is None else msgspec.json.encode(listing(query))
    for key, operation in _POSTS.items():
        if re.search(key, path):
            return msgspec.json.encode(operation(msgspec.json.decode(body, type=dict[str, Any])))
    return None
