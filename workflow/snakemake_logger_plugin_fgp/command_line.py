"""Repairs Snakemake's command line: targets behind options that take a list of words.

Such an option takes every word up to the next option, a target included. To `--resources` and its like a word that is no
KEY=VALUE pair is an error, so it can only have been meant as a target; to others it may be a value, so only TARGETS are moved.
"""

import re
from collections.abc import Sequence
from pathlib import Path

TARGETS = frozenset({"all", "all_tables", "all_figures", "report", "partial_tables"})

PAIR_OPTIONS = frozenset({
    "--resources", "--res", "--set-threads", "--set-resources", "--set-scatter", "--set-resource-scopes",
    "--default-resources", "--default-res", "--config", "-C", "--consider-ancient", "--groups", "--group-components",
})  # fmt: skip
LIST_OPTIONS = frozenset({
    "--configfile", "--configfiles", "--forcerun", "-R", "--prioritize", "-P", "--until", "-U", "--omit-from", "-O",
    "--allowed-rules", "--preemptible-rules", "--cache", "--quiet", "-q", "--logger", "--rerun-triggers", "--envvars",
    "--wait-for-files", "--omit-flags", "--unneeded-temp-files", "--cleanup-metadata", "--cm",
    "--strict-dag-evaluation", "--shared-fs-usage", "--software-deployment-method", "--deployment-method",
    "--deployment", "--sdm", "--target-jobs",
})  # fmt: skip
_CONFIG_FILES = ("--configfile", "--configfiles")
_QUIET = ("--quiet", "-q")
_PAIR = re.compile(r"[^\s/=]+=")


def is_snakemake(program: str) -> bool:
    """Whether `program` (argv[0]) is the `snakemake` command or `python -m snakemake`."""
    path = Path(program)
    return path.name in ("snakemake", "snakemake.exe") or path.parts[-2:] == ("snakemake", "__main__.py")


def separate_targets(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Move targets that stand behind the values of an option to the front (or behind an explicit `--`).

    Behind KEY=VALUE options the first word that is no pair, and every word from there to the next option, is a target; a word
    with a slash before its first `=` is a path, not a pair. Behind other options that take a list, those in TARGETS are, but not

    - the first one, which is the option's value (`--until all_tables`), except behind `--quiet`, which needs none;
    - `all` behind `--quiet`, and a file of that name behind `--configfile`.

    Every other command line, and that of a process which Snakemake itself starts for a job (`--mode`), stays as it is.

    Args:
        arguments: those typed, without argv[0].

    Returns:
        The arguments as Snakemake needs them, and a line of advice for each target's name that stays a value without need.
    """
    if "--mode" in arguments:
        return list(arguments), []
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept, targets, advice = [], [], []
    option, before = "", []
    for word in arguments[:end]:
        if word.startswith("-") and word != "-":
            option, before = word, []
            kept.append(word)
            continue
        if _is_target(word, option, before):
            targets.append(word)
        else:
            kept.append(word)
            if word in TARGETS and option in LIST_OPTIONS and (before or option not in _QUIET):
                advice.append(f"snakemake: {word} is taken as a value of {option}; to make it, put it first: snakemake {word}")
        before.append(word)
    if end < len(arguments):
        return [*kept, "--", *targets, *arguments[end + 1 :]], advice
    return [*targets, *kept], advice


def _is_target(word: str, option: str, before: Sequence[str]) -> bool:
    """Whether a word, behind an option and some other words, is no value of the option."""
    if option in PAIR_OPTIONS:
        return not all(map(_PAIR.match, [*before, word]))
    if option not in LIST_OPTIONS or word not in TARGETS:
        return False
    if option in _QUIET:
        return word != "all"
    return bool(before) and not (option in _CONFIG_FILES and Path(word).is_file())
