"""Frames between two ends: what they carry, what they cost, and whose memory they are in."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from synthgrad.distributed.protocol import Frame, Kind, Layout
from synthgrad.distributed.transport._gloo_channel import HEADER, Channel, Sent
from synthgrad.distributed.transport._gloo_link import LinkLost
from tests.distributed.links import links, message, schema

pytestmark = pytest.mark.timeout(30)


def test_a_frame_arrives_as_it_was_sent_and_in_order():
    below, above = links(schema())
    sent = [
        Frame(Kind.TRAIN, 7, 4, number=11, tensors=message(1)),
        Frame(Kind.BEAT),
        Frame(Kind.EVAL, 8, 3, first=True, final=True, tensors=message(2)),
        Frame(Kind.EVAL, 9, 2, last=True, tensors=message(3)),
        Frame(Kind.END, 10),
    ]
    for frame in sent:
        below.link.send(frame)
    for frame in sent:
        came = above.link.receive()
        for name in ("kind", "step", "rows", "first", "last", "final", "number"):
            assert getattr(came, name) == getattr(frame, name), name
        assert len(came.tensors) == len(frame.tensors)
        for ours, theirs in zip(came.tensors, frame.tensors, strict=True):
            assert torch.equal(ours, theirs)
    above.link.send(Frame(Kind.TARGET, 7, 4, number=11, tensors=(torch.ones(4, 3),)))
    assert below.link.receive().number == 11


def test_each_frame_is_one_transfer():
    below, above = links(schema())
    for number in range(20):
        below.link.send(Frame(Kind.TRAIN, number, 4, tensors=message(number)))
        above.link.used()
        above.link.receive()
        above.link.send(Frame(Kind.BEAT))
        below.link.receive()
    assert below.group.sends == above.group.sends == 20


@pytest.mark.parametrize("width", [3, 70_000], ids=["copied", "handed over"])
def test_what_was_received_stays_as_it_was(width):
    below, above = links(schema((4, width)))
    kept = []
    for number in range(40):
        below.link.send(Frame(Kind.TRAIN, number, 4, tensors=message(number, (4, width))))
        kept.append(above.link.receive())
        above.link.used()
        above.link.send(Frame(Kind.BEAT))
        below.link.receive()
    for number, frame in enumerate(kept):
        h, y = message(number, (4, width))
        assert torch.equal(frame.tensors[0], h)
        assert torch.equal(frame.tensors[1], y)
    # Labels are kept until the target has come, and must not keep the whole message.
    assert kept[0].tensors[1].untyped_storage().nbytes() < 1000


def test_buffers_are_there_for_what_is_on_its_way_and_not_for_all_that_might_be():
    below, above = links(schema(capacity=100), posted=2)
    at_first = above.group.receives
    assert at_first < 10
    for number in range(30):
        below.link.send(Frame(Kind.TRAIN, number, 4, tensors=message(number)))
        above.link.receive()
    assert below.link.in_flight == 30
    posted = above.group.receives - 30  # those that wait for what comes next
    assert 30 <= posted < 40
    made = {room.buffer.data_ptr() for _, room in below.link._channel._sent._busy}
    assert len(made) == 30
    for _ in range(30):
        above.link.used()
    above.link.send(Frame(Kind.BEAT))
    below.link.receive()
    for number in range(20):
        below.link.send(Frame(Kind.TRAIN, number, 4, tensors=message(number)))
    assert {room.buffer.data_ptr() for _, room in below.link._channel._sent._busy} == made


def test_a_sign_of_life_is_sent_only_where_no_frame_was_one():
    below, above = links(schema())
    below.link.beat()
    assert below.group.sends == 1
    below.link.send(Frame(Kind.TRAIN, 1, 4, tensors=message(1)))
    below.link.beat()
    assert below.group.sends == 2
    for _ in range(50):
        below.link.beat()
    assert 10 < below.group.sends < 40  # the other end says nothing
    for _ in range(below.group.sends):
        above.link.receive()
    above.link.send(Frame(Kind.BEAT))
    below.link.receive()
    before = below.group.sends
    below.link.beat()
    assert below.group.sends == before + 1


def test_the_round_trip_leaves_out_what_the_other_end_took_its_time_for():
    below, above = links(schema())
    for number in range(3):
        below.link.send(Frame(Kind.TRAIN, number, 4, tensors=message(number)))
        frame = above.link.receive()
        time.sleep(0.2)
        above.link.send(Frame(Kind.TARGET, number, 4, tensors=frame.tensors[:1]))
        below.link.receive()
    assert 0 < below.link.round_trip < 0.15


def test_what_is_being_sent_is_not_written_over():
    buffers = []

    class Never:
        def wait(self, timeout):
            raise RuntimeError("nothing ever leaves")

    group = SimpleNamespace(
        send=lambda tensors, *_: (buffers.append(tensors[0]), Never())[1],
        recv=lambda *_: Never(),
    )
    layout = Layout([((4,), "float32")])
    channel = Channel(group, 1, layout, layout, posted=1, capacity=2, timeout=1.0)
    for _ in range(10):  # these are not among those that are known to have arrived
        channel.send(range(12), (), 100)
    assert len({buffer.data_ptr() for buffer in buffers}) == 10
    for arrived in (0, 0, 1, 2, 3):
        channel.send(range(12), (torch.ones(4),), arrived)
    used = [buffer.data_ptr() for buffer in buffers[10:]]
    assert used == [used[0], used[1], *used[:2], used[0]]
    for _ in range(2):
        channel.send(range(12), (torch.ones(4),), 3)
    with pytest.raises(RuntimeError, match="nothing ever leaves"):
        channel.send(range(12), (torch.ones(4),), 3)
    assert buffers[0].nbytes == HEADER


def test_the_oldest_buffer_is_waited_for_when_there_are_no_more():
    waited = []
    sent = Sent(Layout([((1,), "float32")]).room, 2, waited.append)
    rooms = []
    for number in range(3):
        rooms.append(sent.take(0))
        sent.keep(number, rooms[-1])
    assert waited == [0]
    assert rooms[2] is rooms[0]
    assert rooms[1] is not rooms[0]


def test_a_link_is_lost_by_silence_and_by_a_stranger():
    below, above = links(schema(), timeout=0.3)
    with pytest.raises(LinkLost):
        above.link.receive()
    below, above = links(schema(), timeout=1.0)
    other = links(schema((4, 2)))[0].link
    other._channel = below.link._channel
    other.send(Frame(Kind.BEAT))
    with pytest.raises(LinkLost, match="carries the number"):
        above.link.receive()


def test_one_thread_may_receive_while_others_send():
    below, above = links(schema(capacity=8))
    count, came = 300, []

    def listen():
        while len(came) < count:
            frame = above.link.receive()
            if frame.tensors:
                came.append(frame)
                above.link.used()

    def hear():
        while below.link.in_flight or len(came) < count:
            below.link.receive()

    threads = [threading.Thread(target=t, daemon=True) for t in (listen, hear)]
    for thread in threads:
        thread.start()
    for number in range(count):
        while below.link.in_flight >= 8:
            above.link.send(Frame(Kind.BEAT))
            time.sleep(0.0005)
        below.link.send(Frame(Kind.TRAIN, number, 4, number=number, tensors=message(number)))
    threads[0].join(10)
    above.link.send(Frame(Kind.BEAT))
    assert [frame.number for frame in came] == list(range(count))
    assert all(torch.equal(f.tensors[0], message(f.number)[0]) for f in came)
