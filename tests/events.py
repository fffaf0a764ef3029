"""TensorBoard's view of a folder of event files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util


class Events:
    """What TensorBoard reads below a folder, by run, as it names the runs.

    Args:
        folder: what `--logdir` would be.
    """

    def __init__(self, folder: Path):
        everything = {"scalars": 0, "text": 0, "images": 0, "hparams": 0, "custom_scalars": 0}
        self.multiplexer = EventMultiplexer(tensor_size_guidance=everything)
        self.multiplexer.AddRunsFromDirectory(str(folder))
        self.multiplexer.Reload()
        self.runs = sorted(self.multiplexer.Runs())

    def tags(self, run: str, plugin: str) -> set[str]:
        """The run's tags of a plugin: `scalars`, `text`, `images` or `hparams`."""
        return set(self.multiplexer.PluginRunToTagToContent(plugin).get(run, {}))

    def scalar(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Steps and values of a curve, in the order in which they are shown."""
        found = self.multiplexer.Tensors(run, tag)
        return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in found]

    def text(self, run: str, tag: str) -> list[str]:
        """The texts under a tag."""
        found = self.multiplexer.Tensors(run, f"{tag}/text_summary")
        return [tensor_util.make_ndarray(event.tensor_proto).item().decode() for event in found]

    def image(self, run: str, tag: str) -> tuple[int, np.ndarray]:
        """Step and pixels, `(height, width, 3)`, of the only image under a tag."""
        (event,) = self.multiplexer.Tensors(run, tag)
        _width, _height, encoded = event.tensor_proto.string_val
        with Image.open(io.BytesIO(encoded)) as image:
            return event.step, np.asarray(image.convert("RGB"))

    def layout(self, run: str) -> dict[str, dict[str, list[str]]]:
        """The Custom Scalars tab: category -> title of a chart -> patterns of its tags."""
        content = self.multiplexer.Tensors(run, metadata.CONFIG_SUMMARY_TAG)[-1].tensor_proto.string_val[0]
        categories = layout_pb2.Layout.FromString(content).category
        return {c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in categories}

    def hparams(self, run: str) -> tuple[dict[str, Any], list[str], int]:
        """The run's hyperparameters, the tags of its metrics, and its status (1 is success)."""

        def content(name: str):
            metadata = self.multiplexer.SummaryMetadata(run, f"_hparams_/{name}")
            return HParamsPluginData.FromString(metadata.plugin_data.content)

        start, experiment = content("session_start_info").session_start_info, content("experiment").experiment
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        metrics = [metric.name.tag for metric in experiment.metric_infos]
        return values, metrics, content("session_end_info").session_end_info.status


def event_files(folder: Path) -> list[Path]:
    """All event files below a folder."""
    return sorted(folder.rglob("events.out.tfevents.*"))
