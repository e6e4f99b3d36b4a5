"""How a model is held whose matrix products are float16."""

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def widen_states(model: PreTrainedModel) -> None:
    """Everything but the inner matrices in float32: states then add up in float32, and only products are narrow."""
    narrow = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    narrow -= {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    for parameter in model.parameters():
        if id(parameter) not in narrow:
            parameter.data = parameter.data.float()
