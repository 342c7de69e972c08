"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self, Unpack

import grpc
from keyswitch.v1 import dispatch_service_pb2 as pb
from keyswitch.v1 import event_pb2, registry_service_pb2, target_pb2
from keyswitch.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from keyswitch.v1.registry_service_pb2_grpc import RegistryServiceStub

from keyswitch_client.answers import Answer, FoldedStream
from keyswitch_client.arguments import Arguments
from keyswitch_client.channels import HEALTH_METHOD, channel_options, deadline, health_request, health_status
from keyswitch_client.dispatching import AsyncDispatch
from keyswitch_client.errors import KeyswitchError, bare, from_status, incomplete
from keyswitch_client.events import Event, TextDelta, read_event
from keyswitch_client.locality import LocalMode, LocalOptions, read_options
from keyswitch_client.requests import (
    Credentials,
    GenerateArguments,
    build,
    count_request,
    embed_request,
    hidden,
    hide_keys,
    models_request,
    validate_request,
)
from keyswitch_client.security import UnusableChannel, authorization, hidden_token, is_this_machine, may_send

__all__ = ["AsyncClient", "AsyncStream"]


def _translate(error: grpc.aio.AioRpcError) -> KeyswitchError:
    bare(error)
    return from_status(error.code(), error.details(), error.trailing_metadata())


def _cancelled(error: asyncio.CancelledError) -> asyncio.CancelledError | KeyswitchError:
    """Return what a cancelled call raises; gRPC raises the same whether its caller was cancelled or only the call."""
    bare(error)
    task = asyncio.current_task()
    if task is None or task.cancelling():
        return error
    return from_status(grpc.StatusCode.CANCELLED, "the stream was left, or the client closed", None)


class AsyncStream(FoldedStream):
    """The events of one answer, once through; leaving its context cancels what is still running.

    ::

        async with client.stream(model="sandbox/echo", credentials={"sandbox": "k"}, messages="hi") as stream:
            async for event in stream:
                ...
        print(stream.text, stream.usage)
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, pb.StreamGenerateResponse]) -> None:
        """Read from *call*."""
        super().__init__()
        self._call = call
        self._events = self._read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the call if it is still running."""
        self._call.cancel()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over what is left of the events."""
        return self._events

    async def messages(self) -> AsyncIterator[event_pb2.Event]:
        """Iterate over the contract's own messages instead, including those of a newer server."""
        try:
            async for response in self._call:
                for message in response.events:
                    event = read_event(message)
                    if event is not None:
                        self._fold.add(event)
                    yield message
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from None
        except asyncio.CancelledError as error:
            raise _cancelled(error) from None
        finally:
            self._call.cancel()
        if self._fold.finished is None:
            raise incomplete()

    async def _read(self) -> AsyncIterator[Event]:
        async for message in self.messages():
            event = read_event(message)
            if event is not None and self._fold.knows(event):
                yield event

    async def text_deltas(self) -> AsyncIterator[str]:
        """Iterate over the visible text alone."""
        async for event in self._events:
            if isinstance(event, TextDelta):
                yield event.text

    async def final(self) -> Answer:
        """Read to the end and return the whole answer."""
        async for _ in self._events:
            pass
        return self._fold.answer()


