"""The words of an alarm. They are in the files of studies."""

from hf_stability.diagnostics.alarm_sentence import (
    REMEDY,
    alarm_sentence,
    diverged_sentence,
    stopped_by_alarm,
    verdict_after_alarm,
)


def test_the_alarm_says_what_was_seen_and_what_to_change():
    assert alarm_sentence(70, 200, 0.9449, "layer_01", 0.0123, 0.456, 0.0031, 0.994) == (
        "step 70 of 200: this run looks like one that fails (risk 0.94). The gradients of the lower layers "
        "are 0.012 times the classifier's and 0.46 times their own highest level (layer_01 fell furthest). The logits "
        "differ by 0.0031 nats between examples. The train loss is 0.99 times the label entropy. In our runs of the "
        "bundled models, with balanced classes, 6 of 10 such alarms are right where one run in ten fails, and 9 of 10 where "
        "half of the runs fail. "
        f"{REMEDY}"
    )
    assert diverged_sentence(70, 200) == (
        "step 70 of 200: the train loss is NaN or Inf. Try a third of the learning rate, bias correction, 10% "
        "warmup and more epochs (recipe mosbach2021), or another seed."
    )


def test_a_verdict_tells_of_the_alarm():
    assert verdict_after_alarm("ok: accuracy 0.794.", "a false alarm", 70, 200, 0.9449) == (
        "ok: accuracy 0.794; the early warning raised a false alarm at step 70 of 200 (risk 0.94)."
    )
    assert stopped_by_alarm("failed: accuracy 0.5.", 70, 200, 1.0) == (
        "stopped by the alarm at step 70 of 200 (risk 1.00): not counted as failed, because its end is unknown; "
        "verdict until then: failed: accuracy 0.5."
    )
