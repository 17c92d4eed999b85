//! What needs SQL of its own.
