"""What the gateway itself refuses. What each refusal means on the wire stands in `gateway.errors`."""


class GatewayRefusal(Exception):
    """Base of this room's refusals; `message` says what to change, `param` which field is at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RequestInvalid(GatewayRefusal):
    """The body or a parameter is not what the operation takes."""


class PictureMissing(RequestInvalid):
    """The call has no picture and no deployment of the model makes pictures from text."""


class BodyTooLarge(GatewayRefusal):
    """More bytes were sent than one call may have."""


class ModelUnknown(GatewayRefusal):
    """No such model is sold here."""


class PathUnknown(GatewayRefusal):
    """No operation lives at this path, or not with this method."""


class PaymentsNotConfigured(GatewayRefusal):
    """This installation takes no cards."""

    def __init__(self) -> None:
        super().__init__("Payments by card are not set up here. Ask the operator for credit.")


class Overloaded(GatewayRefusal):
    """This process has as many calls in flight as it may have."""

    retry_after_seconds = 1.0


class ShuttingDown(GatewayRefusal):
    """This process is about to stop; another one will answer."""

    retry_after_seconds = 2.0
