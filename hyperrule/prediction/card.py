"""What an exported classifier takes and gives, in a few lines that travel inside every export."""

from pydantic import BaseModel, ConfigDict

from hyperrule import __version__

CARD_FILE = "hyperrule.json"


class Card(BaseModel):
    """Images are RGB in [0, 1], upright, resized to `size` x `size` pixels, bilinear without antialiasing;
    probabilities, in the order of `class_names`, are softmax(logits / `temperature`)."""

    model_config = ConfigDict(frozen=True)

    name: str
    class_names: tuple[str, ...]
    size: int
    temperature: float
    made_by: str = f"hyperrule {__version__}"
