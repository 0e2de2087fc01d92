//! The codec and the vocabulary, from outside: what is written is read back
//! exactly, and nothing else is believed.

mod changesets;
mod clock;
mod frames;
mod make;
mod memory;
mod positions;
mod tokens;
