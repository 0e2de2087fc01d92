//! Assembles a node and runs it.
