//! `data.db`.
