"""Generates the tables in docs/ from the code, or with --check compares them with the committed ones."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

from keyswitch_engine import registry
from keyswitch_engine.dialects import DIALECTS
from keyswitch_engine.dialects.base import Flags
from keyswitch_engine.operator_tables import PolicyTable
from keyswitch_server.settings import Settings

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def settings() -> str:
    """Return the table of settings."""
    lines = [
        "# Settings of the server",
        "",
        "One TOML file (`keyswitch serve --config FILE` or `KEYSWITCH_CONFIG`) and the environment, which wins.",
        "Lists and tables are JSON in the environment, where they take the place of the file's whole; only `policy` is",
        "merged key by key. SIGHUP reads provider files and platform keys again.",
        "",
        "| setting | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = (
            "none"
            if default in (None, "", (), frozenset(), {}, PolicyTable())
            else f"`{str(default).lower() if default in (True, False) else default}`"
        )
        lines.append(f"| `{name}` | `KEYSWITCH_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def providers() -> str:
    """Return the table of providers, and of the flags by which they differ."""
    loaded = registry.load()
    lines = [
        "# Providers",
        "",
        f"Generated from the registry, fingerprint `{loaded.fingerprint}`.",
        "",
        "| id | name | aliases | default model | dialects | keys usually in |",
        "|---|---|---|---|---|---|",
    ]
    for provider in loaded.providers.values():
        cells = (
            f"`{provider.id}`",
            provider.name,
            ", ".join(f"`{alias}`" for alias in provider.aliases),
            f"`{provider.default_model}`" if provider.default_model else "none",
            ", ".join(f"`{row.dialect.name}`" for row in provider.dialects),
            ", ".join(f"`{name}`" for name in provider.key_variables),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for name, dialect in DIALECTS.items():
        if dialect.flags.__struct_fields__:
            lines += _flags(loaded, name, dialect.flags)
    return "\n".join(lines) + "\n"


def _flags(loaded: registry.Registry, name: str, kind: type[Flags]) -> list[str]:
    """Return the table of a dialect's flags, and of the rows that set them."""
    lines = ["", f"## Compatibility flags of `{name}`", "", "| flag | default | where it differs |", "|---|---|---|"]
    default = kind()
    for flag in kind.__struct_fields__:
        usual = getattr(default, flag)
        differs = [
            f"{provider.id}: `{value}`"
            for provider in loaded.providers.values()
            for surface in provider.dialects
            if surface.dialect.name == name and (value := getattr(surface.profile.flags, flag)) != usual
        ]
        shown = str(usual).replace("|", "\\|")
        lines.append(f"| `{flag}` | `{shown}` | {', '.join(dict.fromkeys(differs)).replace('|', chr(92) + '|')} |")
    return lines


GENERATORS: dict[str, Callable[[], str]] = {"settings.md": settings, "providers.md": providers}


def main() -> None:
    """Generate, or check."""
    check = sys.argv[1:] == ["--check"]
    DOCS.mkdir(exist_ok=True)
    for name, generator in GENERATORS.items():
        file, text = DOCS / name, generator()
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{name} differs from the code, run `make docs`")


if __name__ == "__main__":
    main()
