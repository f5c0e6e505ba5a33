"""What a term on logits asks of the two networks and of its own options before training starts."""

from __future__ import annotations

from edgekd.core.errors import ConfigError
from edgekd.distill.trace import TraceSpec, require_same_width


def require_logits(
    name: str, student: TraceSpec, teacher: TraceSpec, *, temperature: float, least_classes: int = 2
) -> None:
    """Refuse logits that are not one row an input, of different or too few classes, and impossible temperatures.

    Args:
        name: The term, for messages.
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: The term's temperature.
        least_classes: Fewest classes for which the loss is defined.

    Raises:
        ConfigError: One of these.
    """
    if student.kind == "regression":
        raise ConfigError(f"{name} reads logits of classes, this task is regression; use method kd or plain")
    if student.positions:
        raise ConfigError(f"{name} reads one row of logits an input, here every pixel has one; use method kd or cwd")
    require_same_width(student, teacher, "logits", "logits")
    if student.num_classes < least_classes:
        raise ConfigError(
            f"{name} needs at least {least_classes} classes, this task has {student.num_classes}; use method kd"
        )
    if not temperature > 0:
        raise ConfigError(f"{name}: temperature must be positive, got {temperature}")
