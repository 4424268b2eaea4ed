"""Extensions of griffe: what the reference pages need besides the docstrings."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

from griffe import Class, Extension, Function, Object, Parameter, ParameterKind, Parameters

ALONE = re.compile(r"^[ \t]*::[ \t]*\n", re.MULTILINE)
AT_THE_END = re.compile(r"::[ \t]*$", re.MULTILINE)


class LiteralBlocks(Extension):
    """Show the literal blocks of docstrings, which begin after ``::``, as Markdown does."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Drop a ``::`` that stands alone, and write ``:`` for one at the end of a line."""
        if obj.docstring:
            obj.docstring.value = AT_THE_END.sub(":", ALONE.sub("", obj.docstring.value))


class NamedTupleFields(Extension):
    """Show the fields of a ``NamedTuple`` as the parameters that its class is called with."""

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Give the class an ``__init__`` with one parameter for each annotated field."""
        if "NamedTuple" not in map(str, cls.bases):
            return
        fields = [field for field in cls.attributes.values() if field.annotation and "property" not in field.labels]
        kind = ParameterKind.positional_or_keyword
        made = [Parameter(f.name, annotation=f.annotation, kind=kind, default=f.value) for f in fields]
        self_ = Parameter("self", annotation=None, kind=kind, default=None)
        cls.set_member("__init__", Function("__init__", parameters=Parameters(self_, *made), parent=cls))


class DerivedSignatures(Extension):
    """Show the signature and the docstring that a function has at run time, if it takes those of another."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Import the function, and give it the parameters and the docstring that it has."""
        if not any("_with_signature_of" in str(decorator.value) for decorator in func.decorators):
            return
        made = getattr(import_module(func.module.path), func.name)
        shown = inspect.signature(made).parameters.values()
        func.parameters = Parameters(*(_parameter(parameter) for parameter in shown))
        if func.docstring:
            func.docstring.value = inspect.getdoc(made) or ""


def _parameter(parameter: inspect.Parameter) -> Parameter:
    annotation = inspect.formatannotation(parameter.annotation).replace("typing.", "")
    required = parameter.default is inspect.Parameter.empty
    kind = (
        ParameterKind.keyword_only if parameter.kind is parameter.KEYWORD_ONLY else ParameterKind.positional_or_keyword
    )
    default = None if required else repr(parameter.default).partition("(")[0] + "()" * ("(" in repr(parameter.default))
    return Parameter(parameter.name, annotation=annotation, kind=kind, default=default)
