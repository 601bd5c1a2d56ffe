"""Who keeps the story: sagas, the pure transition, the coordinator and its store."""
