from synthgrad.lab.runs.run import FREE, SHARE, Pace


def test_it_may_take_its_share_of_the_time_and_no_more():
    now = 0.0
    pace = Pace(lambda: now)
    done = 0
    for step in range(100_000):
        now = max(now, step * 1e-3)
        if pace.due():
            done += 1
            with pace.counted():
                now += 0.25
    taken = 0.25 * done
    assert FREE < taken <= FREE + SHARE * now + 0.25
    assert taken > SHARE * now


def test_a_short_run_is_not_held_back():
    now = 0.0
    pace = Pace(lambda: now)
    for _ in range(10):
        assert pace.due()
        with pace.counted():
            now += 0.01


def test_what_fails_counts_as_well():
    now = 0.0
    pace = Pace(lambda: now)
    try:
        with pace.counted():
            now += 9.0
            raise OSError
    except OSError:
        pass
    assert not pace.due()
