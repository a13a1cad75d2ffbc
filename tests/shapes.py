"""Check the array shapes in ccella's signatures while the tests run; in production they are free.

`jaxtyping`'s import hook calls `check` on every function of the package: within a call one name of an axis is one size.
Only array annotations are checked: plain types are the readers' business, and an int is welcome where a float is asked.
Functions that speak of no array are called without `jaxtyping`'s wrapper, with which reading a report takes three times
as long.
"""

import functools
import inspect
import types
import typing

import jaxtyping
from jaxtyping import AbstractArray, install_import_hook

WRAPPER = jaxtyping.jaxtyped


def is_array(annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray)


def arrays_of(annotation) -> tuple[type, ...]:
    """The array types of an annotation such as `Float[Tensor, "b c"] | None`; () where it says anything else."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if is_union else (annotation,)
    parts = tuple(part for part in parts if part is not types.NoneType)
    return parts if all(is_array(part) for part in parts) else ()


def arrays_in(function) -> dict[str, tuple[type, ...]]:
    """The array types of each annotated parameter, and of what comes back under `return`, where there are any."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # a name known to type checkers only
        return {}
    arrays = {name: arrays_of(hint) for name, hint in hints.items()}
    return {name: wanted for name, wanted in arrays.items() if wanted}


def may_speak_of_arrays(thing) -> bool:
    """Say whether a function or a class has an array in its annotations, or names that only type checkers know."""
    try:
        typing.get_type_hints(thing)
    except NameError:
        return True
    return bool(arrays_in(thing))


def described(value) -> str:
    """Tell an array's shape and dtype, or else the type of a value."""
    if hasattr(value, "shape"):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__name__


def check(function):
    """Wrap `function` so that arrays of another shape or dtype than it says raise a TypeError."""
    if not inspect.isfunction(function):
        return function
    signature = inspect.signature(function)
    # read at the first call: an annotation may name what its module defines later
    arrays = functools.cache(functools.partial(arrays_in, function))

    def demand(name, value):
        wanted = arrays().get(name, ())
        if not wanted or value is None or isinstance(value, wanted):
            return
        expected = " or ".join(kind.__name__ for kind in wanted)
        raise TypeError(f"{function.__qualname__}: {name} is {described(value)}, expected {expected}")

    @functools.wraps(function)
    def checked(*args, **kwargs):
        if not arrays():
            return function(*args, **kwargs)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            demand(name, value)
        result = function(*args, **kwargs)
        demand("return", result)
        return result

    return checked


def wrapped_where_arrays_are(function, typechecker):
    """Wrap a function, at its first call, where its annotations speak of arrays: by then all their names are known."""
    target = None

    @functools.wraps(function)
    def first_looked_at(*args, **kwargs):
        nonlocal target
        if target is None:
            target = WRAPPER(typechecker=typechecker)(function) if may_speak_of_arrays(function) else function
        return target(*args, **kwargs)

    return first_looked_at


def sparing_wrapper(*, typechecker):
    """Stand for `jaxtyping.jaxtyped`, by which the import hook decorates every function and class."""

    def decorate(thing):
        if not thing.__annotations__:
            return thing
        if inspect.isclass(thing):
            return WRAPPER(typechecker=typechecker)(thing) if may_speak_of_arrays(thing) else thing
        return wrapped_where_arrays_are(thing, typechecker)

    return decorate


def install():
    """Check every function of ccella that is imported from here on."""
    jaxtyping.jaxtyped = sparing_wrapper
    return install_import_hook("ccella", "shapes.check")
