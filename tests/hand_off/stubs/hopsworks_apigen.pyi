# Without this mypy takes what Hopsworks' decorator gives for Any.
from typing import Any, TypeVar

T = TypeVar("T")

def public(func: T) -> T: ...
def __getattr__(name: str) -> Any: ...
