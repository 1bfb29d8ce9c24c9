"""The one exception a user is meant to read, and how a program ends with it."""

import sys
from collections.abc import Callable

_HEAD, _TAIL = 2000, 1000


class FgpError(Exception):
    """Bad input or an impossible request.

    The message names the file, argument or key that is wrong and says what to do. It is one line; further arguments are details,
    a line each. What a message quotes from a file cannot break it: line breaks become spaces, control characters are escaped and
    a text beyond 3000 characters is cut in the middle. The command line prints the message without a traceback.
    """

    def __str__(self) -> str:
        return "\n  ".join(_printable(str(part)) for part in self.args)


def _printable(text: str) -> str:
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]} ... {text[-_TAIL:]}"
    text = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def exit_status(program: str, work: Callable[[], object]) -> int:
    """Run `work` and return the exit status of `program`.

    0; 130 after Ctrl-C; 1 after one line on stderr about what a user can mend: an FgpError, or what the operating system refused.
    Anything else is a bug and shows its traceback.
    """
    try:
        work()
    except FgpError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        refusal = FgpError(f"{error.filename or 'the operating system'}: {error.strerror or error}")
        print(f"{program}: error: {refusal}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
