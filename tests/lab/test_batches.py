import pytest
import torch

from synthgrad.lab.data.batches import Batches


def _batches(seed: int = 3) -> Batches:
    return Batches(torch.rand(23, 2, 2), torch.arange(23), 5, seed)


def test_the_order_is_that_of_the_seed_and_the_epoch():
    batches = _batches()
    for step in (0, 1, 3, 4, 9, 2):
        epoch, position = divmod(step, 4)
        generator = torch.Generator().manual_seed(3 * 1_000_003 + epoch)
        chosen = torch.randperm(23, generator=generator)[5 * position : 5 * position + 5]
        x, y = batches.at(step)
        assert torch.equal(x, batches.x[chosen])
        assert torch.equal(y, chosen)


def test_a_batch_is_written_where_it_is_wanted():
    batches = _batches()
    x, y = batches.room()
    places = x.data_ptr(), y.data_ptr()
    for step in range(6):
        batches.fill(step, x, y)
        assert all(map(torch.equal, (x, y), batches.at(step)))
    assert places == (x.data_ptr(), y.data_ptr())


def test_room_lies_in_memory_as_the_examples_do():
    x = torch.rand(8, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    batches = Batches(x, torch.arange(8), 4, 0)
    for images in (batches.room()[0], batches.at(0)[0]):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="a batch of 5 needs at least as many examples, got 4"):
        Batches(torch.rand(4, 1), torch.arange(4), 5, 0)
