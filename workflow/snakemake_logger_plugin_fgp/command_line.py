"""Two repairs of Snakemake's command line: targets after KEY=VALUE options, and the default profile.

`--resources` and its like take every word up to the next option, a target included, and Snakemake (7 to 9) then stops with a
ValueError. A word that is no KEY=VALUE pair is an error to all of these options, so it can only have been meant as a target.
"""

import re
from collections.abc import Sequence
from pathlib import Path

PROFILE = Path("workflow/profiles/default")

_PAIR_OPTIONS = frozenset(
    {
        "--resources",
        "--res",
        "--set-threads",
        "--set-resources",
        "--set-scatter",
        "--set-resource-scopes",
        "--default-resources",
        "--default-res",
        "--config",
        "-C",
        "--consider-ancient",
        "--groups",
        "--group-components",
    }
)
_PAIR = re.compile(r"[^\s/=]+=")


def is_snakemake(program: str) -> bool:
    """Whether `program` (argv[0]) is the `snakemake` command or `python -m snakemake`."""
    path = Path(program)
    return path.name in ("snakemake", "snakemake.exe") or path.parts[-2:] == ("snakemake", "__main__.py")


def rewrite(arguments: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments (without argv[0]) as Snakemake needs them, run in `folder`.

    Those of the processes that Snakemake itself starts for jobs (`--mode`) stay as they are.
    """
    if "--mode" in arguments:
        return list(arguments)
    return add_profile(separate_targets(arguments), folder)


def separate_targets(arguments: Sequence[str]) -> list[str]:
    """Move targets that follow KEY=VALUE options to the front (or behind an explicit `--`), where options stay options.

    The first word that is no KEY=VALUE pair, and every word from there to the next option, is a target. A word with a slash
    before its first `=` is a path, not a pair. Every other command line is returned as it is.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept, targets = [], []
    where = kept
    expects_pairs = False
    for word in arguments[:end]:
        if word.startswith("-") and word != "-":
            where = kept
            expects_pairs = word in _PAIR_OPTIONS
        elif expects_pairs and not _PAIR.match(word):
            where = targets
        where.append(word)
    if end < len(arguments):
        return [*kept, "--", *targets, *arguments[end + 1 :]]
    return [*targets, *kept]


def add_profile(arguments: Sequence[str], folder: Path) -> list[str]:
    """Add `--workflow-profile workflow/profiles/default` where `folder` has that profile beside its Snakefile.

    Snakemake looks only for `profiles/default`. A profile or Snakefile named by the user, and a `profiles/default`, come first.
    """
    chosen = any(word.startswith(("--workflow-profile", "--snakefile", "-s")) for word in arguments)
    found = (folder / "Snakefile").is_file() and (folder / PROFILE).is_dir() and not (folder / "profiles/default").exists()
    if chosen or not found:
        return list(arguments)
    return [f"--workflow-profile={PROFILE.as_posix()}", *arguments]
