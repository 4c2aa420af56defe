//! The use case against mocks: what is asked of the store, how often, and what must not be asked.
