"""Numbers on their way to the host: what they were when they left."""

import torch

from deployments.florence.engine.transfer import Transfer


def test_a_copy_is_what_it_was() -> None:
    """Whatever happens to the tensors afterwards; on a CPU it is there at once."""
    flags, numbers = torch.tensor([True, False]), torch.arange(3)
    transfer = Transfer(flags, numbers[1:])
    flags.zero_()
    numbers.zero_()
    assert transfer.arrived()
    assert [copy.tolist() for copy in transfer.read()] == [[True, False], [1, 2]]
