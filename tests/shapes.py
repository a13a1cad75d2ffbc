"""Check the array shapes in ccella's signatures while the tests run; in production they are free.

`jaxtyping`'s import hook calls `check` on every function of the package: within a call one name of an axis is one size.
Only array annotations are checked: plain types are the readers' business, and an int is welcome where a float is asked.
"""

import functools
import inspect
import types
import typing

from jaxtyping import AbstractArray, install_import_hook

NOT_YET = object()


def arrays_of(annotation) -> tuple[type, ...]:
    """The array types of an annotation such as `Float[Tensor, "b c"] | None`; () where it says anything else."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = typing.get_args(annotation) if union else (annotation,)
    parts = [p for p in parts if p is not type(None)]
    return tuple(parts) if parts and all(isinstance(p, type) and issubclass(p, AbstractArray) for p in parts) else ()


def check(function):
    """Wrap `function` so that arrays of another shape or dtype than it says raise a TypeError."""
    if not inspect.isfunction(function):
        return function
    signature, hints = inspect.signature(function), NOT_YET

    def demand(name, value):
        wanted = hints.get(name, ())
        if wanted and value is not None and not isinstance(value, wanted):
            found = f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
            raise TypeError(
                f"{function.__qualname__}: {name} is {found}, expected {' or '.join(w.__name__ for w in wanted)}"
            )
        return value

    @functools.wraps(function)
    def checked(*args, **kwargs):
        nonlocal hints
        if hints is NOT_YET:
            try:
                hints = {k: arrays_of(v) for k, v in typing.get_type_hints(function).items()}
            except NameError:  # a name known to type checkers only
                hints = {}
        if not any(hints.values()):
            return function(*args, **kwargs)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            demand(name, value)
        return demand("return", function(*args, **kwargs))

    return checked


def install():
    return install_import_hook("ccella", "shapes.check")
