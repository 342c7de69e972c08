from __future__ import annotations

import pathlib
import re
from typing import get_args, get_type_hints

import keyswitch_engine.dialects
import pytest
from keyswitch.v1 import credential_pb2
from keyswitch_engine import dialects
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.openai_chat.flags import ChatFlags
from keyswitch_engine.provider import Auth
from keyswitch_engine.registry import RegistryError, load

ROW = """schema = 1
id = "made-up"
name = "Made up"
base_url = "https://made-up.example/v1"
default_model = "large"
models = ["large"]

[[dialects]]
name = "openai-chat"
path = "/chat/completions"
"""


def write(folder: pathlib.Path, text: str, name: str = "made-up.toml") -> pathlib.Path:
    (folder / name).write_text(text)
    return folder


PROMISED = """
anthropic avian azure baseten bedrock cerebras cloudflare cohere copilot crusoe dashscope dashscope-cn databricks
deepinfra deepseek fireworks gemini github-models groq huggingface hyperbolic litellm llamacpp lmstudio minimax
minimax-cn mistral modelscope moonshot moonshot-cn nebius novita nvidia ollama ollama-cloud openai openrouter perplexity
requesty sambanova sandbox siliconflow siliconflow-cn snowflake together venice vercel-gateway vertex vllm xai zai zai-cn
"""


def test_the_built_in_rows_load() -> None:
    """Every provider that the product promises is there, with a way to speak; regions with own keys are own rows."""
    registry = load()
    assert set(registry.providers) == set(PROMISED.split())
    assert list(registry.providers) == sorted(registry.providers)
    assert registry.providers["openrouter"].default_model == "openrouter/auto"
    assert [surface.dialect.name for surface in registry.providers["minimax"].dialects] == [
        "anthropic-messages",
        "openai-chat",
    ]
    for provider in ("openai", "xai"):
        names = [surface.dialect.name for surface in registry.providers[provider].dialects]
        assert names[:2] == ["openai-responses", "openai-chat"]


def test_no_compatibility_flag_is_unused() -> None:
    """Each flag of each dialect is read by the dialect, and set by a row or there for operators' rows."""
    dialects = pathlib.Path(keyswitch_engine.dialects.__file__).parent
    for dialect in DIALECTS.values():
        folder = dialects / dialect.flags.__module__.split(".")[2]
        code = "".join(file.read_text() for file in folder.glob("*.py") if file.name != "flags.py")
        for flag in dialect.flags.__struct_fields__:
            assert f"flags.{flag}" in code or f"flags).{flag}" in code, f"{dialect.name}: {flag}"


