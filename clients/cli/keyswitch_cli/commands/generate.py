"""`keyswitch generate`."""

from __future__ import annotations

import sys
from typing import TextIO

import click
from google.protobuf import json_format
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, usage_pb2
from keyswitch_client import Answer, Client, ReasoningDelta, RefusalDelta, Stream, TextDelta

from keyswitch_cli import credentials
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.selection import read_credentials, selection_options

__all__ = ["command"]

_EFFORTS = ("none", "minimal", "low", "medium", "high", "max")


@click.command("generate")
@click.argument("prompt", required=False)
@selection_options
@click.option(
    "-f", "--file", type=click.File("r", encoding="utf-8"), help="Reads the prompt from a file; - is standard input."
)
@click.option("-s", "--system", default="", help="Instructions that precede the conversation.")
@click.option("--max-output-tokens", type=click.IntRange(min=1), help="At most this many output tokens.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Randomness.")
@click.option("--reasoning-effort", type=click.Choice(_EFFORTS), default=None, help="How hard to think.")
@click.option("--json-schema", type=click.File("r", encoding="utf-8"), help="File with the JSON Schema of the answer.")
@click.option("--options", default="", metavar="JSON", help="JSON object merged into the provider's request.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, help="Seconds for the whole call."
)
@click.option("--stream/--no-stream", default=True, help="Whether the answer comes as it is generated.")
@click.option("--json", "as_json", is_flag=True, help="Prints events, or the whole answer, as JSON, one object a line.")
@click.option("-v", "--verbose", is_flag=True, help="Shows reasoning and the receipt on standard error.")
def command(  # noqa: PLR0917 - click passes them by name
    prompt: str | None,
    server: str,
    provider: str,
    model: str,
    api_keys: tuple[str, ...],
    credential_fields: tuple[str, ...],
    file: TextIO | None,
    system: str,
    max_output_tokens: int | None,
    temperature: float | None,
    reasoning_effort: str | None,
    json_schema: TextIO | None,
    options: str,
    timeout: float,
    *,
    stream: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Ask a model and stream its answer.

    The prompt is PROMPT, a file, or standard input. Text goes to standard output as it comes; tool calls follow it, one
    JSON object a line.
    """
    text = _prompt(prompt, file, stdin_taken=credentials.uses_stdin(api_keys, credential_fields))
    request = dispatch_service_pb2.GenerateRequest()
    if max_output_tokens is not None:
        request.sampling.max_output_tokens = max_output_tokens
    if temperature is not None:
        request.sampling.temperature = temperature
    if json_schema is not None:
        request.response_format.json_schema.json_schema = json_schema.read()
    if reasoning_effort is not None:
        request.reasoning.effort = conversation_pb2.ReasoningEffort.Value(
            f"REASONING_EFFORT_{reasoning_effort.upper()}"
        )
    keys = read_credentials(api_keys, credential_fields)
    with rpc_failures(), Client(server) as client:
        if stream:
            with client.stream(
                timeout=timeout, messages=text, system=system, provider=provider, model=model, credentials=keys,
                options=options, request=request,
            ) as events:  # fmt: skip
                answer = _print_events(events, as_json=as_json, verbose=verbose)
        else:
            answer = client.generate(
                timeout=timeout, messages=text, system=system, provider=provider, model=model, credentials=keys,
                options=options, request=request,
            )  # fmt: skip
            click.echo(json_format.MessageToJson(answer.response, indent=None) if as_json else answer.text)
    if not as_json:
        for call in answer.tool_calls:
            message = conversation_pb2.ToolCallPart(id=call.id, name=call.name, arguments_json=call.arguments_json)
            click.echo(json_format.MessageToJson(message, indent=None))
    if verbose:
        _print_receipt(answer)


def _prompt(prompt: str | None, file: TextIO | None, *, stdin_taken: bool) -> str:
    """Return the prompt from where it is."""
    if prompt is not None and prompt != "-" and file is not None:
        raise click.UsageError("give the prompt as an argument or as a file, not both")
    from_stdin = prompt == "-" or (prompt is None and file is None) or file is sys.stdin
    if from_stdin and stdin_taken:
        raise click.UsageError("standard input gives a key already; give the prompt as an argument or a file")
    if prompt is not None and prompt != "-":
        text = prompt
    elif file is not None:
        text = file.read()
    elif prompt is None and sys.stdin.isatty():
        raise click.UsageError("give a prompt, as an argument, with --file, or on standard input")
    else:
        text = sys.stdin.read()
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    return text


def _print_events(stream: Stream, *, as_json: bool, verbose: bool) -> Answer:
    """Print what comes, as it comes."""
    wrote = ""
    try:
        if as_json:
            for message in stream.messages():
                click.echo(json_format.MessageToJson(message, indent=None))
            return stream.answer
        for event in stream:
            match event:
                case TextDelta(text=text) | RefusalDelta(text=text):
                    wrote = text or wrote
                    click.echo(text, nl=False)
                case ReasoningDelta(text=text) if verbose:
                    click.echo(text, nl=False, err=True)
                case _:
                    pass
    finally:
        if wrote and not wrote.endswith("\n"):
            click.echo()
    return stream.answer


def _print_receipt(answer: Answer) -> None:
    """Print the receipt for people."""
    finished = answer.response.finished
    click.echo(f"model       {finished.answering_model}  ({answer.stop_reason})", err=True)
    usage = answer.usage
    if usage is not None:
        counts = usage if usage.HasField("input_tokens") else usage.reported
        click.echo(f"tokens      {counts.input_tokens} in, {counts.output_tokens} out", err=True)
    for attempt in answer.receipt.attempts:
        outcome = usage_pb2.AttemptOutcome.Name(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_").lower()
        billing = usage_pb2.Billing.Name(attempt.billing).removeprefix("BILLING_")
        times = ", ".join(
            f"{name} {duration.ToMicroseconds() / 1000:.1f} ms"
            for name, duration in (
                ("connect", attempt.connect_time),
                ("first token", attempt.first_token_time),
                ("total", attempt.total_time),
            )
        )
        click.echo(
            f"attempt {attempt.number}   {outcome} at {attempt.provider} ({attempt.origin_host}), "
            f"billing {billing}, HTTP {attempt.upstream_status}, {times}",
            err=True,
        )
