"""Completion scripts for bash, zsh and fish, written from the parser so that they never lag behind it."""

from __future__ import annotations

import argparse


def script(shell: str) -> str:
    """The script for "bash", "zsh" or "fish"."""
    from guestkit.cli.main import parser

    commands = _commands(parser())
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _commands(top: argparse.ArgumentParser) -> dict[str, tuple[str, list[tuple[list[str], str]]]]:
    """{command: (help, [(option strings, help)])}"""
    action = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {
        name: (
            helps.get(name, ""),
            [(list(option.option_strings), option.help or "") for option in sub._actions if option.option_strings],
        )
        for name, sub in action.choices.items()
    }


def _bash(commands: dict[str, tuple[str, list[tuple[list[str], str]]]]) -> str:
    cases = "\n".join(
        f"    {name}) options='{' '.join(text for strings, _ in options for text in strings)}' ;;"
        for name, (_, options) in commands.items()
    )
    return f"""\
# guestkit completion for bash: source <(guestkit completion bash)
_guestkit() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" options=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
    completion) options='bash zsh fish' ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _guestkit guestkit
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh(commands: dict[str, tuple[str, list[tuple[list[str], str]]]]) -> str:
    names = "\n".join(f"    {_quoted(f'{name}:{text}')}" for name, (text, _) in commands.items())
    cases = []
    for name, (_, options) in commands.items():
        specs = " ".join(
            _quoted(f"{string}[{text.replace('[', '(').replace(']', ')').replace(':', ' ')}]")
            for strings, text in options
            for string in strings
        )
        cases.append(f"    {name}) _arguments {specs} '*:file:_files' ;;")
    body = "\n".join(cases)
    return f"""\
#compdef guestkit
# guestkit completion for zsh: source <(guestkit completion zsh)
_guestkit() {{
  local -a commands
  commands=(
{names}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{body}
    *) _files ;;
  esac
}}
compdef _guestkit guestkit
"""


def _fish(commands: dict[str, tuple[str, list[tuple[list[str], str]]]]) -> str:
    lines = ["# guestkit completion for fish: guestkit completion fish | source"]
    for name, (text, options) in commands.items():
        lines.append(f"complete -c guestkit -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
        for strings, help_text in options:
            flags = " ".join(
                f"-l {string[2:]}"
                if string.startswith("--")
                else f"-s {string[1:]}"
                if len(string) == 2
                else f"-o {string[1:]}"
                for string in strings
            )
            lines.append(
                f"complete -c guestkit -n '__fish_seen_subcommand_from {name}' {flags} -d {_quoted(help_text)}"
            )
    return "\n".join(lines) + "\n"
