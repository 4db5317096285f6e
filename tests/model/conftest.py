import pytest
import torch
from transformers.utils import logging

logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Tiny matrices: threads cost more than they give."""
    torch.set_num_threads(1)