def test_an_operator_adds_and_replaces_rows(tmp_path: pathlib.Path) -> None:
    """A file in an operator's directory is one more provider, or takes the place of the one of its id."""
    write(tmp_path, ROW)
    write(tmp_path, ROW.replace("made-up", "groq").replace("large", "gpt-large"), "groq.toml")
    registry = load([tmp_path])
    assert registry.providers["made-up"].origin_host == "made-up.example"
    assert registry.providers["groq"].origin_host == "groq.example"
    assert registry.providers["groq"].models == ("gpt-large",)
    found = registry.find("MADE-UP")
    assert found is not None
    assert found.id == "made-up"
    assert registry.find("none") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("schema = 1", "schema = 2"), "made-up.toml:1: schema: 2"),
        (("name =", "nmae ="), "made-up.toml:3: nmae: "),
        (('id = "made-up"', 'id = "Made Up"'), "cannot name a provider"),
        (('id = "made-up"', 'id = "platform"'), "cannot name a provider"),
        (('models = ["large"]', 'models = ["small"]'), "default model"),
        (('models = ["large"]', 'matchers = ["("]'), "no regular expression"),
        (('models = ["large"]', "router = true"), "foreign_id_form"),
        (("openai-chat", "morse"), "morse"),
        (("https://made-up.example/v1", "ftp://made-up.example"), "base_url"),
        (("https://made-up.example/v1", "https://user:pw@made-up.example"), "base_url"),
        (('path = "/chat/completions"', 'path = "/chat"\n[dialects.compatibility]\nmagic = true'), "magic"),
        (('path = "/chat/completions"', 'path = "/chat"\n[dialects.compatibility]\nterminal = "x"'), "terminal"),
        (
            (
                'path = "/chat/completions"',
                'path = "/c"\n[[dialects.model_overrides]]\nmodel = "a"\n[[dialects.model_overrides]]\nmodel = "b"\n[dialects.model_overrides.compatibility]\nmagic = true',
            ),
            "made-up.toml:16: dialects[0].model_overrides[1].compatibility.magic: ",
        ),
        (
            (
                'path = "/chat/completions"',
                'path = "/chat"\n[[dialects.model_overrides]]\nmodel = "a"\n[[dialects.model_overrides]]\nrouting = {}',
            ),
            "made-up.toml:13: dialects[0].model_overrides[1]: Object missing required field `model`",
        ),
        (("[[dialects]]", '[auth]\nstyle = "header"\n[[dialects]]'), "auth.header"),
        (("[[dialects]]", "[[dialects"), "made-up.toml:8: Expected ']]' at the end of an array declaration"),
        (('name = "Made up"', 'name = "Made up'), "made-up.toml:3: Illegal character '\\n'"),
        (('path = "/chat/completions"\n', "path = [\n\n"), "made-up.toml:10: Invalid value"),
        (("schema = 1", f"schema = {'[' * 5000}"), "made-up.toml:1: maximum recursion depth exceeded"),
        (("schema = 1", f"schema = {'1' * 5000}"), "made-up.toml:1: Exceeds the limit"),
        (('name = "Made up"\n', ""), "made-up.toml:1: Object missing required field `name`"),
        (('path = "/chat/completions"', ""), "made-up.toml:8: dialects[0]: Object missing required field `path`"),
        (('name = "openai-chat"\n', ""), "made-up.toml:8: dialects[0]: Object missing required field `name`"),
        (("[[dialects]]", '[[errors]]\nreason = "NOPE"\n[[dialects]]'), "NOPE"),
        (('path = "/', 'path = "'), "made-up.toml:10: dialects[0].path: "),
        (('path = "/', 'path = ".attacker.test/'), "dialects[0].path"),
        (('path = "/', 'path = "@attacker.test/'), "dialects[0].path"),
        (('path = "/', 'path = "//'), "dialects[0].path"),
        (('path = "/', 'path = "/\\\\'), "dialects[0].path"),
        (('path = "/', 'path = "/\\n'), "dialects[0].path"),
        (('path = "/', 'path = "/ '), "dialects[0].path"),
        (('path = "/', 'path = "/#'), "dialects[0].path"),
        (('path = "/', 'path = "/é'), "dialects[0].path"),
        (('path = "/', 'path = "/{'), "dialects[0].path"),
        (('path = "/', 'stream_path = "x"\npath = "/'), "made-up.toml:10: dialects[0].stream_path: "),
        (("[[dialects]]", '[embeddings]\nname = "openai"\npath = "x"\n[[dialects]]'), ":10: embeddings.path: "),
        (("/v1", ":65536/v1"), "made-up.toml:4: base_url: "),
        (("/v1", ":0/v1"), "base_url"),
        (("/v1", ":/v1"), "base_url"),
        (("/v1", "\\\\@attacker.test"), "base_url"),
        (("/v1", "/{model}"), "base_url"),
        (("/v1", "/v1?"), "base_url"),
        (("made-up.example", "[::::]"), "base_url"),
        (("[[dialects]]", '[headers]\nx-a = "a\\r\\nx-b: b"\n[[dialects]]'), "made-up.toml:8: headers: 'x-a'"),
        (("[[dialects]]", '[headers]\nx-a = "\\u0000"\n[[dialects]]'), "headers"),
        (("[[dialects]]", '[headers]\nx-a = "é"\n[[dialects]]'), "headers"),
        (("[[dialects]]", '[headers]\n"x a" = "1"\n[[dialects]]'), "headers"),
        (('path = "/', 'headers = { "x:" = "1" }\npath = "/'), "made-up.toml:10: dialects[0].headers: "),
        (("[[dialects]]", '[auth]\nscheme = "Key\\n"\n[[dialects]]'), "auth.scheme"),
        (("[[dialects]]", '[auth]\nproject_header = "x y"\n[[dialects]]'), "auth.project_header"),
        (("[[dialects]]", '[auth]\naccepts = ["api_keys"]\n[[dialects]]'), "made-up.toml:9: auth.accepts[0]: "),
        (("[[dialects]]", '[auth]\ntoken_url = "http://127.0.0.1/"\n[[dialects]]'), "auth.token_url"),
        (("[[dialects]]", '[auth]\ntoken_url = "https://a@b/"\n[[dialects]]'), "auth.token_url"),
        (("[[dialects]]", '[[errors]]\nreason = "INTERNAL"\n[[dialects]]'), "errors[0].reason"),
        (("[[dialects]]", '[[errors]]\nreason = "MISSING_CREDENTIAL"\n[[dialects]]'), "errors[0].reason"),
        (("[[dialects]]", '[[errors]]\nreason = "STREAM_TRUNCATED"\n[[dialects]]'), "errors[0].reason"),
        (
            (
                "[[dialects]]",
                '[[errors]]\nreason = "MODEL_NOT_FOUND"\n[[errors]]\nreason = "MODEL_NOT_FOUND"\ncode = "("\n[[dialects]]',
            ),
            "made-up.toml:12: errors[1].code: ",
        ),
        (("[[dialects]]", '[[errors]]\nreason = "MODEL_NOT_FOUND"\nmessage = "*"\n[[dialects]]'), "errors[0].message"),
        (("[[dialects]]", 'vendor_token = "Made"\n[[dialects]]'), "made-up.toml:8: vendor_token: "),
        (("[[dialects]]", 'vendor_token = "platform"\n[[dialects]]'), ":8: vendor_token: 'platform' cannot name a"),
        (("[[dialects]]", 'vendor_token = "custom"\n[[dialects]]'), ":8: vendor_token: 'custom' cannot name a"),
        (("[[dialects]]", 'aliases = ["x", "custom"]\n[[dialects]]'), ":8: aliases: 'custom' cannot name a provider"),
        (('["large"]', '["large", "a\\u200bb"]'), "made-up.toml:6: models[1]: visible characters only"),
        (('["large"]', '["large", "a\\u3164b"]'), "made-up.toml:6: models[1]: visible characters only"),
        (('["large"]', '[" lead", "large"]'), "made-up.toml:6: models[0]: an id, without spaces around it"),
        (('["large"]', '["large", ""]'), "made-up.toml:6: models[1]: an id, without spaces around it"),
        (('["large"]', '["large", "x/../y"]'), "made-up.toml:6: models[1]: no '.' or '..' as a path segment"),
        (('["large"]', f'["large", "{"m" * 257}"]'), "made-up.toml:6: models[1]: at most 256 characters"),
        (('"large"\nmodels = ["large"]', '"large "'), "made-up.toml:5: default_model: an id, without spaces"),
        (('models = ["large"]', 'small_model = "a\\u034fb"'), "made-up.toml:6: small_model: visible characters only"),
        (("[[dialects]]", "strip_own_prefix = true\n[[dialects]]"), "strip_own_prefix"),
        (("[[dialects]]", '[parameters]\ncolour = ""\n[[dialects]]'), "made-up.toml:9: parameters.colour: "),
        (("[[dialects]]", '[parameters]\nregion = ""\n[[dialects]]'), "made-up.toml:9: parameters.region: "),
    ],
)
def test_a_bad_row_is_refused_by_name(tmp_path: pathlib.Path, change: tuple[str, str], words: str) -> None:
    """Loading fails as a whole, naming the file and what is wrong."""
    assert change[0] in ROW
    write(tmp_path, ROW.replace(*change))
    with pytest.raises(RegistryError, match=re.escape(words)) as raised:
        load([tmp_path])
    assert "made-up.toml" in str(raised.value)


