//! End-to-end tests: the real binary, as real processes, on real files and
//! sockets. One test binary, so that the node is built and found once.

mod birth;
mod clients;
mod command;
mod failover;
mod members;
mod operations;
mod repair;
mod security;
mod tls;
