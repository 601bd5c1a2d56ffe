"""What is said: events, their envelope and schema, and the brokers that carry them."""
