//! HTTP against scripted stores and node loops, over real loopback sockets.
//!
//! Tests named in RELIABILITY 2 carry its names.

mod authorize;
mod connections;
mod forwarding;
mod local;
mod rig;
mod sessions;
mod state;
mod writes;
