"""Methods that a recipe can switch on, one file each, and `Method`, their base class."""

from .base import Method, Range
from .loading import load_method, method_name, source_hash
from .packaged import METHODS, MethodArguments, argument_names, check_methods, make_methods, methods_of


__all__ = [
    "METHODS",
    "Method",
    "MethodArguments",
    "Range",
    "argument_names",
    "check_methods",
    "load_method",
    "make_methods",
    "method_name",
    "methods_of",
    "source_hash",
]
