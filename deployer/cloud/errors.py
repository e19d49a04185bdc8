"""What can go wrong in provisioning."""


class ProvisioningError(Exception):
    """A call was refused: which step, and the HTTP status. Never a body, which may hold a value."""

    def __init__(self, step: str, status: int) -> None:
        super().__init__(f"{step}: HTTP {status}")
        self.step = step
        self.status = status
