"""The fields of a TorchrunJob that a conversion may write. Where one is missing, a comment says what to do instead."""

from typing import Final

STATIC: Final = False
"""spec.rendezvous.backend: static."""
LEAD: Final = False
"""spec.lead and spec.completionPolicy."""
TRANSFER: Final = False
"""spec.inputs and spec.outputs."""
