//! SQL values as JSON, both ways.
