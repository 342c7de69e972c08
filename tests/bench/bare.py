"""The floor for benchmarks: a bare grpc.aio server that answers with constants."""

from __future__ import annotations

import asyncio
import json

import grpc
from keyswitch.v1 import dispatch_service_pb2 as pb


async def main() -> None:
    """Serve until the process is ended."""
    answer = pb.GenerateResponse()
    answer.message.parts.add().text.text = "Hello! This is a constant answer, long enough to look like a real one."
    batch = pb.StreamGenerateResponse()
    batch.events.add().finished.raw_stop_reason = "stop"

    async def generate(request: pb.GenerateRequest, context: object) -> pb.GenerateResponse:
        return answer

    async def stream(request: pb.StreamGenerateRequest, context: grpc.aio.ServicerContext) -> None:
        await context.write(batch)

    handlers = {
        "Generate": grpc.unary_unary_rpc_method_handler(
            generate, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
        ),
        "StreamGenerate": grpc.unary_stream_rpc_method_handler(
            stream, pb.StreamGenerateRequest.FromString, pb.StreamGenerateResponse.SerializeToString
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("keyswitch.v1.DispatchService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
