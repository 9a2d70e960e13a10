"""What a person would reach for without a network: a classical method or two for each damage.

Every method takes and gives float (H, W, 3), clean values in [0, 1], and knows nothing but the damaged image. What is
free in it is chosen on validation images (`choice.choose`), never on the test images.
"""

from .choice import Chosen, Method, choose
from .methods import available

__all__ = ["Chosen", "Method", "available", "choose"]
