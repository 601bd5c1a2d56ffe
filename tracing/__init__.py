"""How it is seen: ids, propagation and spans."""
