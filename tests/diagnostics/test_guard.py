import pytest

from hf_stability.diagnostics.guard import Guard
from hf_stability.errors import InputError


def fail(error):
    raise error


def test_a_part_that_raises_is_warned_of_once_and_is_off(caplog):
    guard = Guard()
    assert guard.run("the heat map", lambda a, b: a + b, 1, 2) == 3
    assert guard.run("the heat map", fail, ValueError("no colours"), default=7) == 7
    assert guard.run("the heat map", lambda: 3, default=7) == 7 and guard.off == {"the heat map"}
    assert guard.run("the verdict", lambda: 3) == 3
    (record,) = caplog.records
    assert (
        record.message
        == "The heat map is off for the rest of this training. Training continues. The cause was ValueError: no colours"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_exits_pass_through(error):
    with pytest.raises(type(error)):
        Guard().run("the record", fail, error)


def test_wrong_settings_pass_through_where_they_are_read():
    with pytest.raises(InputError):
        Guard().run("the record", fail, InputError("--diagnostics x"), settings=True)
    assert Guard().run("the record", fail, InputError("--diagnostics x")) is None
