//! The laws of merging, and the two shortcuts that break them.

mod register;
mod visible;
mod window;
