from __future__ import annotations

import importlib
import pathlib
import pkgutil
import types
from collections.abc import Iterable

import pytest
from contract.previous import Contract
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from keyswitch.v1 import credential_pb2, dispatch_service_pb2, registry_service_pb2, target_pb2
from keyswitch_bridge.negotiation import CAPABILITIES
from keyswitch_bridge.not_yet import FIELDS

PACKAGES = (
    "keyswitch_engine",
    "keyswitch_bridge",
    "keyswitch_server",
    "keyswitch_sandbox",
    "keyswitch_client",
    "keyswitch_cli",
)

CURRENT = [
    method
    for file, service in (
        (dispatch_service_pb2, "DispatchService"),
        (registry_service_pb2, "RegistryService"),
    )
    for method in file.DESCRIPTOR.services_by_name[service].methods
]


def paths(methods: Iterable[MethodDescriptor]) -> set[str]:
    """Return the names of rpcs, and of every field that a request of theirs may have at any depth."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting: list[Descriptor] = []
    for method in methods:
        found.add(f"{method.containing_service.name}.{method.name}")
        waiting.append(method.input_type)
    while waiting:
        message = waiting.pop()
        if message.full_name not in seen:
            seen.add(message.full_name)
            found |= {f"{message.name}.{field.name}" for field in message.fields}
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found


def fields(descriptor: Descriptor) -> dict[str, tuple[int, int, bool, str]]:
    return {
        field.name: (field.number, field.type, field.is_repeated, field.message_type.name if field.message_type else "")
        for field in descriptor.fields
    }


def test_the_two_generate_requests_are_the_same() -> None:
    """A request for a whole answer is byte for byte one for a stream."""
    whole = fields(dispatch_service_pb2.GenerateRequest.DESCRIPTOR)
    assert whole == fields(dispatch_service_pb2.StreamGenerateRequest.DESCRIPTOR)
    explain = fields(dispatch_service_pb2.ExplainRouteRequest.DESCRIPTOR)
    assert explain.pop("include_body")
    assert explain == whole


def test_the_table_of_what_is_not_built_names_real_fields() -> None:
    """What is said not to be built yet exists in the contract."""
    files = (dispatch_service_pb2, credential_pb2, target_pb2)
    messages = {name: message for file in files for name, message in file.DESCRIPTOR.message_types_by_name.items()}
    for name, missing in FIELDS.items():
        assert {field.name for field in messages[name].fields} >= set(missing)


def modules() -> list[str]:
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        found.append(name)
        found += [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_all_is_right(name: str) -> None:
    """What a module offers is what it says: every public class and function of its own is in `__all__`, and exists."""
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", None)
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and isinstance(value, type | types.FunctionType)
        and getattr(value, "__module__", None) == name
    }
    if offered is None:
        assert own == set(), "a module with public names needs __all__"
        return
    assert [entry for entry in offered if not hasattr(module, entry)] == []
    assert own - set(offered) == set()


def test_no_module_has_grown_a_second_idea() -> None:
    """Modules stay below 420 lines."""
    root = pathlib.Path(__file__).resolve().parents[2]
    long = {
        str(file.relative_to(root)): count
        for folder in ("server", "clients")
        for file in (root / folder).rglob("*.py")
        if (count := len(file.read_text().splitlines())) > 420
    }
    assert long == {}


AT_FIRST = frozenset(
    {
        "CountTokens", "Credential.aws", "Credential.azure", "Credential.cloudflare", "Credential.google",
        "Credential.platform", "Embed", "ExplainRouteRequest.include_body", "GenerateRequest.fallbacks",
        "GenerateRequest.tenant", "Limits.hedge_after", "Limits.max_attempts", "ListModels", "ListProviderModels",
        "Part.cache_hint", "Part.opaque", "Target.custom_endpoint", "Target.region", "Target.routing",
        "Tool.provider_tool", "ValidateCredential",
    }
)  # fmt: skip
"""What the first server refused as not available yet; `Credential.stored` still is."""


def test_what_the_first_server_could_not_do_is_a_capability() -> None:
    """Nothing that was built since then lacks its name."""
    named = {
        path.removeprefix("DispatchService.").removeprefix("RegistryService.")
        for paths in CAPABILITIES.values()
        for path in paths
    }
    assert named >= AT_FIRST


def test_capabilities_are_what_is_built() -> None:
    """Each is sorted in by its name, and all that it names is in the contract and no longer said to be missing."""
    assert list(CAPABILITIES) == sorted(CAPABILITIES)
    missing = {f"{message}.{field}" for message, fields in FIELDS.items() for field in fields}
    named = {path for paths in CAPABILITIES.values() for path in paths}
    assert named <= paths(CURRENT)
    assert named & missing == set()


def test_what_requests_gained_is_a_capability() -> None:
    """Every rpc and every field of a request that the first contract lacks can be asked for by name beforehand."""
    gained = paths(CURRENT) - paths(Contract().methods.values())
    named = {path for paths in CAPABILITIES.values() for path in paths}
    missing = {f"{message}.{field}" for message, fields in FIELDS.items() for field in fields}
    assert gained - missing <= named
