"""The scripts that make shells ask for completions, and Bash's way to cut words."""

from __future__ import annotations

import re
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

__all__ = ["SHELLS", "Bash", "register", "script"]

SHELLS = ("bash", "zsh", "fish")
"""The shells that there is a script for."""

_VARIABLE = "_KEYSWITCH_COMPLETE"
"""The environment variable by which a shell asks; click makes it of the command's name."""
_CUT = frozenset("=:")
_OPTION = re.compile(r"--[a-z-]+=")


class Bash(BashComplete):
    """Bash, which also cuts words at `=` and `:`, and replaces only what follows the last cut."""

    name = "bash"
    source_template = BashComplete.source_template.replace(
        "    return 0\n", '    [[ "${COMPREPLY[*]}" == *= ]] && compopt -o nospace\n    return 0\n'
    )
    _before = ""
    """What of the word to complete stands before Bash's last cut."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to complete, and that word, all as they were typed."""
        args, last = super().get_completion_args()
        words: list[str] = []
        cut = False
        for word in (*args, last):
            separates = bool(word) and _CUT.issuperset(word)
            if words and (separates or cut):
                words[-1] += word
            else:
                words.append(word)
            cut = separates
        *args, whole = words
        replaced = "" if last and _CUT.issuperset(last) else last
        self._before = _OPTION.sub("", whole.removesuffix(replaced), count=1)
        return args, whole

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return what may follow the last cut."""
        found = super().get_completions(args, incomplete)
        return [CompletionItem(item.value.removeprefix(self._before), item.type, item.help) for item in found]


def register() -> None:
    """Let click use what is ours; before it answers a shell."""
    add_completion_class(Bash)


def script(command: click.Command, shell: str) -> str:
    """Return what a shell, one of `SHELLS`, has to source for completing a *command*."""
    register()
    kind: Any = get_completion_class(shell)
    source: str = kind(command, {}, "keyswitch", _VARIABLE).source()
    return source
