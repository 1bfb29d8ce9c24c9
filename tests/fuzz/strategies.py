"""Ways to break a valid file, and the property that every reader keeps: a checked value, or an FgpError that names the file."""

import contextlib
import copy
import functools
import json
import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgp.errors import FgpError
from fgp.files import SEAL, seal

SECONDS = 20
LONGEST_MESSAGE = 4000
NASTY = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "0",
        "1",
        "nan",
        "fgp",
        "F32",
        "U8",
        "F4",
        "F8_E4M3",
        "C64",
        "BOOL",
        "a\nb",
        "\x00",
        "\x1b[2J",
        "\ud800",
        "²",
        "é" * 5000,
    ),
    *("../../x", "/etc/passwd", "__class__", "{0.__class__}", "%s", "$(touch x)"),
    *([], {}, [[]], [{}], [None], [0], [0, 0], [1, 0], [-1], [0.5], ["a"], [2**62, 2**62], {"": None}, {"a": {"a": 1}}),
)


@contextlib.contextmanager
def time_limit(seconds=SECONDS):
    """Fail with TimeoutError what runs longer."""

    def stop(*_):
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(cases, *shapes):
    """Run a test on `cases` values of the strategies `shapes`, always the same, each within SECONDS; fewer are a failure."""

    def decorate(test):
        ran = 0

        @functools.wraps(test)
        def counted(*args, **options):
            nonlocal ran
            with time_limit():
                test(*args, **options)
            ran += 1

        quiet = [
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.large_base_example,
            HealthCheck.data_too_large,
        ]
        chosen = settings(max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=quiet)
        run = chosen(given(*shapes)(counted))

        @functools.wraps(run)
        def checked(*args, **options):
            run(*args, **options)
            assert ran >= cases

        return checked

    return decorate


def outcome(read, path, lines=1):
    """Return what `read(path)` returns, None where it refuses with a message as it should be; anything else is raised."""
    before = sorted(os.listdir(Path(path).parent))
    try:
        return read(path)
    except FgpError as error:
        check_message(str(error), Path(path).name, lines)
        return None
    finally:
        assert sorted(os.listdir(Path(path).parent)) == before


def check_message(message, name, lines=1):
    """Assert that a message names the file, fits on its lines, has no control characters and no traceback."""
    assert name in message
    assert "Traceback" not in message
    assert len(message.split("\n")) <= lines
    assert message.replace("\n", "").isprintable()
    assert len(message) < LONGEST_MESSAGE * lines


def places(value, path=()):
    """Yield the path of `value` and of everything below it."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from places(below, (*path, key))


def nasty():
    """A value that no reader expects; a copy, since it may be changed in turn."""
    return st.sampled_from(NASTY).map(copy.deepcopy)


@st.composite
def broken(draw, valid):
    """Draw a copy of a JSON value with up to three values replaced, removed, renamed, repeated or wrapped."""
    value = {"": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from([path for path in places(value) if path]))
        parent = functools.reduce(lambda found, step: found[step], above, value)
        change = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "wrap"]))
        if change == "replace":
            parent[key] = draw(nasty())
        elif change == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}, [parent[key]] * 3, str(parent[key])]))
        elif not above:
            continue
        elif change == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(draw(nasty()))
        elif change == "rename":
            parent[draw(st.text(max_size=5))] = parent.pop(key)
        else:
            parent[draw(st.sampled_from(["", "x", "model_config", "__class__", "a\nb", "é", "1"]))] = draw(nasty())
    return value[""]


@st.composite
def damaged(draw, content, deepest=20_000):
    """Draw bytes: `content` cut, flipped, spliced, re-encoded, or something else entirely."""
    where = st.integers(0, max(0, len(content) - 1))
    how = draw(st.sampled_from(["cut", "flip", "flip", "insert", "remove", "swap", "append", "bom", "utf-16", "random", "deep"]))
    if how == "cut":
        return content[: draw(where)]
    if how == "flip":
        changed = bytearray(content)
        for position in draw(st.lists(where, min_size=1, max_size=4)):
            changed[position] ^= draw(st.integers(1, 255))
        return bytes(changed)
    begin, end = sorted((draw(where), draw(where)))
    middle = {"insert": draw(st.binary(max_size=20)) + content[begin:end], "remove": b"", "swap": content[begin:end][::-1]}
    if how in middle:
        return content[:begin] + middle[how] + content[end:]
    if how == "append":
        return content + draw(st.binary(min_size=1, max_size=20))
    if how == "deep":
        return draw(st.sampled_from([b"[", b'{"a":', b"- "])) * draw(st.sampled_from([300, deepest]))
    whole = {"bom": b"\xef\xbb\xbf" + content, "utf-16": content.decode("latin1").encode("utf-16")}
    return whole.get(how) or draw(st.binary(max_size=200))


def resealed(value):
    """Seal a JSON value, so that a reader looks further; left alone is what has no seal, such as NaN."""
    with contextlib.suppress(ValueError, FgpError):
        return seal(value) if isinstance(value, dict) else value
    return value


@st.composite
def json_text(draw, valid, sealed=False):
    """Draw the bytes of a JSON file, sealed or not: `valid` with broken values, with a repeated key, or damaged."""
    how = draw(st.sampled_from(["values", "values", "values", "repeat", "damage"]))
    text = json.dumps(seal(valid) if sealed else valid)
    if how == "values":
        value = draw(broken(valid))
        return json.dumps(resealed(value) if sealed else value).encode()
    if how == "damage":
        return draw(damaged(text.encode()))
    key, value = draw(st.sampled_from(sorted(valid))), json.dumps(draw(nasty()))
    return draw(st.sampled_from([f'{{"{key}": {value}, {text[1:]}', f'{text[:-1]}, "{key}": {value}}}'])).encode()


@st.composite
def safetensors_file(draw, content):
    """Draw the bytes of a safetensors file: `content` with a broken header, with other metadata `fgp`, sealed, or damaged."""
    how = draw(st.sampled_from(["header", "metadata", "metadata", "metadata", "damage"]))
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if how == "damage":
        return draw(damaged(content))
    if how == "header":
        text = json.dumps(draw(broken(header))).encode()
    else:
        metadata = json.loads(header["__metadata__"]["fgp"])
        metadata.pop(SEAL)
        inner = draw(json_text(metadata, sealed=True)).decode("latin1")
        text = json.dumps({**header, "__metadata__": {"fgp": inner}}).encode()
    return len(text).to_bytes(8, "little") + text + data
