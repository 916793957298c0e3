import pytest

from synthgrad.lab.runs.progress import outcome


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"test_error": 1.364}, "test error 1.36%"),
        ({"test_bpc": 1.5, "train_bits": 2.0}, "test bits per character 1.500"),
        ({"test_bpc": None, "solved_length": 4}, "longest solved length 4"),  # not finite
        ({"other": 1.0}, "done"),
    ],
)
def test_a_run_comes_to_its_first_known_metric(metrics, says):
    summary = {"metrics": metrics, "iterations": 7, "seconds": 2.4}
    assert outcome(summary) == f"{says} after 7 iterations in 2 s"
