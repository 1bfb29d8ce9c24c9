"""Options of methods, declared once: as the keyword-only parameters of a method's function, with pydantic types. Loads no torch.

    def score(model, batches, seed, *, images: Annotated[int, Field(ge=1, description="images read")] = 1000): ...

    score = checked(score)

A function whose options are a pydantic model elsewhere takes them as `**options: Unpack[Model]`. A value counts as its text, so
that a configuration, a command line and Python mean the same by it. Numbers are finite.
"""

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from fgp.errors import FgpError

_NONE = create_model("Options")
_CARRIERS = ("training", "pruning", "score")
_LIMITS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


def parse(pairs: Sequence[str], flag: str) -> dict[str, str]:
    """Read KEY=VALUE pairs, given by the command line's `flag`.

    Raises:
        FgpError: a pair has no equals sign, or a key is given twice.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise FgpError(f"{flag} {pair}: expected KEY=VALUE")
        if key in options:
            raise FgpError(f"{flag} {pair}: {key} is given twice; give it once")
        options[key] = value
    return options


def carrier(module: ModuleType) -> Callable | None:
    """Return the function of a method that its options are for: its own training if it has one, else `score`; None without."""
    return next((getattr(module, name) for name in _CARRIERS if hasattr(module, name)), None)


@functools.cache
def model(function: Callable) -> type[BaseModel]:
    """Return the options of a function as a pydantic model, a field for each option.

    Raises:
        FgpError: an option is not declared in full.
    """
    inner = inspect.unwrap(function)
    parameters = [
        parameter
        for parameter in inspect.signature(inner).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
    ]
    for parameter in parameters:
        undefined = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if undefined or parameter.annotation is parameter.empty:
            raise FgpError(
                f"{inner.__module__}: option {parameter.name} of {inner.__name__} lacks a type or a default; declare it"
            )
    written = SimpleNamespace(__annotations__={parameter.name: parameter.annotation for parameter in parameters})
    types = typing.get_type_hints(written, getattr(inner, "__globals__", {}), include_extras=True)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        (whole,) = typing.get_args(types[parameters[-1].name])
        return whole
    fields = {parameter.name: (types[parameter.name], parameter.default) for parameter in parameters}
    return create_model("Options", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)


def check(method: str, module: ModuleType, given: Mapping[str, object], where: str = "option ") -> dict[str, object]:
    """Return the options in `given`, and no others, as their types.

    Args:
        method: its name.
        module: its file in `baselines/`; the options are those of `carrier`.
        given: {option: value or its text}.
        where: what stands before an option's name in messages.

    Raises:
        FgpError: an option does not exist or has an illegal value; the message names it and says what is legal.
    """
    return check_for(carrier(module), given, method, where)


def check_for(function: Callable | None, given: Mapping[str, object], method: str, where: str = "option ") -> dict[str, object]:
    """Do the work of `check` with the options of one function; None has no options."""
    read = validate(model(function) if function else _NONE, given, method, where)
    return {key: getattr(read, key) for key in given}


def validate(declared: type[BaseModel], given: Mapping[str, object], method: str, where: str = "option ") -> BaseModel:
    """Do the work of `check` with a model of options; return an instance of it."""
    for key in given:
        if key not in declared.model_fields:
            legal = list(declared.model_fields)
            raise FgpError(f"{where}{key}: {method} has no such option; {closest(key, legal)}legal: {', '.join(legal) or 'none'}")
    try:
        return declared.model_validate({key: value if value is None else str(value) for key, value in given.items()})
    except ValidationError as error:
        detail = error.errors()[0]
    if not detail["loc"]:
        raise FgpError(f"{where}{detail['ctx']['error']}")
    key = detail["loc"][0]
    schema = declared.model_json_schema()["properties"][key]
    meant = closest(str(given[key]), [value for part in _kinds(schema) for value in part.get("enum", ())])
    raise FgpError(f"{where}{key}: {given[key]!r}; {meant}give {legal_values(schema)}")


def checked(function: Callable) -> Callable:
    """Return a function with declared options that reads those it is called with as their types.

    It raises FgpError, which names the option, for what `check` would refuse. Not used as a decorator: mutmut mutates no function
    that has one.
    """

    @functools.wraps(function)
    def reading(*arguments, **keywords):
        given = {key: value for key, value in keywords.items() if key in model(function).model_fields}
        return function(*arguments, **{**keywords, **check_for(function, given, function.__module__)})

    return reading


def legal_values(schema: Mapping) -> str:
    """Return in words what an option may be, from its JSON schema; that it may be left out is not said."""
    return " or ".join(" or ".join(part["enum"]) if "enum" in part else _range(part) for part in _kinds(schema))


def _kinds(schema: Mapping) -> list[Mapping]:
    return [part for part in schema.get("anyOf", [schema]) if part != {"type": "null"}]


def _range(schema: Mapping) -> str:
    limits = [f"{words} {schema[key]:g}" for key, words in _LIMITS.items() if key in schema]
    return f"{_WORDS[schema['type']]} {' and '.join(limits)}".rstrip()


def closest(word: str, legal: Sequence[str]) -> str:
    """Return a question, and a space, that names the legal words nearest to `word`; "" where none is near."""
    close = difflib.get_close_matches(word, legal, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}? " * bool(close)
