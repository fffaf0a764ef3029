"""The loop over attempts, as far as the processes of a distributed run must agree."""

from types import SimpleNamespace

import pytest

from hf_stability import StabilityCallback
from hf_stability.diagnostics.attempt_log import FILE
from hf_stability.errors import InputError
from hf_stability.restarting import attempts


@pytest.mark.parametrize("is_main", [True, False])
def test_every_process_raises_for_a_file_that_only_the_main_process_reads(tmp_path, monkeypatch, is_main):
    def trainer(main):
        handler = SimpleNamespace(callbacks=[StabilityCallback(output_dir=str(tmp_path))])
        args = SimpleNamespace(output_dir=str(tmp_path), world_size=2)
        return SimpleNamespace(args=args, callback_handler=handler, is_world_process_zero=lambda: main)

    sent = []
    monkeypatch.setattr(attempts, "of_the_main_process", lambda value, args: sent.append(value) or sent[0])
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match=FILE):
        attempts.open_log(trainer(True), 2, checkpoint=True)
    if not is_main:  # it has read nothing, and gets what the main process sent
        with pytest.raises(InputError, match=FILE):
            attempts.open_log(trainer(False), 2, checkpoint=True)
        assert sent[1] != sent[0]
