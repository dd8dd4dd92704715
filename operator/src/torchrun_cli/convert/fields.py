"""The fields of a TorchrunJob that a conversion may write. Where one is missing, a comment says what to do instead."""

from typing import Final

STATIC: Final = True
"""spec.rendezvous.backend: static."""
LEAD: Final = True
"""spec.lead and spec.completionPolicy."""
TRANSFER: Final = True
"""spec.inputs and spec.outputs."""
