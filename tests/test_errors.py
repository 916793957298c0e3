"""The one wrapper that says which part of a model an error is about."""

import pytest

from synthgrad.errors import ArgumentError, ShapeError, about


def test_a_label_is_put_before_the_text():
    with pytest.raises(ShapeError) as raised, about("interface 'a'"):
        raise ShapeError("got 3")
    assert str(raised.value) == "interface 'a': got 3"
    assert raised.value.about == ("interface 'a'",)


def test_it_is_said_once_however_often_it_passes():
    once = about("interface 'a'")
    with pytest.raises(ShapeError, match=r"^interface 'a': got 3$"), once, once:
        raise ShapeError("got 3")


def test_what_is_around_comes_first():
    with pytest.raises(ShapeError) as raised, about("stage 1"), about("interface 'a'"):
        raise ShapeError("got 3")
    assert str(raised.value) == "stage 1: interface 'a': got 3"
    assert raised.value.about == ("stage 1", "interface 'a'")


def test_a_label_that_says_more_takes_the_place_of_the_first():
    with pytest.raises(ShapeError) as raised, about("a, its input model"), about("a"):
        raise ShapeError("got 3")
    assert str(raised.value) == "a, its input model: got 3"


def test_a_label_is_made_only_where_there_is_an_error():
    made = []

    def label():
        made.append(1)
        return "here"

    with about(label):
        pass
    assert not made
    with pytest.raises(ArgumentError, match=r"^here: no$"), about(label):
        raise ArgumentError("no")


def test_other_errors_are_left_alone():
    with pytest.raises(ValueError, match=r"^no$"), about("here"):
        raise ValueError("no")