def test_a_name_belongs_to_one_provider(tmp_path: pathlib.Path) -> None:
    """An alias that another provider has, and an id that comes twice, refuse to load."""
    write(tmp_path, 'aliases = ["or"]\n' + ROW)
    with pytest.raises(RegistryError, match="'or'"):
        load([tmp_path])
    write(write(tmp_path, ROW), ROW, "again.toml")
    with pytest.raises(RegistryError, match="taken by"):
        load([tmp_path])


def test_a_vendor_token_belongs_to_one_provider(tmp_path: pathlib.Path) -> None:
    """A token that another row claims refuses to load, and both files are named."""
    write(tmp_path, 'vendor_token = "anthropic"\n' + ROW)
    with pytest.raises(RegistryError, match=r"made-up\.toml:1: vendor_token: 'anthropic' .*anthropic\.toml"):
        load([tmp_path])


@pytest.mark.parametrize("more", ["", "router = true", "hosts_foreign_models = true"])
def test_a_listed_model_belongs_to_one_provider(tmp_path: pathlib.Path, more: str) -> None:
    """An id that two rows list would be ambiguous for everybody: both files are named, with line and id, routers apart."""
    foreign = f'{more}\nforeign_id_form = "/"' if more else ""
    row = ROW.replace('models = ["large"]', f'models = ["large", "gpt-4o-mini"]\n{foreign}')
    write(tmp_path, row)
    if more == "router = true":
        assert load([tmp_path]).providers["made-up"].models == ("large", "gpt-4o-mini")
        return
    with pytest.raises(RegistryError) as raised:
        load([tmp_path])
    built_in = pathlib.Path(dialects.__file__).parent.parent / "providers" / "openai.toml"
    assert str(raised.value) == (
        f"{tmp_path}/made-up.toml:6: models: 'gpt-4o-mini' belongs to openai already, see {built_in}"
    )


