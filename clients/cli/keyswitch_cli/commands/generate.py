"""`keyswitch generate`."""

from __future__ import annotations

import sys

import click
from keyswitch.redaction import message_json
from keyswitch.v1 import conversation_pb2, dispatch_service_pb2, usage_pb2
from keyswitch_client import Answer, KeyswitchError, ReasoningDelta, RefusalDelta, Stream, TextDelta
from keyswitch_client.arguments import Arguments
from keyswitch_client.enums import value_name
from keyswitch_client.locality import LocalMode

from keyswitch_cli.command import RoutedCommand
from keyswitch_cli.connection import connect
from keyswitch_cli.failures import rpc_failures
from keyswitch_cli.inputs import read_file, read_stdin
from keyswitch_cli.options import Number, fallback_option, selection_options, timeout_option
from keyswitch_cli.output import TextOutput, print_line
from keyswitch_cli.targets import chosen_target, local_options

__all__ = ["command"]

_TIMES = ("connect_time", "first_token_time", "total_time")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "max")


@click.command("generate", cls=RoutedCommand)
@click.argument("prompt", required=False)
@selection_options
@click.option("-f", "--file", metavar="FILE", help="Reads the prompt from a file; - is standard input.")
@click.option("-s", "--system", default="", help="Instructions that precede the conversation.")
@click.option("--max-output-tokens", type=click.IntRange(1, 2**32 - 1), help="At most this many output tokens.")
@click.option("--temperature", type=Number(0, 2), help="Randomness.")
@click.option("--reasoning-effort", type=click.Choice(_EFFORTS), help="How hard to think.")
@click.option("--json-schema", metavar="FILE", help="File with the JSON Schema of the answer.")
@click.option("--options", default="", metavar="JSON", help="JSON object merged into the provider's request.")
@fallback_option
@click.option(
    "--max-attempts", type=click.IntRange(1, 10), help="Tries at one model; the server's default if not given."
)
@click.option(
    "--hedge-after",
    type=Number(min=0, min_open=True, max=3600),
    metavar="SECONDS",
    help="Second try beside the first if nothing comes; both may be billed.",
)
@timeout_option(600.0)
@click.option("--stream/--no-stream", default=True, help="Whether the answer comes as it is generated.")
@click.option("--json", "as_json", is_flag=True, help="Prints events, or the whole answer, as JSON, one object a line.")
@click.option("-v", "--verbose", is_flag=True, help="Shows reasoning and the receipt on standard error.")
def command(  # noqa: PLR0917 - click passes them by name
    prompt: str | None,
    server: str,
    provider: str,
    dialect: str,
    region: str,
    endpoint: str | None,
    base_url: str | None,
    endpoint_key: str | None,
    local: LocalMode,
    model: str,
    api_keys: tuple[str, ...],
    credential_fields: tuple[str, ...],
    tenant: str,
    file: str | None,
    system: str,
    max_output_tokens: int | None,
    temperature: float | None,
    reasoning_effort: str | None,
    json_schema: str | None,
    options: str,
    fallbacks: tuple[str, ...],
    max_attempts: int | None,
    hedge_after: float | None,
    timeout: float,
    *,
    allow_platform: bool,
    stream: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Ask a model and stream its answer.

    The prompt is PROMPT, a file, or standard input. Text goes to standard output as it comes; tool calls follow it, one
    JSON object a line.
    """
    text = _prompt(prompt, file)
    request = dispatch_service_pb2.GenerateRequest()
    if max_output_tokens is not None:
        request.sampling.max_output_tokens = max_output_tokens
    if temperature is not None:
        request.sampling.temperature = temperature
    if json_schema is not None:
        request.response_format.json_schema.json_schema = read_file(json_schema, "--json-schema")
    target = chosen_target(
        endpoint=endpoint, base_url=base_url, endpoint_key=endpoint_key,
        provider=provider, model=model, dialect=dialect, region=region, api_keys=api_keys,
        credential_fields=credential_fields, allow_platform=allow_platform, tenant=tenant, fallbacks=fallbacks,
    )  # fmt: skip
    arguments = Arguments(
        **target, messages=text, system=system, options=options, reasoning_effort=reasoning_effort or "",
        max_attempts=max_attempts or 0, hedge_after=hedge_after or 0.0, request=request,
    )  # fmt: skip
    with rpc_failures(), connect(server, local=local_options(local)) as client:
        try:
            if stream:
                with client.stream(timeout=timeout, **arguments) as events:
                    answer = _print_events(events, as_json=as_json, verbose=verbose)
            else:
                answer = client.generate(timeout=timeout, **arguments)
                _print_whole(answer, as_json=as_json, verbose=verbose)
        except KeyswitchError as error:
            if verbose:
                _print_attempts(error.receipt)
            raise
    if not as_json:
        for call in answer.tool_calls:
            message = conversation_pb2.ToolCallPart(id=call.id, name=call.name, arguments_json=call.arguments_json)
            print_line(message_json(message))
    if verbose:
        _print_receipt(answer)


def _prompt(prompt: str | None, file: str | None) -> str:
    """Return the prompt from where it is."""
    if prompt is not None and file is not None:
        raise click.UsageError("give the prompt as an argument or as a file, not both")
    if prompt is not None and prompt != "-":
        text = prompt
    elif file is not None and file != "-":
        text = read_file(file, "--file")
    elif prompt is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("give a prompt, as an argument, with --file, or on standard input")
    else:
        text = read_stdin("the prompt")
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    return text


def _print_events(stream: Stream, *, as_json: bool, verbose: bool) -> Answer:
    """Print what comes, as it comes."""
    if as_json:
        for message in stream.messages():
            print_line(message_json(message))
        return stream.answer
    visible, reasoning = TextOutput(), TextOutput(err=True)
    try:
        for event in stream:
            match event:
                case TextDelta(text=text) | RefusalDelta(text=text):
                    reasoning.end_line()
                    visible.write(text)
                case ReasoningDelta(text=text) if verbose:
                    reasoning.write(text)
                case _:
                    pass
    finally:
        reasoning.end_line()
        visible.end_line()
    return stream.answer


def _print_whole(answer: Answer, *, as_json: bool, verbose: bool) -> None:
    """Print an answer that came at once, as it would have been streamed."""
    if as_json:
        print_line(message_json(answer.response))
        return
    visible, reasoning = TextOutput(), TextOutput(err=True)
    if verbose:
        reasoning.write(answer.reasoning)
        reasoning.end_line()
    for part in answer.message.parts:
        visible.write(part.text.text or part.refusal.text)
    visible.end_line()


def _print_receipt(answer: Answer) -> None:
    """Print the receipt for people."""
    print_line(f"model       {answer.response.finished.answering_model}  ({answer.stop_reason})", err=True)
    usage = answer.usage
    if usage is not None:
        counts = usage if usage.HasField("input_tokens") else usage.reported
        known = [f"{counts.input_tokens} in"] if counts.HasField("input_tokens") else []
        known += [f"{counts.output_tokens} out"] if counts.HasField("output_tokens") else []
        click.echo(f"tokens      {', '.join(known) or 'unknown'}", err=True)
    _print_attempts(answer.receipt)


def _print_attempts(receipt: usage_pb2.Receipt) -> None:
    """Print what was done for a call, whether it succeeded or not."""
    for attempt in receipt.attempts:
        outcome = value_name(usage_pb2.AttemptOutcome, attempt.outcome, "ATTEMPT_OUTCOME_").lower()
        facts = [
            f"{outcome} at {attempt.provider} ({attempt.origin_host})",
            f"billing {value_name(usage_pb2.Billing, attempt.billing, 'BILLING_')}",
        ]
        if attempt.HasField("upstream_status"):
            facts.append(f"HTTP {attempt.upstream_status}")
        facts += [
            f"{field.name.removesuffix('_time').replace('_', ' ')} {value.ToMicroseconds() / 1000:.1f} ms"
            for field, value in attempt.ListFields()
            if field.name in _TIMES
        ]
        if attempt.failure_reason:
            facts.append(attempt.failure_reason)
        print_line(f"attempt {attempt.number}   {', '.join(facts)}", err=True)
