import jaxtyping
import pytest
import torch

from synthgrad.errors import ShapeError
from synthgrad.feedback import Conv, Linear
from synthgrad.functional import mix, per_example, squared_error


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mix(torch.ones(2, 3), torch.ones(1, 3), 0.5),
        lambda: squared_error(torch.ones(2, 3), torch.ones(2, 1)),
        lambda: per_example(torch.ones(2, 3, dtype=torch.long), "mean"),
        lambda: Linear(3)(torch.ones(3)),
        lambda: Conv(3)(torch.ones(2, 3)),
    ],
)
def test_annotations_are_checked_while_tests_run(wrong):
    with pytest.raises(jaxtyping.TypeCheckError):
        wrong()


@pytest.mark.usefixtures("as_installed")
def test_and_not_where_the_library_is_installed():
    with pytest.raises(ShapeError, match=r"real has shape \(2, 3\)"):
        mix(torch.ones(2, 3), torch.zeros(1, 3), 0.5)
