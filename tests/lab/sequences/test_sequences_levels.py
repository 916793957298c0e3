import math
from itertools import islice

import pytest

from synthgrad.errors import NonFiniteError
from synthgrad.lab.experiments.levels import Curriculum, Level, Task

COPY, REPEAT = Task(repeats=False), Task(repeats=True)


def _path(task):
    level = Level()
    while True:
        yield level
        level = task.after(level)


def test_copy_grows_by_one_character():
    assert [level.task_length for level in islice(_path(COPY), 5)] == [4, 5, 6, 7, 8]
    assert {level.r for level in islice(_path(COPY), 20)} == {1}


def test_repeat_copy_passes_every_length_of_table_1():
    levels = list(islice(_path(REPEAT), 20))
    assert levels[:4] == [Level(1, 1), Level(2, 1), Level(2, 2), Level(3, 2)]
    assert {7, 5, 19, 23, 39, 33, 59, 67} <= {level.task_length for level in levels}


def test_steps_of_an_episode():
    assert COPY.steps(5, 1) == 12  # five to read, stop; five to write, stop
    assert REPEAT.steps(5, 3) == 23  # five to read, stop, R; fifteen to write, stop
    assert REPEAT.reading(5) == 7
    assert REPEAT.writing(5, 3) == 16


def test_a_level_is_solved_below_the_threshold_only():
    curriculum = Curriculum(REPEAT, 0.15)
    assert math.isnan(curriculum.error)
    assert not curriculum.decide(0.15, 100)
    assert (curriculum.level, curriculum.solved_length, curriculum.history) == (Level(1, 1), 0, [])
    assert curriculum.decide(0.149, 200)
    assert (curriculum.level, curriculum.solved_length) == (Level(2, 1), 4)
    assert curriculum.decide(0.0, 300)
    assert curriculum.history == [[200, 4], [300, 5]]
    assert curriculum.needed(10) == 10 * 5
    other = Curriculum(REPEAT, 0.15)
    other.load_state_dict(curriculum.state_dict())
    assert vars(other) == vars(curriculum)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_divergence_is_told(error):
    with pytest.raises(NonFiniteError, match=rf"N = 1, R = 1 is {error} bits after 100 samples"):
        Curriculum(COPY, 0.15).decide(error, 100)
