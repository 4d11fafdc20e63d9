"""Turn config nodes into objects, depth first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inlay.config.registry import register, resolve
from inlay.core import remote_code
from inlay.core.errors import ConfigError, InlayError

__all__ = ["Builder", "register", "resolve"]


class Builder:
    """Builds nodes of one config.

    A node that equals a top-level node of the config stands for one shared object, built once: the
    tokenizer that the data set, the hooks and the export use is the same.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._nodes = {k: v for k, v in cfg.items() if isinstance(v, dict) and "type" in v}
        self._built: dict[str, Any] = {}
        self._paths: dict[int, str] = {}
        for name, value in cfg.items():
            self._remember(value, name)

    def build(self, node: Any, **given: Any) -> Any:
        """Return what ``node`` describes.

        Args:
            node: a ``dict(type=..., **kwargs)``; or any value, whose nodes are built inside it.
                The config itself is never changed: containers are copied.
            given: further arguments of the outermost node, which win over its own. A node that is
                built with some is not shared.

        Raises:
            ConfigError: a type cannot be resolved or its call fails; names the config path.
        """
        if isinstance(node, dict) and "type" in node:
            return self._node(node, given)
        if given:
            raise ConfigError(f"arguments {sorted(given)} need a dict(type=...), got {node!r}")
        if isinstance(node, dict):
            return {k: self.build(v) for k, v in node.items()}
        if isinstance(node, list | tuple) and not hasattr(node, "_fields"):
            return type(node)(self.build(v) for v in node)
        return node

    def _node(self, node: dict[str, Any], given: dict[str, Any]) -> Any:
        name = None if given else next((k for k, v in self._nodes.items() if v == node), None)
        if name is None:
            return self._call(node, given)
        if name not in self._built:
            self._built[name] = self._call(node, given)
        return self._built[name]

    def _call(self, node: dict[str, Any], given: dict[str, Any]) -> Any:
        target = resolve(node["type"])
        kwargs = {k: self.build(v) for k, v in node.items() if k != "type" and k not in given}
        refused = kwargs.get("trust_remote_code") is True and not remote_code.is_allowed()
        if refused:
            kwargs["trust_remote_code"] = False
        try:
            return target(**kwargs, **given)
        except InlayError:
            raise
        except Exception as error:
            where = self._paths.get(id(node), "a node")
            name = getattr(target, "__qualname__", repr(target))
            note = f" {remote_code.REFUSED}" if refused else ""
            raise ConfigError(
                f"{where}: {name} failed: {type(error).__name__}: {error}{note}"
            ) from error

    def _remember(self, value: Any, path: str) -> None:
        if isinstance(value, dict):
            self._paths.setdefault(id(value), path)
        if isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                self._remember(item, f"{path}.{key}")