def test_what_two_files_claim_is_told_of_the_operators(tmp_path: pathlib.Path) -> None:
    """Where a file that replaces a built-in one claims what another has, the one that the operator can mend is named."""
    write(tmp_path, ROW.replace("made-up", "anthropic").replace('["large"]', '["large", "gpt-4o"]'), "mine.toml")
    with pytest.raises(
        RegistryError, match=r"mine\.toml:6: models: 'gpt-4o' belongs to openai already, see .*openai\."
    ):
        load([tmp_path])


def test_what_a_replaced_row_listed_is_free(tmp_path: pathlib.Path) -> None:
    """The models of a built-in row go with it, so that another row may list them."""
    write(tmp_path, ROW.replace("made-up", "openai"), "openai.toml")
    write(tmp_path, ROW.replace("large", "gpt-4o-mini"))
    assert [claim.provider.id for claim in load([tmp_path]).claims.on("gpt-4o-mini")] == ["made-up"]


def test_an_id_in_another_case_and_a_default_alone_claim_nothing_of_anothers(tmp_path: pathlib.Path) -> None:
    """Ids are compared as they are, and regions with rows of their own share the models that they begin with."""
    row = ROW.replace('models = ["large"]', 'models = ["large", "GPT-4o-mini"]\nsmall_model = "gpt-4o-mini"')
    claims = load([write(tmp_path, row)]).claims
    assert [[claim.provider.id for claim in claims.on(id_)] for id_ in ("gpt-4o-mini", "GPT-4o-mini")] == [
        ["openai"],
        ["made-up"],
    ]


def test_what_is_no_text_is_told_by_its_line(tmp_path: pathlib.Path) -> None:
    """A file that is not UTF-8 is refused by the line of the first byte that is wrong."""
    (tmp_path / "made-up.toml").write_bytes(ROW.replace("Made up", "\xe9").encode("latin-1"))
    with pytest.raises(RegistryError) as raised:
        load([tmp_path])
    assert str(raised.value) == f"{tmp_path}/made-up.toml:3: it is not UTF-8"


