"""The web view of sagas: pages that are rendered here, kept fresh by server-sent events, for `saga serve`."""
