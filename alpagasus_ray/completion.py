"""`alpagasus completion SHELL`: the script by which bash, zsh or fish complete verbs, switches, knobs and recipes.

Written from the verbs and knobs of this version, so that no Python starts at a press of the tab key.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

COMMON = {"-r": "recipe", "--recipe": "recipe", "-s": "knob", "--set": "knob", "--json": "", "--help": "", "--help-all": ""}
"""Switches of every verb, with what follows them."""


class Words(NamedTuple):
    """What can follow a verb."""

    help: str
    flags: Sequence[str]
    """Its own switches."""
    knobs: Sequence[str]
    """What `-s` takes there, without the `=`."""


Verbs = Mapping[str, Words]


def _bash(verbs: Verbs, recipes: Sequence[str]) -> Iterator[str]:
    yield "_alpagasus() {"
    yield '  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags="" knobs=""'
    yield "  COMPREPLY=()"
    yield "  if [ $COMP_CWORD -eq 1 ]; then"
    yield f'    COMPREPLY=($(compgen -W "{" ".join(verbs)}" -- "$cur")); return'
    yield "  fi"
    yield '  case "${COMP_WORDS[1]}" in'
    for verb, words in verbs.items():
        yield f'    {verb}) flags="{" ".join(words.flags)}"; knobs="{" ".join(words.knobs)}" ;;'
    yield "  esac"
    yield '  case "$prev" in'
    yield f'    -r|--recipe) COMPREPLY=($(compgen -W "{" ".join(recipes)}" -- "$cur") $(compgen -f -- "$cur")); return ;;'
    yield '    -s|--set) COMPREPLY=($(compgen -W "$knobs" -S = -- "$cur")); compopt -o nospace 2> /dev/null; return ;;'
    yield "  esac"
    yield '  case "$cur" in'
    yield f'    -*) COMPREPLY=($(compgen -W "{" ".join(COMMON)} $flags" -- "$cur")) ;;'
    yield '    *) COMPREPLY=($(compgen -d -- "$cur")) ;;'
    yield "  esac"
    yield "}"
    yield "complete -F _alpagasus alpagasus"


def _zsh(verbs: Verbs, recipes: Sequence[str]) -> Iterator[str]:
    yield "autoload -Uz compinit bashcompinit"
    yield "(( $+functions[compdef] )) || compinit"
    yield "bashcompinit"
    yield from _bash(verbs, recipes)


def _fish(verbs: Verbs, recipes: Sequence[str]) -> Iterator[str]:
    yield "complete -c alpagasus -f"
    for verb, words in verbs.items():
        after = f"'__fish_seen_subcommand_from {verb}'"
        yield f"complete -c alpagasus -n __fish_use_subcommand -a {verb} -d '{_quoted(words.help)}'"
        yield f"complete -c alpagasus -n {after} -a '(__fish_complete_directories)'"
        for flag in words.flags:
            yield f"complete -c alpagasus -n {after} -l {flag.removeprefix('--')}"
        if words.knobs:
            listed = " ".join(f"{knob}=" for knob in words.knobs)
            yield f"complete -c alpagasus -n {after} -s s -l set -x -a '{listed}'"
    yield "set -l after_a_verb 'not __fish_use_subcommand'"
    yield f"complete -c alpagasus -n \"$after_a_verb\" -s r -l recipe -r -F -a '{' '.join(recipes)}'"
    for flag in ("json", "help", "help-all"):
        yield f'complete -c alpagasus -n "$after_a_verb" -l {flag}'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


SHELLS: Mapping[str, Callable[[Verbs, Sequence[str]], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def script(shell: str, verbs: Verbs, recipes: Sequence[str]) -> str:
    """The script of one of `SHELLS`."""
    return "\n".join(SHELLS[shell](verbs, recipes)) + "\n"
