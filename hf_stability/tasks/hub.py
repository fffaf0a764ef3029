"""Data sets of the hub, read with `datasets`: from the hub, or without a network from the cache.

No code of a data set is run: `trust_remote_code` is never passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InputError
from ..utils.text import error_line


PROBE_TIMEOUT_S = 5.0  # datasets itself retries for 23 s or more before it reports a missing network


def load_from_hub(
    name: str, config_name: str | None, where: str, way_out: str, never_changes: bool = False
) -> dict[str, Any]:
    """The splits of a data set on the hub, by name. Without a network, those of the cached copy.

    Args:
        name: on the hub, `"owner/name"`.
        config_name: the configuration; None for the only one.
        where: beginning of each error: the flag and its value.
        way_out: end of each error.
        never_changes: a cached copy is always good, so the hub is asked only without one.

    Raises:
        InputError: there is neither a cached copy nor a network, or the data set cannot be loaded.
    """
    import datasets

    if never_changes and (cached := _cached(name, config_name)) is not None:
        return cached
    why = _why_no_hub(name)
    if why is not None:
        cached = None if never_changes else _cached(name, config_name)
        if cached is None:
            raise InputError(f"{where}: no cached copy of {name}, and {why}; {way_out}")
        return cached
    try:
        return datasets.load_dataset(name, config_name)
    except Exception as error:
        raise InputError(f"{where}: {name} cannot be loaded ({error_line(error, first=True)}); {way_out}") from error


def _cached(name: str, config_name: str | None) -> dict[str, Any] | None:
    import datasets

    try:
        with _only_the_cache():
            return datasets.load_dataset(name, config_name)
    except Exception:  # not in the cache: each version of datasets reports this in its own way
        return None


@contextmanager
def _only_the_cache() -> Iterator[None]:
    """Inside, `datasets` reads only its cache and logs no errors about the hub."""
    import datasets

    offline, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.utils.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
        datasets.utils.logging.set_verbosity(verbosity)


def _why_no_hub(name: str) -> str | None:
    """None if the hub answers, else the reason why not. Takes about `PROBE_TIMEOUT_S` seconds at most."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        HfApi().dataset_info(name, timeout=PROBE_TIMEOUT_S)
    except RepositoryNotFoundError:  # an answer, also for a gated one: load_dataset then tells what is wrong
        return None
    except (
        Exception
    ) as error:  # anything may go wrong on the way to the hub: proxies, certificates, names, time limits
        return f"the hub cannot be reached ({type(error).__name__})"
    return None
