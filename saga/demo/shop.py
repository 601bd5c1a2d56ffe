"""The whole demo shop: five services and the saga over them. `saga run choreo.saga.demo.shop` runs it."""

from __future__ import annotations

from .saga import Fulfilment
from .services import inventory, notification, order, payment, shipping

SERVICES = (order, inventory, payment, shipping, notification)

__all__ = ["Fulfilment", "inventory", "notification", "order", "payment", "shipping"]
