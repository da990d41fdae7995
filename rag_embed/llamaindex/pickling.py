"""What of a component travels to a worker process."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from pydantic import BaseModel


def make_state(
    component: BaseModel, *, local: Set[str], copy: Callable[[Any], Any] = lambda value: value
) -> dict[str, Any]:
    """Make a component's state for pickling, which leaves the live object alone.

    LlamaIndex's own components drop what cannot be pickled from the live object too, and carry private
    attributes, weights included.

    Args:
        component: A pydantic model.
        local: Fields that belong to this process, such as callbacks and connections; the copy has their
            defaults.
        copy: Makes what travels out of each other field's value.
    """
    return {
        "__dict__": {name: copy(value) for name, value in component.__dict__.items() if name not in local},
        "__pydantic_fields_set__": component.__pydantic_fields_set__ - local,
        "__pydantic_extra__": None,
        "__pydantic_private__": None,
    }
