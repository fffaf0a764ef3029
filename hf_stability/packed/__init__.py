"""The packed step: an encoder's forward pass without padding, `--step packed`."""
