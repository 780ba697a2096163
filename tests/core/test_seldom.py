"""What is noted once in a while."""

from agentidp.core.seldom import Seldom


def test_a_key_is_due_once_a_period() -> None:
    seldom = Seldom(100, 10)
    assert [seldom.is_due("a", now) for now in (1000, 1001, 1099, 1100, 1199, 1200)] == [True, False, False, True, False, True]
    assert seldom.is_due("b", 1200)


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    seldom = Seldom(100, 10)
    assert seldom.is_due("a", 10_000)
    assert seldom.is_due("a", 9_000)
    assert not seldom.is_due("a", 9_050)


def test_what_did_not_happen_is_due_again() -> None:
    seldom = Seldom(100, 10)
    assert seldom.is_due("a", 1000)
    seldom.forget("a")
    seldom.forget("unknown")
    assert seldom.is_due("a", 1001)


def test_the_oldest_goes_when_there_are_too_many() -> None:
    seldom = Seldom(100, 2)
    assert [seldom.is_due(key, 1000) for key in "abc"] == [True, True, True]
    assert [seldom.is_due(key, 1001) for key in "cba"] == [False, False, True]