def test_a_folder_that_is_named_like_a_key_is_named(tmp_path: pathlib.Path) -> None:
    """File and line are told whatever they are called, and what looks like a key in the file is not."""
    folder = tmp_path / "pods-4f1d2c3b5a6978877665544332211000"
    folder.mkdir()
    (folder / "made-up.toml").write_text(ROW + 'sk-proj-abcdefgh = "x"\n')
    with pytest.raises(RegistryError) as raised:
        load([folder])
    assert str(raised.value).startswith(f"{folder}/made-up.toml:")
    assert "sk-proj" not in str(raised.value)


def test_what_cannot_be_read_is_told_by_its_name(tmp_path: pathlib.Path) -> None:
    """A folder with the name of a provider file is refused, and so is what has no lines."""
    (tmp_path / "made-up.toml").mkdir()
    with pytest.raises(RegistryError) as raised:
        load([tmp_path])
    assert str(raised.value) == f"{tmp_path}/made-up.toml: it is no regular file"


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("x_ai", "xai"),
        ("Together_AI", "together"),
        ("fireworks_ai", "fireworks"),
        ("nvidia_nim", "nvidia"),
        ("lm_studio", "lmstudio"),
        ("hosted_vllm", "vllm"),
        ("litellm_proxy", "litellm"),
        ("GitHub_Models", "github-models"),
    ],
)
def test_names_are_found_however_they_are_spelt(name: str, provider: str) -> None:
    """Case does not matter in the name of a provider, nor whether its words are joined by `-` or `_`."""
    found = load().find(name)
    assert found is not None
    assert found.id == provider


def test_credentials_are_named_as_in_the_contract() -> None:
    """What a row can accept is what the contract's `Credential` can hold, but for what leads to a key elsewhere."""
    accepted = get_args(get_args(get_type_hints(Auth)["accepts"])[0])
    kinds = {field.name for field in credential_pb2.Credential.DESCRIPTOR.oneofs[0].fields}
    assert kinds - {"platform", "stored"} == set(accepted)


def test_a_missing_directory_is_an_error(tmp_path: pathlib.Path) -> None:
    """An operator's directory that is not there is not an empty one."""
    with pytest.raises(RegistryError, match="no such directory"):
        load([tmp_path / "none"])


def test_the_fingerprint_is_of_the_data(tmp_path: pathlib.Path) -> None:
    """Comments and order do not change the fingerprint, data does."""
    plain = load([write(tmp_path, ROW)]).fingerprint
    lines = ROW.splitlines()
    reordered = "\n".join([lines[1], "# a comment", lines[0], *lines[2:]])
    assert load([write(tmp_path, reordered)]).fingerprint == plain
    assert load([write(tmp_path, ROW.replace("Made up", "Other"))]).fingerprint != plain
    assert re.fullmatch(r"[0-9a-f]{16}", plain)


def test_the_sandbox_can_be_moved() -> None:
    """A base URL from outside replaces the row's, for a provider that exists."""
    assert load(base_urls={"sandbox": "http://127.0.0.1:9/v1"}).providers["sandbox"].origin_host == "127.0.0.1:9"
    with pytest.raises(RegistryError):
        load(base_urls={"none": "http://127.0.0.1:9"})
    for url in ("127.0.0.1:9", "http://[::1", "http://127.0.0.1:99999", "http://a@127.0.0.1"):
        with pytest.raises(RegistryError, match="the base URL set for sandbox"):
            load(base_urls={"sandbox": url})


@pytest.mark.parametrize("flag", ChatFlags.__struct_fields__)
def test_every_flag_is_used_by_the_dialect(flag: str) -> None:
    """A compatibility flag that nothing reads would be a promise that nothing keeps."""
    folder = pathlib.Path(dialects.__file__).parent / "openai_chat"
    code = "".join(file.read_text() for file in folder.glob("*.py") if file.name != "flags.py")
    assert f"flags.{flag}" in code


def test_a_directory_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: pathlib.Path) -> None:
    """What the system refuses to list is an error that names it, like a directory that is not there."""
    with pytest.raises(RegistryError, match="x: the directory cannot be listed: File name too long"):
        load([tmp_path / ("x" * 300)])
    with pytest.raises(RegistryError, match="none: no such directory of provider files"):
        load([tmp_path / "none"])
