"""Who answers: services, their handlers, and the worker that runs them."""
