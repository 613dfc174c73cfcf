"""`socaity completion bash|zsh|fish`: the script that lets a shell complete commands, endpoints and parameters."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["SCRIPTS", "run"]

_BASH = r"""# completion of socaity for bash; put this into ~/.bashrc:  eval "$(socaity completion bash)"
_socaity() {
    local IFS=$'\n' line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/@] ]]; then
        compopt -o nospace
    fi
}
complete -F _socaity socaity
"""

_ZSH = r"""#compdef socaity
# completion of socaity for zsh; put this into ~/.zshrc, after compinit:  eval "$(socaity completion zsh)"
_socaity() {
    local line
    local -a ending open
    while IFS= read -r line; do
        if [[ $line == *[=/@] ]]; then open+=("$line"); else ending+=("$line"); fi
    done < <("${words[1]}" __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( ${#ending} )) && compadd -- "${ending[@]}"
    (( ${#open} )) && compadd -S '' -- "${open[@]}"
    return 0
}
compdef _socaity socaity
"""

_FISH = r"""# completion of socaity for fish:  socaity completion fish > ~/.config/fish/completions/socaity.fish
function __socaity_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete fish $words[2..-1] 2>/dev/null
end
complete -c socaity -f -a '(__socaity_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def run(argv: list[str]) -> int:
    """Print the script of a shell."""
    parser = argparse.ArgumentParser(
        prog="socaity completion",
        description="Print a script that lets a shell complete commands, options, endpoints and parameters.",
        epilog='bash, zsh: eval "$(socaity completion bash)"   '
        "fish: socaity completion fish > ~/.config/fish/completions/socaity.fish",
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS))
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    options = parser.parse_args(argv)
    script = SCRIPTS[options.shell]
    sys.stdout.write(
        json.dumps({"shell": options.shell, "script": script}) + "\n" if options.json else script
    )
    return 0
