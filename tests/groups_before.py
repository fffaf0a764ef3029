"""The groups of layers until version 0.1.0, as they are in the records of people's runs: an oracle for `utils/layers.py`.

Do not mend it. A model type with other groups now is in `test_every_classifier.MENDED`.
"""

from __future__ import annotations

from torch import nn


def groups_before(model: nn.Module) -> dict[str, str]:
    """Name of each parameter -> its group then."""
    stacks = _stacks(model)
    prefix = getattr(model, "base_model_prefix", "")
    prefix = prefix if prefix and hasattr(model, prefix) else None
    shared = hasattr(getattr(model, "config", None), "num_hidden_groups")
    return {name: _group(name, stacks, prefix, shared) for name, _ in model.named_parameters()}


def _stacks(model: nn.Module) -> list[str]:
    stacks: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(stack + ".") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            same_class = len({type(child) for child in module}) == 1
            compound = all(next(child.children(), None) is not None for child in module)
            if same_class and compound:
                stacks[name] = sum(p.numel() for p in module.parameters())
    largest = max(stacks.values(), default=0)
    return [name for name, size in stacks.items() if 10 * size >= largest]


def _group(parameter: str, stacks: list[str], prefix: str | None, shared: bool) -> str:
    for stack in stacks:
        if parameter.startswith(stack + "."):
            number = int(parameter[len(stack) + 1 :].split(".")[0])
            side = f"{stack.split('.')[-2]}_" if len(stacks) > 1 and "." in stack else ""
            return f"{side}{'shared_' if shared else ''}layer_{number:02d}"
    parts = parameter.split(".")[:-1] or [parameter]
    if any("embed" in part.lower() or part in ("wte", "wpe", "shared") for part in parts):
        return "embeddings"
    if any(part in ("pooler", "pre_classifier") for part in parts):
        return "pooler"
    if prefix is None:
        return parts[0]
    if prefix not in parts:
        return "classifier"
    return (parts[parts.index(prefix) + 1 :] or [prefix])[0]