class AsyncClient:
    """A client of one keyswitch server, an async context manager.

    ::

        async with AsyncClient("127.0.0.1:50551") as client:
            answer = await client.generate(model="sandbox/echo", credentials={"sandbox": "k"}, messages="hi")
            print(answer.text)
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50551",
        *,
        tls: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        insecure: bool = False,
        timeout: float | None = 600.0,
        retries: bool = True,
        local: LocalMode | LocalOptions = "never",
    ) -> None:
        """Connect to *target* on first use; *timeout* is the default deadline of a call in seconds.

        *tls* is what `tls_credentials` returns, None for none, and then the target has to be on this machine unless
        *insecure* says that keys and token may travel unencrypted. *token* proves to the server who calls. *local* says
        which calls are made from this process instead, as `keyswitch_client.locality` describes: none (`never`), those
        to local endpoints (`auto`), or all (`always`). The last two need the extra `keyswitch[local]`, and are for
        programs whose user is who asks: where others say which endpoint is called, they would reach this network.

        Raises:
            TypeError: the token is no text.
            ValueError: the target may be another machine, and there is no TLS; the token is none, or *local* no mode.
                Where some calls are made from this process, those that are not raise it for want of TLS instead.
        """
        self._target = target
        if not isinstance(token, str | None):
            token = None  # whatever fails has this variable in its traceback
            raise TypeError("a token is text")
        token = hidden_token(token)  # for the same reason
        self._metadata = authorization(token)
        local_options = read_options(local)
        sends = may_send(target, safe=tls is not None or insecure, calls_here=local_options.mode != "never")
        options = channel_options(target, retries=retries, proxies=tls is not None or not is_this_machine(target))
        self._timeout = timeout
        self._channel = (
            grpc.aio.insecure_channel(target, options) if tls is None else grpc.aio.secure_channel(target, tls, options)
        )
        channel: Any = self._channel if sends else UnusableChannel()
        self._dispatch: Any = AsyncDispatch(DispatchServiceStub(channel), local_options)
        self._registry = RegistryServiceStub(channel)
        self._health: Any = channel.unary_unary(HEALTH_METHOD, response_deserializer=health_status)

    def __repr__(self) -> str:
        return f"AsyncClient({self._target!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self.close()

    async def close(self) -> None:
        """Close the channel, and what was opened in this process; calls that are still running are cancelled."""
        await self._dispatch.close()
        await self._channel.close()

    async def generate(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the deadline of the call, which gRPC keeps
        **arguments: Unpack[Arguments],
    ) -> Answer:
        """Answer a conversation, whole. *timeout* is in seconds. Raises `KeyswitchError`."""
        hide_keys(arguments)
        request = build(pb.GenerateRequest, GenerateArguments(**arguments))
        return Answer(await self._unary(self._dispatch.Generate, request, timeout))

    def stream(self, *, timeout: float | None = None, **arguments: Unpack[Arguments]) -> AsyncStream:
        """Answer a conversation as a stream. *timeout* is in seconds. Reading it raises `KeyswitchError`."""
        hide_keys(arguments)
        request = build(pb.StreamGenerateRequest, GenerateArguments(**arguments))
        return AsyncStream(
            self._dispatch.StreamGenerate(request, timeout=deadline(timeout, self._timeout), metadata=self._metadata)
        )

    async def explain(self, *, include_body: bool = False, **arguments: Unpack[Arguments]) -> pb.ExplainRouteResponse:
        """Say where a call would go, without making it; with *include_body* what would be sent, without content.

        Raises `KeyswitchError` as the call would.
        """
        hide_keys(arguments)
        request = build(pb.ExplainRouteRequest, GenerateArguments(**arguments))
        request.include_body = include_body
        response: pb.ExplainRouteResponse = await self._unary(self._dispatch.ExplainRoute, request, None)
        return response

    async def embed(
        self,
        inputs: Sequence[str],
        *,
        model: str,
        provider: str = "",
        region: str = "",
        credentials: Credentials = MappingProxyType({}),
        dimensions: int | None = None,
        purpose: str = "",
        options: Mapping[str, Any] | str = "",
        fallbacks: Sequence[str | target_pb2.Target] = (),
        max_attempts: int = 0,
        hedge_after: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109 - the deadline of the call, which gRPC keeps
    ) -> pb.EmbedResponse:
        """Turn texts into vectors, in the order of *inputs*. *timeout* is in seconds. Raises `KeyswitchError`.

        *fallbacks*, *max_attempts* and *hedge_after* are as in `GenerateArguments`.
        """
        credentials = hidden(credentials)
        request = embed_request(
            inputs, model=model, provider=provider, region=region, credentials=credentials, dimensions=dimensions,
            purpose=purpose, options=options, fallbacks=fallbacks, max_attempts=max_attempts, hedge_after=hedge_after,
        )  # fmt: skip
        response: pb.EmbedResponse = await self._unary(self._dispatch.Embed, request, timeout)
        return response

    async def count_tokens(self, **arguments: Unpack[Arguments]) -> int:
        """Return the provider's own count of a conversation's tokens. Raises `KeyswitchError`.

        Raises:
            TypeError: there are limits (`max_attempts`, `hedge_after`, `coalesce_window`), which a count does not have.
        """
        hide_keys(arguments)
        request = count_request(GenerateArguments(**arguments))
        response: pb.CountTokensResponse = await self._unary(self._dispatch.CountTokens, request, None)
        return response.input_tokens

    async def provider_models(
        self, provider: str, *, region: str = "", credentials: Credentials = MappingProxyType({})
    ) -> list[pb.ProviderModel]:
        """Return the models that a provider lists, in its order. Raises `KeyswitchError`."""
        credentials = hidden(credentials)
        request = models_request(provider, region=region, credentials=credentials)
        response: pb.ListProviderModelsResponse = await self._unary(self._dispatch.ListProviderModels, request, None)
        return list(response.models)

    async def validate_credential(
        self, provider: str, *, model: str = "", region: str = "", credentials: Credentials
    ) -> pb.ValidateCredentialResponse:
        """Ask the provider, in at most 3 seconds, whether its credential is good. Raises `KeyswitchError`."""
        credentials = hidden(credentials)
        request = validate_request(provider, model=model, region=region, credentials=credentials)
        response: pb.ValidateCredentialResponse = await self._unary(self._dispatch.ValidateCredential, request, None)
        return response

    async def providers(self, query: str = "") -> list[registry_service_pb2.Provider]:
        """Return the providers that all words of *query* occur in, sorted by id."""
        found: list[registry_service_pb2.Provider] = []
        token = ""
        while True:
            request = registry_service_pb2.ListProvidersRequest(query=query, page_token=token)
            page = await self._unary(self._registry.ListProviders, request, None)
            found += page.providers
            token = page.next_page_token
            if not token:
                return found

    async def models(
        self,
        query: str = "",
        *,
        provider: str = "",
        keyed_providers: Sequence[str] = (),
        allow_platform: bool = False,
        tenant: str = "",
    ) -> list[registry_service_pb2.Model]:
        """Return the models that a request could name with keys of these providers, sorted by provider and id.

        All words of *query* occur in each or its provider. Raises `KeyswitchError`.
        """
        found: list[registry_service_pb2.Model] = []
        token = ""
        while True:
            request = registry_service_pb2.ListModelsRequest(
                query=query, provider=provider, keyed_providers=keyed_providers, allow_platform=allow_platform,
                tenant=tenant, page_token=token,
            )  # fmt: skip
            page = await self._unary(self._registry.ListModels, request, None)
            found += page.models
            token = page.next_page_token
            if not token:
                return found

    async def registry_info(self) -> registry_service_pb2.GetRegistryInfoResponse:
        """Return which registry and version the server has."""
        request = registry_service_pb2.GetRegistryInfoRequest()
        response: registry_service_pb2.GetRegistryInfoResponse = await self._unary(
            self._registry.GetRegistryInfo, request, None
        )
        return response

    async def health(self, service: str = "") -> str:
        """Return the health of a service, for example `SERVING`; of the whole server if the name is empty.

        Raises `ValueError` for a name of more than 127 bytes.
        """
        status: str = await self._unary(self._health, health_request(service), None)
        return status

    async def _unary(self, method: Any, request: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - likewise
        """Make a unary call."""
        try:
            return await method(request, timeout=deadline(timeout, self._timeout), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from None
        except asyncio.CancelledError as error:
            raise _cancelled(error) from None
