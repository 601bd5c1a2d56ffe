"""The outbox of an existing system: events written by its own transactions, and the relay that publishes them."""
